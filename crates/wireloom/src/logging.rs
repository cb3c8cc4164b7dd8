//! Log lines on standard error.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::cli::Global;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

pub(crate) fn start(global: &Global) -> anyhow::Result<()> {
    // boringtun reports what every reordered packet and every stranger can cause; our counters tell that. kube reports
    // every try; what comes of them, the registry tells.
    let filter = EnvFilter::try_new(format!(
        "boringtun=off,kube_client=off,kube_runtime=off,{}",
        global.log
    ))
    .with_context(|| {
        format!(
            "--log {:?} is no filter: write error, warn, info, debug or CRATE=LEVEL",
            global.log
        )
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match global.log_format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_target(false).init(),
    }
    Ok(())
}
