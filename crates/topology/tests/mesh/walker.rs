//! Follows packets through the plans of a whole mesh, as kernels and tunnels would: the longest prefix decides each
//! route and each tunnel peer, and a tunnel's receiver checks that the sender may use the source address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wireloom_model::{Cidr, Family, NodeName, PeerName, PublicKey, Snapshot};
use wireloom_topology::graph::{GraphNode, GraphPeer};
use wireloom_topology::{Graph, Plan, Segment, Topology, TunnelPeer, TunnelPeerName};

/// A mesh whose every node does as its plan says.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<NodeName, Machine>,
    pub(crate) peers: BTreeMap<PeerName, Laptop>,
}

/// A node and its plan.
pub(crate) struct Machine {
    pub(crate) facts: GraphNode,
    pub(crate) segment: Segment,
    pub(crate) plan: Plan,
    /// The networks behind it.
    pub(crate) lists: Vec<Cidr>,
}

/// An outside peer and the configuration exported for it.
pub(crate) struct Laptop {
    pub(crate) facts: GraphPeer,
    pub(crate) key: PublicKey,
    pub(crate) view: Vec<TunnelPeer>,
}

/// Where somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a node, at its pods, or in a network behind it.
    Node(NodeName),
    /// At an outside peer.
    Peer(PeerName),
}

/// The source and destination of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
}

impl Packet {
    /// The answer to it.
    pub(crate) fn reply(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

enum Step {
    Here,
    Neighbour(IpAddr),
    Tunnel,
}

impl World {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let topology = Topology::of(snapshot);
        let graph = Graph::of(&topology);
        let mut nodes = BTreeMap::new();
        for segment in &graph.segments {
            let owned: Vec<Cidr> =
                segment.nodes.iter().flat_map(|node| &node.owns).copied().collect();
            for facts in &segment.nodes {
                let plan = topology.plan(&facts.name).unwrap();
                let node = snapshot
                    .nodes
                    .iter()
                    .find(|node| node.name == facts.name && node.key == plan.key)
                    .unwrap();
                let lists: Vec<Cidr> =
                    node.extra_prefixes.iter().filter(|p| owned.contains(p)).copied().collect();
                let machine =
                    Machine { facts: facts.clone(), segment: segment.segment.clone(), plan, lists };
                nodes.insert(facts.name.clone(), machine);
            }
        }
        let peers = graph.peers.iter().map(|facts| {
            let view = topology.peer_view(&facts.name).unwrap();
            let named = snapshot.peers.iter().filter(|peer| peer.name == facts.name);
            let key = named.min_by_key(|peer| (peer.since, peer.key)).unwrap().key;
            (facts.name.clone(), Laptop { facts: facts.clone(), key, view })
        });
        Self { nodes, peers: peers.collect() }
    }

    /// Follows a packet to its end, or says where it was lost.
    pub(crate) fn walk(&self, start: &Place, packet: Packet) -> Result<Place, String> {
        let mut at = start.clone();
        for _ in 0..8 {
            at = match &at {
                Place::Peer(name) => {
                    let laptop = &self.peers[name];
                    if laptop.facts.allowed_ips.iter().any(|prefix| prefix.contains(packet.to)) {
                        return Ok(at);
                    }
                    self.cross(&at, laptop.key, &laptop.view, packet)?
                }
                Place::Node(name) => match self.step(name, packet.to)? {
                    Step::Here => return Ok(at),
                    Step::Neighbour(address) => Place::Node(self.neighbour(name, address)?),
                    Step::Tunnel => {
                        let plan = &self.nodes[name].plan;
                        self.cross(&at, plan.key, &plan.tunnel_peers, packet)?
                    }
                },
            };
        }
        Err(format!("{packet:?} goes round in circles"))
    }

    /// The kernel's choice on a node.
    fn step(&self, name: &NodeName, to: IpAddr) -> Result<Step, String> {
        let machine = &self.nodes[name];
        let mut best: Option<(u8, Step)> = None;
        let mut offer = |prefix: Cidr, step: Step| {
            let better = best.as_ref().is_none_or(|(length, _)| prefix.length() > *length);
            if prefix.contains(to) && better {
                best = Some((prefix.length(), step));
            }
        };
        let facts = &machine.facts;
        for &address in &facts.overlay_addresses {
            offer(Cidr::host(address), Step::Here);
        }
        for address in &facts.internal_addresses {
            offer(Cidr::host(address.address()), Step::Here);
        }
        if self.neighbour(name, to).is_ok() {
            offer(Cidr::host(to), Step::Neighbour(to));
        }
        for &prefix in facts.pod_prefixes.iter().chain(&machine.lists) {
            offer(prefix, Step::Here);
        }
        // A host of the location's network that is no node: delivered on the link.
        for address in &facts.internal_addresses {
            offer(address.network(), Step::Here);
        }
        for (&prefix, hop) in &machine.plan.routes {
            offer(prefix, hop.gateway.map_or(Step::Tunnel, Step::Neighbour));
        }
        best.map(|(_, step)| step).ok_or_else(|| format!("{name} has no route to {to}"))
    }

    /// The other node of the segment with this internal address.
    fn neighbour(&self, name: &NodeName, address: IpAddr) -> Result<NodeName, String> {
        let machine = &self.nodes[name];
        if !machine.speaks(Family::of(address)) {
            return Err(format!("{name} has no address of {address}'s family on its network"));
        }
        let found = self.nodes.values().find(|other| {
            other.segment == machine.segment
                && other.facts.name != *name
                && other.facts.internal_addresses.iter().any(|a| a.address() == address)
        });
        found
            .map(|other| other.facts.name.clone())
            .ok_or_else(|| format!("{name} has no neighbour {address}"))
    }

    /// Through a tunnel: the sender's allowed IPs choose the receiver, the receiver's check the sender.
    fn cross(
        &self,
        from: &Place,
        key: PublicKey,
        peers: &[TunnelPeer],
        packet: Packet,
    ) -> Result<Place, String> {
        let to = chosen(peers, packet.to)
            .ok_or_else(|| format!("{from:?} has no tunnel peer for {}", packet.to))?;
        let (place, theirs) = match &to.name {
            TunnelPeerName::Node(name) => {
                (Place::Node(name.clone()), &self.nodes[name].plan.tunnel_peers)
            }
            TunnelPeerName::Peer(name) => (Place::Peer(name.clone()), &self.peers[name].view),
        };
        match chosen(theirs, packet.from) {
            Some(sender) if sender.key == key => Ok(place),
            other => Err(format!(
                "{place:?} takes {} only from {:?}, not from {from:?}",
                packet.from,
                other.map(|peer| &peer.name)
            )),
        }
    }
}

impl Machine {
    pub(crate) fn speaks(&self, family: Family) -> bool {
        self.facts.internal_addresses.iter().any(|address| address.family() == family)
    }
}

/// The peer with the longest allowed IP that holds the address.
pub(crate) fn chosen(peers: &[TunnelPeer], address: IpAddr) -> Option<&TunnelPeer> {
    let matches = peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(move |ip| (ip, peer)));
    let holding = matches.filter(|(ip, _)| ip.contains(address));
    holding.max_by_key(|(ip, _)| ip.length()).map(|(_, peer)| peer)
}
