//! Switches forwarding on while this node needs it, and back when it does not, whichever of its agents did it: what was
//! there before lies in a file beside the agent's socket, which like the setting itself does not outlive the machine's
//! run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use wireloom_kernel::{Forwarding, SysctlError};
use wireloom_model::Family;

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

    /// Switches it on, or back to what it was.
    pub(crate) fn bring(&mut self, is_wanted: bool) -> Result<(), SysctlError> {
        if is_wanted && !self.is_on {
            let before = Forwarding::enable(&Family::BOTH)?;
            let before = before.since(self.before.take().unwrap_or_default());
            if before.changed()
                && let Err(error) = save(&self.memory, &before)
            {
                let path = self.memory.display();
                tracing::warn!(%path, %error, "forwarding stays on if this agent is killed");
            }
            self.before = Some(before);
            self.is_on = true;
        } else if !is_wanted && let Some(before) = self.before.take() {
            self.is_on = false;
            let outcome = before.restore();
            // It is not there if nothing had to be remembered.
            let _ = fs::remove_file(&self.memory);
            outcome?;
        }
        Ok(())
    }
}

/// Writes it whole or not at all.
fn save(path: &Path, before: &Forwarding) -> std::io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or_else(|| Path::new("/")))?;
    file.write_all(&serde_json::to_vec(before)?)?;
    file.persist(path)?;
    Ok(())
}
