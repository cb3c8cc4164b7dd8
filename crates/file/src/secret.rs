//! Reads the files that hold one secret each.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

/// More than any key with white space around it; keeps a wrong path from filling the memory.
const MOST_BYTES: u64 = 4096;

/// The text of a secret file, and who may read it.
pub(crate) struct Secret {
    /// The text without white space around it.
    pub(crate) text: Zeroizing<String>,
    /// The file's permission bits.
    pub(crate) mode: u32,
}

impl Secret {
    /// Reads a regular file of at most 4 KiB.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = open_regular(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut text = Zeroizing::new(String::new());
        file.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(Self { text: Zeroizing::new(text.trim_ascii().to_owned()), mode })
    }

    /// Whether others than the owner may read or change the file.
    pub(crate) const fn is_exposed(&self) -> bool {
        is_exposed(self.mode)
    }
}

/// Whether these permission bits let others than the owner read or change a file.
pub(crate) const fn is_exposed(mode: u32) -> bool {
    mode & 0o066 != 0
}

/// Opens a file for reading, and nothing else that could block or never end.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::other("it is no regular file"))
    }
}
