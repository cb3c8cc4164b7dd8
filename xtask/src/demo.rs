//! `cargo xtask demo`: the demo on a machine that has only a Rust toolchain.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::install::{self, Purpose};
use crate::shell;

/// Installs what the demo calls, builds the release binary and becomes it.
pub(crate) fn run(args: &[String]) -> Result<()> {
    install::programs(Purpose::Demo)?;
    eprintln!("building wireloom (release; a first build takes a few minutes)");
    shell::run(&mut shell::cargo(["build", "--release", "--package", "wireloom"]))?;
    let binary = shell::target().join("release/wireloom");
    // Replacing this process hands every signal to the demo, which cleans up after itself.
    let error = Command::new(&binary).arg("demo").args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}
