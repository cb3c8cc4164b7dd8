//! How container runtimes put pods on the mesh (Container Network Interface,
//! <https://www.cni.dev/docs/spec/>).
//!
//! Owns the [`Conflist`] that a node gives its runtime, and its [place](ConflistFile) among the files of others: written
//! whole or not at all, only when something changed, and withdrawn when the node leaves. What others put there is never
//! touched. And the [`Programs`] that the list names.
//!
//! Floor 2: imports `wireloom-model` only; no async runtime, no Kubernetes.

mod conflist;
mod file;
mod programs;

pub use conflist::{CNI_VERSION, Conflist};
pub use file::{ConflistError, ConflistFile, Written};
pub use programs::{PLUGIN, PLUGINS, ProgramError, Programs};
