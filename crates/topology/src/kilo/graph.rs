//! The mesh by Kilo's algorithm as data to look at.

use super::{Part, View, internal, pods};
use crate::graph::{Graph, GraphNode, GraphPeer, GraphSegment, Tunnel};

impl View<'_> {
    /// The picture of this mesh.
    pub fn graph(&self) -> Graph {
        let peers = self.peers.iter().map(|outsider| GraphPeer {
            name: outsider.peer.name.clone(),
            endpoint: outsider.peer.endpoint.clone(),
            allowed_ips: outsider.allowed_ips.clone(),
            anchors: self.parts.iter().map(|part| part.leader().name.clone()).collect(),
        });
        let mut leaders: Vec<_> = self.parts.iter().map(|part| &part.leader().name).collect();
        leaders.sort_unstable();
        let from = leaders.iter().enumerate();
        let tunnels = from.flat_map(|(at, from)| {
            let tunnel = |to: &&wireloom_model::NodeName| Tunnel {
                from: (*from).clone(),
                to: (*to).clone(),
                dialable: true,
            };
            leaders[at + 1..].iter().map(tunnel).collect::<Vec<_>>()
        });
        Graph {
            overlay: super::range(self.mesh).into_iter().collect(),
            segments: self.parts.iter().map(segment).collect(),
            peers: peers.collect(),
            tunnels: tunnels.collect(),
        }
    }
}

fn segment(part: &Part<'_>) -> GraphSegment {
    let node = |(at, node): (usize, &&wireloom_model::Node)| {
        let is_leader = at == part.leader;
        GraphNode {
            name: node.name.clone(),
            gateway: is_leader,
            healthy: node.healthy,
            home: part.leader().name.clone(),
            endpoint: node.endpoint.clone(),
            overlay_addresses: part.address.filter(|_| is_leader).into_iter().collect(),
            internal_addresses: internal(node).into_iter().collect(),
            pod_prefixes: pods(node).into_iter().collect(),
            owns: part.location_prefixes.iter().copied().filter(|_| is_leader).collect(),
        }
    };
    GraphSegment {
        segment: part.name.clone(),
        nodes: part.nodes.iter().enumerate().map(node).collect(),
    }
}
