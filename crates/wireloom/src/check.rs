//! `wireloom check FILE`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use wireloom_model::{NodeName, Problem, Severity, Snapshot};
use wireloom_topology::{NodeSummary, Topology};

use crate::output::{self, Output, OutputArg};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The mesh file; see docs/mesh-file.md.
    file: PathBuf,
    /// Write every node's overlay address into the file, so that no later change of the mesh moves one.
    #[arg(long)]
    pin: bool,
    #[command(flatten)]
    output: OutputArg,
}

/// Exit code 0: nothing is wrong, or warnings only. 1: something asked for would not be done.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let snapshot = match wireloom_file::load(&args.file) {
        Ok(snapshot) => snapshot,
        Err(error) if args.output.output == Output::Json => {
            output::json(
                &json!({ "usable": false, "error": error.to_string(), "problems": [], "nodes": [] }),
            )?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    let topology = Topology::of(&snapshot);
    let nodes = topology.nodes();
    // The topology's problems contain the snapshot's own.
    let problems = topology.problems();
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    match args.output.output {
        Output::Json => {
            output::json(&json!({ "usable": true, "problems": problems, "nodes": nodes }))?;
        }
        Output::Text => output::line(&text(&snapshot, &nodes, problems))?,
    }
    if args.pin {
        let pins: Vec<(NodeName, Vec<IpAddr>)> =
            nodes.iter().map(|node| (node.node.clone(), node.overlay_addresses.clone())).collect();
        wireloom_file::pin_file(&args.file, &pins)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(snapshot: &Snapshot, nodes: &[NodeSummary], problems: &[Problem]) -> String {
    let mut table = output::table(&["NODE", "LOCATION", "HOME", "ADDRESSES"]);
    for node in nodes {
        let addresses: Vec<String> =
            node.overlay_addresses.iter().map(ToString::to_string).collect();
        let home = if node.gateway { "(gateway)".to_owned() } else { node.home.to_string() };
        table.add_row([
            node.node.to_string(),
            node.segment.as_str().to_owned(),
            home,
            addresses.join(" "),
        ]);
    }
    let mut lines = vec![table.to_string()];
    lines.push(format!(
        "{} nodes, {} peers, {} problems",
        nodes.len(),
        snapshot.peers.len(),
        problems.len()
    ));
    lines.extend(problems.iter().map(|problem| {
        let word = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!("{word}: {problem}")
    }));
    lines.join("\n")
}
