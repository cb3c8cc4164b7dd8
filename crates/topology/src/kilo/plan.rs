//! What one node must do by Kilo's algorithm.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use wireloom_model::kernel::NftSet;
use wireloom_model::{Algorithm, Cidr, Held, InterfaceAddress, NodeName, PeerName, Subject};

use super::{Outsider, Part, View, pods, range};
use crate::plan::{NodeSummary, Plan, PlanError, TunnelPeer, TunnelPeerName, passed};

impl View<'_> {
    /// Computes what the node must do. Errors if there is no such node, or none that is ready.
    pub fn plan(&self, me: &NodeName) -> Result<Plan, PlanError> {
        let place = self.find(me).ok_or_else(|| self.refusal(Subject::Node(me.clone())))?;
        let part = &self.parts[place.0];
        let node = part.nodes[place.1];
        let is_leader = part.leader == place.1;
        let leader = &part.leader().name;
        let held = part.address.filter(|_| is_leader);
        let (routes, wrap) = self.ways(place);
        let length = range(self.mesh).map(|range| range.length());
        let address = held.zip(length).and_then(|(ip, length)| InterfaceAddress::new(ip, length));
        let mine = |peer: &Outsider<'_>| peer.peer.name.clone();
        Ok(Plan {
            node: node.name.clone(),
            key: node.key,
            segment: part.name.clone(),
            gateway: is_leader,
            home: leader.clone(),
            addresses: address.into_iter().collect(),
            tunnel_peers: if is_leader { self.tunnel_peers(place) } else { Vec::new() },
            routes,
            contested: BTreeSet::new(),
            left: BTreeSet::new(),
            wraps: wrap.into_iter().collect(),
            pods: match self.settings.beside {
                Some(_) => node.pod_prefixes.iter().copied().collect(),
                None => pods(node).into_iter().collect(),
            },
            clamp_mss: self.mesh.filter.clamp_mss,
            masquerade: Some(self.sets(place)),
            passed: passed(&self.mesh.filter, || self.sets(place)),
            publishes: Held {
                overlay_addresses: held.into_iter().collect(),
                gateway: is_leader,
                home: Some(leader.clone()),
                anchors: self.peers.iter().filter(|_| is_leader).map(mine).collect(),
                owns: part.location_prefixes.iter().copied().filter(|_| is_leader).collect(),
                algorithm: Some(Algorithm::Kilo),
                pod_addresses: BTreeSet::new(),
                unserved_by: BTreeSet::new(),
            },
            problems: self.problems.clone(),
            nodes: self.nodes(),
        })
    }

    /// Computes the tunnel peers of an outside peer, for its own configuration: the leader of each segment. Errors if
    /// there is no such peer, or it is kept out.
    pub fn peer_view(&self, peer: &PeerName) -> Result<Vec<TunnelPeer>, PlanError> {
        let own = self.peers.iter().find(|outsider| outsider.peer.name == *peer);
        let own = own.ok_or_else(|| self.refusal(Subject::Peer(peer.clone())))?.peer;
        let leaders = self.parts.iter().map(|part| TunnelPeer {
            preshared_key: own.preshared_key.clone(),
            ..self.leader_peer(part, own.persistent_keepalive)
        });
        Ok(last_claims(leaders.collect()))
    }

    pub(super) fn refusal(&self, subject: Subject) -> PlanError {
        match self.refused.iter().find(|(refused, _)| *refused == subject) {
            Some((_, holder)) => PlanError::KeptOut { subject, holder: holder.clone() },
            None => PlanError::Unknown { subject },
        }
    }

    /// Every node, in the order of names.
    pub fn nodes(&self) -> Vec<NodeSummary> {
        let of_part = |part: &Part<'_>| {
            let summary = |(at, node): (usize, &&wireloom_model::Node)| NodeSummary {
                node: node.name.clone(),
                segment: part.name.clone(),
                gateway: at == part.leader,
                home: part.leader().name.clone(),
                overlay_addresses: part.address.filter(|_| at == part.leader).into_iter().collect(),
            };
            part.nodes.iter().enumerate().map(summary).collect::<Vec<_>>()
        };
        let mut nodes: Vec<NodeSummary> = self.parts.iter().flat_map(of_part).collect();
        nodes.sort_by(|one, other| one.node.cmp(&other.node));
        nodes
    }

    /// A leader's peers: those of the other segments, then all from outside. All get the node's own keepalive.
    fn tunnel_peers(&self, place: (usize, usize)) -> Vec<TunnelPeer> {
        let keepalive = self.parts[place.0].nodes[place.1].persistent_keepalive;
        let others = self.parts.iter().enumerate().filter(|(at, _)| *at != place.0);
        let leaders = others.map(|(_, part)| self.leader_peer(part, keepalive));
        let outside = self.peers.iter().map(|Outsider { peer, allowed_ips }| TunnelPeer {
            key: peer.key,
            name: TunnelPeerName::Peer(peer.name.clone()),
            endpoint: self.endpoint_of(peer.key, peer.endpoint.as_ref(), peer.persistent_keepalive),
            alternatives: Vec::new(),
            allowed_ips: allowed_ips.iter().copied().collect(),
            persistent_keepalive: keepalive,
            preshared_key: peer.preshared_key.clone(),
        });
        last_claims(leaders.chain(outside).collect())
    }

    fn leader_peer(&self, part: &Part<'_>, keepalive: Option<NonZeroU16>) -> TunnelPeer {
        let leader = part.leader();
        TunnelPeer {
            key: leader.key,
            name: TunnelPeerName::Node(leader.name.clone()),
            endpoint: self.leader_endpoint(part),
            alternatives: Vec::new(),
            allowed_ips: part.reached().collect(),
            persistent_keepalive: keepalive,
            preshared_key: None,
        }
    }

    /// Kilo's chain `KILO-NAT` and what jumps to it, as sets (`Topology.Rules`).
    fn sets(&self, place: (usize, usize)) -> BTreeMap<NftSet, BTreeSet<Cidr>> {
        let part = &self.parts[place.0];
        let own_pods = pods(part.nodes[place.1]).filter(|_| self.settings.cni);
        let peers = self.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        BTreeMap::from([
            (NftSet::Mesh, self.parts.iter().flat_map(Part::allowed_ips).collect()),
            (NftSet::Peers, peers.collect()),
            (NftSet::Pods, own_pods.into_iter().collect()),
            (NftSet::Services, self.mesh.filter.services.iter().copied().collect()),
            (NftSet::Site, part.location_prefixes.iter().copied().collect()),
        ])
    }
}

impl Part<'_> {
    /// All that is reached through the leader, in Kilo's order.
    pub(super) fn reached(&self) -> impl Iterator<Item = Cidr> {
        self.allowed_ips().into_iter().chain(self.location_prefixes.iter().copied())
    }
}

/// Leaves each allowed IP to the last peer that claims it, where the kernel leaves it (`wg(8)`, `allowed-ips`).
fn last_claims(mut peers: Vec<TunnelPeer>) -> Vec<TunnelPeer> {
    let mut taken = BTreeSet::new();
    for peer in peers.iter_mut().rev() {
        peer.allowed_ips.retain(|prefix| taken.insert(*prefix));
    }
    peers
}
