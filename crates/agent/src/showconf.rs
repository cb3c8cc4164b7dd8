//! WireGuard configurations of the mesh for devices that no agent drives: `wireloom showconf`, kgctl's verb.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use wireloom_model::{
    Cidr, Endpoint, Host, NodeName, PeerName, PresharedKey, PublicKey, Snapshot, Subject,
};
use wireloom_topology::kilo::{Seen, View};
use wireloom_topology::{Conf, ConfPeer, PlanError, Topology, TunnelPeer};

use crate::planner::Planner;

/// Whose configuration is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// A node's.
    Node(NodeName),
    /// A peer's.
    Peer(PeerName),
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Of a device, as text.
    Conf(String),
    /// Of a node or peer as somebody else's peer.
    AsPeer(AsPeer),
    /// None: the node is no gateway, so its device has no peers.
    NoGateway,
}

/// A node or peer as somebody else's peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsPeer {
    /// What is reached through it, in order.
    pub allowed_ips: Vec<Cidr>,
    /// Where it is dialled.
    pub endpoint: Option<Endpoint>,
    /// How often it wants the tunnel kept open, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// The symmetric key mixed into handshakes, in base64.
    pub preshared_key: Option<String>,
    /// Its key.
    pub public_key: PublicKey,
}

/// Which configuration is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Whose.
    pub whose: Whose,
    /// Whether as somebody else's peer.
    pub as_peer: bool,
    /// What more is reached: through it as a peer, or by a peer's own configuration through the first of its tunnels in the
    /// order of names.
    pub more: Vec<Cidr>,
}

/// The configuration that is asked for.
pub fn show(snapshot: &Snapshot, planner: &Planner, ask: &Ask) -> Result<Shown, PlanError> {
    let show = if ask.as_peer { as_peer } else { conf };
    show(snapshot, planner, &ask.whose, &ask.more)
}

fn conf(
    snapshot: &Snapshot,
    planner: &Planner,
    whose: &Whose,
    more: &[Cidr],
) -> Result<Shown, PlanError> {
    let seen = Seen::default();
    let conf = match (whose, planner.kilo(snapshot).cloned()) {
        (Whose::Node(node), Some(settings)) => View::of(snapshot, settings, &seen, Some(node))
            .conf_of_node(node, port(snapshot, node))?,
        (Whose::Peer(peer), Some(settings)) => {
            Some(View::of(snapshot, settings, &seen, None).conf_of_peer(peer, more)?)
        }
        (Whose::Node(node), None) => {
            let plan = wireloom_topology::plan(snapshot, node)?;
            let listen_port = Some(port(snapshot, node));
            plan.gateway.then(|| Conf { listen_port, peers: peers(plan.tunnel_peers) })
        }
        (Whose::Peer(peer), None) => {
            let view = wireloom_topology::peer_view(snapshot, peer)?;
            let by_name = view.iter().enumerate().min_by_key(|(_, peer)| &peer.name);
            let first = by_name.map_or(0, |(at, _)| at);
            let mut conf = Conf { listen_port: None, peers: peers(view) };
            conf.carry(first, more);
            Some(conf)
        }
    };
    Ok(conf.map_or(Shown::NoGateway, |conf| Shown::Conf(conf.to_string())))
}

fn as_peer(
    snapshot: &Snapshot,
    planner: &Planner,
    whose: &Whose,
    more: &[Cidr],
) -> Result<Shown, PlanError> {
    let seen = Seen::default();
    let peer = match (whose, planner.kilo(snapshot).cloned()) {
        (Whose::Node(node), Some(settings)) => {
            View::of(snapshot, settings, &seen, Some(node)).node_as_peer(node)?
        }
        (Whose::Node(node), None) => {
            Topology::of(snapshot).segment_as_peer(node)?.map(ConfPeer::from)
        }
        (Whose::Peer(peer), _) => Some(outsider(snapshot, peer)?),
    };
    Ok(match peer {
        Some(mut peer) => {
            peer.extend(more.iter().copied());
            Shown::AsPeer(peer.into())
        }
        None => Shown::NoGateway,
    })
}

fn peers(peers: Vec<TunnelPeer>) -> Vec<ConfPeer> {
    peers.into_iter().map(ConfPeer::from).collect()
}

/// The port that a node's device listens on.
fn port(snapshot: &Snapshot, node: &NodeName) -> NonZeroU16 {
    let node = snapshot.nodes.iter().find(|other| other.name == *node);
    let endpoint = node.and_then(|node| node.endpoint.as_ref());
    endpoint.map_or(snapshot.mesh.port, |endpoint| endpoint.port)
}

fn outsider(snapshot: &Snapshot, name: &PeerName) -> Result<ConfPeer, PlanError> {
    let found = snapshot.peers.iter().find(|peer| peer.name == *name);
    let peer = found.ok_or_else(|| PlanError::Unknown { subject: Subject::Peer(name.clone()) })?;
    Ok(ConfPeer {
        allowed_ips: peer.allowed_ips.clone(),
        endpoint: peer.endpoint.clone(),
        persistent_keepalive: peer.persistent_keepalive,
        preshared_key: peer.preshared_key.clone(),
        public_key: peer.key,
    })
}

impl From<ConfPeer> for AsPeer {
    fn from(peer: ConfPeer) -> Self {
        Self {
            allowed_ips: peer.allowed_ips,
            endpoint: peer.endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            preshared_key: peer.preshared_key.map(|key| key.to_text().to_string()),
            public_key: peer.public_key,
        }
    }
}

impl AsPeer {
    /// The section of a WireGuard configuration.
    pub fn text(&self) -> String {
        let key = |text: &String| text.parse::<PresharedKey>().ok();
        let peer = ConfPeer {
            allowed_ips: self.allowed_ips.clone(),
            endpoint: self.endpoint.clone(),
            persistent_keepalive: self.persistent_keepalive,
            preshared_key: self.preshared_key.as_ref().and_then(key),
            public_key: self.public_key,
        };
        peer.to_string()
    }

    /// Kilo's `Peer` resource of this name. What is not there is left out, so that Kilo takes what it printed.
    pub fn resource(&self, name: &str) -> serde_json::Value {
        let mut spec = serde_json::json!({
            "allowedIPs": self.allowed_ips,
            "publicKey": self.public_key,
        });
        if let Some(endpoint) = &self.endpoint {
            let host = match &endpoint.host {
                Host::Name(name) => serde_json::json!({ "dns": name }),
                Host::Address(address) => serde_json::json!({ "ip": address }),
                Host::Scoped(address, _) => serde_json::json!({ "ip": address }),
            };
            spec["endpoint"] = serde_json::json!({ "dnsOrIP": host, "port": endpoint.port });
        }
        if let Some(keepalive) = self.persistent_keepalive {
            spec["persistentKeepalive"] = keepalive.get().into();
        }
        if let Some(key) = &self.preshared_key {
            spec["presharedKey"] = key.as_str().into();
        }
        serde_json::json!({
            "apiVersion": "kilo.squat.ai/v1alpha1",
            "kind": "Peer",
            "metadata": { "name": name },
            "spec": spec,
        })
    }
}

#[cfg(test)]
mod tests;
