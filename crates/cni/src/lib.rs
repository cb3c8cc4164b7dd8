//! How container runtimes put pods on the mesh (Container Network Interface,
//! <https://www.cni.dev/docs/spec/>).
//!
//! Owns the [`Conflist`] that a node gives its runtime, and its [place](ConflistFile) among the files of others: written
//! whole or not at all, only when something changed, and withdrawn when the node leaves. What others put there is never
//! touched, but for a [`Chain`] that somebody asked for. And the [`Bridge`] that pods hang on, and the [`Programs`] that
//! the list names, of which one is ours: the [plugin], which goes by the agent's [`Guidance`] and leaves [`Attachments`]
//! for it, in [`Directories`] that both know.
//!
//! Floor 2: imports `wireloom-model` only; no async runtime, no Kubernetes.

mod attachment;
mod bridge;
mod chain;
mod conflist;
mod contest;
mod directories;
mod file;
mod guidance;
mod netlink;
pub mod plugin;
mod programs;
mod survey;
mod whole;

pub use attachment::{Attachment, Attachments, Records, Unreadable};
pub use bridge::{Bridge, gateway};
pub use chain::{Chain, ChainError};
pub use conflist::{CNI_VERSION, Conflist};
pub use directories::Directories;
pub use file::{ConflistError, ConflistFile, Written};
pub use guidance::Guidance;
pub use programs::{PLUGIN, PLUGINS, ProgramError, Programs};
pub use survey::{Listed, survey};
