//! Small files beside the agent's socket, for the agent that follows one that was killed. Like what they are about they do
//! not outlive the machine's run.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;
use wireloom_model::InterfaceName;

/// One such file: what an agent remembers of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory(PathBuf);

impl Memory {
    /// What an agent that listens at this path remembers in files of this extension.
    pub(crate) fn of(control: &Path, extension: &str) -> Self {
        Self(control.with_extension(extension))
    }

    /// What the agents whose sockets are in this folder remember in files of this extension; if one is `named`, that one
    /// alone.
    pub(crate) fn all(folder: &Path, extension: &str, named: Option<&InterfaceName>) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| {
            let of = path.file_stem().and_then(|name| name.to_str());
            path.extension().is_some_and(|is| is == extension)
                && named.is_none_or(|named| of == Some(named.as_str()))
        });
        paths.map(Self).collect()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What was kept, if anything of use.
    pub(crate) fn recall<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub(crate) fn keep(&self, what: &impl Serialize) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(self.0.parent().unwrap_or_else(|| Path::new("/")))?;
        file.write_all(&serde_json::to_vec(what)?)?;
        file.persist(&self.0)?;
        Ok(())
    }

    pub(crate) fn forget(&self) {
        // It is not there if nothing had to be remembered.
        let _ = fs::remove_file(&self.0);
    }
}
