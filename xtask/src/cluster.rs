//! `cargo xtask cluster build`: Kubernetes, etcd and the tools beside them, built from their Go modules.
//!
//! The module in `tests/cluster/` says which programs, by its `tool` lines, and which versions. The build is kept until
//! that module changes.

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

/// The files that decide what is built. Their copies beside the programs say what was; the last is written at the end.
const DECIDES: [&str; 2] = ["go.mod", "go.sum"];

/// The module whose version the programs are told.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// Does what is asked for.
pub(crate) fn run(action: &Action) -> Result<()> {
    match action {
        Action::Build => build().map(|programs| println!("{}", programs.display())),
    }
}

/// Builds what is not built yet and returns the directory of the programs.
pub(crate) fn build() -> Result<PathBuf> {
    let (module, programs) =
        (shell::root().join("tests/cluster"), shell::target().join("cluster/bin"));
    if is_built(&module, &programs) {
        return Ok(programs);
    }
    let go = go()?;
    let wanted =
        fs::read_to_string(module.join("go.mod")).context("cannot read tests/cluster/go.mod")?;
    let version = version_of(&wanted, KUBERNETES)
        .with_context(|| format!("tests/cluster/go.mod requires no {KUBERNETES}"))?;
    eprintln!("building Kubernetes {version} and etcd into {} (once)", programs.display());
    fs::create_dir_all(&programs)?;
    for file in DECIDES {
        // A build that breaks off leaves programs of two versions.
        let _ = fs::remove_file(programs.join(file));
    }
    let mut build = Command::new("nice");
    build.arg(go).args(["build", "-trimpath", "-ldflags", &link_flags(version)?, "-o"]);
    build.arg(&programs).arg("tool").current_dir(&module).env("CGO_ENABLED", "0");
    shell::run(&mut build)?;
    // Go names a program after its package.
    fs::rename(programs.join("server"), programs.join("etcd"))?;
    for file in DECIDES {
        fs::copy(module.join(file), programs.join(file))?;
    }
    Ok(programs)
}

fn is_built(module: &Path, programs: &Path) -> bool {
    DECIDES.iter().all(|file| {
        let (wanted, built) = (fs::read(module.join(file)), fs::read(programs.join(file)));
        matches!((wanted, built), (Ok(wanted), Ok(built)) if wanted == built)
    })
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
