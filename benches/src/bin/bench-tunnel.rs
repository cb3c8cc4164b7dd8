//! Measures tunnels beside a plain link: every subject once a round, round after round, on rigs of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use wireloom_benches::subject::OURS;
use wireloom_benches::targets::check_list;
use wireloom_benches::{Effort, Load, Record, Report, Subject, limit, measure, proc};

/// Measures tunnels beside a plain link, interleaved over several rounds.
#[derive(Parser)]
struct Options {
    /// A device to measure, as NAME=PATH.
    #[arg(long = "program", value_name = "NAME=PATH")]
    programs: Vec<Subject>,
    /// Three rounds of one second a load, and of each subject only what is compared: under three minutes.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// How often each subject is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The seconds of each load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// What to print on standard output.
    #[arg(long, default_value = "text")]
    output: Output,
    /// Keeps the run in this file, and its plots beside it.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Draws the plots of a run that was kept, beside its file, and measures nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["programs", "record", "quick"])]
    plot: Option<PathBuf>,
    /// Puts the figures of the run that is kept or drawn between the markers of this page.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Puts its first plots between the markers of this page.
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// The command that the record names.
    #[arg(long, default_value = "bench-tunnel")]
    command: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Text,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-tunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.plot {
        return show(&Record::load(file)?, file, options);
    }
    let mut subjects = vec![Subject::plain()];
    subjects.extend(options.programs.iter().cloned());
    if !subjects.iter().any(|subject| subject.name() == OURS) {
        bail!("nothing to compare with: name our own program by --program {OURS}=PATH");
    }
    ensure!(subjects.len() < 8, "more subjects than devices that we know");
    let (report, limit_gbit) = rounds(subjects, options)?;
    match options.output {
        Output::Json => {
            println!("{}", serde_json::to_string(&report.summary())?);
            eprint!("{}", judged(&report, limit_gbit));
        }
        Output::Text => {
            println!("{}\n\n{}\n", report.medians(), report.ratios());
            print!("{}", judged(&report, limit_gbit));
        }
    }
    let Some(file) = &options.record else { return Ok(()) };
    let versions = options.programs.iter().map(|one| (one.name().to_owned(), one.version()));
    let record = Record {
        machine: proc::machine(),
        date: humantime::format_rfc3339(SystemTime::now()).to_string()[..10].to_owned(),
        command: options.command.clone(),
        versions: versions.collect(),
        limit_gbit,
        rounds: report,
    };
    record.save(file)?;
    show(&record, file, options)
}

/// Measures every subject in every round, and the ciphers' limit: the highest of all rounds, for what disturbs it can
/// only lower it.
fn rounds(mut subjects: Vec<Subject>, options: &Options) -> Result<(Report, f64)> {
    let Options { quick, rounds, seconds, .. } = *options;
    let (rounds, seconds) = if quick { (3, 1) } else { (rounds, seconds) };
    let effort = if quick {
        Effort { seconds, rates: 5, idle_seconds: 2 }
    } else {
        Effort { seconds, rates: 7, idle_seconds: 10 }
    };
    let start = Instant::now();
    let processors = thread::available_parallelism()?.get();
    let (mut report, mut limit_gbit) = (Report::default(), 0.0f64);
    for round in 1..=rounds {
        limit_gbit = limit_gbit.max(limit::of_ciphers(processors));
        for subject in &subjects {
            let name = subject.name();
            let wanted = |load: &Load| !quick || load.is_quick(subject, round);
            let loads: Vec<Load> = Load::ALL.into_iter().filter(wanted).collect();
            let shown = measure(subject, &loads, effort, |load| {
                let (elapsed, load) = (start.elapsed().as_secs(), load.name());
                eprintln!("{elapsed:4} s  round {round} of {rounds}  {name}: {load}");
            });
            for (load, reason) in &shown.missing {
                eprintln!("        {name}: {load} failed: {reason}");
            }
            report.add(name, shown);
        }
        // Each round starts with another subject, so that none always follows the same one.
        subjects.rotate_left(1);
    }
    eprintln!("{:4} s  measured", start.elapsed().as_secs());
    Ok((report, limit_gbit))
}

/// What stands below the tables: what failed, the limit, and the check list.
fn judged(report: &Report, limit_gbit: f64) -> String {
    let mut lines = report.missing();
    lines.push(format!("the ciphers' limit: {limit_gbit:.1} Gbit/s"));
    lines.extend(check_list(&report.summary()));
    lines.join("\n") + "\n"
}

/// Draws the plots of a record beside its file, and fills in the pages.
fn show(record: &Record, file: &Path, options: &Options) -> Result<()> {
    let directory = directory_of(file);
    record.plot(directory)?;
    eprintln!("drew the plots beside {}", file.display());
    if let Some(page) = &options.page {
        record.put_into(page, below(page, directory)?)?;
    }
    if let Some(page) = &options.readme {
        record.put_headline_into(page, below(page, directory)?)?;
    }
    Ok(())
}

/// A directory as seen from a page.
fn below<'a>(page: &Path, directory: &'a Path) -> Result<&'a Path> {
    let from = directory_of(page);
    directory
        .strip_prefix(from)
        .with_context(|| format!("{} does not lie below {}", directory.display(), from.display()))
}

fn directory_of(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new(""))
}
