//! The archive that a kernel unpacks into its first file system: cpio, "newc" format
//! (Linux: `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file types of `stat` (inode(7)) with the permissions that files get here.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// Files to be, by their paths; `None` is a directory.
#[derive(Debug, Default)]
pub(super) struct Archive(BTreeMap<PathBuf, Option<Vec<u8>>>);

impl Archive {
    /// Adds a file, and the directories above it.
    pub(super) fn add(&mut self, path: &Path, content: Vec<u8>) {
        if let Some(above) = path.parent() {
            self.add_directory(above);
        }
        self.0.insert(path.to_owned(), Some(content));
    }

    /// Adds a directory, and those above it.
    pub(super) fn add_directory(&mut self, path: &Path) {
        for directory in path.ancestors().filter(|directory| directory.parent().is_some()) {
            self.0.insert(directory.to_owned(), None);
        }
    }

    /// Adds what lies in a directory, at the same paths below another.
    pub(super) fn add_tree(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.add_tree(&entry.path(), &to)?;
            } else {
                self.add(&to, fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// Adds a program of this machine, with the libraries that it is linked to where it looks for them.
    pub(super) fn add_program(&mut self, program: &Path, to: &Path) -> io::Result<()> {
        self.add(to, fs::read(program)?);
        // Fails for a program that needs none.
        let linked = Command::new("ldd").arg(program).output()?;
        for library in libraries(&String::from_utf8_lossy(&linked.stdout)) {
            self.add(library, fs::read(library)?);
        }
        Ok(())
    }

    /// Writes it out.
    pub(super) fn write(&self, mut to: impl Write) -> io::Result<()> {
        for (path, content) in &self.0 {
            let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
            let mode = if content.is_some() { FILE } else { DIRECTORY };
            entry(&mut to, &name, mode, content.as_deref().unwrap_or_default())?;
        }
        entry(&mut to, "TRAILER!!!", 0, &[])
    }
}

/// Thirteen fields in hexadecimal, the name with a zero byte, the content; both padded to four bytes.
fn entry(to: &mut impl Write, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let (links, name_size) = (1, name.len() + 1);
    write!(to, "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}", 0, 0, 0, 0)?;
    write!(to, "{:08x}{:08x}{:08x}{:08x}{:08x}", content.len(), 0, 0, 0, 0)?;
    write!(to, "{name_size:08x}{:08x}{name}\0", 0)?;
    let padding = |length: usize| &[0; 3][..length.wrapping_neg() % 4];
    to.write_all(padding(110 + name_size))?;
    to.write_all(content)?;
    to.write_all(padding(content.len()))
}

/// Reads lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2b6da1e000)`.
fn libraries(text: &str) -> impl Iterator<Item = &Path> {
    text.split_ascii_whitespace().filter(|word| word.starts_with('/')).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read() {
        let text = "\tlinux-vdso.so.1 (0x00007f2b6edee000)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f2b6ecdd000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2b6edf0000)\n";
        let found: Vec<_> = libraries(text).collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(Path::new)
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn entries_are_aligned_and_directories_come_first() {
        let mut archive = Archive::default();
        archive.add(Path::new("/a/b/file"), b"12345".to_vec());
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let places: Vec<_> = (0..bytes.len())
            .filter(|at| bytes[*at..].starts_with(b"070701"))
            .inspect(|at| assert_eq!(at % 4, 0))
            .collect();
        let names = places.iter().map(|at| {
            let name = &bytes[at + 110..];
            String::from_utf8_lossy(&name[..name.iter().position(|b| *b == 0).unwrap()])
        });
        assert_eq!(names.collect::<Vec<_>>(), ["a", "a/b", "a/b/file", "TRAILER!!!"]);
    }
}
