//! The cross-platform userspace configuration protocol: what `wg` and a device say to each other over a socket
//! (<https://www.wireguard.com/xplatform/>).
//!
//! The types are plain data; [parsing](Request::parse) and printing go both ways, so that a device and its clients use
//! the same code. Keys travel as lower-case hex.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use wireloom_model::{Cidr, PresharedKey, PrivateKey, PublicKey};

pub use parse::{ErrorKind, ParseError, ResponseError};
pub use print::{errno_text, get_text};

mod parse;
mod print;
#[cfg(test)]
mod tests;

/// The error number that answers a request which can't be understood (`EINVAL`).
pub const EINVAL: i32 = 22;

/// Keys of our own, and the values of a switch.
const ENGINE: &str = "wireloom.engine";
const OFFLOAD: &str = "wireloom.offload.";
const DROP: &str = "wireloom.drop.";
const ON: &str = "on";
const OFF: &str = "off";

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `get=1`: the device's state.
    Get,
    /// `set=1`: a change.
    Set(SetDevice),
}

/// A change of a device. What is `None` or not named stays as it is.
#[derive(Debug, Clone, Default)]
pub struct SetDevice {
    /// The private key; `Some(None)` takes it away.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// The mark of outer packets; 0 is none.
    pub fwmark: Option<u32>,
    /// Whether peers that are not named are removed, and named ones keep nothing of their configuration. Live sessions
    /// and endpoints learnt by roaming outlive it where their keys stay.
    pub replace_peers: bool,
    /// The peers, in the order of the request.
    pub peers: Vec<SetPeer>,
}

/// A change of a peer. What is `None` or empty stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPeer {
    /// The peer's name: its public key.
    pub key: PublicKey,
    /// Whether the peer is removed.
    pub remove: bool,
    /// Whether the change is left out if there is no such peer yet.
    pub update_only: bool,
    /// The preshared key; `Some(None)` takes it away.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Where the peer is sent to until it is heard from elsewhere.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// Whether allowed IPs that are not named are removed.
    pub replace_allowed_ips: bool,
    /// Allowed IPs to add. One that another peer has moves here.
    pub allowed_ips: BTreeSet<Cidr>,
    /// Allowed IPs to take away from this peer (`allowed_ip=-...`), before the others are added.
    pub removed_allowed_ips: BTreeSet<Cidr>,
}

/// The state of a device.
#[derive(Debug, Clone, Default)]
pub struct DeviceStatus {
    /// The private key.
    pub private_key: Option<PrivateKey>,
    /// The UDP port that the device listens on.
    pub listen_port: u16,
    /// The mark of outer packets; 0 is none.
    pub fwmark: u32,
    /// The peers, in the order of their keys.
    pub peers: Vec<PeerStatus>,
    /// What only a device of ours tells.
    pub path: PathStatus,
}

/// How a device of ours moves packets. It is told by keys that start with `wireloom.`, which other clients pass over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathStatus {
    /// What makes its handshakes and holds its sessions (`wireloom.engine=noise`).
    pub engine: Option<String>,
    /// Offloads by name, and whether each is in use (`wireloom.offload.gso=on`).
    pub offloads: BTreeMap<String, bool>,
    /// Packets dropped by reason, without reasons that never occurred (`wireloom.drop.no_peer=3`).
    pub drops: BTreeMap<String, u64>,
}

/// The state of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its public key.
    pub key: PublicKey,
    /// Its preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// Where it was heard from last, or else where it was configured to be.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake completed, as the time since the Unix epoch.
    pub last_handshake: Option<Duration>,
    /// Bytes sent to it, as payload of outer datagrams, handshakes included.
    pub tx_bytes: u64,
    /// Authenticated bytes received from it, counted the same way.
    pub rx_bytes: u64,
    /// Seconds between keepalives; 0 is off.
    pub persistent_keepalive: u16,
    /// Its allowed IPs.
    pub allowed_ips: BTreeSet<Cidr>,
}

impl SetPeer {
    /// A change of nothing: the peer is made if it is not there yet.
    pub const fn new(key: PublicKey) -> Self {
        Self {
            key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: BTreeSet::new(),
            removed_allowed_ips: BTreeSet::new(),
        }
    }

    /// The removal of a peer.
    pub const fn removal(key: PublicKey) -> Self {
        let mut peer = Self::new(key);
        peer.remove = true;
        peer
    }
}

impl PeerStatus {
    /// A peer that was never heard of.
    pub const fn new(key: PublicKey) -> Self {
        Self {
            key,
            preshared_key: None,
            endpoint: None,
            last_handshake: None,
            tx_bytes: 0,
            rx_bytes: 0,
            persistent_keepalive: 0,
            allowed_ips: BTreeSet::new(),
        }
    }
}

/// Private keys compare by their bytes; this is configuration at rest, not an oracle to time.
fn same_key(one: Option<&PrivateKey>, other: Option<&PrivateKey>) -> bool {
    one.map(PrivateKey::as_bytes) == other.map(PrivateKey::as_bytes)
}

impl PartialEq for SetDevice {
    fn eq(&self, other: &Self) -> bool {
        let key = |set: &'_ Self| set.private_key.is_some();
        key(self) == key(other)
            && same_key(
                self.private_key.as_ref().and_then(Option::as_ref),
                other.private_key.as_ref().and_then(Option::as_ref),
            )
            && self.listen_port == other.listen_port
            && self.fwmark == other.fwmark
            && self.replace_peers == other.replace_peers
            && self.peers == other.peers
    }
}

impl Eq for SetDevice {}

impl PartialEq for DeviceStatus {
    fn eq(&self, other: &Self) -> bool {
        same_key(self.private_key.as_ref(), other.private_key.as_ref())
            && self.listen_port == other.listen_port
            && self.fwmark == other.fwmark
            && self.peers == other.peers
            && self.path == other.path
    }
}

impl Eq for DeviceStatus {}
