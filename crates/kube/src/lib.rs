//! The Kubernetes registry: the Nodes and Peers of a cluster as one mesh.
//!
//! Owns what of the cluster's API makes a mesh: [Nodes](node) and what their annotations say, Kilo's [`Peer`](peer)
//! resource, [heartbeats](heartbeat), [a node's own addresses](addresses) and [what it tells of itself](own); the state of
//! it all, as a pure [`Cluster`] that yields snapshots; and [`KubeRegistry`], which keeps that state by watches and writes
//! as little as it can. Who is no node of the mesh reads it as a [`visitor`]. How the API is reached is said by a [`Connection`].
//! A [`survey`] tells what an agent would find there, and the [`rights`] that it lacks.
//!
//! Floor 2: imports the words of the mesh and the registry's trait; never the kernel, the tunnel or the topology.

pub mod addresses;
mod agreement;
pub mod clock;
mod cluster;
mod connect;
mod daemon_set;
mod events;
mod follow;
pub mod heartbeat;
mod lives;
pub mod node;
mod outage;
pub mod own;
pub mod peer;
mod refused;
mod registry;
pub mod rights;
pub mod survey;
pub mod visitor;
mod watch;
mod write;

pub use addresses::{AddressRules, HostAddress};
pub use cluster::Cluster;
pub use connect::{ConnectError, Connection};
pub use daemon_set::{DaemonSetName, DaemonSetNameError};
pub use http::Uri;
pub use kube::Client;
pub use own::Facts;
pub use registry::{KubeConfig, KubeRegistry};

use kube::api::ObjectMeta;

/// The name under which we write to the API: our field manager and the reporter of our events.
const MANAGER: &str = "wireloom";

/// When the cluster first knew an object, in Unix seconds.
fn since(metadata: &ObjectMeta) -> u64 {
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    created.and_then(|seconds| seconds.try_into().ok()).unwrap_or_default()
}
