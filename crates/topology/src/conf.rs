//! WireGuard configurations as text, for `wg setconf` and for people.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;

use wireloom_model::{Cidr, Endpoint, PresharedKey, PublicKey};

use crate::plan::TunnelPeer;

/// A WireGuard configuration without its private key (wg(8), "configuration file format"). Printed as kgctl prints it,
/// order of keys included, so that scripts that compare texts go on working. Its text holds preshared keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// The UDP port of the device. `None` leaves the section out.
    pub listen_port: Option<NonZeroU16>,
    /// The peers, in order.
    pub peers: Vec<ConfPeer>,
}

/// A peer of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfPeer {
    /// What is reached through it, in order.
    pub allowed_ips: Vec<Cidr>,
    /// Where it is dialled.
    pub endpoint: Option<Endpoint>,
    /// How often the tunnel is kept open, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// The symmetric key mixed into handshakes.
    pub preshared_key: Option<PresharedKey>,
    /// Its key.
    pub public_key: PublicKey,
}

impl Conf {
    /// Has this peer reach more, as far as no peer does already.
    pub fn carry(&mut self, carrier: usize, more: &[Cidr]) {
        let reached: BTreeSet<Cidr> =
            self.peers.iter().flat_map(|peer| &peer.allowed_ips).copied().collect();
        if let Some(peer) = self.peers.get_mut(carrier) {
            peer.extend(more.iter().copied().filter(|prefix| !reached.contains(prefix)));
        }
    }
}

impl ConfPeer {
    /// Adds what is reached through it, unless it is already.
    pub fn extend(&mut self, prefixes: impl IntoIterator<Item = Cidr>) {
        self.allowed_ips.extend(prefixes);
        let mut seen = BTreeSet::new();
        self.allowed_ips.retain(|prefix| seen.insert(*prefix));
    }
}

impl From<TunnelPeer> for ConfPeer {
    fn from(peer: TunnelPeer) -> Self {
        Self {
            allowed_ips: peer.allowed_ips.into_iter().collect(),
            endpoint: peer.endpoint.or_else(|| peer.alternatives.into_iter().next()),
            persistent_keepalive: peer.persistent_keepalive,
            preshared_key: peer.preshared_key,
            public_key: peer.key,
        }
    }
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = self.listen_port {
            writeln!(f, "[Interface]\nListenPort = {port}")?;
        }
        for (at, peer) in self.peers.iter().enumerate() {
            if at > 0 || self.listen_port.is_some() {
                writeln!(f)?;
            }
            peer.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[Peer]")?;
        if !self.allowed_ips.is_empty() {
            let prefixes: Vec<String> = self.allowed_ips.iter().map(Cidr::to_string).collect();
            writeln!(f, "AllowedIPs = {}", prefixes.join(", "))?;
        }
        if let Some(endpoint) = &self.endpoint {
            writeln!(f, "Endpoint = {endpoint}")?;
        }
        let keepalive = self.persistent_keepalive.map_or(0, NonZeroU16::get);
        writeln!(f, "PersistentKeepalive = {keepalive}")?;
        if let Some(key) = &self.preshared_key {
            writeln!(f, "PresharedKey = {}", key.to_text().as_str())?;
        }
        writeln!(f, "PublicKey = {}", self.public_key)
    }
}
