//! `cargo xtask demo`: the demo on a machine that has only a Rust toolchain.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::install::{self, Purpose};
use crate::{cluster, shell};

/// What asks for the demo on a cluster.
const KUBERNETES: &str = "--kubernetes";

/// Installs what the demo calls, builds it and becomes it.
pub(crate) fn run(args: &[String]) -> Result<()> {
    install::programs(Purpose::Demo)?;
    if args.iter().any(|arg| arg == KUBERNETES) {
        return on_kubernetes(args);
    }
    build(&["wireloom"])?;
    start(Command::new(shell::target().join("release/wireloom")).arg("demo").args(args))
}

fn on_kubernetes(args: &[String]) -> Result<()> {
    install::programs(Purpose::Kubernetes)?;
    cluster::build()?;
    build(&["wireloom", "wireloom-story"])?;
    let args = args.iter().filter(|arg| *arg != KUBERNETES);
    start(Command::new(shell::target().join("release/wireloom-story")).args(args))
}

fn build(packages: &[&str]) -> Result<()> {
    eprintln!("building {} (release; a first build takes a few minutes)", packages.join(" and "));
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    shell::run(shell::cargo(["build", "--release"]).args(packages))
}

/// Replaces this process, which hands every signal to the demo: that cleans up after itself.
fn start(demo: &mut Command) -> Result<()> {
    let error = demo.exec();
    Err(error).with_context(|| format!("cannot start {}", demo.get_program().display()))
}
