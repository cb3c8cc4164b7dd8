//! `cargo xtask cluster build`: Kubernetes, etcd and the tools beside them, flannel, and what drives a device as Kilo's agent
//! does, built from their Go modules.
//!
//! The modules in `tests/cluster/` and `tests/flannel/` say which programs, by their `tool` lines, and which versions;
//! `tests/wgctrl/` is a program itself. A build is kept until its module changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::go::go;
use crate::shell;

/// What can be done about clusters.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Builds the programs of a cluster: minutes and 4 GB the first time, nothing after that.
    Build,
}

/// The files that decide what is built, as far as a module has them. Their copies beside the programs say what was; the
/// last is written at the end.
const DECIDES: [&str; 3] = ["main.go", "go.mod", "go.sum"];

/// The module whose version the programs are told.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// Flannel's packages, and what their programs are called on a node.
const FLANNEL: [(&str, &str); 2] = [
    ("github.com/flannel-io/flannel", "flanneld"),
    ("github.com/containernetworking/plugins/plugins/meta/flannel", "flannel"),
];

/// Does what is asked for.
pub(crate) fn run(action: &Action) -> Result<()> {
    match action {
        Action::Build => build().map(|programs| println!("{}", programs.display())),
    }
}

/// Builds what is not built yet and returns the directory of the cluster's programs.
pub(crate) fn build() -> Result<PathBuf> {
    let programs = once("cluster", kubernetes)?;
    once("flannel", flannel)?;
    once("wgctrl", wgctrl)?;
    Ok(programs)
}

/// Builds a module's programs, unless they are there already, and returns their directory.
fn once(name: &str, build: fn(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let module = shell::root().join("tests").join(name);
    let programs = shell::target().join(name).join("bin");
    if is_built(&module, &programs) {
        return Ok(programs);
    }
    eprintln!("building what {} names into {} (once)", module.display(), programs.display());
    fs::create_dir_all(&programs)?;
    for file in DECIDES {
        // A build that breaks off leaves programs of two versions.
        let _ = fs::remove_file(programs.join(file));
    }
    build(&module, &programs)?;
    for file in DECIDES.into_iter().filter(|file| module.join(file).exists()) {
        fs::copy(module.join(file), programs.join(file))?;
    }
    Ok(programs)
}

fn kubernetes(module: &Path, programs: &Path) -> Result<()> {
    let wanted = fs::read_to_string(module.join("go.mod"))
        .with_context(|| format!("cannot read {}/go.mod", module.display()))?;
    let version = version_of(&wanted, KUBERNETES)
        .with_context(|| format!("{}/go.mod requires no {KUBERNETES}", module.display()))?;
    let mut build = go_build(module)?;
    build.args(["-ldflags", &link_flags(version)?, "-o"]).arg(programs).arg("tool");
    shell::run(build.env("CGO_ENABLED", "0"))?;
    // Go names a program after its package.
    fs::rename(programs.join("server"), programs.join("etcd")).context("cannot rename etcd")
}

/// The daemon and the plugin are both called after a package `flannel`. One of the daemon's ways to carry packets is in C;
/// everything else is as it is without, and so as Kubernetes has it.
fn flannel(module: &Path, programs: &Path) -> Result<()> {
    for (package, program) in FLANNEL {
        let mut build = go_build(module)?;
        build.args(["-ldflags", "-s -w", "-tags", "netgo,osusergo", "-o"]);
        build.arg(programs.join(program)).arg(package);
        shell::run(build.env("CGO_ENABLED", "1"))?;
    }
    Ok(())
}

fn wgctrl(module: &Path, programs: &Path) -> Result<()> {
    let mut build = go_build(module)?;
    build.arg("-o").arg(programs).arg(".");
    shell::run(build.env("CGO_ENABLED", "0"))
}

/// The beginning of a command that builds something of a module.
fn go_build(module: &Path) -> Result<Command> {
    let mut build = Command::new("nice");
    build.arg(go()?).args(["build", "-trimpath"]).current_dir(module);
    Ok(build)
}

fn is_built(module: &Path, programs: &Path) -> bool {
    let same = |file: &str| match (fs::read(module.join(file)), fs::read(programs.join(file))) {
        (Ok(wanted), Ok(built)) => wanted == built,
        (wanted, built) => wanted.is_err() && built.is_err(),
    };
    DECIDES.into_iter().all(same)
}

/// Reads the line of a `go.mod` that requires a module.
fn version_of<'a>(text: &'a str, module: &str) -> Option<&'a str> {
    text.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, version, ..] if name == module && version.starts_with('v') => Some(version),
        _ => None,
    })
}

/// Without these, a server calls itself v0.0.0, and clients complain.
fn link_flags(version: &str) -> Result<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("{version} is no version of Kubernetes");
    };
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    Ok([
        "-s -w".to_owned(),
        set("gitVersion", version),
        set("gitMajor", major),
        set("gitMinor", minor),
    ]
    .concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_module() {
        let text = "module cluster\n\nrequire (\n\tk8s.io/kubernetes v1.34.4\n)\n\ntool k8s.io/kubernetes/cmd/kubectl\n";
        assert_eq!(version_of(text, KUBERNETES), Some("v1.34.4"));
        assert_eq!(version_of("module cluster\n", KUBERNETES), None);
        let flags = link_flags("v1.34.4").unwrap();
        assert!(flags.contains("gitVersion=v1.34.4 ") && flags.ends_with("gitMinor=34"), "{flags}");
        assert!(link_flags("newest").is_err());
    }

    #[test]
    fn a_build_of_other_versions_is_none() {
        let directory = shell::root().join("tests/cluster");
        assert!(is_built(&directory, &directory));
        assert!(!is_built(&directory, &shell::root()));
    }
}
