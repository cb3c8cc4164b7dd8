//! `wireloom graph`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use wireloom_agent::control::{GraphFormat, Request};
use wireloom_agent::graph;

use crate::down::AgentArgs;
use crate::output::{self, Output, OutputArg};
use crate::source::MeshArgs;

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    mesh: MeshArgs,
    /// The form of the graph.
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    output: OutputArg,
}

/// The forms of a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Graphviz's language.
    #[default]
    Dot,
    /// Its data; the same as `--output json`.
    Json,
    /// Graphviz's language, by Kilo's algorithm and laid out as kgctl does.
    Kgctl,
    /// Mermaid's language.
    Mermaid,
    /// A picture.
    Svg,
}

pub(crate) fn run(args: &GraphArgs) -> anyhow::Result<ExitCode> {
    let format = match (args.output.output, args.format) {
        (Output::Json, _) | (_, Format::Json) => GraphFormat::Json,
        (_, Format::Dot) => GraphFormat::Dot,
        (_, Format::Kgctl) => GraphFormat::Kgctl,
        (_, Format::Mermaid) => GraphFormat::Mermaid,
        (_, Format::Svg) => GraphFormat::Svg,
    };
    let text = match args.mesh.read()? {
        Some((mesh, planner)) => graph::text(&mesh, &planner, format),
        None => args.agent.ask::<String>(Request::Graph { format })?,
    };
    // kgctl prints the text as a line, which ends in one already.
    output::line(if format == GraphFormat::Kgctl { &text } else { text.trim_end() })?;
    Ok(ExitCode::SUCCESS)
}
