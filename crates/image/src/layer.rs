//! A layer: files, and nothing else that could differ between two builds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use tar::{Builder, EntryType, Header};

use crate::error::Error;

/// A set of files, by their paths in the image. All belong to root and are as old as the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { contents: Vec<u8>, mode: u32 },
    Link { target: PathBuf },
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a directory. Those above it need no mention.
    #[must_use]
    pub fn directory(self, path: impl AsRef<Path>, mode: u32) -> Self {
        self.with(path.as_ref(), Entry::Directory { mode })
    }

    /// With a file that all may read.
    #[must_use]
    pub fn text(self, path: impl AsRef<Path>, text: &str) -> Self {
        self.with(path.as_ref(), Entry::File { contents: text.into(), mode: 0o644 })
    }

    /// With a symbolic link.
    #[must_use]
    pub fn link(self, path: impl AsRef<Path>, target: impl Into<PathBuf>) -> Self {
        self.with(path.as_ref(), Entry::Link { target: target.into() })
    }

    /// With a program of this machine, and the libraries that it loads where it expects them.
    ///
    /// # Errors
    ///
    /// A file that can't be read, or a program about which `ldd` says nothing.
    pub fn program(self, path: impl AsRef<Path>, source: &Path) -> Result<Self, Error> {
        let mut layer = self.executable(path.as_ref(), source)?;
        for library in libraries(source)? {
            layer = layer.executable(&library, &library)?;
        }
        Ok(layer)
    }

    fn executable(self, path: &Path, source: &Path) -> Result<Self, Error> {
        let contents = fs::read(source).map_err(Error::file(source))?;
        Ok(self.with(path, Entry::File { contents, mode: 0o755 }))
    }

    fn with(mut self, path: &Path, entry: Entry) -> Self {
        let path: PathBuf =
            path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            let parent = parent.to_path_buf();
            self.entries.entry(parent).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path, entry);
        self
    }

    /// The layer as a tar archive, parents before what they hold.
    pub(crate) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = header(0, *mode);
                    header.set_entry_type(EntryType::Directory);
                    archive.append_data(&mut header, path.join(""), io::empty())?;
                }
                Entry::File { contents, mode } => {
                    let mut header = header(contents.len() as u64, *mode);
                    archive.append_data(&mut header, path, &contents[..])?;
                }
                Entry::Link { target } => {
                    let mut header = header(0, 0o777);
                    header.set_entry_type(EntryType::Symlink);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.into_inner()
    }
}

/// The header of a file that belongs to root and is as old as the epoch.
pub(crate) fn header(size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The libraries that a program loads, its loader among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let unknown = |message| Error::Libraries { program: program.to_path_buf(), message };
    let listing = Command::new("ldd").arg(program).output();
    let listing = listing.map_err(|error| unknown(error.to_string()))?;
    let said = String::from_utf8_lossy(&[listing.stdout, listing.stderr].concat()).into_owned();
    if said.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !listing.status.success() || said.contains("not found") {
        return Err(unknown(said));
    }
    Ok(paths_in(&said))
}

/// Reads what ldd(1) prints: `libc.so.6 => /lib/libc.so.6 (0x7f0)`, and `/lib64/ld-linux.so.2 (0x7f1)` for the loader.
fn paths_in(listing: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path);
        let path = line.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listing.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_and_what_is_no_file_is_left_out() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f01)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let expected = ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(paths_in(listing), expected);
    }

    #[test]
    fn a_program_comes_with_its_loader() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let layer = Layer::new().program("/bin/sh", &shell).unwrap();
        assert!(layer.entries.contains_key(Path::new("bin/sh")));
        let has_loader =
            layer.entries.keys().any(|path| path.to_string_lossy().contains("ld-linux"));
        assert!(has_loader, "{:?}", layer.entries.keys());
        assert!(matches!(
            Layer::new().program("/x", Path::new("/no/such/program")),
            Err(Error::File { .. })
        ));
    }

    #[test]
    fn the_order_of_building_changes_nothing() {
        let one = Layer::new().text("/etc/a", "1").link("/etc/b", "a").directory("/tmp", 0o1777);
        let other = Layer::new().directory("tmp", 0o1777).link("etc/b", "a").text("etc/a", "1");
        let archive = one.archive().unwrap();
        assert_eq!(archive, other.archive().unwrap());

        let mut archive = tar::Archive::new(&archive[..]);
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.header().mtime().unwrap(), 0);
                entry.path().unwrap().display().to_string()
            })
            .collect();
        assert_eq!(paths, ["etc/", "etc/a", "etc/b", "tmp/"]);
    }
}
