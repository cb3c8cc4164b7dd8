//! Switches forwarding on while this node needs it, and back when it does not, whichever of its agents did it: what was
//! there before lies in a file beside the agent's socket, which like the setting itself does not outlive the machine's
//! run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use wireloom_kernel::{Forwarding, SysctlError};
use wireloom_model::{Family, InterfaceName};

/// The end of a memory's name.
const EXTENSION: &str = "forwarding";

/// Forwarding on this host.
pub(crate) struct Forwarder {
    memory: PathBuf,
    /// How it was before it was needed, if it was.
    before: Option<Forwarding>,
    is_on: bool,
}

impl Forwarder {
    /// As it is now, with what an earlier agent remembered of it in the file at this path.
    pub(crate) fn recall(memory: PathBuf) -> Self {
        let text = fs::read(&memory).unwrap_or_default();
        Self { before: serde_json::from_slice(&text).ok(), memory, is_on: false }
    }

    /// Switches it on where it is off, whoever switched it off since, or back to what it was.
    pub(crate) fn bring(&mut self, is_wanted: bool) -> Result<(), SysctlError> {
        if is_wanted {
            let before = Forwarding::enable(&Family::BOTH)?;
            if self.is_on && !before.changed() {
                return Ok(());
            }
            if self.is_on {
                tracing::warn!(
                    "somebody has switched off that this machine forwards; it does again"
                );
            }
            let before = before.since(self.before.take().unwrap_or_default());
            if before.changed()
                && let Err(error) = save(&self.memory, &before)
            {
                let path = self.memory.display();
                tracing::warn!(%path, %error, "forwarding stays on if this agent is killed");
            }
            self.before = Some(before);
            self.is_on = true;
        } else if let Some(before) = self.before.take() {
            self.is_on = false;
            let outcome = before.restore();
            // It is not there if nothing had to be remembered.
            let _ = fs::remove_file(&self.memory);
            outcome?;
        }
        Ok(())
    }
}

/// Where an agent that listens at this path remembers how forwarding was.
pub(crate) fn memory_of(control: &Path) -> PathBuf {
    control.with_extension(EXTENSION)
}

/// Puts forwarding back to what it was before agents that are dead needed it, whose memories lie in this folder; if one is
/// `named`, to what it was before that one. Returns of each file what came of it.
pub(crate) fn clean_up(
    folder: &Path,
    named: Option<&InterfaceName>,
) -> Vec<(PathBuf, Result<(), SysctlError>)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let memories = entries.map(|entry| entry.path()).filter(|path| {
        let of = path.file_stem().and_then(|name| name.to_str());
        path.extension().is_some_and(|extension| extension == EXTENSION)
            && named.is_none_or(|named| of == Some(named.as_str()))
    });
    memories.map(|path| (path.clone(), Forwarder::recall(path).bring(false))).collect()
}

/// Writes it whole or not at all.
fn save(path: &Path, before: &Forwarding) -> std::io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or_else(|| Path::new("/")))?;
    file.write_all(&serde_json::to_vec(before)?)?;
    file.persist(path)?;
    Ok(())
}
