//! How nodes find each other.
//!
//! Owns the trait between a mesh and the place where it is written down: a [`Registry`] delivers [`Snapshot`]s as the
//! mesh changes and takes what a node [publishes](Publication) of itself. A file, a Kubernetes cluster and a gossip
//! ring are registries.
//!
//! Floor 1: imports floor 0 only; no IO and no runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use wireloom_model::{Held, NodeName, Problem, PublicKey, Snapshot};

/// What a registry tells, in the order in which it learnt it.
#[derive(Debug, Clone)]
pub enum Update {
    /// The mesh as it is now; replaces whatever was known before.
    Mesh(Arc<Snapshot>),
    /// The registry can't be read, for this reason. What was known stays in force: an outage removes nothing.
    Stale(String),
}

/// How it stands between a registry and this machine. Nothing is decided by it: it is for people to know.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Contact {
    /// When the registry was last heard, though it had nothing new to tell. `None` until it is.
    pub last: Option<Instant>,
    /// The seconds by which this machine's clock is ahead of the registry's at least; 0 where they may agree. `None` as
    /// long as it is not known, or where the registry has no clock.
    pub clock_ahead: Option<f64>,
    /// How many writes failed so far of what this machine says of itself, its signs of life included.
    pub publish_errors: u64,
}

/// What a node says of itself to all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub node: NodeName,
    /// Its WireGuard key.
    pub key: PublicKey,
    /// What it holds by the plan that it applied last.
    pub held: Held,
    /// Where its device hears those whose endpoints move, by key.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
}

/// Who goes on when an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another agent on the same machine, soon: what outlives an agent may stay for it.
    Agent,
    /// Nobody: the machine leaves the mesh for good.
    Nobody,
    /// The registry can't tell.
    Unknown,
}

/// The place where a mesh is written down, seen from one node.
pub trait Registry: Send {
    /// Waits for the next change. The first call returns the mesh as it is. `None` means that the registry has ended
    /// for good; until then an error is an [`Update::Stale`], and the stream goes on. Dropping the future loses
    /// nothing.
    fn next(&mut self) -> impl Future<Output = Option<Update>> + Send;

    /// Makes known what this node is and holds. Publishing the same again writes nothing. A registry that writes later
    /// counts what fails of it in its [`contact`](Self::contact).
    fn publish(&mut self, publication: &Publication) -> impl Future<Output = ()> + Send;

    /// Says all that is wrong with the mesh as this node plans it, whenever that may have changed. A registry that can show
    /// it to people beside what it is about does so.
    fn report(&mut self, _problems: &[Problem]) {}

    /// How it stands between the registry and this machine.
    fn contact(&self) -> Contact;

    /// Says who goes on when this agent ends. Of a node that leaves the mesh for good it takes back what was published.
    /// Called last.
    fn leave(&mut self) -> impl Future<Output = Next> + Send {
        std::future::ready(Next::Unknown)
    }
}
