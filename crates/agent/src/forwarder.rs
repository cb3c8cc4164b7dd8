//! Switches forwarding on while this node needs it, and back when it does not, whichever of its agents did it: what was
//! there before is [remembered](Memory).

use std::path::{Path, PathBuf};

use wireloom_kernel::{Forwarding, SysctlError};
use wireloom_model::{Family, InterfaceName};

use crate::memory::Memory;

/// Of a memory's file.
const EXTENSION: &str = "forwarding";

/// Forwarding on this host.
pub(crate) struct Forwarder {
    memory: Memory,
    /// How it was before it was needed, if it was.
    before: Option<Forwarding>,
    is_on: bool,
}

impl Forwarder {
    /// As it is now, with what earlier agents that listened at this path remembered of it.
    pub(crate) fn recall(control: &Path) -> Self {
        Self::with(Memory::of(control, EXTENSION))
    }

    fn with(memory: Memory) -> Self {
        Self { before: memory.recall(), memory, is_on: false }
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
                && let Err(error) = self.memory.keep(&before)
            {
                let path = self.memory.path().display();
                tracing::warn!(%path, %error, "forwarding stays on if this agent is killed");
            }
            self.before = Some(before);
            self.is_on = true;
        } else if let Some(before) = self.before.take() {
            self.is_on = false;
            let outcome = before.restore();
            self.memory.forget();
            outcome?;
        }
        Ok(())
    }
}

/// Puts forwarding back to what it was before agents that are dead needed it, whose memories lie in this folder; if one is
/// `named`, to what it was before that one. Returns of each file what came of it.
pub(crate) fn clean_up(
    folder: &Path,
    named: Option<&InterfaceName>,
) -> Vec<(PathBuf, Result<(), SysctlError>)> {
    let memories = Memory::all(folder, EXTENSION, named).into_iter();
    memories
        .map(|memory| (memory.path().to_owned(), Forwarder::with(memory).bring(false)))
        .collect()
}
