//! What a peer from outside must do to join the mesh itself, where no agent of a node does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::{Cidr, Family, Held, InterfaceAddress, NodeName, Peer, Problem};

use crate::plan::{Hop, NodeSummary, Plan, TunnelPeer, Way};
use crate::segment::Segment;

impl Plan {
    /// The plan of a peer that has these tunnel peers: [`Topology::peer_view`](crate::Topology::peer_view), or that of
    /// Kilo's algorithm. Its addresses are its allowed IPs that are of one host; what lies behind its tunnel peers is
    /// routed into the tunnel. The first of them in the order of names carries `more` besides.
    #[expect(clippy::expect_used, reason = "names of peers and of nodes have one rule")]
    pub fn outside(
        peer: &Peer,
        mut tunnel_peers: Vec<TunnelPeer>,
        more: &[Cidr],
        nodes: Vec<NodeSummary>,
        problems: Vec<Problem>,
    ) -> Self {
        let node: NodeName = peer.name.as_str().parse().expect("a peer's name is one of a node");
        tunnel_peers.sort_by(|one, other| one.name.cmp(&other.name));
        let taken: BTreeSet<Cidr> =
            tunnel_peers.iter().flat_map(|peer| &peer.allowed_ips).copied().collect();
        if let Some(first) = tunnel_peers.first_mut() {
            first.allowed_ips.extend(more.iter().filter(|prefix| !taken.contains(prefix)));
        }
        let hosts =
            peer.allowed_ips.iter().filter(|prefix| prefix.length() == prefix.family().bits());
        let addresses: Vec<IpAddr> = hosts.map(Cidr::address).collect();
        let source = |family| addresses.iter().copied().find(|a| Family::of(*a) == family);
        let route = |prefix: &Cidr| {
            let source = source(prefix.family());
            (*prefix, Hop { by: Way::Tunnel, gateway: None, source, away: true })
        };
        let reached = tunnel_peers.iter().flat_map(|peer| &peer.allowed_ips);
        let routes = reached.filter(|prefix| !peer.allowed_ips.contains(prefix)).map(route);
        Self {
            key: peer.key,
            segment: Segment::Node(node.clone()),
            gateway: true,
            home: node.clone(),
            addresses: addresses.iter().copied().map(InterfaceAddress::host).collect(),
            routes: routes.collect(),
            contested: BTreeSet::new(),
            left: BTreeSet::new(),
            wraps: BTreeMap::new(),
            pods: BTreeSet::new(),
            clamp_mss: false,
            masquerade: None,
            passed: BTreeSet::new(),
            publishes: Held::default(),
            node,
            tunnel_peers,
            problems,
            nodes,
        }
    }
}
