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

use crate::logging::Said;
use crate::up::MachineArgs;
pub(crate) use flags::Settings;
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
    /// These settings, and those of the file.
    pub(crate) const fn new(config: Option<PathBuf>, settings: Settings) -> Self {
        Self { config, settings }
    }

    /// Whether something is said that the agent of a cluster alone is told.
    pub(crate) fn name_a_cluster(&self) -> bool {
        let has_file = self.config.is_some() || Path::new(DEFAULT_FILE).exists();
        let is_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        has_file || is_pod || self.settings.name_a_cluster()
    }

    /// What every agent is told of its machine.
    pub(crate) fn machine(&self) -> anyhow::Result<MachineArgs> {
        self.said()?.machine()
    }

    /// Joins flags, environment, file and defaults.
    pub(crate) fn resolve(&self) -> anyhow::Result<Resolved> {
        self.said()?.resolve()
    }

    /// What is said of logging beside the flags of every command. A flag beats what the file says in another word.
    pub(crate) fn logging(&self) -> anyhow::Result<Said> {
        let (file, level) = (self.file()?, self.settings.log_level);
        let filter = file.log.filter(|_| level.is_none());
        Ok(Said { filter, level: level.or(file.log_level), format: file.log_format })
    }

    fn said(&self) -> anyhow::Result<Settings> {
        Ok(self.settings.clone().or(self.file()?))
    }

    fn file(&self) -> anyhow::Result<Settings> {
        match &self.config {
            Some(path) => read(path),
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE)),
            None => Ok(Settings::default()),
        }
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
