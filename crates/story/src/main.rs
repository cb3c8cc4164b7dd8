//! What `cargo xtask demo --kubernetes` runs.
//!
//! Namespaces, files and processes of a cluster end with the process that holds it; its control groups do not. So the
//! cluster is held by a child, and this process waits for its end, whatever brings that, and clears up.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use rustix::process::Signal;
use serde::Serialize;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use wireloom_lab::demo::{Voice, voice};
use wireloom_story::{Settings, article, mesh};

/// Four regions and a Kubernetes cluster over them, on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo --kubernetes", bin_name = "cargo xtask demo --kubernetes")]
struct Args {
    /// Tell the article's story with pods: placed by region, reached from everywhere, and after a gateway's death.
    #[arg(long)]
    story: bool,
    /// Leave the cluster up until this is interrupted, and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// How long each measurement of throughput takes, in seconds; 0 leaves them out.
    #[arg(long, default_value_t = 2, value_name = "N")]
    seconds: u32,
    /// The form of what is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The program that the nodes get [default: the wireloom beside this program].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Be the process that holds the cluster.
    #[arg(long, hide = true)]
    hold: bool,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One JSON document; the story goes to standard error.
    Json,
    /// For people.
    #[default]
    Text,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = if args.hold { hold(&args) } else { supervise() };
    ended.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Starts this program again, as the holder, and clears up after it.
fn supervise() -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let mut stops = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()?;
        let [interrupt, terminate, hangup] = &mut stops[..] else { unreachable!() };
        let mut holder = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--hold")
            // A Ctrl-C is for this process alone.
            .process_group(0)
            .spawn()?;
        tokio::select! {
            status = holder.wait() => return status.map(Some),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        holder.kill().await.map(|()| None)
    });
    wireloom_cluster::clear_up();
    Ok(match status.context("wait for the process that holds the cluster")? {
        Some(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Is the holder.
fn hold(args: &Args) -> Result<ExitCode> {
    // Without it, a killed supervisor would leave the cluster running.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let beside = || Ok::<_, io::Error>(std::env::current_exe()?.with_file_name("wireloom"));
    let program = args.program.clone().map_or_else(beside, Ok)?;
    let settings = Settings { program, seconds: args.seconds };
    let voice = Voice::new(args.output == Output::Json);
    let whole = if args.story {
        let keep = |report: &article::Told, how: &str| keep(args, report, how);
        let report = article::tell(&settings, &voice, args.keep.then_some(&keep))?;
        finish(args, &report)?;
        report.is_whole()
    } else {
        let keep = |report: &mesh::MeshReport, how: &str| keep(args, report, how);
        let report = mesh::show(&settings, &voice, args.keep.then_some(&keep))?;
        finish(args, &report)?;
        report.is_whole()
    };
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn finish(args: &Args, report: &impl Serialize) -> Result<()> {
    if args.output == Output::Json {
        voice::line(&serde_json::to_string_pretty(report)?)?;
    }
    Ok(())
}

/// Tells what a person can do now, and waits for the signal that ends this process.
fn keep(args: &Args, report: &impl Serialize, how: &str) -> Result<()> {
    finish(args, report)?;
    Voice::new(args.output == Output::Json).say(how)?;
    loop {
        thread::park();
    }
}
