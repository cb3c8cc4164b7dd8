//! Follows a mesh file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use wireloom_model::{Severity, Snapshot, Subject};
use wireloom_registry::{Contact, Publication, Registry, Update};

use crate::{FileError, load};

/// How long the file must lie still before it is read, so that a writer has finished.
const QUIET: Duration = Duration::from_millis(200);
/// How long a file that never lies still is left alone at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the file is looked at without being told of a change: what the kernel does not report, as on a network
/// file system or behind a symbolic link, is seen by then.
const GLANCE: Duration = Duration::from_secs(2);

/// The mesh in a file, reloaded when the file changes.
///
/// The directory is watched rather than the file, since editors rename a new file over the old one and Kubernetes swaps
/// a symbolic link beside it. A change that says the same mesh yields nothing. While the file is missing or bad as a
/// whole, the last good mesh stays; while one entry is bad, the last good form of that entry stays, provided that its
/// name can still be read.
///
/// A mesh file has no place for what a node publishes, so [`publish`](Registry::publish) writes nothing.
#[derive(Debug)]
pub struct FileRegistry {
    path: PathBuf,
    changed: Arc<Notify>,
    /// Kept for its thread, which ends with it. `None` if the kernel grants no watch: then glances alone find changes.
    _watcher: Option<RecommendedWatcher>,
    /// What a glance found last.
    stamp: Option<Stamp>,
    next_glance: Instant,
    /// When to read, once a change has been seen.
    due: Option<Due>,
    /// A reading under way.
    reading: Option<JoinHandle<Result<Snapshot, FileError>>>,
    last_good: Option<Arc<Snapshot>>,
    /// Why the file was bad, if that is what was told last.
    stale: Option<String>,
    /// When the file was last seen to say what is known.
    seen: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    at_most: Instant,
}

/// What changes when a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileRegistry {
    /// Follows the mesh file at this path. Needs a tokio runtime with its timer. The file need not be there yet: then
    /// the first update says so. Use [`load`] first where a missing or bad file should be the end.
    pub fn open(path: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let watcher = watch(&path, Arc::clone(&changed));
        if let Err(error) = &watcher {
            tracing::warn!(
                "changes of {} are noticed only every {GLANCE:?}: {error}",
                path.display()
            );
        }
        Self::new(path, changed, watcher.ok())
    }

    fn new(path: PathBuf, changed: Arc<Notify>, watcher: Option<RecommendedWatcher>) -> Self {
        let now = Instant::now();
        Self {
            stamp: Stamp::of(&path),
            path,
            changed,
            _watcher: watcher,
            next_glance: now + GLANCE,
            due: Some(Due { at: now, at_most: now }),
            reading: None,
            last_good: None,
            stale: None,
            seen: None,
        }
    }

    /// Waits until the file should be read. Every step is kept in `self`, so that a dropped future loses nothing.
    async fn until_due(&mut self) {
        loop {
            let wake = self.due.map_or(self.next_glance, |due| due.at);
            let told = tokio::select! {
                () = self.changed.notified() => true,
                () = sleep_until(wake) => false,
            };
            let now = Instant::now();
            match self.due {
                None if told => self.due = Some(Due::from(now)),
                None => self.due = self.glance(now).then(|| Due::from(now)),
                Some(due) if told => self.due = Some(due.later(now)),
                Some(_) => return,
            }
        }
    }

    /// Reads the file after the next change. `None` if the runtime ends meanwhile.
    async fn read_when_due(&mut self) -> Option<Result<Snapshot, FileError>> {
        if self.reading.is_none() {
            self.until_due().await;
        }
        let reading = self.reading.get_or_insert_with(|| {
            self.due = None;
            self.stamp = Stamp::of(&self.path);
            let path = self.path.clone();
            spawn_blocking(move || load(&path))
        });
        let read = reading.await;
        self.reading = None;
        read.ok()
    }

    /// Whether the file differs from what it was at the last glance.
    fn glance(&mut self, now: Instant) -> bool {
        self.next_glance = now + GLANCE;
        let stamp = Stamp::of(&self.path);
        let differs = std::mem::replace(&mut self.stamp, stamp.clone()) != stamp;
        if !differs && self.stale.is_none() && self.last_good.is_some() {
            self.seen = Some(now);
        }
        differs
    }

    /// What to tell of a file that was read, if anything is new.
    fn judge(&mut self, read: Result<Snapshot, FileError>) -> Option<Update> {
        match read {
            Ok(mut snapshot) => {
                if let Some(last) = &self.last_good {
                    keep_named_entries(&mut snapshot, last);
                }
                self.seen = Some(Instant::now());
                let was_stale = self.stale.take().is_some();
                let same = self.last_good.as_deref() == Some(&snapshot);
                if same && !was_stale {
                    return None;
                }
                let snapshot = Arc::new(snapshot);
                self.last_good = Some(Arc::clone(&snapshot));
                Some(Update::Mesh(snapshot))
            }
            Err(error) => {
                let reason = error.to_string();
                let known = self.stale.as_ref() == Some(&reason);
                self.stale = Some(reason.clone());
                (!known).then_some(Update::Stale(reason))
            }
        }
    }
}

impl Registry for FileRegistry {
    async fn next(&mut self) -> Option<Update> {
        loop {
            let read = self.read_when_due().await?;
            if let Some(update) = self.judge(read) {
                return Some(update);
            }
        }
    }

    fn contact(&self) -> Contact {
        Contact { last: self.seen.map(Instant::into_std), ..Contact::default() }
    }

    async fn publish(&mut self, _: &Publication) {}
}

impl Due {
    fn from(now: Instant) -> Self {
        Self { at: now + QUIET, at_most: now + PATIENCE }
    }

    fn later(self, now: Instant) -> Self {
        Self { at: (now + QUIET).min(self.at_most), ..self }
    }
}

impl Stamp {
    /// `None` if the file is not there.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Tells of every change in the file's directory.
fn watch(path: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file makes events too; an error, such as an overflown queue, may hide a change.
        if !event.is_ok_and(|event| is_reading(event.kind)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(path.parent().unwrap_or(path), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

const fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

/// Puts back the last good form of each entry that now is bad, yet says whose it is.
fn keep_named_entries(snapshot: &mut Snapshot, last: &Snapshot) {
    let Snapshot { nodes, peers, problems, .. } = snapshot;
    let (read_nodes, read_peers) = (nodes.len(), peers.len());
    for problem in problems.iter_mut().filter(|problem| problem.severity == Severity::Error) {
        let kept = match &problem.subject {
            Subject::Node(name) => keep(nodes, read_nodes, &last.nodes, |node| node.name == *name),
            Subject::Peer(name) => keep(peers, read_peers, &last.peers, |peer| peer.name == *name),
            _ => false,
        };
        if kept {
            problem.message.push_str("; what it said before stays in force");
        }
    }
}

/// Puts back an entry unless it is there or was not there before. The first `read` entries have just been read; those
/// behind them were put back. Returns whether the entry is one of these.
fn keep<T: Clone>(now: &mut Vec<T>, read: usize, last: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    if now.iter().take(read).any(&is_it) {
        return false;
    }
    let Some(old) = last.iter().find(|entry| is_it(entry)) else { return false };
    if !now.iter().any(&is_it) {
        now.push(old.clone());
    }
    true
}

#[cfg(test)]
mod tests;
