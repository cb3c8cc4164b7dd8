//! `cargo xtask bench-tunnel`: builds the [peers](crate::peers) that we measure ourselves against, and starts the bench.
//!
//! The bench itself is the program `bench-tunnel` of the package wireloom-benches; it takes the programs to measure as
//! `NAME=PATH` and knows nothing of how they were built.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::install::{self, Purpose};
use crate::peers;
use crate::shell::{self, cargo};

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
    let mut programs = if options.all { peers::all()? } else { vec![peers::wireguard_go()?] };
    programs.push(("wireloom", release.join("wireloom")));
    let mut bench = Command::new(release.join("bench-tunnel"));
    for (name, path) in programs {
        bench.arg("--program").arg(format!("{name}={}", path.display()));
    }
    let error = bench.args(options.of_bench()).exec();
    Err(error).context("cannot start bench-tunnel")
}
