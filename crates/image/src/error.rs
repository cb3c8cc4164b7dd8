//! What goes wrong with an image.

use std::io;
use std::path::PathBuf;

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The libraries of a program are not known.
    #[error("ldd does not tell the libraries of {}: {message}", program.display())]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What ldd says.
        message: String,
    },
    /// A program that belongs into the image is not on this machine.
    #[error("{name} is not on this machine: install the package {package}")]
    Missing {
        /// The program.
        name: &'static str,
        /// The package, by Debian's name, that brings it.
        package: &'static str,
    },
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}
