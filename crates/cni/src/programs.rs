//! The programs that a runtime calls, in the directory where it looks for them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::whole;

/// The name of ours among the programs, and so its `type` in a list.
pub const PLUGIN: &str = "wireloom";

/// The plugins that a [`Conflist`](crate::Conflist) names, and the one that every runtime calls first.
pub const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// How many bytes of two files are compared at a time.
const PART: u64 = 1 << 20;

/// Programs run as root, and others may look.
const MODE: u32 = 0o755;

/// The directory in which a runtime looks for plugins, such as `/opt/cni/bin`.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
    /// Ours, as it was when it was last found to be the right one.
    right: Option<Stamp>,
}

/// What a file can't be written or replaced without changing: its number, its length, and when it was written.
type Stamp = (u64, u64, Option<SystemTime>);

/// What the system says to a program that can't be put there, or taken away.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct ProgramError {
    /// The program.
    pub path: PathBuf,
    /// What the system says.
    pub error: io::Error,
}

impl Programs {
    /// The programs in this directory. Nothing is read or written yet.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory, right: None }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts `own` there as [`PLUGIN`], and those of [`PLUGINS`] that are missing and that `carried` has. Each is whole
    /// from the moment it is there; one that is there as it should be is not written again, and not read either while
    /// nobody touches it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn install(&mut self, own: &Path, carried: &Path) -> Result<(), ProgramError> {
        for name in PLUGINS {
            let (from, to) = (carried.join(name), self.directory.join(name));
            if !to.exists() && from.is_file() {
                self.copy(&from, name)?;
            }
        }
        let ours = self.directory.join(PLUGIN);
        if self.right.is_none() || stamp(&ours) != self.right {
            match is_same(own, &ours) {
                Ok(true) => {}
                Ok(false) => self.copy(own, PLUGIN)?,
                Err(error) => return Err(ProgramError { path: ours, error }),
            }
            self.right = stamp(&ours);
        }
        Ok(())
    }

    /// Whether a program is there.
    pub fn has(&self, name: &str) -> bool {
        self.directory.join(name).exists()
    }

    /// Those of [`PLUGINS`] that are not there.
    pub fn missing(&self) -> Vec<&'static str> {
        PLUGINS.into_iter().filter(|name| !self.has(name)).collect()
    }

    /// Takes ours away. Those of others stay, whoever brought them.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self) -> Result<(), ProgramError> {
        let path = self.directory.join(PLUGIN);
        whole::remove(&path).map_err(|error| ProgramError { path, error })
    }

    fn copy(&self, from: &Path, name: &str) -> Result<(), ProgramError> {
        let path = self.directory.join(name);
        let copied = || -> io::Result<()> {
            fs::create_dir_all(&self.directory)?;
            let mut file =
                tempfile::Builder::new().prefix(".wireloom-").tempfile_in(&self.directory)?;
            io::copy(&mut File::open(from)?, &mut file)?;
            file.as_file().set_permissions(fs::Permissions::from_mode(MODE))?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        copied().map_err(|error| ProgramError { path, error })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = fs::metadata(path).ok()?;
    Some((data.ino(), data.len(), data.modified().ok()))
}

/// Whether both files are there and say the same.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let other = match File::open(other) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let (mut one, mut other) = (File::open(one)?, other);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let mut parts = [Vec::new(), Vec::new()];
    loop {
        for (file, part) in [&mut one, &mut other].into_iter().zip(&mut parts) {
            part.clear();
            file.take(PART).read_to_end(part)?;
        }
        if parts[0].is_empty() || parts[0] != parts[1] {
            return Ok(parts[0] == parts[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_replaced_where_it_differs_and_others_are_brought_where_they_lack() {
        let folder = tempfile::tempdir().unwrap();
        let (own, carried) = (folder.path().join("own"), folder.path().join("carried"));
        fs::write(&own, "one").unwrap();
        fs::create_dir(&carried).unwrap();
        for name in ["bridge", "portmap"] {
            fs::write(carried.join(name), "carried").unwrap();
        }
        let mut programs = Programs::new(folder.path().join("bin"));
        fs::create_dir(programs.directory()).unwrap();
        let bin = programs.directory().to_owned();
        let place = |name: &str| bin.join(name);
        fs::write(place("bridge"), "the machine's own").unwrap();

        programs.install(&own, &carried).unwrap();
        let before = fs::metadata(place(PLUGIN)).unwrap();
        assert_eq!(before.permissions().mode() & 0o777, MODE);
        assert_eq!(fs::read_to_string(place("bridge")).unwrap(), "the machine's own");
        assert_eq!(fs::read_to_string(place("portmap")).unwrap(), "carried");
        assert_eq!(programs.missing(), ["host-local", "loopback"]);

        programs.install(&own, &carried).unwrap();
        assert_eq!(fs::metadata(place(PLUGIN)).unwrap().ino(), before.ino());
        fs::write(&own, "two").unwrap();
        programs.install(&own, &carried).unwrap();
        assert_eq!(
            fs::read_to_string(place(PLUGIN)).unwrap(),
            "one",
            "ours does not change while it runs"
        );
        // Somebody takes them away, or writes over ours.
        for name in [PLUGIN, "portmap"] {
            fs::remove_file(place(name)).unwrap();
        }
        programs.install(&own, &carried).unwrap();
        assert_eq!(fs::read_to_string(place(PLUGIN)).unwrap(), "two");
        assert_eq!(fs::read_to_string(place("portmap")).unwrap(), "carried");
        fs::write(place(PLUGIN), "three").unwrap();
        programs.install(&own, &carried).unwrap();
        assert_eq!(fs::read_to_string(place(PLUGIN)).unwrap(), "two");

        for _ in 0..2 {
            programs.remove().unwrap();
        }
        let mut left: Vec<_> =
            fs::read_dir(programs.directory()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["bridge", "portmap"]);
    }
}
