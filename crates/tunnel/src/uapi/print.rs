//! Values to text.

use std::fmt::Write as _;
use std::net::SocketAddr;

use wireloom_model::PublicKey;
use zeroize::Zeroizing;

use super::{
    DROP, DeviceStatus, ENGINE, OFF, OFFLOAD, ON, PathStatus, PeerStatus, Request, SetDevice,
    SetPeer,
};

/// A text that grows line by line. It holds keys, so the room it leaves is zeroised: it is sized once.
struct Lines(Zeroizing<String>);

impl Lines {
    /// Room for the device's own lines, for this many peers and for this many allowed IPs.
    fn with_room(peers: usize, allowed_ips: usize) -> Self {
        Self(Zeroizing::new(String::with_capacity(2048 + peers * 512 + allowed_ips * 64)))
    }

    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "{key}={value}");
    }

    fn secret(&mut self, key: &str, bytes: &[u8; 32]) {
        self.line(key, Zeroizing::new(hex::encode(bytes)).as_str());
    }

    fn public_key(&mut self, key: &PublicKey) {
        self.line("public_key", hex::encode(key.as_bytes()));
    }

    fn end(mut self) -> Zeroizing<String> {
        self.0.push('\n');
        self.0
    }
}

/// The text of a request for the device's state.
pub const fn get_text() -> &'static str {
    "get=1\n\n"
}

/// The text that answers a change: 0 for success, else an error number such as [`EINVAL`](super::EINVAL).
///
/// The number is printed negative: `wg` negates what it reads to name the error (`wireguard-tools`, `src/ipc-uapi.h`),
/// and wireguard-go prints it so too.
pub fn errno_text(number: i32) -> String {
    format!("errno={}\n\n", -number.abs())
}

impl Request {
    /// The request as text, with the empty line that ends it.
    pub fn to_text(&self) -> Zeroizing<String> {
        match self {
            Self::Get => Zeroizing::new(get_text().to_owned()),
            Self::Set(device) => device.to_text(),
        }
    }
}

impl SetDevice {
    /// The request as text, with the empty line that ends it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let prefixes = |peer: &SetPeer| peer.allowed_ips.len() + peer.removed_allowed_ips.len();
        let mut lines =
            Lines::with_room(self.peers.len(), self.peers.iter().map(prefixes).sum::<usize>());
        lines.line("set", 1);
        if let Some(key) = &self.private_key {
            lines.secret("private_key", key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
        }
        if let Some(port) = self.listen_port {
            lines.line("listen_port", port);
        }
        if let Some(mark) = self.fwmark {
            lines.line("fwmark", mark);
        }
        if self.replace_peers {
            lines.line("replace_peers", true);
        }
        self.peers.iter().for_each(|peer| peer.print(&mut lines));
        lines.end()
    }
}

impl SetPeer {
    fn print(&self, lines: &mut Lines) {
        lines.public_key(&self.key);
        if self.remove {
            lines.line("remove", true);
        }
        if self.update_only {
            lines.line("update_only", true);
        }
        if let Some(key) = &self.preshared_key {
            lines.secret("preshared_key", key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
        }
        if let Some(endpoint) = self.endpoint {
            lines.line("endpoint", endpoint);
        }
        if let Some(seconds) = self.persistent_keepalive {
            lines.line("persistent_keepalive_interval", seconds);
        }
        if self.replace_allowed_ips {
            lines.line("replace_allowed_ips", true);
        }
        for prefix in &self.removed_allowed_ips {
            lines.line("allowed_ip", format_args!("-{prefix}"));
        }
        for prefix in &self.allowed_ips {
            lines.line("allowed_ip", prefix);
        }
    }
}

impl DeviceStatus {
    /// The answer to `get=1`, with `errno=0` and the empty line that end it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let prefixes = self.peers.iter().map(|peer| peer.allowed_ips.len()).sum::<usize>();
        let mut lines = Lines::with_room(self.peers.len(), prefixes);
        if let Some(key) = &self.private_key {
            lines.secret("private_key", key.as_bytes());
        }
        lines.line("listen_port", self.listen_port);
        if self.fwmark != 0 {
            lines.line("fwmark", self.fwmark);
        }
        self.path.print(&mut lines);
        self.peers.iter().for_each(|peer| peer.print(&mut lines));
        lines.line("errno", 0);
        lines.end()
    }
}

impl PathStatus {
    fn print(&self, lines: &mut Lines) {
        if let Some(engine) = &self.engine {
            lines.line(ENGINE, engine);
        }
        for (name, on) in &self.offloads {
            lines.line(&format!("{OFFLOAD}{name}"), if *on { ON } else { OFF });
        }
        for (reason, count) in &self.drops {
            lines.line(&format!("{DROP}{reason}"), count);
        }
    }
}

impl PeerStatus {
    fn print(&self, lines: &mut Lines) {
        lines.public_key(&self.key);
        let preshared_key = self.preshared_key.as_ref().map_or(&[0; 32], |key| key.as_bytes());
        lines.secret("preshared_key", preshared_key);
        lines.line("protocol_version", 1);
        if let Some(endpoint) = self.endpoint {
            lines.line("endpoint", plain(endpoint));
        }
        let handshake = self.last_handshake.unwrap_or_default();
        lines.line("last_handshake_time_sec", handshake.as_secs());
        lines.line("last_handshake_time_nsec", handshake.subsec_nanos());
        lines.line("tx_bytes", self.tx_bytes);
        lines.line("rx_bytes", self.rx_bytes);
        lines.line("persistent_keepalive_interval", self.persistent_keepalive);
        for prefix in &self.allowed_ips {
            lines.line("allowed_ip", prefix);
        }
    }
}

/// An IPv4 address that a dual-stack socket reports as IPv6 reads as IPv4.
fn plain(endpoint: SocketAddr) -> SocketAddr {
    match endpoint.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, endpoint.port()),
        _ => endpoint,
    }
}
