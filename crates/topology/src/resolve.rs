//! Who is in the mesh, by which addresses, in which segment: what is left of a snapshot when every clash of names, keys
//! and addresses is settled the same way on every node.
//!
//! Of two claims the one that the registry has known longer stands; of equally old ones a node's before a peer's, then
//! the one whose name sorts first.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::num::NonZeroU16;

use wireloom_model::reach::Reach;
use wireloom_model::{
    Cidr, Endpoint, Family, InterfaceAddress, Node, Peer, Problem, ProblemKind, PublicKey,
    Snapshot, Subject,
};

use crate::endpoints::Ground;
use crate::segment::Segment;
use crate::witnesses;

/// A node of the mesh with what it may keep.
pub(crate) struct Member<'a> {
    pub(crate) node: &'a Node,
    /// Its segment, as an index.
    pub(crate) segment: usize,
    /// Whether it is healthy, and passes packets on as far as its segment knows.
    pub(crate) works: bool,
    pub(crate) endpoint: Option<&'a Endpoint>,
    /// The addresses by which its segment reaches it.
    pub(crate) internal: Vec<InterfaceAddress>,
    /// Those of them that other segments reach too.
    pub(crate) carried: Vec<IpAddr>,
    pub(crate) pods: Vec<Cidr>,
}

/// A peer from outside with what it may keep.
pub(crate) struct Outsider<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) endpoint: Option<&'a Endpoint>,
    pub(crate) prefixes: Vec<Cidr>,
}

/// A segment and its members, as indices in the order of names.
pub(crate) struct Area {
    pub(crate) name: Segment,
    pub(crate) members: Vec<usize>,
}

/// A network behind some nodes of a segment.
pub(crate) struct Extra {
    pub(crate) prefix: Cidr,
    pub(crate) segment: usize,
    /// The members that say that they reach it.
    pub(crate) listers: Vec<usize>,
}

/// What is left of a snapshot.
pub(crate) struct Resolved<'a> {
    /// In the order of names.
    pub(crate) members: Vec<Member<'a>>,
    /// In the order of names.
    pub(crate) outsiders: Vec<Outsider<'a>>,
    /// In the order of [`Segment`].
    pub(crate) areas: Vec<Area>,
    /// In the order of prefixes.
    pub(crate) extras: Vec<Extra>,
    /// Who is kept out, and by whom.
    pub(crate) refused: Vec<(Subject, Subject)>,
    pub(crate) problems: Vec<Problem>,
}

/// How often a node keeps its tunnels open that others can't dial, in seconds: the usual value, which mappings of most
/// NATs survive (RFC 4787, section 4.3, and wg(8)).
const KEEPALIVE: NonZeroU16 = match NonZeroU16::new(25) {
    Some(seconds) => seconds,
    None => NonZeroU16::MIN,
};

/// How often a node with this endpoint keeps its tunnels open: as it is told, and without a word if the endpoint is not
/// public, so that its tunnels last through a NAT that may stand before it.
pub(crate) fn keepalive(node: &Node, endpoint: Option<&Endpoint>) -> Option<NonZeroU16> {
    let told = node.persistent_keepalive;
    told.or_else(|| (Reach::of(endpoint) < Reach::Public).then_some(KEEPALIVE))
}

impl Member<'_> {
    /// How often it keeps its tunnels open.
    pub(crate) fn keepalive(&self) -> Option<NonZeroU16> {
        keepalive(self.node, self.endpoint)
    }

    /// Whether it has an internal address of the family.
    pub(crate) fn speaks(&self, family: Family) -> bool {
        self.internal.iter().any(|address| address.family() == family)
    }

    /// How this member addresses another one of its segment in a family: by an address in a network of its own if
    /// there is one. `None` if one of the two has no internal address of that family.
    pub(crate) fn next_hop(&self, other: &Member<'_>, family: Family) -> Option<IpAddr> {
        if !self.speaks(family) {
            return None;
        }
        let theirs = || other.internal.iter().filter(move |a| a.family() == family);
        let near = |address: &IpAddr| self.internal.iter().any(|a| a.network().contains(*address));
        let addresses = || theirs().map(InterfaceAddress::address);
        addresses().find(near).or_else(|| addresses().next())
    }
}

/// Settles every clash but those over overlay addresses and over [prefixes](crate::claims), of which nobody has any yet.
pub(crate) fn resolve(snapshot: &Snapshot) -> Resolved<'_> {
    let mut problems = snapshot.problems.clone();
    let (nodes, peers) = (snapshot.nodes.iter().collect(), snapshot.peers.iter().collect());
    let Unique { nodes, peers, refused } = unique(nodes, peers, &mut problems);
    let ground = Ground::of(&snapshot.mesh, &nodes, &peers);

    let mut members: Vec<Member<'_>> = nodes
        .into_iter()
        .map(|node| Member {
            node,
            segment: 0,
            works: node.healthy,
            endpoint: ground.of_node(node, &mut problems),
            internal: internal_addresses(snapshot, node, &mut problems),
            carried: Vec::new(),
            pods: Vec::new(),
        })
        .collect();
    let outsiders: Vec<Outsider<'_>> = peers
        .into_iter()
        .map(|peer| Outsider {
            peer,
            endpoint: ground.of_peer(peer, &mut problems),
            prefixes: Vec::new(),
        })
        .collect();

    let areas = segments(&mut members, &mut problems);
    witnesses::hear(&mut members, &areas, &mut problems);
    Resolved { members, outsiders, areas, extras: Vec::new(), refused, problems }
}

/// Nodes and peers of which no two share a name or a key, in the order of names.
pub(crate) struct Unique<'a> {
    pub(crate) nodes: Vec<&'a Node>,
    pub(crate) peers: Vec<&'a Peer>,
    /// Who is kept out, and by whom.
    pub(crate) refused: Vec<(Subject, Subject)>,
}

/// Keeps one of each name and key: the oldest.
pub(crate) fn unique<'a>(
    nodes: Vec<&'a Node>,
    peers: Vec<&'a Peer>,
    problems: &mut Vec<Problem>,
) -> Unique<'a> {
    let mut nodes = unique_names(
        nodes,
        |node| (&node.name, node.since, node.key),
        |name| Subject::Node(name.clone()),
        problems,
    );
    let mut peers = unique_names(
        peers,
        |peer| (&peer.name, peer.since, peer.key),
        |name| Subject::Peer(name.clone()),
        problems,
    );
    let mut refused = Vec::new();
    unique_keys(&mut nodes, &mut peers, &mut refused, problems);
    Unique { nodes, peers, refused }
}

/// Sorts by name and keeps one of each: the oldest.
fn unique_names<'a, T: Debug, N: Ord>(
    mut sorted: Vec<&'a T>,
    identity: impl Fn(&T) -> (&N, u64, PublicKey),
    subject: impl Fn(&N) -> Subject,
    problems: &mut Vec<Problem>,
) -> Vec<&'a T> {
    sorted.sort_by(|a, b| {
        // Equal up to the key, they are told apart by all the rest, which `Debug` shows.
        identity(a).cmp(&identity(b)).then_with(|| format!("{a:?}").cmp(&format!("{b:?}")))
    });
    let mut kept: Vec<&T> = Vec::with_capacity(sorted.len());
    for one in sorted {
        let (name, _, key) = identity(one);
        match kept.last().map(|last| identity(last)) {
            Some((held, _, holder)) if held == name => problems.push(Problem::error(
                subject(name),
                ProblemKind::DuplicateName,
                format!(
                    "two have this name: the one with key {holder} stands, the one with key {key} is left out; rename it"
                ),
            )),
            _ => kept.push(one),
        }
    }
    kept
}

/// Keeps one node or peer of each key.
fn unique_keys(
    nodes: &mut Vec<&Node>,
    peers: &mut Vec<&Peer>,
    refused: &mut Vec<(Subject, Subject)>,
    problems: &mut Vec<Problem>,
) {
    // Nodes and peers are sorted by name, so their indices order the equally old.
    let of_nodes = nodes.iter().enumerate().map(|(at, n)| (n.key, false, n.since, at));
    let of_peers = peers.iter().enumerate().map(|(at, p)| (p.key, true, p.since, at));
    let mut keys: Vec<_> = of_nodes.chain(of_peers).collect();
    keys.sort_unstable();
    let subject = |peer: bool, at: usize| {
        if peer {
            Subject::Peer(peers[at].name.clone())
        } else {
            Subject::Node(nodes[at].name.clone())
        }
    };
    let mut out = Vec::new();
    for same in keys.chunk_by(|a, b| a.0 == b.0) {
        let (key, peer, _, at) = same[0];
        for &(_, loser_peer, _, loser_at) in &same[1..] {
            let (holder, loser) = (subject(peer, at), subject(loser_peer, loser_at));
            problems.push(Problem::error(
                loser.clone(),
                ProblemKind::DuplicateKey,
                format!("its key {key} is {holder}'s, so it is left out; give it a key of its own"),
            ));
            problems.push(Problem::warning(
                holder.clone(),
                ProblemKind::DuplicateKey,
                format!("{loser} has the same key {key} and is left out"),
            ));
            refused.push((loser, holder));
            out.push((loser_peer, loser_at));
        }
    }
    out.sort_unstable_by(|a, b| b.cmp(a));
    for (peer, at) in out {
        if peer {
            peers.remove(at);
        } else {
            nodes.remove(at);
        }
    }
}

/// The internal addresses that lie outside the overlay.
fn internal_addresses(
    snapshot: &Snapshot,
    node: &Node,
    problems: &mut Vec<Problem>,
) -> Vec<InterfaceAddress> {
    let mut kept = Vec::with_capacity(node.internal_addresses.len());
    for &address in &node.internal_addresses {
        if snapshot.mesh.overlay.contains(address.address()) {
            problems.push(Problem::error(
                Subject::Node(node.name.clone()),
                ProblemKind::OverlayRange,
                format!("its internal address {address} lies in the overlay range and is left out; choose another overlay range"),
            ));
        } else if !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// Groups the members. Of two nodes with one internal address in a location the older keeps it; who has none left is a
/// segment of its own, and so stays reachable.
fn segments(members: &mut [Member<'_>], problems: &mut Vec<Problem>) -> Vec<Area> {
    let mut locations: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, member) in members.iter().enumerate().filter(|(_, m)| !m.internal.is_empty()) {
        locations.entry(&member.node.location).or_default().push(at);
    }
    for inside in locations.values() {
        unique_internal(members, inside, problems);
    }
    let mut areas = Vec::new();
    for (location, inside) in locations {
        let together = |at: &usize| !members[*at].internal.is_empty();
        let inside: Vec<usize> = inside.into_iter().filter(together).collect();
        areas.push(Area { name: Segment::Location(location.clone()), members: inside });
    }
    let alone = members.iter().enumerate().filter(|(_, m)| m.internal.is_empty());
    areas.extend(
        alone.map(|(at, m)| Area { name: Segment::Node(m.node.name.clone()), members: vec![at] }),
    );
    for (segment, area) in areas.iter().enumerate() {
        for &at in &area.members {
            members[at].segment = segment;
        }
    }
    areas
}

fn unique_internal(members: &mut [Member<'_>], inside: &[usize], problems: &mut Vec<Problem>) {
    let mut claims: Vec<(IpAddr, u64, usize)> = Vec::with_capacity(inside.len());
    for &at in inside {
        let member = &members[at];
        claims.extend(member.internal.iter().map(|a| (a.address(), member.node.since, at)));
    }
    claims.sort_unstable();
    for same in claims.chunk_by(|a, b| a.0 == b.0) {
        let (address, _, holder) = same[0];
        for &(_, _, loser) in same[1..].iter().filter(|claim| claim.2 != holder) {
            members[loser].internal.retain(|a| a.address() != address);
            let name = |at: usize| members[at].node.name.clone();
            problems.push(Problem::error(
                Subject::Node(name(loser)),
                ProblemKind::DuplicateAddress,
                format!(
                    "its internal address {address} is node {}'s in the same location and is left out",
                    name(holder)
                ),
            ));
            problems.push(Problem::warning(
                Subject::Node(name(holder)),
                ProblemKind::DuplicateAddress,
                format!("node {} has the same internal address {address}", name(loser)),
            ));
        }
    }
}
