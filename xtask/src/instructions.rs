//! `cargo xtask instructions`: what the hot path costs, in instructions, against a committed baseline.
//!
//! The bench `instructions` runs every piece of the hot path under callgrind, by gungraun. A count depends on the code, the
//! compiler (pinned) and the libraries (locked), and not on the machine's speed or load: valgrind shows every program the
//! same processor as long as the real one has AVX2.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::install::{self, Purpose};
use crate::shell::{self, cargo};

/// How much more than its baseline a piece may take, in percent.
const TOLERATED: f64 = 3.0;

const HEADER: &str = "\
# The instructions that each piece of the hot path takes, by processor architecture; made by
# `cargo xtask instructions --accept`. `cargo xtask test` fails where one takes more than 3 % more.
";

/// Instructions by piece.
type Counts = BTreeMap<String, u64>;

/// Counts by architecture.
type Baseline = BTreeMap<String, Counts>;

/// Counts, shows the counts, and compares them with the baseline or makes them the new one.
pub(crate) fn run(accept: bool) -> Result<()> {
    if !accept {
        return check().map(|note| note.iter().for_each(|note| println!("{note}")));
    }
    let counts = count()?;
    let mut baseline = read()?;
    let old = baseline.insert(ARCH.to_owned(), counts.clone()).unwrap_or_default();
    println!("{}", table(&counts, &old));
    fs::write(path(), print(&baseline))
        .with_context(|| format!("cannot write {}", path().display()))
}

/// Counts and compares with the baseline. Returns what is worth a note: pieces that have become cheaper, or that there
/// is no baseline for this architecture.
///
/// # Errors
///
/// If a piece takes too much, or has no baseline, or is gone.
pub(crate) fn check() -> Result<Option<String>> {
    let Some(old) = read()?.remove(ARCH) else {
        let accept = "`cargo xtask instructions --accept` makes one";
        return Ok(Some(format!(
            "not compared: instructions have no baseline for {ARCH}; {accept}"
        )));
    };
    let counts = count()?;
    println!("{}", table(&counts, &old));
    compare(&counts, &old)
}

fn path() -> PathBuf {
    shell::root().join("benches/instructions.toml")
}

fn read() -> Result<Baseline> {
    match fs::read_to_string(path()) {
        Ok(text) => {
            toml::from_str(&text).with_context(|| format!("cannot read {}", path().display()))
        }
        Err(_) => Ok(Baseline::new()),
    }
}

fn print(baseline: &Baseline) -> String {
    let mut text = HEADER.to_owned();
    for (architecture, counts) in baseline {
        text.push_str(&format!("\n[{architecture}]\n"));
        counts.iter().for_each(|(name, count)| text.push_str(&format!("{name} = {count}\n")));
    }
    text
}

/// Runs the bench and returns its counts.
fn count() -> Result<Counts> {
    install::programs(Purpose::Count)?;
    let runner = install::tool("gungraun-runner", &locked("gungraun")?)?;
    let mut bench = cargo(["bench", "--locked", "--package", "wireloom-benches"]);
    bench.args(["--bench", "instructions", "--", "--output-format=json"]);
    let reports = shell::output(bench.env("GUNGRAUN_RUNNER", runner))?;
    let counts: Counts = reports.lines().map(count_in).collect::<Result<_>>()?;
    ensure!(!counts.is_empty(), "the bench counted nothing");
    Ok(counts)
}

/// The version of a package in Cargo.lock: the library and its runner must have the same.
fn locked(package: &str) -> Result<String> {
    let text =
        fs::read_to_string(shell::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let lock: toml::Table = toml::from_str(&text).context("Cargo.lock")?;
    let packages = lock["package"].as_array().into_iter().flatten();
    let found = packages.filter(|one| one["name"].as_str() == Some(package));
    let version = found.filter_map(|one| one["version"].as_str()).next();
    version.map(str::to_owned).with_context(|| format!("Cargo.lock has no {package}"))
}

/// Reads one line of gungraun's JSON: the piece and the instructions (Ir) that callgrind counted.
fn count_in(line: &str) -> Result<(String, u64)> {
    let report: Value = serde_json::from_str(line).context("gungraun printed no JSON")?;
    let count = report.pointer("/profiles/0/data/total/metrics/Ir/values/new");
    let id = report["id"].as_str();
    let found = id.map(str::to_owned).zip(count.and_then(Value::as_u64));
    found.with_context(|| format!("gungraun's report has no id or no count: {line}"))
}

fn compare(counts: &Counts, old: &Counts) -> Result<Option<String>> {
    let change = |name: &String, count: u64| Some(percent(count, *old.get(name)?));
    let (mut wrong, mut cheaper) = (Vec::new(), Vec::new());
    for (name, count) in counts {
        match change(name, *count) {
            None => wrong.push(format!("{name} has no baseline")),
            Some(more) if more > TOLERATED => {
                wrong.push(format!("{name} grew by {more:.1} %, from {} to {count}", old[name]));
            }
            Some(more) if more < -TOLERATED => cheaper.push(format!("{name} by {:.1} %", -more)),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !counts.contains_key(*name));
    wrong.extend(gone.map(|name| format!("{name} has a baseline and was not counted")));
    if !wrong.is_empty() {
        bail!(
            "more than {TOLERATED} % more instructions, or not comparable:\n  {}\n\
             if it has to be so, `cargo xtask instructions --accept` makes the counts the new baseline",
            wrong.join("\n  ")
        );
    }
    let note = || format!("fewer instructions, not yet accepted: {}", cheaper.join(", "));
    Ok((!cheaper.is_empty()).then(note))
}

fn percent(count: u64, old: u64) -> f64 {
    (count as f64 - old as f64) * 100.0 / old.max(1) as f64
}

fn table(counts: &Counts, old: &Counts) -> String {
    let line = |(name, count): (&String, &u64)| {
        let change = old.get(name).map(|old| format!("{:+.2} %", percent(*count, *old)));
        format!("{name:20} {count:>12} {:>10}", change.unwrap_or_default())
    };
    counts.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts<const N: usize>(counts: [(&str, u64); N]) -> Counts {
        counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn growth_beyond_the_limit_fails_and_names_the_piece() {
        let old = counts([("open", 1_000), ("seal", 1_000)]);
        assert_eq!(compare(&counts([("open", 1_030), ("seal", 970)]), &old).unwrap(), None);
        let error = compare(&counts([("open", 1_031), ("seal", 1_000)]), &old).unwrap_err();
        assert!(error.to_string().contains("open grew by 3.1 %, from 1000 to 1031"), "{error}");
        assert!(!error.to_string().contains("seal"), "{error}");
    }

    #[test]
    fn what_became_cheaper_is_noted() {
        let note = compare(&counts([("open", 900)]), &counts([("open", 1_000)])).unwrap();
        assert!(note.unwrap().contains("open by 10.0 %"));
    }

    #[test]
    fn a_piece_without_baseline_and_a_baseline_without_piece_fail() {
        let error = compare(&counts([("new", 1)]), &counts([("old", 1)])).unwrap_err().to_string();
        assert!(error.contains("new has no baseline"), "{error}");
        assert!(error.contains("old has a baseline and was not counted"), "{error}");
    }

    #[test]
    fn a_printed_baseline_is_read_again() {
        let baseline = Baseline::from([("x86_64".to_owned(), counts([("seal", 7), ("open", 8)]))]);
        assert_eq!(toml::from_str::<Baseline>(&print(&baseline)).unwrap(), baseline);
    }

    #[test]
    fn the_library_has_one_version() {
        let version = locked("gungraun").unwrap();
        assert_eq!(version, locked("gungraun-runner").unwrap());
        assert!(locked("no-such-package").is_err());
    }

    #[test]
    fn a_report_without_a_count_is_shown() {
        let line = r#"{"id":"seal","profiles":[{"data":{"total":{"metrics":{"Ir":{"values":{"new":7}}}}}}]}"#;
        assert_eq!(count_in(line).unwrap(), ("seal".to_owned(), 7));
        assert!(
            count_in(r#"{"id":"seal"}"#).unwrap_err().to_string().contains("{\"id\":\"seal\"}")
        );
    }
}
