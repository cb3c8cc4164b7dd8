//! Our file among those that tell a runtime what to do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::conflist::Conflist;
use crate::contest::{Contest, MOST};
use crate::survey::readable;
use crate::whole;

/// Where our list stands. Runtimes read the first file of its directory by name that they look at.
#[derive(Debug, Clone)]
pub struct ConflistFile {
    path: PathBuf,
    /// What was written last.
    written: Option<Value>,
    contest: Contest,
}

/// What became of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    New,
    /// It stood there already.
    Unchanged,
    /// There is none, and none is wished for.
    Withdrawn,
}

/// Why a list could not be written, or withdrawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConflistError {
    /// Somebody takes the list away, or writes another, as soon as it is written.
    #[error(
        "{}: somebody takes it away as soon as it is written, {MOST} times within a minute; have them leave it alone (Cilium: \
         cni.exclusive=false), or say --cni=false; it is tried again within five minutes",
        path.display()
    )]
    Contested {
        /// The file.
        path: PathBuf,
    },
    /// The file has another's name in it: it is not ours to overwrite.
    #[error("{} belongs to the network {name:?}, which is not ours: remove it, or choose another --cni-path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The network that it describes.
        name: String,
    },
    /// The file, or its directory, can't be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Runtimes run as root, and others may look.
const MODE: u32 = 0o644;

impl ConflistFile {
    /// The file at this path, such as `/etc/cni/net.d/10-wireloom.conflist`. Nothing is read or written yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: None, contest: Contest::default() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the file say what the list says. Writes only if that differs, and then by a new file in the place of the old
    /// one, so that no runtime ever reads half of it. A list without prefixes is withdrawn.
    ///
    /// # Errors
    ///
    /// [`ConflistError::Foreign`] if another network's list stands there, [`ConflistError::Contested`] if what was written
    /// does not last, and what the system says.
    pub fn write(&mut self, conflist: &Conflist, now: Instant) -> Result<Written, ConflistError> {
        let Some(wanted) = conflist.to_json() else { return self.withdraw(&conflist.name) };
        match self.read()? {
            Some(present) if present == wanted => return Ok(Written::Unchanged),
            present => self.check_owner(present.as_ref(), &conflist.name)?,
        }
        if self.written.as_ref() == Some(&wanted) {
            if !self.contest.is_on(now) {
                return Err(ConflistError::Contested { path: self.path.clone() });
            }
            self.contest.write(now);
        }
        whole::write(&self.path, &whole::pretty(&wanted), MODE).map_err(|error| self.io(error))?;
        self.written = Some(wanted);
        Ok(Written::New)
    }

    /// Takes the list of the network with this name away, if it stands there.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn withdraw(&mut self, name: &str) -> Result<Written, ConflistError> {
        self.written = None;
        if let Some(present) = self.read()? {
            self.check_owner(Some(&present), name)?;
            fs::remove_file(&self.path).map_err(|error| self.io(error))?;
        }
        Ok(Written::Withdrawn)
    }

    /// The file that a runtime reads instead of ours, because its name comes first.
    ///
    /// # Errors
    ///
    /// What the system says of the directory.
    pub fn overruled_by(&self) -> Result<Option<PathBuf>, ConflistError> {
        let (Some(directory), Some(own)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(None);
        };
        let failed = |error| ConflistError::Io { path: directory.to_owned(), error };
        let first = readable(directory).map_err(failed)?.into_iter().next();
        Ok(first.filter(|name| name.as_os_str() < own).map(|name| directory.join(name)))
    }

    /// What stands there. Something that is no JSON reads as `Null`.
    fn read(&self) -> Result<Option<Value>, ConflistError> {
        let bytes = whole::read(&self.path).map_err(|error| self.io(error))?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// What is half written or empty has no owner.
    fn check_owner(&self, present: Option<&Value>, own: &str) -> Result<(), ConflistError> {
        match present.and_then(|present| present["name"].as_str()) {
            Some(name) if name != own => {
                Err(ConflistError::Foreign { path: self.path.clone(), name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn io(&self, error: io::Error) -> ConflistError {
        ConflistError::Io { path: self.path.clone(), error }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use crate::directories::Directories;

    use super::*;

    fn conflist(prefixes: &[&str]) -> Conflist {
        Conflist {
            name: "wireloom".to_owned(),
            bridge: "wl-pods0".to_owned(),
            prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1370,
            directories: Directories {
                run: "/run/wireloom".into(),
                state: "/var/lib/wireloom".into(),
            },
            is_chained: true,
        }
    }

    fn place() -> (tempfile::TempDir, ConflistFile) {
        let directory = tempfile::tempdir().unwrap();
        let file = ConflistFile::new(directory.path().join("net.d/10-wireloom.conflist"));
        (directory, file)
    }

    #[test]
    fn what_is_unchanged_is_not_written_again() {
        let (_directory, mut file) = place();
        assert_eq!(file.write(&conflist(&["10.42.1.0/24"]), Instant::now()).unwrap(), Written::New);
        let before = fs::metadata(file.path()).unwrap();
        assert_eq!(before.permissions().mode() & 0o777, MODE);
        assert_eq!(
            file.write(&conflist(&["10.42.1.0/24"]), Instant::now()).unwrap(),
            Written::Unchanged
        );
        assert_eq!(fs::metadata(file.path()).unwrap().ino(), before.ino());
        assert_eq!(file.write(&conflist(&["10.42.2.0/24"]), Instant::now()).unwrap(), Written::New);
        assert_ne!(fs::metadata(file.path()).unwrap().ino(), before.ino());
        let names: Vec<_> = fs::read_dir(file.path().parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_node_that_leaves_or_loses_its_prefix_withdraws_its_list_and_nothing_else() {
        let (_directory, mut file) = place();
        file.write(&conflist(&["10.42.1.0/24"]), Instant::now()).unwrap();
        let other = file.path().with_file_name("20-other.conflist");
        fs::write(&other, "{}").unwrap();
        assert_eq!(file.write(&conflist(&[]), Instant::now()).unwrap(), Written::Withdrawn);
        assert_eq!(file.withdraw("wireloom").unwrap(), Written::Withdrawn);
        assert!(!file.path().exists() && other.exists());
    }

    #[test]
    fn the_list_of_another_network_stays_and_is_named() {
        let (_directory, mut file) = place();
        fs::create_dir_all(file.path().parent().unwrap()).unwrap();
        fs::write(file.path(), r#"{"name": "kilo", "plugins": []}"#).unwrap();
        for outcome in
            [file.write(&conflist(&["10.42.1.0/24"]), Instant::now()), file.withdraw("wireloom")]
        {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("\"kilo\"") && error.contains("10-wireloom"), "{error}");
        }
        assert!(fs::read_to_string(file.path()).unwrap().contains("kilo"));
    }

    #[test]
    fn half_a_file_is_written_over() {
        let (_directory, mut file) = place();
        fs::create_dir_all(file.path().parent().unwrap()).unwrap();
        fs::write(file.path(), r#"{"name": "wirel"#).unwrap();
        assert_eq!(file.write(&conflist(&["10.42.1.0/24"]), Instant::now()).unwrap(), Written::New);
    }

    #[test]
    fn who_takes_it_away_again_and_again_is_named_and_left_alone() {
        let (_directory, mut file) = place();
        let (wanted, now) = (conflist(&["10.42.1.0/24"]), Instant::now());
        for _ in 0..=MOST {
            assert_eq!(file.write(&wanted, now).unwrap(), Written::New);
            fs::remove_file(file.path()).unwrap();
        }
        let error = file.write(&wanted, now).unwrap_err();
        assert!(matches!(error, ConflistError::Contested { .. }), "{error}");
        assert!(!file.path().exists());
        // What is new to say is said.
        assert_eq!(file.write(&conflist(&["10.42.2.0/24"]), now).unwrap(), Written::New);
    }

    #[test]
    fn a_node_that_withdraws_its_list_may_write_it_again_at_once() {
        let (_directory, mut file) = place();
        for _ in 0..=MOST + 1 {
            let written = file.write(&conflist(&["10.42.1.0/24"]), Instant::now());
            assert_eq!(written.unwrap(), Written::New);
            assert_eq!(file.withdraw("wireloom").unwrap(), Written::Withdrawn);
        }
    }

    #[test]
    fn a_file_that_comes_first_is_found_and_others_are_not() {
        let (_directory, mut file) = place();
        file.write(&conflist(&["10.42.1.0/24"]), Instant::now()).unwrap();
        let beside = |name: &str| file.path().with_file_name(name);
        for name in ["05-flannel.conflist.bak", "00-notes", "20-other.conflist"] {
            fs::write(beside(name), "{}").unwrap();
        }
        assert_eq!(file.overruled_by().unwrap(), None);
        fs::write(beside("05-cilium.conf"), "{}").unwrap();
        fs::write(beside("07-other.json"), "{}").unwrap();
        assert_eq!(file.overruled_by().unwrap(), Some(beside("05-cilium.conf")));
        // Nor while ours is not there.
        for name in ["05-cilium.conf", "07-other.json", "10-wireloom.conflist"] {
            fs::remove_file(beside(name)).unwrap();
        }
        assert_eq!(file.overruled_by().unwrap(), None);
    }
}
