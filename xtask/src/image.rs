//! `cargo xtask image`: the container image, built without a container engine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use wireloom_image::recipe;

use crate::install::{self, Purpose};
use crate::shell;

/// What to build, and where to.
#[derive(Args)]
pub(crate) struct Options {
    /// Takes the unoptimised build.
    #[arg(long)]
    debug: bool,
    /// The archive to write [default: target/wireloom-image.tar].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name and tag.
    #[arg(long, default_value = "localhost/wireloom:dev")]
    name: String,
    /// A directory of CNI plugins, /usr/lib/cni for example, from which bridge, host-local, loopback and portmap go into
    /// the image.
    #[arg(long, value_name = "DIRECTORY")]
    cni_plugins: Option<PathBuf>,
}

/// Builds the program and writes the archive.
pub(crate) fn run(options: &Options) -> Result<()> {
    install::programs(Purpose::Image)?;
    let profile = if options.debug { "debug" } else { "release" };
    let mut build = shell::cargo(["build", "--locked", "--package", "wireloom"]);
    build.args((!options.debug).then_some("--release"));
    shell::run(&mut build)?;
    let program = shell::target().join(profile).join("wireloom");
    let version = shell::output(Command::new(&program).arg("--version"))?;
    let version = version.split_whitespace().nth(1).context("wireloom tells no version")?;
    let image = recipe::wireloom(&options.name, version, &program, options.cni_plugins.as_deref())?;
    let output = options.output.clone();
    let output = output.unwrap_or_else(|| shell::target().join("wireloom-image.tar"));
    image.write(&output)?;
    println!("{}", output.display());
    eprintln!(
        "{} for `ctr -n k8s.io images import`, or any tool that takes an OCI layout",
        options.name
    );
    Ok(())
}
