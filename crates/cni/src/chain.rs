//! Ours at the end of another plugin's list.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::conflist::plugin;
use crate::file::readable;
use crate::programs::PLUGIN;
use crate::whole;

/// The directory whose first list we are chained to. Whoever writes that list stays its owner: what it said is kept
/// beside it and put back in the end, and when it writes its list anew, we are chained to the new one.
#[derive(Debug, Clone)]
pub struct Chain {
    directory: PathBuf,
    /// The agent's run directory, where the plugin finds what it goes by.
    run: PathBuf,
}

/// Why ours is not in a list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// No plugin has put a list there yet. We put none of our own there: pods would start on it.
    #[error("{}: no plugin has a list there yet, so there is none to be chained to", directory.display())]
    Alone {
        /// The directory.
        directory: PathBuf,
    },
    /// A file or directory can't be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The first file describes a single plugin, or is no JSON.
    #[error(
        "{} is no list of plugins, so ours can't be put behind them: have its owner write a .conflist",
        path.display()
    )]
    NoList {
        /// The file.
        path: PathBuf,
    },
}

/// How the name of a file ends that keeps what a list said before us. Runtimes pass it over.
const KEPT: &str = ".before-wireloom";

impl Chain {
    /// The lists in this directory, such as `/etc/cni/net.d`. Nothing is read or written yet.
    pub const fn new(directory: PathBuf, run: PathBuf) -> Self {
        Self { directory, run }
    }

    /// Their directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The lists that we were put in and not taken out of again.
    pub fn lists(&self) -> Vec<PathBuf> {
        let kept = self.kept().unwrap_or_default();
        kept.into_iter().map(|name| self.directory.join(name)).collect()
    }

    /// Has ours stand at the end of the list that runtimes read, and in no other. Returns its file if it was written.
    ///
    /// # Errors
    ///
    /// [`ChainError::Alone`] and [`ChainError::NoList`] where there is nothing to be chained to, and what the system says.
    pub fn follow(&self) -> Result<Option<PathBuf>, ChainError> {
        let first = readable(&self.directory).map_err(|error| failed(&self.directory, error))?;
        let first = first.into_iter().min();
        for name in self.kept()?.into_iter().filter(|name| Some(name) != first.as_ref()) {
            self.restore(&name)?;
        }
        let Some(name) = first else {
            return Err(ChainError::Alone { directory: self.directory.clone() });
        };
        let path = self.directory.join(&name);
        let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
        let parsed = serde_json::from_slice(&bytes).ok();
        let Some(chained) = parsed.as_ref().and_then(|list| self.chained(list)) else {
            return Err(ChainError::NoList { path });
        };
        if parsed == Some(chained.clone()) {
            return Ok(None);
        }
        // One that has ours in it already, as another run directory had it, is not what its owner said.
        if parsed.as_ref().is_none_or(|list| !has_ours(list)) {
            self.write(&self.place(&name), &path, &bytes)?;
        }
        self.write(&path, &path, &whole::pretty(&chained))?;
        Ok(Some(path))
    }

    /// Puts back what was there before us.
    ///
    /// # Errors
    ///
    /// What the system says of the first file for which it says something.
    pub fn leave(&self) -> Result<(), ChainError> {
        self.kept()?.iter().try_for_each(|name| self.restore(name))
    }

    /// A list as it was before us: to the byte, unless somebody has changed it since and left us in.
    fn restore(&self, name: &OsStr) -> Result<(), ChainError> {
        let (path, place) = (self.directory.join(name), self.place(name));
        let read = |path: &Path| whole::read(path).map_err(|error| failed(path, error));
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        if let (Some(now), Some(before)) = (read(&path)?, read(&place)?)
            && let Some(list) = parse(&now).filter(has_ours)
        {
            let ours = parse(&before).and_then(|before| self.chained(&before));
            let bytes =
                if ours.as_ref() == Some(&list) { before } else { whole::pretty(&without(list)) };
            self.write(&path, &path, &bytes)?;
        }
        whole::remove(&place).map_err(|error| failed(&place, error))
    }

    /// A list with ours at its end. `None` for what is no list.
    fn chained(&self, list: &Value) -> Option<Value> {
        let mut list = without(list.clone());
        list.get_mut("plugins")?.as_array_mut()?.push(plugin(&self.run));
        Some(list)
    }

    /// The names of the lists that we are in.
    fn kept(&self) -> Result<Vec<OsString>, ChainError> {
        let entries =
            fs::read_dir(&self.directory).map_err(|error| failed(&self.directory, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed(&self.directory, error))?.file_name();
            let list = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(KEPT));
            names.extend(list.map(OsString::from));
        }
        names.sort();
        Ok(names)
    }

    /// Where what a list said before us is kept.
    fn place(&self, name: &OsStr) -> PathBuf {
        let mut kept = OsString::from(".");
        kept.push(name);
        kept.push(KEPT);
        self.directory.join(kept)
    }

    /// Writes a file that others may read as they could another.
    fn write(&self, path: &Path, like: &Path, bytes: &[u8]) -> Result<(), ChainError> {
        let mode = fs::metadata(like).map_err(|error| failed(like, error))?.permissions().mode();
        whole::write(path, bytes, mode & 0o777).map_err(|error| failed(path, error))
    }
}

fn failed(path: &Path, error: io::Error) -> ChainError {
    ChainError::Io { path: path.to_owned(), error }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

fn has_ours(list: &Value) -> bool {
    list["plugins"].as_array().is_some_and(|plugins| plugins.iter().any(is_ours))
}

/// A list without ours.
fn without(mut list: Value) -> Value {
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.retain(|plugin| !is_ours(plugin));
    }
    list
}

#[cfg(test)]
mod tests;
