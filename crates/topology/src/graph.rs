//! The whole mesh as data to look at, and as text in the languages of other programs: JSON by serde, DOT, Mermaid, and
//! an SVG picture of our own drawing.

mod dot;
mod mermaid;
mod svg;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::Serialize;
use wireloom_model::{Cidr, Endpoint, InterfaceAddress, NodeName, PeerName};

use crate::segment::Segment;
use crate::topology::Topology;

/// The mesh with everything that a picture of it shows. All lists are in the order of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// The ranges of overlay addresses.
    pub overlay: Vec<Cidr>,
    /// The segments with their nodes.
    pub segments: Vec<GraphSegment>,
    /// The peers from outside.
    pub peers: Vec<GraphPeer>,
    /// The tunnels between gateways.
    pub tunnels: Vec<Tunnel>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GraphSegment {
    /// Which one.
    pub segment: Segment,
    /// Its nodes.
    pub nodes: Vec<GraphNode>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GraphNode {
    /// Its name.
    pub name: NodeName,
    /// Whether it is a gateway of its segment.
    pub gateway: bool,
    /// Whether it is known to work as a gateway.
    pub healthy: bool,
    /// Its home gateway; itself for a gateway.
    pub home: NodeName,
    /// Where it is dialled.
    pub endpoint: Option<Endpoint>,
    /// Its overlay addresses, IPv4 first.
    pub overlay_addresses: Vec<IpAddr>,
    /// The addresses by which its segment reaches it.
    pub internal_addresses: Vec<InterfaceAddress>,
    /// The prefixes of its pods.
    pub pod_prefixes: Vec<Cidr>,
    /// The networks behind its segment that it brings into the mesh.
    pub owns: Vec<Cidr>,
}

/// A peer from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GraphPeer {
    /// Its name.
    pub name: PeerName,
    /// Where it is dialled.
    pub endpoint: Option<Endpoint>,
    /// The prefixes that are reached through it.
    pub allowed_ips: Vec<Cidr>,
    /// The gateways that serve it, one in each segment.
    pub anchors: Vec<NodeName>,
}

/// A tunnel between two gateways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tunnel {
    /// One end.
    pub from: NodeName,
    /// The other end.
    pub to: NodeName,
    /// Whether one of them can dial the other.
    pub dialable: bool,
}

impl Graph {
    /// The picture of this mesh.
    pub fn of(topology: &Topology<'_>) -> Self {
        let name = |at: usize| topology.members[at].node.name.clone();
        let segments = topology.areas.iter().map(|area| GraphSegment {
            segment: area.name.clone(),
            nodes: area.members.iter().map(|&at| node(topology, at)).collect(),
        });
        let peers = topology.outsiders.iter().enumerate().map(|(at, outsider)| GraphPeer {
            name: outsider.peer.name.clone(),
            endpoint: outsider.endpoint.cloned(),
            allowed_ips: outsider.prefixes.clone(),
            anchors: topology.anchors.iter().map(|anchors| name(anchors[at])).collect(),
        });
        Self {
            overlay: topology.mesh.overlay.ranges().collect(),
            segments: segments.collect(),
            peers: peers.collect(),
            tunnels: tunnels(topology),
        }
    }

    /// The graph in Graphviz's DOT language.
    pub fn dot(&self) -> String {
        dot::draw(self)
    }

    /// The graph as a Mermaid flowchart.
    pub fn mermaid(&self) -> String {
        mermaid::draw(self)
    }

    /// The graph as an SVG document.
    pub fn svg(&self) -> String {
        svg::draw(self)
    }
}

fn node(topology: &Topology<'_>, at: usize) -> GraphNode {
    let member = &topology.members[at];
    GraphNode {
        name: member.node.name.clone(),
        gateway: topology.is_gateway(at),
        healthy: member.node.healthy,
        home: topology.members[topology.place.homes[at]].node.name.clone(),
        endpoint: member.endpoint.cloned(),
        overlay_addresses: topology.overlay[at].into_iter().flatten().collect(),
        internal_addresses: member.internal.clone(),
        pod_prefixes: member.pods.clone(),
        owns: topology.owned_by(at).collect(),
    }
}

fn tunnels(topology: &Topology<'_>) -> Vec<Tunnel> {
    let mut gateways: Vec<usize> = topology.place.gateways.iter().flatten().copied().collect();
    gateways.sort_unstable();
    let mut tunnels = Vec::new();
    for (behind, &from) in gateways.iter().enumerate() {
        let from = &topology.members[from];
        for &to in &gateways[behind + 1..] {
            let to = &topology.members[to];
            if from.segment != to.segment {
                tunnels.push(Tunnel {
                    from: from.node.name.clone(),
                    to: to.node.name.clone(),
                    dialable: from.endpoint.is_some() || to.endpoint.is_some(),
                });
            }
        }
    }
    tunnels
}

impl GraphNode {
    /// What a picture writes below the name: addresses and networks, a line each.
    fn details(&self) -> impl Iterator<Item = String> {
        let addresses = self.overlay_addresses.iter().map(IpAddr::to_string);
        let prefixes = self.pod_prefixes.iter().chain(&self.owns).map(Cidr::to_string);
        let endpoint = self.endpoint.iter().map(Endpoint::to_string);
        addresses.chain(prefixes).chain(endpoint)
    }
}
