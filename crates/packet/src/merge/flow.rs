//! Which flow a packet belongs to, and whether it may merge with others of that flow.

use super::MergeOffloads;
use crate::checksum::{self, Sum};
use crate::ip::{IPV4_HEADER_BYTES, IpPacket, IpVersion, TCP, UDP, put_word, word};
use crate::vnet::GsoKind;

pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Packets that must stay in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    version: IpVersion,
    /// Both addresses as they stand in the header; those of IPv4 fill the first 8 bytes.
    addresses: [u8; 32],
    /// The protocol and both ports. `None` if they are out of sight: a fragment, an extension header, another protocol.
    ports: Option<(u8, [u8; 4])>,
}

impl Flow {
    /// Whether packets of the other flow may belong to this one.
    pub(super) fn may_hold(&self, other: &Self) -> bool {
        self.version == other.version
            && self.addresses == other.addresses
            && (other.ports.is_none() || self.ports == other.ports)
    }
}

/// A packet that may merge: its checksums are right, and all its bytes are IP header, transport header and payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// The kind of super-packet that it can become part of.
    pub(super) kind: GsoKind,
    /// The length of the IP header.
    pub(super) ip_header: usize,
    /// The length of IP and transport header.
    pub(super) headers: usize,
    /// The length of the payload, at least 1.
    pub(super) payload: usize,
}

/// The packet's flow, if it is an IP packet, and what merging needs to know of it, if it may merge.
pub(super) fn classify(
    bytes: &[u8],
    offloads: MergeOffloads,
    unmerged_udp_ports: &[u16],
) -> (Option<Flow>, Option<Segment>) {
    let Ok(packet) = IpPacket::parse(bytes) else { return (None, None) };
    let mut addresses = [0; 32];
    addresses[..packet.addresses().len()].copy_from_slice(packet.addresses());
    let mut flow = Flow { version: packet.version(), addresses, ports: None };
    if packet.is_fragment() || !matches!(packet.protocol(), TCP | UDP) {
        return (Some(flow), None);
    }
    flow.ports = packet.payload().first_chunk().map(|ports| (packet.protocol(), *ports));
    let segment = match packet.protocol() {
        TCP => tcp(&packet, offloads),
        _ => udp(&packet, offloads, unmerged_udp_ports),
    };
    // The sum over all bytes comes last: what does not merge for another reason is spared it.
    let segment = segment.filter(|_| {
        packet.bytes().len() == bytes.len() && ipv4_is_plain(&packet) && checksum::is_right(&packet)
    });
    (Some(flow), segment)
}

fn tcp(packet: &IpPacket<'_>, offloads: MergeOffloads) -> Option<Segment> {
    let (kind, taken) = match packet.version() {
        IpVersion::V4 => (GsoKind::Tcp4, offloads.tcp4),
        IpVersion::V6 => (GsoKind::Tcp6, offloads.tcp6),
    };
    let transport = packet.payload();
    if !taken || transport.len() < 20 {
        return None;
    }
    let header = usize::from(transport[12] >> 4) * 4;
    // CWR merges in the kernel as the first of a run; that takes an offload of its own (`TUN_F_TSO_ECN`).
    let plain = transport[13] & (ACK | SYN | RST | URG | CWR) == ACK;
    // All ones is another way to write 0, and would not come back from a split.
    if header < 20 || !plain || word(transport, 16) == 0xffff {
        return None;
    }
    Segment::new(kind, packet, header)
}

fn udp(
    packet: &IpPacket<'_>,
    offloads: MergeOffloads,
    unmerged_udp_ports: &[u16],
) -> Option<Segment> {
    let transport = packet.payload();
    let whole =
        offloads.udp && transport.len() > 8 && !unmerged_udp_ports.contains(&word(transport, 2));
    if whole { Segment::new(GsoKind::Udp, packet, 8) } else { None }
}

impl Segment {
    fn new(kind: GsoKind, packet: &IpPacket<'_>, transport_header: usize) -> Option<Self> {
        let ip_header = packet.header().len();
        let headers = ip_header + transport_header;
        let payload = packet.bytes().len().checked_sub(headers).filter(|payload| *payload > 0)?;
        Some(Self { kind, ip_header, headers, payload })
    }

    /// Whether two packets' headers are equal but for what a split writes anew: lengths, IPv4 id, checksums, TCP
    /// sequence, FIN and PSH. Both have headers of this segment's kind and length.
    pub(super) fn headers_match(&self, one: &[u8], other: &[u8]) -> bool {
        let same = |from: usize, to: usize| one[from..to] == other[from..to];
        let t = self.ip_header;
        let ip = match one[0] >> 4 {
            4 => same(0, 2) && same(6, 10) && same(12, t),
            _ => same(0, 4) && same(6, t),
        };
        ip && same(t, t + 4)
            && (self.kind == GsoKind::Udp
                || same(t + 8, t + 13)
                    && (one[t + 13] ^ other[t + 13]) & !(FIN | PSH) == 0
                    && same(t + 14, t + 16)
                    && same(t + 18, self.headers))
    }

    /// Writes the headers of a super-packet of this length over those of its first packet. The checksum is left for
    /// the kernel to complete.
    pub(super) fn rewrite(&self, packet: &mut [u8], length: usize, last_flags: u8) {
        let (ip, transport) = packet.split_at_mut(self.ip_header);
        let transport_length = length - ip.len();
        if ip[0] >> 4 == 4 {
            let old = word(ip, 2);
            put_word(ip, 2, length as u16);
            let checksum = checksum::updated(word(ip, 10), old, length as u16);
            put_word(ip, 10, checksum);
        } else {
            put_word(ip, 4, transport_length as u16);
        }
        let (addresses, protocol) = match ip[0] >> 4 {
            4 => (&ip[12..20], ip[9]),
            _ => (&ip[8..40], ip[6]),
        };
        let partial = Sum::of_pseudo_header(addresses, protocol, transport_length).partial();
        put_word(transport, self.checksum_offset(), partial);
        match self.kind {
            GsoKind::Udp => put_word(transport, 4, transport_length as u16),
            _ => transport[13] |= last_flags,
        }
    }

    /// Where the checksum stands in the transport header.
    pub(super) const fn checksum_offset(&self) -> usize {
        match self.kind {
            GsoKind::Udp => 6,
            _ => 16,
        }
    }
}

/// Whether an IPv4 header has no options and a right checksum; all ones is another way to write 0, as above.
fn ipv4_is_plain(packet: &IpPacket<'_>) -> bool {
    packet.version() == IpVersion::V6
        || packet.header().len() == IPV4_HEADER_BYTES
            && word(packet.header(), 10) != 0xffff
            && checksum::header_is_right(packet)
}
