//! The file registry: a mesh written down in `mesh.toml`, reloaded when it changes.
//!
//! Owns the format of that file ([`parse`], [`pin`]), the [`Registry`](wireloom_registry::Registry) that follows it
//! ([`FileRegistry`]), and the file that holds a node's private key ([`key`]). The format is described for people in
//! `docs/mesh-file.md`.
//!
//! Floor 2: imports the words of the mesh and the registry's trait; never Kubernetes, the kernel or the tunnel.

mod entry;
mod fields;
pub mod key;
mod mesh;
mod pin;
mod registry;
mod secret;

use std::io;
use std::path::PathBuf;

pub use mesh::{load, parse};
pub use pin::{pin, pin_file};
pub use registry::FileRegistry;

/// Why a whole mesh file is of no use. An entry that alone is wrong is a
/// [`Problem`](wireloom_model::Problem) of the snapshot instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is no TOML, its `[mesh]` section is wrong, it has a section that does not exist, or it lists no node.
    #[error("{} line {line}, column {column}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// It can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It can't be replaced, and is as it was.
    #[error("{} can't be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
