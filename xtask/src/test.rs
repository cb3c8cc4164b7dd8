//! `cargo xtask test`: every check of the project, the fastest to fail first.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster;
use crate::install;
use crate::instructions;
use crate::leftovers::Snapshot;
use crate::shell::{self, cargo};

/// cargo-deny's version, pinned: a newer one may judge differently.
const CARGO_DENY: &str = "0.20.2";

/// How often a step that takes long says so.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// The test targets with tests that do little but wait for minutes, and are marked `ignore` for it.
const WAITING: [&str; 4] = ["registry", "interop", "kubernetes", "restart"];

/// The benches but for `instructions`, which is a step of its own. By their names, because a package alone would be built
/// anew with features of its own.
const BENCHES: [&str; 4] = ["kernel", "hot_path", "plan", "tunnel"];

/// One check: its name, whether `--quick` runs it too, and what it does.
struct Step {
    name: &'static str,
    quick: bool,
    check: fn(&mut Session) -> Result<()>,
}

/// What the steps learn and the summary tells.
struct Session {
    quick: bool,
    before: Snapshot,
    /// The build of the cluster's programs, which goes on beside the other steps until somebody needs them.
    cluster: Option<JoinHandle<Result<PathBuf>>>,
    tests: Tests,
    notes: Vec<String>,
}

const STEPS: &[Step] = &[
    Step { name: "format", quick: true, check: format },
    Step { name: "clippy", quick: true, check: clippy },
    Step { name: "documentation", quick: false, check: documentation },
    Step { name: "dependencies", quick: false, check: dependencies },
    Step { name: "binary", quick: true, check: binary },
    Step { name: "the cluster's programs", quick: true, check: cluster_programs },
    Step { name: "tests", quick: true, check: tests },
    Step { name: "benches, each once", quick: false, check: benches },
    Step { name: "instructions", quick: false, check: instructions },
    Step { name: "demo", quick: true, check: demo },
    Step { name: "nothing left behind", quick: true, check: nothing_left },
];

/// Runs the steps in order and stops at the first that fails, naming it.
pub(crate) fn run(quick: bool) -> Result<()> {
    let start = Instant::now();
    install::for_tests()?;
    let mut session = Session {
        quick,
        before: Snapshot::take(),
        cluster: Some(thread::spawn(cluster::build)),
        tests: Tests::default(),
        notes: Vec::new(),
    };
    let steps: Vec<&Step> = STEPS.iter().filter(|step| step.quick || !quick).collect();
    let mut summary = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let heading = format!("[{}/{}] {}", index + 1, steps.len(), step.name);
        println!("\n== {heading} (after {})", clock(start.elapsed()));
        let begun = Instant::now();
        with_heartbeat(step.name, || (step.check)(&mut session))
            .with_context(|| format!("step \"{}\" failed", step.name))?;
        let line = format!("{heading}: ok in {}", clock(begun.elapsed()));
        println!("{line}");
        summary.push(line);
    }
    println!("\n== summary, {} in all", clock(start.elapsed()));
    for line in summary.iter().chain(&session.notes) {
        println!("{line}");
    }
    println!("{}", session.tests.line());
    Ok(())
}

fn format(_: &mut Session) -> Result<()> {
    shell::run(&mut cargo(["fmt", "--all", "--check"]))
}

fn clippy(_: &mut Session) -> Result<()> {
    let every = ["clippy", "--all-targets", "--locked"];
    let deny = ["--", "--deny", "warnings"];
    shell::run(cargo(every).arg("--workspace").args(deny))?;
    // For machines without a cluster. Nothing else builds it.
    let plain = ["--package", "wireloom", "--no-default-features"];
    shell::run(cargo(every).args(plain).args(deny))
}

fn documentation(_: &mut Session) -> Result<()> {
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--locked"]);
    shell::run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
}

fn dependencies(session: &mut Session) -> Result<()> {
    let program = install::tool("cargo-deny", CARGO_DENY)?;
    let deny = || {
        let mut command = Command::new(&program);
        command.current_dir(shell::root());
        command
    };
    shell::run(deny().args(["check", "bans", "licenses", "sources"]))?;
    // The database lies on the network and is no part of the checkout: without it the step says so and goes on.
    let database = deny().args(["fetch", "db"]).output().context("cannot start cargo-deny")?;
    if database.status.success() {
        return shell::run(deny().args(["check", "--disable-fetch", "advisories"]));
    }
    let note = "not checked: security advisories, because their database cannot be fetched here";
    println!("{note}\n{}", String::from_utf8_lossy(&database.stderr).trim_end());
    session.notes.push(note.to_owned());
    Ok(())
}

fn binary(_: &mut Session) -> Result<()> {
    shell::run(&mut cargo(["build", "--locked", "--package", "wireloom"]))
}

fn cluster_programs(session: &mut Session) -> Result<()> {
    let Some(build) = session.cluster.take() else { return Ok(()) };
    let programs = build.join().unwrap_or_else(|_| bail!("the build panicked"))?;
    println!("{}", programs.display());
    Ok(())
}

/// Every test. Those that wait go on one after the other beside all the others.
fn tests(session: &mut Session) -> Result<()> {
    let waiting = thread::spawn(|| {
        let mut test = cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        test.args(WAITING.iter().flat_map(|target| ["--test", target]));
        shell::output(test.args(["--", "--ignored"]))
    });
    let mut test = cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
    let tested = shell::tee(&mut test, |line| session.tests.add(line));
    let waited = waiting.join().unwrap_or_else(|_| bail!("its thread panicked"));
    match &waited {
        Ok(text) => {
            print!("{text}");
            text.lines().for_each(|line| session.tests.add(line));
        }
        // Said here, too: the other tests' failure must not hide it.
        Err(error) => eprintln!("a test that waits for minutes: {error:#}"),
    }
    tested?;
    waited.map(drop).context("a test that waits for minutes")
}

/// Outside `cargo bench`, criterion runs each bench once: enough to see that it still works, in the build that the
/// tests have made already.
fn benches(session: &mut Session) -> Result<()> {
    let mut bench = cargo(["test", "--workspace", "--locked"]);
    bench.args(BENCHES.iter().flat_map(|bench| ["--bench", bench]));
    shell::tee(&mut bench, |line| session.tests.add(line))
}

fn instructions(session: &mut Session) -> Result<()> {
    session.notes.extend(instructions::check()?);
    Ok(())
}

fn demo(session: &mut Session) -> Result<()> {
    ensure!(install::is_root(), "the demo makes network namespaces, which needs root");
    let gateways: &[&str] = if session.quick { &["2"] } else { &["1", "2", "all"] };
    let binary = shell::target().join("debug/wireloom");
    for count in gateways {
        let mut demo = Command::new(&binary);
        demo.args(["demo", "--output", "json", "--seconds", "1", "--gateways", count]);
        let text = shell::output(&mut demo)?;
        let pairs = reachable(&text).with_context(|| format!("demo with --gateways {count}"))?;
        println!("demo --gateways {count}: all {pairs} pairs reachable");
    }
    Ok(())
}

/// Reads the demo's JSON and returns the number of pairs, every one of which must be reachable.
fn reachable(text: &str) -> Result<u64> {
    let report: Value = serde_json::from_str(text.trim()).context("its output is no JSON")?;
    let number = |key: &str| {
        report[key].as_u64().with_context(|| format!("its JSON has no number \"{key}\": {report}"))
    };
    let (pairs, reachable) = (number("pairs")?, number("reachable")?);
    ensure!(pairs > 0, "it tried no pair");
    if reachable != pairs {
        bail!("{reachable} of {pairs} pairs reachable; missing: {}", report["unreachable"]);
    }
    Ok(pairs)
}

fn nothing_left(session: &mut Session) -> Result<()> {
    session.before.compare()
}

/// The sums over every `test result:` line that the test harness printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tests {
    suites: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tests {
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        self.suites += 1;
        for count in counts.split(['.', ';']) {
            let mut words = count.split_whitespace();
            let (Some(number), Some(name)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match name {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let Self { suites, passed, failed, ignored } = self;
        let verdict = if *failed == 0 { "ok" } else { "FAILED" };
        format!(
            "test result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; in {suites} suites"
        )
    }
}

/// Runs `work`, with a line on standard error for each minute that it takes.
fn with_heartbeat<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let start = Instant::now();
            while waiting.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("   ... {name}: {} so far", clock(start.elapsed()));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn clock(span: Duration) -> String {
    format!("{}m{:02}s", span.as_secs() / 60, span.as_secs() % 60)
}

#[cfg(test)]
mod unit {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The directories below `directory` that hold test targets.
    fn targets(directory: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(shell::root().join(directory)).unwrap();
        let tests = entries.map(|entry| entry.unwrap().path().join("tests"));
        tests.filter(|path| path.is_dir()).collect()
    }

    fn waits(path: &Path) -> bool {
        if path.is_dir() {
            return fs::read_dir(path).unwrap().any(|entry| waits(&entry.unwrap().path()));
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        text.contains("#[ignore = \"waits") || text.contains("with_ignored_flag(true)")
    }

    #[test]
    fn every_test_that_waits_is_run() {
        let mut found = BTreeSet::new();
        for directory in [targets("crates"), vec![shell::root().join("tests/tests")]].concat() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if waits(&path) {
                    found.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        assert_eq!(found, WAITING.map(str::to_owned).into());
    }

    #[test]
    fn every_bench_is_run() {
        let entries = fs::read_dir(shell::root().join("benches/benches")).unwrap();
        let names = entries.map(|entry| entry.unwrap().path());
        let names = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
        let run = BENCHES.into_iter().chain(["instructions"]).map(str::to_owned);
        assert_eq!(names.collect::<BTreeSet<_>>(), run.collect());
    }

    #[test]
    fn results_of_all_suites_are_summed() {
        let mut tests = Tests::default();
        for line in [
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.31s",
            "test some_name ... ok",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tests.add(line);
        }
        assert_eq!(tests, Tests { suites: 2, passed: 7, failed: 3, ignored: 1 });
        assert!(tests.line().starts_with("test result: FAILED. 7 passed; 3 failed; 1 ignored"));
    }

    #[test]
    fn a_demo_with_every_pair_passes() {
        assert_eq!(reachable("{\"pairs\":4,\"reachable\":4,\"unreachable\":[]}\n").unwrap(), 4);
    }

    #[test]
    fn a_demo_that_misses_a_pair_or_tried_none_fails() {
        let missing = "{\"pairs\":4,\"reachable\":3,\"unreachable\":[\"a to b\"]}";
        assert!(reachable(missing).unwrap_err().to_string().contains("a to b"));
        assert!(reachable("{\"pairs\":0,\"reachable\":0}").is_err());
        assert!(reachable("{\"reachable\":4}").is_err());
        assert!(reachable("not json").is_err());
    }

    #[test]
    fn minutes_and_seconds() {
        assert_eq!(clock(Duration::from_secs(0)), "0m00s");
        assert_eq!(clock(Duration::from_secs(125)), "2m05s");
    }
}
