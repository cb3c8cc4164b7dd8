//! The mesh as Kilo's agents see it, so that they and ours can be nodes of one mesh.
//!
//! Kilo's agents never talk to each other: each computes the whole mesh from what all publish. Whoever is to be one of
//! them has to compute the same: which segments there are, who leads each, its WireGuard address, what is reached
//! through it and in which order, and where it is dialled (`pkg/mesh/topology.go` and `pkg/mesh/routes.go` in Kilo).
//! Its terms in ours: a leader is the one gateway of its segment, and so everybody's home there and every peer's anchor;
//! granularity `full` is a mesh whose every node is a gateway; a WireGuard IP is a leader's overlay address.
//!
//! Where Kilo leaves something to chance or breaks, this does what keeps the mesh working, and says so:
//! a prefix that two tunnel peers claim is the later one's, as it ends up in the kernel; no route leads away from the
//! segment to an internal address inside it; an endpoint's name that can't be resolved counts as no address instead of
//! stopping everything; when the range is used up, the segments that get no address are named.

mod conf;
mod discovery;
mod dot;
mod graph;
mod leader;
mod location_prefixes;
mod plan;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use wireloom_model::{
    Cidr, DnsName, Endpoint, Family, GatewayCount, Host, InterfaceAddress, Mesh, Node, NodeName,
    Peer, Problem, ProblemKind, PublicKey, Snapshot, Subject,
};

pub use discovery::discoveries;

use crate::resolve::{Unique, unique};
use crate::segment::Segment;

/// What Kilo's agents are told by their flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether it looks after pods (`--cni`): what they send out of the mesh leaves with the node's address.
    pub cni: bool,
    /// The network plugin that carries packets inside locations (`--compatibility`).
    pub beside: Option<Plugin>,
    /// Whether it routes to pods of the own location (`--local`).
    pub local: bool,
}

/// A network plugin that carries packets between the nodes of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    /// Cilium: packets are wrapped to the address of its link on the other node, so that it wraps them again.
    Cilium,
    /// Flannel: packets go out of its VXLAN link, to the first address of the other node's pod prefix.
    Flannel,
}

/// What one machine knows beside the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What the names of endpoints resolve to here.
    pub names: BTreeMap<DnsName, IpAddr>,
    /// Where its own device hears others. `None` without a device: then what the node published counts.
    pub heard: Option<BTreeMap<PublicKey, SocketAddr>>,
}

/// The whole mesh by Kilo's algorithm.
pub struct View<'a> {
    mesh: &'a Mesh,
    settings: Settings,
    seen: &'a Seen,
    /// In Kilo's order: locations, then nodes that are locations of their own, each by name.
    parts: Vec<Part<'a>>,
    peers: Vec<Outsider<'a>>,
    /// Where nodes heard those whose endpoints move.
    discovered: BTreeMap<PublicKey, SocketAddr>,
    refused: Vec<(Subject, Subject)>,
    problems: Vec<Problem>,
}

/// A segment.
struct Part<'a> {
    name: Segment,
    /// In the order of names.
    nodes: Vec<&'a Node>,
    /// The leader, as an index.
    leader: usize,
    /// The leader's WireGuard address. `None` if the range has none left.
    address: Option<IpAddr>,
    /// The networks behind the segment that are left.
    location_prefixes: Vec<Cidr>,
}

/// A peer with the allowed IPs that no earlier one has.
struct Outsider<'a> {
    peer: &'a Peer,
    allowed_ips: Vec<Cidr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cni: true, beside: None, local: true }
    }
}

impl<'a> View<'a> {
    /// Computes the mesh, as `me` sees it where there is such a node: it counts as ready while it lives, and its own
    /// device's word on where others are comes before theirs.
    pub fn of(
        snapshot: &'a Snapshot,
        settings: Settings,
        seen: &'a Seen,
        me: Option<&NodeName>,
    ) -> Self {
        let mut problems = snapshot.problems.clone();
        let nodes = snapshot.nodes.iter();
        let nodes = nodes.filter(|node| is_ready(node, me == Some(&node.name))).collect();
        let peers = snapshot.peers.iter().filter(|peer| !peer.allowed_ips.is_empty()).collect();
        let Unique { nodes, peers, refused } = unique(nodes, peers, &mut problems);

        let own = nodes.iter().copied().find(|node| Some(&node.name) == me);
        let mut parts = parts(&snapshot.mesh, nodes, seen);
        let peers = without_repetitions(peers);
        number(&mut parts, range(&snapshot.mesh), &mut problems);
        location_prefixes::choose(&mut parts, &peers, &mut problems);
        let discovered = discovery::gather(&parts, own, seen);
        problems.sort();
        problems.dedup();
        let mesh = &snapshot.mesh;
        Self { mesh, settings, seen, parts, peers, discovered, refused, problems }
    }

    /// What is wrong with the mesh.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The segment of a node, and the node's place in it, as indices.
    fn find(&self, name: &NodeName) -> Option<(usize, usize)> {
        let place = |(at, part): (usize, &Part<'_>)| {
            Some((at, part.nodes.iter().position(|node| node.name == *name)?))
        };
        self.parts.iter().enumerate().find_map(place)
    }

    /// The address of an endpoint, as far as it is known here.
    fn address_of(&self, endpoint: &Endpoint) -> Option<IpAddr> {
        address_of(endpoint, self.seen)
    }
}

impl Part<'_> {
    fn leader(&self) -> &Node {
        self.nodes[self.leader]
    }

    /// What is reached through the leader, in Kilo's order and with its repetitions: pods and internal address of each
    /// node, then the WireGuard address. Networks behind the segment come after it.
    fn allowed_ips(&self) -> Vec<Cidr> {
        let of_node = |node: &&Node| {
            let internal = internal(node).map(|address| Cidr::host(address.address()));
            pods(node).into_iter().chain(internal)
        };
        let own = self.address.map(Cidr::host);
        self.nodes.iter().flat_map(of_node).chain(own).collect()
    }
}

/// Whether a node counts: Kilo asks for an endpoint, a key, pods, and a sign of life.
fn is_ready(node: &Node, is_me: bool) -> bool {
    node.endpoint.is_some() && !node.pod_prefixes.is_empty() && (node.healthy || is_me)
}

/// Kilo knows one internal address a node.
fn internal(node: &Node) -> Option<InterfaceAddress> {
    node.internal_addresses.first().copied()
}

/// Kilo knows one pod prefix a node.
fn pods(node: &Node) -> Option<Cidr> {
    node.pod_prefixes.first().copied()
}

/// Kilo has one range.
fn range(mesh: &Mesh) -> Option<Cidr> {
    mesh.overlay.ranges().next()
}

fn address_of(endpoint: &Endpoint, seen: &Seen) -> Option<IpAddr> {
    match &endpoint.host {
        Host::Name(name) => seen.names.get(name).copied(),
        Host::Scoped(address, _) => Some((*address).into()),
        Host::Address(address) => Some(*address),
    }
}

/// The segments with their leaders, without addresses yet.
fn parts<'a>(mesh: &Mesh, nodes: Vec<&'a Node>, seen: &Seen) -> Vec<Part<'a>> {
    let mut segments: BTreeMap<Segment, Vec<&'a Node>> = BTreeMap::new();
    for node in nodes {
        let alone = mesh.gateways == GatewayCount::All || internal(node).is_none();
        let segment = match alone {
            true => Segment::Node(node.name.clone()),
            false => Segment::Location(node.location.clone()),
        };
        segments.entry(segment).or_default().push(node);
    }
    let part = |(name, nodes): (Segment, Vec<&'a Node>)| {
        let location_prefixes = location_prefixes::listed(&nodes);
        let leader = leader::find(&nodes, seen);
        Part { name, nodes, leader, address: None, location_prefixes }
    };
    segments.into_iter().map(part).collect()
}

/// Gives each segment the next address of the range, from the second on, the last one included.
fn number(parts: &mut [Part<'_>], range: Option<Cidr>, problems: &mut Vec<Problem>) {
    let mut next = range.and_then(|range| successor(range.address()));
    for part in parts {
        part.address = next.filter(|address| range.is_some_and(|range| range.contains(*address)));
        next = part.address.and_then(successor);
        if part.address.is_none() {
            let message = format!(
                "{} gets no WireGuard address: the overlay range has none left; use a larger one",
                part.name
            );
            let subject = Subject::Node(part.leader().name.clone());
            problems.push(Problem::error(subject, ProblemKind::OverlayExhausted, message));
        }
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The peers, in the order of names, each with the allowed IPs that no earlier one has. The same prefix in other words
/// counts, a prefix inside another does not.
fn without_repetitions(peers: Vec<&Peer>) -> Vec<Outsider<'_>> {
    let mut taken = BTreeSet::new();
    let mut rest = |peer: &Peer| {
        let new = |prefix: &Cidr| taken.insert(*prefix);
        peer.allowed_ips.iter().copied().filter(new).collect()
    };
    peers.into_iter().map(|peer| Outsider { peer, allowed_ips: rest(peer) }).collect()
}

/// Whether two addresses can stand in one route.
fn same_family(one: IpAddr, other: IpAddr) -> bool {
    Family::of(one) == Family::of(other)
}
