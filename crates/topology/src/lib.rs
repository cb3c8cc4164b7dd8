//! From a snapshot of the mesh to what each node must do.
//!
//! Owns every choice of the mesh: who is a [gateway](wireloom_model::GatewayPreference), who is whose home, which
//! overlay address belongs to whom, which of two clashing claims stands, and what follows from it all for one node, its
//! [`Plan`]. Also draws the mesh as a [`Graph`]. All of it is a pure function of the snapshot: equal snapshots give
//! equal plans on every node, in whatever order nodes and peers are listed.
//!
//! One rule keeps WireGuard's source check true while several gateways of a location are active: all traffic between a
//! node and other locations, both ways, passes the node's home gateway.
//!
//! Beside Kilo's agents a mesh is planned by [Kilo's algorithm](kilo) until [all can ours](algorithm_in_force).
//!
//! Floor 1: imports floor 0 only; no IO, no clock and no randomness.

mod anchors;
mod claims;
mod conf;
mod elsewhere;
mod encapsulation;
mod endpoints;
mod gateways;
pub mod graph;
mod homes;
mod kernel_state;
pub mod kilo;
mod outside;
mod overlay;
mod plan;
mod rendezvous;
mod resolve;
mod segment;
mod switch;
mod topology;
mod witnesses;

pub use conf::{Conf, ConfPeer};
pub use elsewhere::sightings;
pub use encapsulation::Wrap;
pub use graph::Graph;
pub use kernel_state::{
    RULE_PRIORITY, TUNNELLED_PRIORITY, TUNNELLED_TABLE, Underlay, VXLAN_ID, VXLAN_PORT,
    WRAPPED_TABLE,
};
pub use plan::{Hop, NodeSummary, Plan, PlanError, TunnelPeer, TunnelPeerName, Way};
pub use segment::Segment;
pub use switch::algorithm_in_force;
pub use topology::Topology;

use wireloom_model::{NodeName, PeerName, Snapshot};

/// Computes what the node must do. Errors if the snapshot has no such node, or one that an older node keeps out.
pub fn plan(snapshot: &Snapshot, me: &NodeName) -> Result<Plan, PlanError> {
    Topology::of(snapshot).plan(me)
}

/// Computes the tunnel peers of an outside peer, for its own configuration: its anchor in each segment. Errors if the
/// snapshot has no such peer, or one that is kept out.
pub fn peer_view(snapshot: &Snapshot, peer: &PeerName) -> Result<Vec<TunnelPeer>, PlanError> {
    Topology::of(snapshot).peer_view(peer)
}
