//! Log lines on standard error.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use clap::ValueEnum;
#[cfg(feature = "kubernetes")]
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::cli::Global;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[cfg_attr(feature = "kubernetes", derive(Deserialize), serde(rename_all = "kebab-case"))]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// What is logged at most, in Kilo's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[cfg_attr(feature = "kubernetes", derive(Deserialize), serde(rename_all = "kebab-case"))]
pub(crate) enum LogLevel {
    /// Everything.
    All,
    /// What helps to find a mistake.
    Debug,
    /// What happens.
    Info,
    /// What is not as it should be.
    Warn,
    /// What is not done.
    Error,
    /// Nothing.
    None,
}

impl LogLevel {
    const fn filter(self) -> &'static str {
        match self {
            Self::All => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::None => "off",
        }
    }
}

/// What a command has of its own to say of logging. The flags of every command beat it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// What is logged, as `--log` says it. It beats the level.
    pub(crate) filter: Option<String>,
    /// What is logged at most.
    pub(crate) level: Option<LogLevel>,
    /// How log lines look.
    pub(crate) format: Option<LogFormat>,
}

/// Starts logging.
pub(crate) fn start(global: &Global, said: Said) -> anyhow::Result<()> {
    let level = said.level.unwrap_or(LogLevel::Info).filter();
    let filter = global.log.as_deref().or(said.filter.as_deref()).unwrap_or(level);
    // boringtun reports what every reordered packet and every stranger can cause; our counters tell that. kube reports
    // every try; what comes of them, the registry tells.
    let filter =
        EnvFilter::try_new(format!("boringtun=off,kube_client=off,kube_runtime=off,{filter}"))
            .with_context(|| {
                format!(
                    "--log {filter:?} is no filter: write error, warn, info, debug or CRATE=LEVEL"
                )
            })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match global.log_format.or(said.format).unwrap_or_default() {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_target(false).init(),
    }
    Ok(())
}
