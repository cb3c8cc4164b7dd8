//! What commands print: text for people, JSON for programs.

use clap::{Args, ValueEnum};
use serde::Serialize;
use wireloom_lab::demo::voice;
pub(crate) use wireloom_lab::demo::voice::table;

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON document.
    Json,
    /// For people.
    #[default]
    Text,
}

/// The argument that every printing command takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArg {
    /// The form of what is printed.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints a line. A reader that has gone away, as `head` does, is no error worth a word.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(voice::line(text)?)
}
