//! What is said to and by the kernel's WireGuard: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::Emitable;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr as IpAttribute,
    WireguardAttribute as Attribute, WireguardCmd, WireguardDeviceFlags, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute as PeerAttribute, WireguardPeerFlags,
};
use wireloom_model::{Cidr, InterfaceName, PresharedKey, PrivateKey, PublicKey};
use wireloom_tunnel::uapi::{DeviceStatus, PeerStatus, SetDevice, SetPeer};

/// The peers of one message in bytes. A nest of attributes says its length in 16 bits (`struct nlattr`), and one peer's
/// part may still come on top.
const MESSAGE_BYTES: usize = 32 << 10;

/// The allowed IPs of a peer in one message, each of which takes 44 bytes at most.
const MESSAGE_ALLOWED_IPS: usize = 512;

/// Asks for all that there is to know of a device.
pub(super) fn question(interface: &InterfaceName) -> WireguardMessage {
    WireguardMessage { cmd: WireguardCmd::GetDevice, attributes: vec![named(interface)] }
}

/// The request as messages, in order.
pub(super) fn changes(interface: &InterfaceName, request: &SetDevice) -> Vec<WireguardMessage> {
    let mut head = vec![named(interface)];
    if let Some(key) = &request.private_key {
        // All zeros takes it away (`wg_set_device`, `drivers/net/wireguard/netlink.c`).
        head.push(Attribute::PrivateKey(key.as_ref().map_or([0; 32], |key| *key.as_bytes())));
    }
    head.extend(request.listen_port.map(Attribute::ListenPort));
    head.extend(request.fwmark.map(Attribute::Fwmark));
    if request.replace_peers {
        head.push(Attribute::Flags(WireguardDeviceFlags::ReplacePeers));
    }
    let mut messages = Vec::new();
    let mut peers: Vec<WireguardPeer> = Vec::new();
    let mut bytes = 0;
    let mut end = |peers: Vec<WireguardPeer>, head: &mut Vec<Attribute>| {
        // What is said of the device is said once.
        let mut attributes = std::mem::replace(head, vec![named(interface)]);
        if !peers.is_empty() {
            attributes.push(Attribute::Peers(peers));
        }
        messages.push(WireguardMessage { cmd: WireguardCmd::SetDevice, attributes });
    };
    for part in request.peers.iter().flat_map(parts) {
        bytes += part.as_slice().buffer_len();
        peers.push(part);
        if bytes >= MESSAGE_BYTES {
            end(std::mem::take(&mut peers), &mut head);
            bytes = 0;
        }
    }
    if !peers.is_empty() || head.len() > 1 {
        end(peers, &mut head);
    }
    messages
}

/// A peer's change, in parts that each fit into a message.
fn parts(peer: &SetPeer) -> Vec<WireguardPeer> {
    let mut flags = WireguardPeerFlags::empty();
    flags.set(WireguardPeerFlags::RemoveMe, peer.remove);
    flags.set(WireguardPeerFlags::UpdateOnly, peer.update_only);
    flags.set(WireguardPeerFlags::ReplaceAllowedIps, peer.replace_allowed_ips);
    let key = PeerAttribute::PublicKey(*peer.key.as_bytes());
    let mut head = vec![key.clone(), PeerAttribute::Flags(flags)];
    if let Some(preshared) = &peer.preshared_key {
        let bytes = preshared.as_ref().map_or([0; 32], |key| *key.as_bytes());
        head.push(PeerAttribute::PresharedKey(bytes));
    }
    head.extend(peer.endpoint.map(PeerAttribute::Endpoint));
    head.extend(peer.persistent_keepalive.map(PeerAttribute::PersistentKeepalive));
    let allowed: Vec<WireguardAllowedIp> = peer.allowed_ips.iter().map(allowed_ip).collect();
    let mut chunks = allowed.chunks(MESSAGE_ALLOWED_IPS).map(<[_]>::to_vec);
    head.extend(chunks.next().map(PeerAttribute::AllowedIps));
    let rest = chunks.map(|chunk| {
        let flags = PeerAttribute::Flags(WireguardPeerFlags::UpdateOnly);
        WireguardPeer(vec![key.clone(), flags, PeerAttribute::AllowedIps(chunk)])
    });
    std::iter::once(WireguardPeer(head)).chain(rest).collect()
}

fn allowed_ip(prefix: &Cidr) -> WireguardAllowedIp {
    let family = match prefix.address() {
        IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
        IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        IpAttribute::Family(family),
        IpAttribute::IpAddr(prefix.address()),
        IpAttribute::Cidr(prefix.length()),
    ])
}

fn named(interface: &InterfaceName) -> Attribute {
    Attribute::IfName(interface.to_string())
}

/// Whether the request takes single allowed IPs away, which only kernels from 6.16 on can.
pub(super) fn takes_away_allowed_ips(request: &SetDevice) -> bool {
    request.peers.iter().any(|peer| !peer.removed_allowed_ips.is_empty())
}

/// The same request for the device as it is, in terms that every kernel knows: whole lists of allowed IPs instead of
/// single ones to take away.
pub(super) fn with_whole_lists(request: &SetDevice, status: &DeviceStatus) -> SetDevice {
    let present: BTreeMap<PublicKey, &PeerStatus> =
        status.peers.iter().map(|peer| (peer.key, peer)).collect();
    let mut request = request.clone();
    for peer in &mut request.peers {
        let removed = std::mem::take(&mut peer.removed_allowed_ips);
        if removed.is_empty() || peer.replace_allowed_ips {
            continue;
        }
        if let Some(status) = present.get(&peer.key) {
            peer.allowed_ips.extend(status.allowed_ips.difference(&removed));
        }
        peer.replace_allowed_ips = true;
    }
    request
}

/// What the parts of an answer say together. A peer with many allowed IPs goes on from one part to the next.
pub(super) fn status(parts: impl IntoIterator<Item = Vec<Attribute>>) -> DeviceStatus {
    let mut status = DeviceStatus::default();
    let mut peers: BTreeMap<PublicKey, PeerStatus> = BTreeMap::new();
    for attribute in parts.into_iter().flatten() {
        match attribute {
            Attribute::PrivateKey(bytes) => {
                status.private_key = Some(PrivateKey::from_bytes(bytes))
            }
            Attribute::ListenPort(port) => status.listen_port = port,
            Attribute::Fwmark(mark) => status.fwmark = mark,
            Attribute::Peers(list) => list.iter().for_each(|peer| hear(&mut peers, peer)),
            _ => {}
        }
    }
    status.peers = peers.into_values().collect();
    status
}

fn hear(peers: &mut BTreeMap<PublicKey, PeerStatus>, told: &WireguardPeer) {
    let key = told.iter().find_map(|attribute| match attribute {
        PeerAttribute::PublicKey(bytes) => Some(PublicKey::from_bytes(*bytes)),
        _ => None,
    });
    let Some(key) = key else { return };
    let peer = peers.entry(key).or_insert_with(|| PeerStatus::new(key));
    for attribute in told.iter() {
        match attribute {
            PeerAttribute::PresharedKey(bytes) if *bytes != [0; 32] => {
                peer.preshared_key = Some(PresharedKey::from_bytes(*bytes));
            }
            PeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
            PeerAttribute::PersistentKeepalive(seconds) => peer.persistent_keepalive = *seconds,
            PeerAttribute::LastHandshake(time) => {
                // Zero is never.
                let seconds = u64::try_from(time.seconds).unwrap_or(0);
                let nanoseconds = u32::try_from(time.nano_seconds).unwrap_or(0);
                let time = Duration::new(seconds, nanoseconds);
                peer.last_handshake = (!time.is_zero()).then_some(time);
            }
            PeerAttribute::RxBytes(bytes) => peer.rx_bytes = *bytes,
            PeerAttribute::TxBytes(bytes) => peer.tx_bytes = *bytes,
            PeerAttribute::AllowedIps(list) => peer.allowed_ips.extend(prefixes(list)),
            _ => {}
        }
    }
}

fn prefixes(list: &[WireguardAllowedIp]) -> BTreeSet<Cidr> {
    list.iter()
        .filter_map(|attributes| {
            let mut address = None;
            let mut length = None;
            for attribute in attributes.iter() {
                match attribute {
                    IpAttribute::IpAddr(ip) => address = Some(*ip),
                    IpAttribute::Cidr(bits) => length = Some(*bits),
                    _ => {}
                }
            }
            Cidr::new(address?, length?).ok()
        })
        .collect()
}
