//! The last mesh on disk, so that a machine that starts while its registry is away is in the mesh all the same.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use wireloom_model::{Problem, Snapshot};
use wireloom_registry::{Contact, Next, Publication, Registry, Update};

/// How long a registry may keep silent at the start before the last mesh on disk is taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long lies between two writes at least: what is lost by a crash meanwhile is told anew by the registry.
const PERIOD: Duration = Duration::from_secs(1);

/// A registry whose last mesh is kept in a file.
///
/// At the start, if the registry says that it can't be read or says nothing for 10 s, the mesh in the file is told
/// first, and then that it may be out of date. From then on everything is as the registry tells it.
#[derive(Debug)]
pub struct Remembering<R> {
    registry: R,
    path: PathBuf,
    keeper: watch::Sender<Option<Arc<Snapshot>>>,
    /// Until when the registry may keep silent. `None` once anything was told.
    patience: Option<Instant>,
    /// What is told next, before the registry is asked again.
    next: Option<Update>,
}

impl<R: Registry> Remembering<R> {
    /// Keeps the registry's last mesh in the file at this path, which its owner alone can read: preshared keys are in
    /// it. Its directory is made if it is missing. Needs a tokio runtime.
    pub fn new(registry: R, path: &Path) -> Self {
        let (keeper, kept) = watch::channel(None);
        tokio::spawn(keep(path.to_owned(), kept));
        Self {
            registry,
            path: path.to_owned(),
            keeper,
            patience: Some(Instant::now() + PATIENCE),
            next: None,
        }
    }

    /// Tells this mesh first, which is in force already.
    #[must_use]
    pub fn going_on(mut self, mesh: Option<&Snapshot>) -> Self {
        if let Some(mesh) = mesh {
            self.patience = None;
            self.next = Some(Update::Mesh(Arc::new(mesh.clone())));
        }
        self
    }

    /// What there is to tell of a registry that can't be read at the start.
    fn recall(&mut self, reason: String) -> Update {
        self.patience = None;
        match load(&self.path) {
            Ok(snapshot) => {
                let (path, nodes) = (self.path.display(), snapshot.nodes.len());
                tracing::warn!(%path, nodes, "the mesh is the last one on disk");
                self.next = Some(Update::Stale(reason));
                Update::Mesh(Arc::new(snapshot))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "the last mesh on disk is of no use");
                }
                Update::Stale(reason)
            }
        }
    }
}

impl<R: Registry> Registry for Remembering<R> {
    async fn next(&mut self) -> Option<Update> {
        if let Some(update) = self.next.take() {
            return Some(update);
        }
        let update = match self.patience {
            None => self.registry.next().await,
            Some(until) => tokio::select! {
                biased;
                update = self.registry.next() => update,
                () = sleep_until(until) => {
                    let reason = format!("the registry said nothing for {} s", PATIENCE.as_secs());
                    return Some(self.recall(reason));
                }
            },
        };
        match update {
            Some(Update::Stale(reason)) if self.patience.is_some() => Some(self.recall(reason)),
            Some(Update::Mesh(snapshot)) => {
                self.patience = None;
                self.keeper.send_replace(Some(Arc::clone(&snapshot)));
                Some(Update::Mesh(snapshot))
            }
            other => other,
        }
    }

    async fn publish(&mut self, publication: &Publication) {
        self.registry.publish(publication).await;
    }

    fn report(&mut self, problems: &[Problem]) {
        self.registry.report(problems);
    }

    fn contact(&self) -> Contact {
        self.registry.contact()
    }

    async fn leave(&mut self) -> Next {
        self.registry.leave().await
    }
}

/// Writes what there is to keep, the newest alone, until nobody has more.
async fn keep(path: PathBuf, mut kept: watch::Receiver<Option<Arc<Snapshot>>>) {
    while kept.changed().await.is_ok() {
        let Some(snapshot) = kept.borrow_and_update().clone() else { continue };
        let file = path.clone();
        let saved = tokio::task::spawn_blocking(move || save(&file, &snapshot)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(path = %path.display(), %error, "the mesh is not kept on disk");
        }
        sleep(PERIOD).await;
    }
}

/// Writes a snapshot, whole or not at all, for its owner alone.
fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !fs::exists(directory)? {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Mode 0600 from the first moment on.
    let mut file = NamedTempFile::new_in(directory)?;
    serde_json::to_writer(io::BufWriter::new(file.as_file_mut()), snapshot)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Reads the mesh that was kept in this file.
///
/// # Errors
///
/// If there is none, or it can't be read.
pub fn load(path: &Path) -> io::Result<Snapshot> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;
    use wireloom_file::FileRegistry;
    use wireloom_model::PrivateKey;

    use super::*;

    fn mesh_text(nodes: &[u8]) -> String {
        let mut text =
            "[mesh]\noverlay = [\"10.4.0.0/16\", \"fd04::/64\"]\ngateways = 2\n".to_owned();
        for node in nodes {
            let key = PrivateKey::from_random([*node; 32]).public_key();
            text += &format!(
                "[[node]]\nname = \"n{node}\"\npublic-key = \"{key}\"\nlocation = \"here\"\n\
                 internal-addresses = [\"10.0.0.{node}/24\", \"fd00::{node}/64\"]\n\
                 endpoint = \"[2001:db8::{node}]:51820\"\nprefixes = [\"10.42.{node}.0/24\"]\n"
            );
        }
        let key = PrivateKey::from_random([99; 32]);
        text + &format!(
            "[[peer]]\nname = \"laptop\"\npublic-key = \"{}\"\nallowed-ips = [\"10.5.0.1/32\"]\n",
            key.public_key()
        )
    }

    /// A folder with a mesh file of these nodes.
    fn folder(nodes: &[u8]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mesh.toml"), mesh_text(nodes)).unwrap();
        folder
    }

    fn open(folder: &TempDir) -> Remembering<FileRegistry> {
        let registry = FileRegistry::open(&folder.path().join("mesh.toml"));
        Remembering::new(registry, &folder.path().join("state/mesh.json"))
    }

    async fn mesh(registry: &mut impl Registry) -> Arc<Snapshot> {
        match registry.next().await {
            Some(Update::Mesh(snapshot)) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the last mesh is on disk.
    async fn kept(folder: &TempDir) {
        let file = folder.path().join("state/mesh.json");
        tokio::time::timeout(Duration::from_secs(30), async {
            while !file.exists() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_registry_that_is_away_leaves_its_last_mesh() {
        let folder = folder(&[1, 2]);
        let mut registry = open(&folder);
        let before = mesh(&mut registry).await;
        kept(&folder).await;
        drop(registry);
        fs::remove_file(folder.path().join("mesh.toml")).unwrap();

        let mut registry = open(&folder);
        assert_eq!(mesh(&mut registry).await, before);
        assert!(matches!(registry.next().await, Some(Update::Stale(_))), "and says that it is old");
        fs::write(folder.path().join("mesh.toml"), mesh_text(&[1, 2, 3])).unwrap();
        assert_eq!(mesh(&mut registry).await.nodes.len(), 3);
    }

    #[tokio::test]
    async fn what_is_kept_is_for_its_owner_alone() {
        let folder = folder(&[1]);
        let mut registry = open(&folder);
        mesh(&mut registry).await;
        kept(&folder).await;
        let mode = |path: &str| {
            fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("state"), mode("state/mesh.json")), (0o700, 0o600));
    }

    #[tokio::test]
    async fn a_registry_that_is_there_is_believed() {
        let folder = folder(&[1, 2]);
        fs::create_dir(folder.path().join("state")).unwrap();
        fs::write(folder.path().join("state/mesh.json"), "{").unwrap();
        assert_eq!(mesh(&mut open(&folder)).await.nodes.len(), 2);
    }

    #[tokio::test]
    async fn a_bad_file_is_as_good_as_none() {
        let folder = folder(&[1]);
        fs::create_dir(folder.path().join("state")).unwrap();
        fs::write(folder.path().join("state/mesh.json"), "{").unwrap();
        fs::remove_file(folder.path().join("mesh.toml")).unwrap();
        assert!(matches!(open(&folder).next().await, Some(Update::Stale(_))));
    }

    #[test]
    fn a_snapshot_goes_there_and_back() {
        let folder = folder(&[1, 2]);
        let mut snapshot = wireloom_file::load(&folder.path().join("mesh.toml")).unwrap();
        snapshot.nodes[0].held.gateway = true;
        snapshot.nodes[0].healthy = false;
        snapshot.peers[0].preshared_key = Some(wireloom_model::PresharedKey::from_bytes([7; 32]));
        let path = folder.path().join("kept.json");
        save(&path, &snapshot).unwrap();
        assert_eq!(load(&path).unwrap(), snapshot);
    }
}
