//! `cargo xtask bench-tunnel`: builds the [`crate::peers`] that we measure ourselves against, and starts the bench.
//!
//! The bench itself is the program `bench-tunnel` of the package wireloom-benches; it takes the programs to measure as
//! `NAME=PATH` and knows nothing of how they were built.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::install::{self, Purpose};
use crate::peers;
use crate::shell::{self, cargo};

/// What to measure, and the options that `bench-tunnel` itself takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Three rounds of one second a load, and of each subject only what is compared: under three minutes.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// How often each subject is measured [default: 5].
    #[arg(long)]
    rounds: Option<u32>,
    /// The seconds of each load [default: 3].
    #[arg(long)]
    seconds: Option<u32>,
    /// What to print on standard output: text or json.
    #[arg(long, default_value = "text")]
    output: String,
    /// Keeps the run in docs/benchmarks/ with its plots, and fills in docs/benchmarking.md and README.md.
    #[arg(long, conflicts_with = "quick")]
    record: bool,
    /// Draws the plots of a run that was kept, beside its file, and measures nothing.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["quick", "rounds", "seconds", "record"])]
    plot: Option<PathBuf>,
}

/// Where a run is kept, and the pages that show it.
const RECORD: [(&str, &str); 3] = [
    ("record", "docs/benchmarks/tunnel.json"),
    ("page", "docs/benchmarking.md"),
    ("readme", "README.md"),
];

impl Options {
    fn of_bench(&self) -> Vec<String> {
        let mut args = vec![format!("--output={}", self.output)];
        args.extend(self.quick.then(|| "--quick".to_owned()));
        args.extend(self.rounds.map(|rounds| format!("--rounds={rounds}")));
        args.extend(self.seconds.map(|seconds| format!("--seconds={seconds}")));
        if self.record {
            let place = |path| shell::root().join(path);
            args.extend(RECORD.map(|(what, path)| format!("--{what}={}", place(path).display())));
            args.push(format!("--command={}", self.line()));
        }
        args
    }

    /// The command that measures the same again.
    fn line(&self) -> String {
        let mut words = vec!["cargo xtask bench-tunnel --record".to_owned()];
        words.extend(self.rounds.map(|rounds| format!("--rounds {rounds}")));
        words.extend(self.seconds.map(|seconds| format!("--seconds {seconds}")));
        words.join(" ")
    }
}

/// Builds what is to be measured and becomes the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.plot {
        let mut draw = cargo(["run", "--quiet", "--package", "wireloom-benches"]);
        draw.args(["--bin", "bench-tunnel", "--", "--plot"]).arg(std::path::absolute(file)?);
        return shell::run(&mut draw);
    }
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
    let mut programs = peers::all()?;
    programs.push(("wireloom", release.join("wireloom")));
    let mut bench = Command::new(release.join("bench-tunnel"));
    for (name, path) in programs {
        bench.arg("--program").arg(format!("{name}={}", path.display()));
    }
    let error = bench.args(options.of_bench()).exec();
    Err(error).context("cannot start bench-tunnel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_the_command_that_made_it() {
        let options = Options {
            quick: false,
            rounds: Some(9),
            seconds: None,
            output: "text".to_owned(),
            record: true,
            plot: None,
        };
        let args = options.of_bench();
        assert!(
            args.contains(&"--command=cargo xtask bench-tunnel --record --rounds 9".to_owned())
        );
        assert!(args.iter().any(|arg| arg.ends_with("/docs/benchmarks/tunnel.json")), "{args:?}");
    }
}
