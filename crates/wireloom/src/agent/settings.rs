//! What `wireloom agent` is told: by [flags], by the environment, by a file with the same names, or not at all, in this
//! order.
//!
//! Names and defaults are Kilo's where the meaning is (`cmd/kg/main.go`), so that its manifests are changed in little.

mod flags;
mod resolved;
pub(crate) mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::logging::LogLevel;
use flags::Settings;
pub(crate) use resolved::Resolved;

/// The file that is read if it is there, without anybody saying so.
const DEFAULT_FILE: &str = "/etc/wireloom/agent.toml";

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingsArgs {
    /// A TOML file with settings: the names of these flags without dashes in front. Flags and the environment beat it.
    /// Without it, /etc/wireloom/agent.toml if that exists.
    #[arg(long, env = "WIRELOOM_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl SettingsArgs {
    /// Joins flags, environment, file and defaults.
    pub(crate) fn resolve(&self) -> anyhow::Result<Resolved> {
        self.said()?.resolve()
    }

    /// What is logged at most, if somebody says so.
    pub(crate) fn log_level(&self) -> anyhow::Result<Option<LogLevel>> {
        Ok(self.said()?.log_level)
    }

    fn said(&self) -> anyhow::Result<Settings> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Settings::default(),
        };
        Ok(self.settings.clone().or(file))
    }
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} can't be read", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Settings> {
    let table: toml::Table = text.parse()?;
    let names = Settings::names();
    for key in table.keys() {
        if !names.contains(key) {
            let near = names.iter().max_by(|a, b| {
                strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key))
            });
            bail!(
                "there is no setting {key:?}; did you mean {:?}? All are listed by: wireloom agent --help",
                near.map_or("", String::as_str)
            );
        }
    }
    Ok(toml::from_str(text)?)
}

#[cfg(test)]
mod tests;
