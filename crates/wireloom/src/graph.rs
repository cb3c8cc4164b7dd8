//! `wireloom graph`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use wireloom_agent::control::{GraphFormat, Request};
use wireloom_agent::graph;

use crate::down::AgentArgs;
use crate::output::{self, Output, OutputArg};
use crate::source::Compatibility;

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Draw the mesh of this file instead of that of a running agent.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plan the mesh of the file as beside agents of this kind.
    #[arg(long, value_enum, requires = "config", value_name = "AGENTS")]
    compatibility: Option<Compatibility>,
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
    let text = match &args.config {
        Some(file) => {
            let mesh = wireloom_file::load(file)?;
            let (mesh, planner) = Compatibility::apply(args.compatibility, mesh);
            graph::text(&mesh, &planner, format)
        }
        None => args.agent.ask::<String>(Request::Graph { format })?,
    };
    output::line(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
