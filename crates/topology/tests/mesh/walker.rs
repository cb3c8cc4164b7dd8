//! Follows packets through the plans of a whole mesh, as kernels and tunnels would: the longest prefix decides each
//! route and each tunnel peer, and a tunnel's receiver checks that the sender may use the source address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::kernel::{KernelState, LinkKind, MAIN_TABLE, Rule};
use wireloom_model::{
    Cidr, EncapsulateWhen, Encapsulation, Family, InterfaceName, NodeName, PeerName, PublicKey,
    Snapshot,
};
use wireloom_topology::graph::{GraphNode, GraphPeer};
use wireloom_topology::{Graph, Plan, Segment, Topology, TunnelPeer, TunnelPeerName, Underlay};

/// A mesh whose every node does as its plan says.
pub(crate) struct World {
    pub(crate) encapsulation: Encapsulation,
    pub(crate) nodes: BTreeMap<NodeName, Machine>,
    pub(crate) peers: BTreeMap<PeerName, Laptop>,
}

/// A node and its plan.
pub(crate) struct Machine {
    pub(crate) facts: GraphNode,
    pub(crate) segment: Segment,
    pub(crate) plan: Plan,
    pub(crate) kernel: KernelState,
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

#[derive(Debug, Clone)]
enum Step {
    Here,
    /// To an address of the location's network.
    Neighbour(IpAddr),
    /// Wrapped, by this link and to this address.
    Wrapped(InterfaceName, IpAddr),
    Tunnel,
}

const DEVICE: &str = "wl0";

impl World {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let topology = Topology::of(snapshot);
        let plan = |name: &NodeName| topology.plan(name).unwrap();
        let view = |name: &PeerName| topology.peer_view(name).unwrap();
        Self::build(snapshot, Graph::of(&topology), plan, view)
    }

    /// A mesh by these plans.
    pub(crate) fn build(
        snapshot: &Snapshot,
        graph: Graph,
        plan_of: impl Fn(&NodeName) -> Plan,
        view_of: impl Fn(&PeerName) -> Vec<TunnelPeer>,
    ) -> Self {
        let mut nodes = BTreeMap::new();
        for segment in &graph.segments {
            let owned: Vec<Cidr> =
                segment.nodes.iter().flat_map(|node| &node.owns).copied().collect();
            for facts in &segment.nodes {
                let plan = plan_of(&facts.name);
                let node = snapshot
                    .nodes
                    .iter()
                    .find(|node| node.name == facts.name && node.key == plan.key)
                    .unwrap();
                let lists: Vec<Cidr> =
                    node.extra_prefixes.iter().filter(|p| owned.contains(p)).copied().collect();
                let underlay = Underlay {
                    tunnel_mtu: 1420,
                    internal_mtu: 1500,
                    narrow: BTreeMap::new(),
                    endpoints: BTreeSet::new(),
                    mark: 0x20,
                    metric: 0,
                };
                let machine = Machine {
                    facts: facts.clone(),
                    segment: segment.segment.clone(),
                    kernel: plan.kernel_state(&DEVICE.parse().unwrap(), &underlay),
                    plan,
                    lists,
                };
                nodes.insert(facts.name.clone(), machine);
            }
        }
        let peers = graph.peers.iter().map(|facts| {
            let view = view_of(&facts.name);
            let named = snapshot.peers.iter().filter(|peer| peer.name == facts.name);
            let key = named.min_by_key(|peer| (peer.since, peer.key)).unwrap().key;
            (facts.name.clone(), Laptop { facts: facts.clone(), key, view })
        });
        let encapsulation = snapshot.mesh.encapsulation;
        Self { encapsulation, nodes, peers: peers.collect() }
    }

    /// Follows a packet to its end, or says where it was lost.
    pub(crate) fn walk(&self, start: &Place, packet: Packet) -> Result<Place, String> {
        let mut at = start.clone();
        let mut by_tunnel = false;
        for _ in 0..8 {
            let came_by_tunnel = std::mem::take(&mut by_tunnel);
            at = match &at {
                Place::Peer(name) => {
                    let laptop = &self.peers[name];
                    if laptop.facts.allowed_ips.iter().any(|prefix| prefix.contains(packet.to)) {
                        return Ok(at);
                    }
                    by_tunnel = true;
                    self.cross(&at, laptop.key, &laptop.view, packet)?
                }
                Place::Node(name) => match self.step(name, packet, came_by_tunnel)? {
                    Step::Here => return Ok(at),
                    Step::Neighbour(address) => {
                        let next = self.neighbour(name, address)?;
                        let of_mesh = came_by_tunnel || self.nodes[name].lends(packet.from);
                        if of_mesh || address != packet.to {
                            self.expect_wrapping(name, &next, Family::of(address), false)?;
                        }
                        Place::Node(next)
                    }
                    Step::Wrapped(link, address) => {
                        let next = self.unwrapped(name, &link, address)?;
                        self.expect_wrapping(name, &next, Family::of(address), true)?;
                        Place::Node(next)
                    }
                    Step::Tunnel => {
                        by_tunnel = true;
                        let plan = &self.nodes[name].plan;
                        let next = self.cross(&at, plan.key, &plan.tunnel_peers, packet)?;
                        self.expect_inner_tunnel(name, &next, packet)?;
                        next
                    }
                },
            };
        }
        Err(format!("{packet:?} goes round in circles"))
    }

    /// The kernel's choice on a node: its own addresses, then what policy rules lead to, then the main table.
    fn step(&self, name: &NodeName, packet: Packet, by_tunnel: bool) -> Result<Step, String> {
        let machine = &self.nodes[name];
        let to = packet.to;
        let facts = &machine.facts;
        let internal = || facts.internal_addresses.iter();
        if facts.overlay_addresses.contains(&to) || internal().any(|a| a.address() == to) {
            return Ok(Step::Here);
        }
        let mut rules = machine.kernel.rules.iter().filter(|rule| applies(rule, packet, by_tunnel));
        if let Some(step) = rules.find_map(|rule| machine.look_up(rule.table, to)) {
            return Ok(step.1);
        }
        let mut best = machine.look_up(MAIN_TABLE, to);
        let mut offer = |prefix: Cidr, step: Step| {
            let better = best.as_ref().is_none_or(|(length, _)| prefix.length() >= *length);
            if prefix.contains(to) && better {
                best = Some((prefix.length(), step));
            }
        };
        // The kernel adds a route to the network of each address of a link.
        for address in &machine.kernel.addresses {
            offer(address.address.network(), Step::Tunnel);
        }
        // A host of the location's network that is no node: delivered on the link.
        for address in internal() {
            offer(address.network(), Step::Here);
        }
        for &prefix in facts.pod_prefixes.iter().chain(&machine.lists) {
            offer(prefix, Step::Here);
        }
        if self.neighbour(name, to).is_ok() {
            offer(Cidr::host(to), Step::Neighbour(to));
        }
        best.map(|(_, step)| step).ok_or_else(|| format!("{name} has no route to {to}"))
    }

    /// Who takes a packet out of its wrapping.
    fn unwrapped(
        &self,
        name: &NodeName,
        link: &InterfaceName,
        gateway: IpAddr,
    ) -> Result<NodeName, String> {
        let kernel = &self.nodes[name].kernel;
        let lost = |what: &str| format!("{name} wraps for {gateway} by {link}: {what}");
        let kind = &kernel.links.get(link).ok_or_else(|| lost("no link"))?.kind;
        let (local, outer, mac) = match kind {
            LinkKind::Ipip { local } => (IpAddr::V4(*local), gateway, None),
            LinkKind::Vxlan { local, .. } => {
                let mac = kernel.neighbours.get(&(link.clone(), gateway));
                let mac = *mac.ok_or_else(|| lost("no neighbour"))?;
                let outer = kernel.forwarding.get(&(link.clone(), mac));
                (*local, *outer.ok_or_else(|| lost("no far end"))?, Some(mac))
            }
            _ => return Err(lost("not of our making")),
        };
        let envelope = Packet { from: local, to: outer };
        match self.step(name, envelope, false)? {
            Step::Neighbour(address) if address == outer => {}
            step => return Err(lost(&format!("{envelope:?} goes {step:?}"))),
        }
        let next = self.neighbour(name, outer)?;
        let takes = |theirs: &LinkKind| match (kind, theirs) {
            (LinkKind::Ipip { .. }, LinkKind::Ipip { local }) => IpAddr::V4(*local) == outer,
            (LinkKind::Vxlan { id, port, .. }, LinkKind::Vxlan { id: i, port: p, mac: m, .. }) => {
                (id, port, mac) == (i, p, Some(*m))
            }
            _ => false,
        };
        let theirs = &self.nodes[&next];
        if !theirs.kernel.links.values().any(|link| takes(&link.kind)) {
            return Err(lost(&format!("{next} has no link for it")));
        }
        let back = theirs.plan.wraps.get(&Family::of(local));
        match back.is_some_and(|wrap| wrap.ends.contains_key(&local)) {
            true => Ok(next),
            false => Err(lost(&format!("{next} does not wrap what it answers"))),
        }
    }

    /// Checks that a tunnel to another node of the segment is one that the mesh asks for, and that what it sends goes to
    /// that node without any tunnel.
    fn expect_inner_tunnel(
        &self,
        name: &NodeName,
        next: &Place,
        packet: Packet,
    ) -> Result<(), String> {
        let (Place::Node(next), machine) = (next, &self.nodes[name]) else { return Ok(()) };
        if self.nodes[next].segment != machine.segment {
            return Ok(());
        }
        self.expect_wrapping(name, next, Family::of(packet.to), true)?;
        let is_next = |peer: &&TunnelPeer| peer.name == TunnelPeerName::Node(next.clone());
        let peer = machine.plan.tunnel_peers.iter().find(is_next);
        let to = peer.and_then(|peer| peer.endpoint.as_ref()?.address());
        let to =
            to.ok_or_else(|| format!("{name} can't dial {next} inside {}", machine.segment))?;
        let internal = machine.facts.internal_addresses.iter().map(|a| a.address());
        let mut internal = internal.filter(|from| Family::of(*from) == Family::of(to));
        let from = internal.next().ok_or_else(|| format!("{name} can't send to {to}"))?;
        match self.step(name, Packet { from, to }, false)? {
            Step::Neighbour(address) if self.neighbour(name, address)? == *next => Ok(()),
            step => Err(format!("{name} sends what is in the tunnel to {to} by {step:?}")),
        }
    }

    /// Checks that what one node passes on to another is wrapped if, and only if, the mesh says so.
    fn expect_wrapping(
        &self,
        one: &NodeName,
        other: &NodeName,
        family: Family,
        wrapped: bool,
    ) -> Result<(), String> {
        let Encapsulation { when, by } = self.encapsulation;
        let near = |one: &NodeName, other: &NodeName| {
            let networks = self.nodes[one].facts.internal_addresses.iter().map(|a| a.network());
            let mut networks = networks.filter(|network| network.family() == family);
            let theirs = &self.nodes[other].facts.internal_addresses;
            networks.any(|network| theirs.iter().any(|a| network.contains(a.address())))
        };
        let asked = match when {
            EncapsulateWhen::Never => false,
            EncapsulateWhen::CrossSubnet => !(near(one, other) && near(other, one)),
            EncapsulateWhen::Always => true,
        };
        if wrapped == (asked && by.carries(family)) {
            return Ok(());
        }
        Err(format!("{one} to {other}, {family}: wrapped {wrapped} with {:?}", self.encapsulation))
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

/// Whether a policy rule is for a packet.
fn applies(rule: &Rule, packet: Packet, by_tunnel: bool) -> bool {
    rule.family == Family::of(packet.to)
        && rule.from.is_none_or(|from| from.contains(packet.from))
        && rule.to.is_none_or(|to| to.contains(packet.to))
        && rule.input.as_ref().is_none_or(|input| input.as_str() == DEVICE && by_tunnel)
}

impl Machine {
    /// The longest route of a table, and its length.
    fn look_up(&self, table: u32, to: IpAddr) -> Option<(u8, Step)> {
        let routes = self.kernel.routes.iter();
        let holding = routes.filter(|(key, _)| key.table == table && key.destination.contains(to));
        let (key, route) = holding.max_by_key(|(key, _)| key.destination.length())?;
        let step = match (&route.link, route.gateway) {
            (Some(link), Some(gateway)) if link.as_str() != DEVICE => {
                Step::Wrapped(link.clone(), gateway)
            }
            (None, Some(gateway)) => Step::Neighbour(gateway),
            _ => Step::Tunnel,
        };
        Some((key.destination.length(), step))
    }

    /// Whether it has this address from the mesh, so that its location's network does not know it.
    fn lends(&self, address: IpAddr) -> bool {
        self.facts.overlay_addresses.contains(&address)
            || self.facts.pod_prefixes.iter().any(|prefix| prefix.contains(address))
    }

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
