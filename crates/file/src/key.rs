//! The file that holds a node's private key.
//!
//! Written once, by the node itself, and never again: a second start leaves the file as it is, and a file that can't be
//! understood is somebody's to look at, not ours to replace. A new key would be a new node to all others.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use wireloom_model::{KeyError, PrivateKey};

use crate::secret::Secret;

/// Why there is no private key to be had from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Others than its owner may read or change it, so it may no longer be a secret.
    #[error(
        "{} holds a private key that others can read or change (mode {mode:04o}): run chmod 600 on it, or move it \
         away to have a new key made", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else. It is left as it is.
    #[error(
        "{} holds no private key and was left as it is: restore it, or move it away to have a new key made, which \
         all other nodes must then learn ({source})", path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with its text.
        source: KeyError,
    },
    /// It can't be read.
    #[error("the private key in {} can't be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is missing and can't be made.
    #[error("a new private key can't be written to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Reads the private key at this path. If there is no such file, makes one from the random bytes: base64 and a line
/// feed, as `wg genkey` prints it, mode 0600, its directory 0700 if that is missing too.
///
/// The file appears whole or not at all, and one that appears meanwhile wins. A file that exists is never written.
///
/// # Errors
///
/// If the file exists, yet others may read it or it holds no key; if it can't be read or made.
pub fn load_or_create(
    path: &Path,
    random: impl FnOnce() -> [u8; 32],
) -> Result<PrivateKey, KeyFileError> {
    match load(path) {
        Err(KeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(path, &PrivateKey::from_random(random()))
                .map_err(|source| KeyFileError::Write { path: path.to_owned(), source })?;
            load(path)
        }
        loaded => loaded,
    }
}

/// Reads the private key at this path, which must exist.
///
/// # Errors
///
/// If the file can't be read, others may read it, or it holds no key.
pub fn load(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let path = path.to_owned();
    match Secret::read(&path) {
        Err(source) => Err(KeyFileError::Read { path, source }),
        Ok(secret) if secret.is_exposed() => Err(KeyFileError::Exposed { path, mode: secret.mode }),
        Ok(secret) => secret.text.parse().map_err(|source| KeyFileError::Invalid { path, source }),
    }
}

/// Writes a key to a new file, unless one is there by then.
fn create(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !fs::exists(directory)? {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Mode 0600 from the first moment on.
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(key.to_text().as_bytes())?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(directory)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests;
