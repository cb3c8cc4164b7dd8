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
}

/// A WireGuard peer of this node's device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerReport {
    /// The name of the node or outside peer; the key where the plan has no name for it.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Where packets to it go now.
    pub endpoint: Option<SocketAddr>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_state_comes_from_its_handshakes() {
        let endpoint = Some("192.0.2.1:51820".parse().unwrap());
        assert_eq!(PeerState::of(endpoint, Some(180)), PeerState::Connected);
        assert_eq!(PeerState::of(None, Some(181)), PeerState::Idle);
        assert_eq!(PeerState::of(None, None), PeerState::Waiting);
        assert_eq!(PeerState::of(endpoint, None), PeerState::Unreached);
    }
}
