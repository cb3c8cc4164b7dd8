//! What a node's agent tells the plugin, which runs for every pod and asks nobody.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wireloom_model::{Cidr, PublicKey};

use crate::whole;

/// The guidance's name in the agent's state directory. It outlasts the machine's start, for pods that start before the agent
/// does.
const FILE: &str = "cni.json";

/// The plugin runs as root, and others may look.
const MODE: u32 = 0o644;

/// The mesh as a pod's routes need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Guidance {
    /// The agent's control socket.
    pub agent: PathBuf,
    /// The public key of the agent's node.
    pub key: PublicKey,
    /// The largest packet in bytes that reaches other locations whole.
    pub mtu: u32,
    /// The prefixes of the node's own pods.
    pub pods: BTreeSet<Cidr>,
    /// What else is reached without the mesh's tunnels, by packets as large as the pod's link takes.
    pub near: BTreeSet<Cidr>,
    /// What lies in other locations, and at peers from outside.
    pub elsewhere: BTreeSet<Cidr>,
}

impl Guidance {
    /// Has the state directory say this. Writes only if it says something else, and then by a new file in the place of the
    /// old one.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        let path = state.join(FILE);
        if whole::read(&path)?.is_some_and(|present| present == bytes) {
            return Ok(());
        }
        whole::write(&path, &bytes, MODE)
    }

    /// What the state directory says. `None` where no agent has said anything.
    ///
    /// # Errors
    ///
    /// What the system says, and what is not guidance.
    pub fn read(state: &Path) -> io::Result<Option<Self>> {
        let bytes = whole::read(&state.join(FILE))?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)).transpose()
    }

    /// Takes it away.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(state: &Path) -> io::Result<()> {
        whole::remove(&state.join(FILE))
    }

    /// Whether the mesh knows the way to an address of one of the node's pods by its prefixes.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.pods.iter().any(|prefix| prefix.contains(address))
    }
}
