//! Where the agent and the plugin leave things for each other.

use std::path::PathBuf;

/// The directories of a node's agent that the plugin looks into, as both see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// What goes when the machine starts anew, as its pods do; such as `/run/wireloom`.
    pub run: PathBuf,
    /// What is there again when the machine is; such as `/var/lib/wireloom`.
    pub state: PathBuf,
}
