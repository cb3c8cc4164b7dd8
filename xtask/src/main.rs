//! The project's own commands, run as `cargo xtask COMMAND`.
//!
//! Owns what needs more than cargo: the [programs](install) that a command wants from the distribution, the order of
//! the [checks](mod@test), the [peers] that we measure ourselves against and talk to, the [kernel] of the tests' virtual
//! machine and the [cluster] that they start, the container [image], and the [instructions] that the hot path may take.
//! Imports no crate of the workspace but `wireloom-image`, which imports none, so it builds in seconds and still runs
//! when the others do not.

mod bench;
mod cluster;
mod demo;
mod go;
mod image;
mod install;
mod instructions;
mod kernel;
mod leftovers;
mod peers;
mod shell;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What tests need to start Kubernetes.
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Builds the release binary and runs `wireloom demo` with the arguments given, or the demo on a real Kubernetes
    /// cluster.
    Demo {
        /// Arguments of `wireloom demo`, for example `--gateways 2`; or `--kubernetes`, and with it `--story` and others
        /// that `--kubernetes --help` lists.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds the container image, without a container engine.
    Image(image::Options),
    /// Installs, fetches and builds what the tests need, so that `cargo test` skips none of them.
    Install,
    /// Runs every check of the project, in the order in which they fail fastest.
    Test {
        /// Leaves out the documentation, the dependencies' licences and the benches, and runs the demo once.
        #[arg(long)]
        quick: bool,
    },
    /// Measures the tunnel beside wireguard-go and a plain link, interleaved over several rounds.
    BenchTunnel(bench::Options),
    /// Counts the instructions of the hot path by callgrind and compares them with benches/instructions.toml.
    Instructions {
        /// Makes the counts the new baseline.
        #[arg(long)]
        accept: bool,
    },
}

fn main() -> ExitCode {
    match run(Xtask::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Cluster(action) => cluster::run(&action),
        Command::Demo { args } => demo::run(&args),
        Command::Image(options) => image::run(&options),
        Command::Install => install::for_tests().and_then(|()| cluster::build().map(drop)),
        Command::Test { quick } => test::run(quick),
        Command::BenchTunnel(options) => bench::run(&options),
        Command::Instructions { accept } => instructions::run(accept),
    }
}
