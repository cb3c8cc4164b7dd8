//! Measures tunnels beside a plain link: every subject once a round, round after round, on one rig each.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use wireloom_benches::subject::OURS;
use wireloom_benches::{Report, Rig, Subject, measure};

/// Measures tunnels beside a plain link, interleaved over several rounds.
#[derive(Parser)]
struct Options {
    /// A device to measure, as NAME=PATH.
    #[arg(long = "program", value_name = "NAME=PATH")]
    programs: Vec<Subject>,
    /// Three rounds of two seconds a load: under three minutes for three subjects.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// How often each subject is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The seconds of each load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// What to print on standard output.
    #[arg(long, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Text,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-tunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    let Options { programs, quick, rounds, seconds, output } = options;
    let (rounds, seconds) = if quick { (3, 2) } else { (rounds, seconds) };
    let mut subjects = vec![Subject::plain()];
    subjects.extend(programs);
    if !subjects.iter().any(|subject| subject.name() == OURS) {
        bail!("nothing to compare with: name our own program by --program {OURS}=PATH");
    }
    ensure!(subjects.len() < 8, "more subjects than devices that we know");

    let start = Instant::now();
    let mut report = Report::default();
    for round in 1..=rounds {
        for subject in &subjects {
            let name = subject.name();
            let figures = Rig::start(subject)
                .and_then(|rig| {
                    measure(&rig, seconds, |load| {
                        let elapsed = start.elapsed().as_secs();
                        eprintln!("{elapsed:4} s  round {round} of {rounds}  {name}: {load}");
                    })
                })
                .with_context(|| format!("{name} in round {round}"))?;
            report.add(name, figures);
        }
        // Each round starts with another subject, so that none always follows the same one.
        subjects.rotate_left(1);
    }
    match output {
        Output::Json => println!("{}", serde_json::to_string(&report.summary())?),
        Output::Text => println!("{}", report.table()),
    }
    Ok(())
}
