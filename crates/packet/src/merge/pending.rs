//! A run while it grows.

use std::ops::Range;

use super::flow::{FIN, PSH, Segment};
use crate::ip::{long, word};
use crate::vnet::{GsoKind, VnetHeader};

/// The most bytes of a super-packet, IP header included.
const MOST_BYTES: usize = 65_535;
/// The most datagrams of a UDP super-packet (`UDP_GRO_CNT_MAX`).
const MOST_DATAGRAMS: usize = 64;
/// The most packets of a TCP super-packet: a write takes 1,024 pieces at most (`UIO_MAXIOV`).
const MOST_SEGMENTS: usize = 512;

/// One run: a packet alone, or several of a flow.
#[derive(Debug)]
pub(super) struct Pending {
    /// Where the run's parts stand in the list of all parts, once they are gathered.
    pub(super) parts: Range<usize>,
    /// Where the first packet stands in the arena.
    first: Range<usize>,
    /// What the first packet was found to be; `None` for a packet that may not merge.
    segment: Option<Segment>,
    packets: usize,
    /// The length of the super-packet.
    length: usize,
    /// By how much the IPv4 id grows from packet to packet: 1, or 0 in datagrams that are never fragmented (RFC 6864
    /// section 4.1 gives their id no meaning). The second packet shows it.
    id_step: Option<u16>,
    /// FIN and PSH of the last packet.
    last_flags: u8,
    /// Whether no packet may follow.
    complete: bool,
}

impl Pending {
    /// A packet that stays alone.
    pub(super) fn alone(first: Range<usize>) -> Self {
        Self {
            parts: 0..0,
            length: first.len(),
            first,
            segment: None,
            packets: 1,
            id_step: None,
            last_flags: 0,
            complete: true,
        }
    }

    /// A packet that others may join.
    pub(super) fn start(packet: &[u8], first: Range<usize>, segment: Segment) -> Self {
        let complete = last_flags(packet, &segment) != 0;
        Self { segment: Some(segment), complete, ..Self::alone(first) }
    }

    /// The number of packets.
    pub(super) const fn packets(&self) -> usize {
        self.packets
    }

    /// Whether no packet may follow.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether this packet continues the run.
    pub(super) fn takes(&self, arena: &[u8], packet: &[u8], segment: &Segment) -> bool {
        let Some(own) = &self.segment else { return false };
        let first = &arena[self.first.clone()];
        let in_sequence = match own.kind {
            GsoKind::Udp => true,
            _ => {
                let at = own.ip_header + 4;
                let so_far = (self.length - own.headers) as u32;
                long(packet, at) == long(first, at).wrapping_add(so_far)
            }
        };
        !self.complete
            && own.kind == segment.kind
            && own.headers == segment.headers
            && segment.payload <= own.payload
            && self.length + segment.payload <= MOST_BYTES
            && in_sequence
            && own.headers_match(first, packet)
            && self.id_fits(first, packet)
    }

    /// The IPv4 id as Linux checks it (`inet_gro_flush`).
    fn id_fits(&self, first: &[u8], packet: &[u8]) -> bool {
        let Some(ahead) = ids_apart(first, packet) else { return true };
        match self.id_step {
            Some(step) => ahead == step.wrapping_mul(self.packets as u16),
            None => ahead == 1 || ahead == 0 && never_fragmented(first),
        }
    }

    /// Adds a packet that the run [`takes`](Self::takes).
    pub(super) fn join(&mut self, arena: &[u8], packet: &[u8], segment: &Segment) {
        let Some(own) = &self.segment else { return };
        if self.id_step.is_none() {
            self.id_step = ids_apart(&arena[self.first.clone()], packet);
        }
        self.packets += 1;
        self.length += segment.payload;
        self.last_flags = last_flags(packet, segment);
        let most = if own.kind == GsoKind::Udp { MOST_DATAGRAMS } else { MOST_SEGMENTS };
        self.complete =
            self.last_flags != 0 || segment.payload < own.payload || self.packets == most;
    }

    /// Rewrites the first packet's headers if others joined it.
    pub(super) fn finish(&self, arena: &mut [u8]) {
        if let Some(segment) = self.merged() {
            segment.rewrite(&mut arena[self.first.clone()], self.length, self.last_flags);
        }
    }

    /// The header to write in front.
    pub(super) fn header(&self) -> VnetHeader {
        self.merged().map_or_else(VnetHeader::default, |segment| VnetHeader {
            needs_checksum: true,
            gso: segment.kind,
            header_bytes: segment.headers as u16,
            segment_bytes: segment.payload as u16,
            checksum_start: segment.ip_header as u16,
            checksum_offset: segment.checksum_offset() as u16,
        })
    }

    fn merged(&self) -> Option<&Segment> {
        self.segment.as_ref().filter(|_| self.packets > 1)
    }
}

/// The flags after which nothing may follow: as Linux, which hands on at once what the sender pushed.
fn last_flags(packet: &[u8], segment: &Segment) -> u8 {
    match segment.kind {
        GsoKind::Udp => 0,
        _ => packet[segment.ip_header + 13] & (FIN | PSH),
    }
}

/// By how much the second packet's IPv4 id is ahead. `None` for IPv6.
fn ids_apart(first: &[u8], packet: &[u8]) -> Option<u16> {
    (first[0] >> 4 == 4).then(|| word(packet, 4).wrapping_sub(word(first, 4)))
}

/// Whether an IPv4 packet has DF set.
fn never_fragmented(packet: &[u8]) -> bool {
    packet[6] & 0x40 != 0
}
