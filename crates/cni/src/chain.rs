//! Ours at the end of another plugin's list.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::conflist::plugin;
use crate::contest::{Contest, MOST};
use crate::directories::Directories;
use crate::plugin::VERSIONS;
use crate::programs::PLUGIN;
use crate::survey::{has_ours, readable};
use crate::whole;

/// The directory whose first list we are chained to. Whoever writes that list stays its owner: what it said is kept
/// beside it and put back in the end, and when it writes its list anew, we are chained to the new one.
#[derive(Debug)]
pub struct Chain {
    directory: PathBuf,
    /// Where the plugin finds what it goes by.
    directories: Directories,
    contest: Contest,
    replaced: Option<Replaced>,
}

/// A file that ours was put in the place of. Its owner may have had it open, and write to it still.
#[derive(Debug)]
struct Replaced {
    name: OsString,
    file: File,
    /// What it said.
    bytes: Vec<u8>,
}

/// Why ours is not in a list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// No plugin has put a list there yet. We put none of our own there: pods would start on it.
    #[error("{}: no plugin has a list there yet, so there is none to be chained to", directory.display())]
    Alone {
        /// The directory.
        directory: PathBuf,
    },
    /// The list's owner takes ours out again as soon as it is in.
    #[error(
        "{}: its owner takes ours out again as soon as it is in, {MOST} times within a minute; have it leave the list alone \
         (Cilium: cni.exclusive=false), or write ours itself; it is tried again within five minutes",
        path.display()
    )]
    Contested {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory can't be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The first file is a link to another, whose owner may know nothing of this place.
    #[error("{} is a symbolic link: put a file there, or put ours by hand into what it leads to", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// The first file describes a single plugin, or is no JSON.
    #[error(
        "{} is no list of plugins, so ours can't be put behind them: have its owner write a .conflist",
        path.display()
    )]
    NoList {
        /// The file.
        path: PathBuf,
    },
    /// Ours would refuse every pod.
    #[error(
        "{} names {version} as its cniVersion, and ours speaks {} alone: have its owner name one of these",
        path.display(),
        VERSIONS.join(", ")
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it names; `nothing` if it names none.
        version: String,
    },
}

/// How the name of a file ends that keeps what a list said before us. Runtimes pass it over.
const KEPT: &str = ".before-wireloom";

impl Chain {
    /// The lists in this directory, such as `/etc/cni/net.d`. Nothing is read or written yet.
    pub fn new(directory: PathBuf, directories: Directories) -> Self {
        Self { directory, directories, contest: Contest::default(), replaced: None }
    }

    /// Has ours stand at the end of the list that runtimes read, and in no other. Returns its file if it was written.
    ///
    /// # Errors
    ///
    /// What is wrong with that list, or with its owner, and what the system says.
    pub fn follow(&mut self, now: Instant) -> Result<Option<PathBuf>, ChainError> {
        let listed = readable(&self.directory).map_err(|error| failed(&self.directory, error))?;
        let first = listed.into_iter().next();
        for name in self.kept()?.into_iter().filter(|name| Some(name) != first.as_ref()) {
            self.restore(&name)?;
        }
        let Some(name) = first else {
            return Err(ChainError::Alone { directory: self.directory.clone() });
        };
        let path = self.directory.join(&name);
        self.take_over(&name, &path)?;
        let read = |path: &Path| -> io::Result<_> {
            if fs::symlink_metadata(path)?.is_symlink() {
                return Ok(None);
            }
            let (mut file, mut bytes) = (File::open(path)?, Vec::new());
            file.read_to_end(&mut bytes)?;
            Ok(Some((file, bytes)))
        };
        let Some((file, bytes)) = read(&path).map_err(|error| failed(&path, error))? else {
            return Err(ChainError::Link { path });
        };
        let parsed: Option<Value> = serde_json::from_slice(&bytes).ok();
        let both = parsed.and_then(|list| Some((self.chained(&list)?, list)));
        let Some((chained, list)) = both else { return Err(ChainError::NoList { path }) };
        let (place, has_ours) = (self.place(&name), has_ours(&list));
        if has_ours && !place.exists() {
            // Whoever put ours in, it is taken out again.
            self.write(&place, &path, &whole::pretty(&without(list.clone())))?;
        }
        if let Some(version) = unknown_version(&list) {
            self.restore(&name)?;
            return Err(ChainError::Version { path, version });
        }
        if !has_ours {
            if !self.contest.is_on(now) {
                return Err(ChainError::Contested { path });
            }
            self.contest.write(now);
            self.write(&place, &path, &bytes)?;
        }
        if list == chained {
            return Ok(None);
        }
        if !is_at(&file, &path) {
            // Its owner has just put another there, and that is news.
            return Ok(None);
        }
        self.write(&path, &path, &whole::pretty(&chained))?;
        self.replaced = Some(Replaced { name, file, bytes });
        Ok(Some(path))
    }

    /// Whether we were put into a list and not taken out again.
    pub fn is_in_lists(&self) -> bool {
        self.kept().is_ok_and(|kept| !kept.is_empty())
    }

    /// Puts back what was there before us. Returns the lists that we were in, each with what came of it.
    pub fn leave(&mut self) -> Vec<(PathBuf, Result<(), ChainError>)> {
        match self.kept() {
            Ok(kept) => kept
                .into_iter()
                .map(|name| {
                    let path = self.directory.join(&name);
                    let taken_over = self.take_over(&name, &path);
                    (path, taken_over.and_then(|()| self.restore(&name)))
                })
                .collect(),
            Err(error) => vec![(self.directory.clone(), Err(error))],
        }
    }

    /// A list as it was before us: to the byte, unless somebody has changed it since and left us in.
    fn restore(&self, name: &OsStr) -> Result<(), ChainError> {
        let (path, place) = (self.directory.join(name), self.place(name));
        let read = |path: &Path| whole::read(path).map_err(|error| failed(path, error));
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        if let (Some(now), Some(before)) = (read(&path)?, read(&place)?)
            && let Some(list) = parse(&now).filter(has_ours)
        {
            let ours = parse(&before).and_then(|before| self.chained(&before));
            let bytes =
                if ours.as_ref() == Some(&list) { before } else { whole::pretty(&without(list)) };
            self.write(&path, &path, &bytes)?;
        }
        whole::remove(&place).map_err(|error| failed(&place, error))
    }

    /// Puts there what a list's owner has written since to the file that ours has replaced.
    fn take_over(&mut self, name: &OsStr, path: &Path) -> Result<(), ChainError> {
        let Some(replaced) = self.replaced.as_mut().filter(|replaced| replaced.name == name) else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        let read = replaced.file.rewind().and_then(|()| replaced.file.read_to_end(&mut bytes));
        read.map_err(|error| failed(path, error))?;
        let is_list = serde_json::from_slice::<Value>(&bytes).is_ok();
        if bytes != replaced.bytes && is_list && path.exists() {
            replaced.bytes.clone_from(&bytes);
            self.write(path, path, &bytes)?;
        }
        Ok(())
    }

    /// A list with ours at its end. `None` for what is no list.
    fn chained(&self, list: &Value) -> Option<Value> {
        let mut list = without(list.clone());
        list.get_mut("plugins")?.as_array_mut()?.push(plugin(&self.directories));
        Some(list)
    }

    /// The names of the lists that we are in; none where there is no directory.
    fn kept(&self) -> Result<Vec<OsString>, ChainError> {
        let names =
            whole::names(&self.directory).map_err(|error| failed(&self.directory, error))?;
        let list = |name: OsString| {
            let name = name.to_str()?.strip_prefix('.')?.strip_suffix(KEPT)?;
            Some(OsString::from(name))
        };
        Ok(names.into_iter().filter_map(list).collect())
    }

    /// Where what a list said before us is kept.
    fn place(&self, name: &OsStr) -> PathBuf {
        let mut kept = OsString::from(".");
        kept.push(name);
        kept.push(KEPT);
        self.directory.join(kept)
    }

    /// Writes a file that others may read as they could another.
    fn write(&self, path: &Path, like: &Path, bytes: &[u8]) -> Result<(), ChainError> {
        let mode = fs::metadata(like).map_err(|error| failed(like, error))?.permissions().mode();
        whole::write(path, bytes, mode & 0o777).map_err(|error| failed(path, error))
    }
}

fn failed(path: &Path, error: io::Error) -> ChainError {
    ChainError::Io { path: path.to_owned(), error }
}

/// Whether what stands at a path is this file.
fn is_at(file: &File, path: &Path) -> bool {
    let there = fs::symlink_metadata(path).and_then(|there| Ok((there, file.metadata()?)));
    there.is_ok_and(|(there, opened)| {
        let of = |data: &fs::Metadata| (data.dev(), data.ino(), data.len(), data.modified().ok());
        of(&there) == of(&opened)
    })
}

/// What a list names as its version that ours does not speak; `nothing` if it names none, by which it is of a version
/// before there were lists.
fn unknown_version(list: &Value) -> Option<String> {
    let more = list["cniVersions"].as_array().into_iter().flatten();
    let named: Vec<&Value> =
        std::iter::once(&list["cniVersion"]).chain(more).filter(|named| !named.is_null()).collect();
    let text =
        |version: &Value| version.as_str().map_or_else(|| version.to_string(), ToOwned::to_owned);
    let unknown = named.iter().map(|version| text(version));
    let unknown = unknown.filter(|version| !VERSIONS.contains(&version.as_str()));
    unknown.chain(named.is_empty().then(|| "nothing".to_owned())).next()
}

/// A list without ours.
fn without(mut list: Value) -> Value {
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.retain(|plugin| plugin["type"] != PLUGIN);
    }
    list
}

#[cfg(test)]
mod tests;
