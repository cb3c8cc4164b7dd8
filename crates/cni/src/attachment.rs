//! The pods of a node, as the plugin saw them come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wireloom_model::Cidr;

use crate::whole;

/// Their directory in the agent's run directory. It goes when the machine starts anew, as its pods do.
const DIRECTORY: &str = "pods";

/// The owner alone needs to look.
const MODE: u32 = 0o600;

/// A pod's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container's identifier.
    pub container: String,
    /// The pod's link, by its name in the pod.
    pub interface: String,
    /// The pod's addresses on it.
    pub addresses: BTreeSet<IpAddr>,
    /// The largest packet in bytes that its routes to these prefixes take, where its link takes more.
    pub limited: BTreeMap<Cidr, u32>,
    /// Whether it stays off the mesh.
    pub off_mesh: bool,
}

/// All attachments of a node, a file each: written by the plugin, read by the agent whenever that runs.
#[derive(Debug, Clone)]
pub struct Attachments {
    directory: PathBuf,
}

impl Attachments {
    /// Those in the agent's run directory.
    pub fn of(run: &Path) -> Self {
        Self { directory: run.join(DIRECTORY) }
    }

    /// Adds one, in the place of another of the same container and link.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn put(&self, attachment: &Attachment) -> io::Result<()> {
        let path = self.path(&attachment.container, &attachment.interface);
        whole::write(&path, &serde_json::to_vec_pretty(attachment)?, MODE)
    }

    /// Returns the one of a container and link. One that can't be read is none.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn find(&self, container: &str, interface: &str) -> io::Result<Option<Attachment>> {
        let bytes = whole::read(&self.path(container, interface))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Takes one away. What is gone already is no failure.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self, container: &str, interface: &str) -> io::Result<()> {
        whole::remove(&self.path(container, interface))
    }

    /// All of them, in the order of their files. One that can't be read is left out.
    ///
    /// # Errors
    ///
    /// What the system says of the directory.
    pub fn all(&self) -> io::Result<Vec<Attachment>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            paths.extend((path.extension().is_some_and(|ending| ending == "json")).then_some(path));
        }
        paths.sort();
        // Between the list and here, a pod may have gone.
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        Ok(paths.into_iter().filter_map(read).collect())
    }

    fn path(&self, container: &str, interface: &str) -> PathBuf {
        self.directory.join(format!("{container}.{interface}.json"))
    }
}
