//! `wireloom cleanup`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use wireloom_agent::cleanup::{self, Report, Sockets, kilo};
use wireloom_agent::control;
use wireloom_dataplane::uapi_socket;
use wireloom_kernel::Host;
use wireloom_model::InterfaceName;

use crate::output::{self, Output, OutputArg};

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Remove the sockets of this interface alone, and the forwarding that it needed. Everything else of ours carries no
    /// interface's name.
    interface: Option<InterfaceName>,
    /// Where agents have their sockets.
    #[arg(long, env = "WIRELOOM_RUN_DIR", default_value = control::RUN_DIRECTORY, value_name = "DIR")]
    run_dir: PathBuf,
    /// Remove what Kilo left instead: its links, routes and rules, and its chains in the packet filter.
    #[arg(long, conflicts_with = "interface")]
    kilo: bool,
    /// With --kilo: remove its CNI configuration too.
    #[arg(long, requires = "kilo")]
    cni: bool,
    /// With --kilo: where its CNI configuration is.
    #[arg(long, requires = "kilo", default_value = kilo::CNI_PATH, value_name = "FILE")]
    cni_path: PathBuf,
    #[command(flatten)]
    output: OutputArg,
}

/// Exit code 0: nothing is left of it. 1: something could not be removed.
pub(crate) fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(clean_up(args))?;
    match args.output.output {
        Output::Json => output::json(&report)?,
        Output::Text => output::line(&text(&report))?,
    }
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn clean_up(args: &CleanupArgs) -> anyhow::Result<Report> {
    let host = Host::new()?;
    let sockets = Sockets { control: args.run_dir.clone(), uapi: uapi_socket::DIRECTORY.into() };
    if args.kilo {
        let leftovers = kilo::look(&host, &sockets, &args.cni_path).await?;
        return Ok(leftovers.remove(&host, args.cni).await?);
    }
    Ok(cleanup::clean_up(&host, &sockets, args.interface.as_ref()).await?)
}

fn text(report: &Report) -> String {
    let removed = report.removed.iter().map(|thing| format!("removed {thing}"));
    let kept = report.kept.iter().map(|thing| format!("kept {thing}"));
    let failed = report.failed.iter().map(|failure| format!("failed: {failure}"));
    let lines: Vec<String> = removed.chain(kept).chain(failed).collect();
    if lines.is_empty() { "nothing to remove".to_owned() } else { lines.join("\n") }
}
