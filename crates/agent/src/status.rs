//! What a node says of itself to people and programs: `wireloom status`.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use wireloom_model::{Cidr, InterfaceName, Location, NodeName, PublicKey};

use crate::device::PathReport;

/// One node's view of the mesh, at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// This node's name, once the mesh lists it.
    pub node: Option<NodeName>,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its tunnel device.
    pub interface: InterfaceName,
    /// The UDP port that the device listens on.
    pub listen_port: Option<u16>,
    /// The device's MTU in bytes.
    pub mtu: Option<u32>,
    /// The largest packet in bytes that reaches every pod of the mesh whole: what to give to pods as their MTU.
    pub pod_mtu: Option<u32>,
    /// Its location.
    pub location: Option<Location>,
    /// Whether it carries its location's traffic.
    pub gateway: bool,
    /// Its home gateway; itself if it is a gateway.
    pub home: Option<NodeName>,
    /// Its overlay addresses.
    pub overlay_addresses: Vec<IpAddr>,
    /// Why the mesh may be out of date: what the registry said when it could not be read.
    pub stale: Option<String>,
    /// All nodes of the mesh, by name.
    pub nodes: Vec<NodeReport>,
    /// The WireGuard peers of the device.
    pub peers: Vec<PeerReport>,
    /// How packets move.
    pub path: PathReport,
    /// How often the plan was applied, and how many changes that wrote.
    pub work: Work,
    /// Everything that is wrong.
    pub problems: Vec<ProblemReport>,
}

/// A node of the mesh, seen from here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: NodeName,
    /// Its location, or its own name where it is a location of its own.
    pub location: String,
    /// Its home gateway.
    pub home: Option<NodeName>,
    /// Its overlay addresses.
    pub overlay_addresses: Vec<IpAddr>,
    /// Whether it gives signs of life, as far as the registry knows. Agents of earlier versions do not say, and count as if
    /// all did.
    #[serde(default = "gives_signs")]
    pub healthy: bool,
}

/// A WireGuard peer of this node's device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerReport {
    /// The name of the node or outside peer; the key where the plan has no name for it.
    pub name: String,
    /// What it is. `None` where the plan has no name for it.
    pub kind: Option<PeerKind>,
    /// Its key.
    pub public_key: PublicKey,
    /// Where packets to it go now.
    pub endpoint: Option<SocketAddr>,
    /// How the plan knows that place. `None` without an endpoint or a plan.
    pub path: Option<PeerPath>,
    /// How the tunnel is.
    pub state: PeerState,
    /// Seconds since the last handshake.
    pub handshake_age: Option<u64>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Seconds between keepalives; 0 is off.
    pub persistent_keepalive: u16,
    /// The largest packet in bytes that reaches it whole, as far as that is known.
    pub mtu: Option<u32>,
    /// What is sent to it and accepted from it.
    pub allowed_ips: Vec<Cidr>,
}

/// What a WireGuard peer is: a Node and a Peer may have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// A node of the mesh.
    Node,
    /// A peer from outside.
    Peer,
}

/// How the plan knows the place that packets to a peer go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerPath {
    /// Another place where the peer may be reached: another address of its, or where others hear it.
    Alternative,
    /// Not at all: it was heard there.
    Heard,
    /// It is the place where the peer is to be dialled.
    Planned,
}

/// Where a peer may be reached by the plan, as addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Where it is to be dialled.
    pub planned: Option<SocketAddr>,
    /// Where else, the best first.
    pub alternatives: Vec<SocketAddr>,
}

/// How a tunnel is, told by authenticated packets alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// A handshake within the last 180 s: packets flow (REJECT_AFTER_TIME, WireGuard paper, section 6.1).
    Connected,
    /// A handshake once, none lately: idle, or lost.
    Idle,
    /// No handshake yet, and nowhere to dial: the peer has to come.
    Waiting,
    /// No handshake yet, though there is somewhere to dial.
    Unreached,
}

/// What the agent did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// How often the plan was compared with the device and the kernel.
    pub reconciles: u64,
    /// Requests written to the device.
    pub device_writes: u64,
    /// How often everything of ours was read back from the kernel.
    pub kernel_reads: u64,
    /// Changes written to the kernel.
    pub kernel_writes: u64,
}

/// A problem as text, as [`wireloom_model::Problem`] prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemReport {
    /// `error` or `warning`.
    pub severity: String,
    /// What it is about.
    pub subject: String,
    /// Its kind, for programs.
    pub kind: String,
    /// One sentence for people.
    pub message: String,
}

impl PeerKind {
    /// Its name for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Peer => "peer",
        }
    }
}

impl PeerPath {
    /// How a place is known.
    pub fn of(endpoint: SocketAddr, places: &Places) -> Self {
        if places.planned == Some(endpoint) {
            Self::Planned
        } else if places.alternatives.contains(&endpoint) {
            Self::Alternative
        } else {
            Self::Heard
        }
    }

    /// Its name for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alternative => "alternative",
            Self::Heard => "heard",
            Self::Planned => "planned",
        }
    }
}

impl Places {
    /// All of them, the best first.
    pub fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.planned.into_iter().chain(self.alternatives.iter().copied())
    }
}

impl PeerState {
    /// The state of a peer with this endpoint, last handshake `age` seconds ago.
    pub const fn of(endpoint: Option<SocketAddr>, age: Option<u64>) -> Self {
        match (age, endpoint) {
            (Some(0..=180), _) => Self::Connected,
            (Some(_), _) => Self::Idle,
            (None, None) => Self::Waiting,
            (None, Some(_)) => Self::Unreached,
        }
    }
}

const fn gives_signs() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_versions_word_on_a_node_is_understood() {
        let word =
            r#"{"name": "a", "location": "ams", "home": null, "overlay_addresses": ["10.4.0.1"]}"#;
        let report: NodeReport = serde_json::from_str(word).unwrap();
        assert!(report.healthy);
    }

    #[test]
    fn a_place_is_planned_or_another_or_one_where_the_peer_was_heard() {
        let at = |last: u8| SocketAddr::from(([192, 0, 2, last], 51820));
        let places = Places { planned: Some(at(1)), alternatives: vec![at(2), at(3)] };
        let path = |last| PeerPath::of(at(last), &places);
        assert_eq!(
            [1, 2, 3, 4].map(path).map(PeerPath::as_str),
            ["planned", "alternative", "alternative", "heard"]
        );
        // Who comes by itself was heard, wherever it is.
        assert_eq!(PeerPath::of(at(1), &Places::default()), PeerPath::Heard);
    }

    #[test]
    fn a_peers_state_comes_from_its_handshakes() {
        let endpoint = Some("192.0.2.1:51820".parse().unwrap());
        assert_eq!(PeerState::of(endpoint, Some(180)), PeerState::Connected);
        assert_eq!(PeerState::of(None, Some(181)), PeerState::Idle);
        assert_eq!(PeerState::of(None, None), PeerState::Waiting);
        assert_eq!(PeerState::of(endpoint, None), PeerState::Unreached);
    }
}
