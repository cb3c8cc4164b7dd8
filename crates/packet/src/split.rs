//! Super-packets cut into packets, each written whole into the caller's buffer.
//!
//! The kernel hands over up to 64 KiB of TCP stream or equal UDP datagrams behind one header. The segments repeat that
//! header with their own length, IPv4 id, TCP sequence, flags and checksums, as the kernel's own segmentation does
//! (`net/ipv4/tcp_offload.c`, `net/ipv4/udp_offload.c`). What every segment's checksums share is summed once.

use std::slice::Chunks;

use crate::batch::Frame;
use crate::checksum::Sum;
use crate::ip::{IpError, IpPacket, IpVersion, TCP, UDP, long, put_word, word};
use crate::vnet::GsoKind;

/// FIN and PSH, which only the last segment keeps.
const TCP_LAST_FLAGS: u16 = 0x09;
/// CWR, which only the first segment keeps (RFC 3168 section 6.1.2: it answers one ECE).
const TCP_FIRST_FLAGS: u16 = 0x80;

/// Why a frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The checksum to complete lies outside the transport header and payload.
    #[error("the frame's checksum is said to stand at byte {at} of {length}: drop the frame")]
    ChecksumPlace {
        /// Where the checksum would stand.
        at: usize,
        /// The packet's length in bytes.
        length: usize,
    },
    /// A fragment cannot be cut.
    #[error("the super-packet is a fragment: drop the frame")]
    Fragment,
    /// The frame holds no IP packet.
    #[error(transparent)]
    Ip(#[from] IpError),
    /// The packet's version or protocol is not of the kind that the frame claims to be.
    #[error(
        "the super-packet is said to be {kind:?} and its IP protocol is {protocol}: drop the frame"
    )]
    Kind {
        /// What the frame claims.
        kind: GsoKind,
        /// The packet's protocol.
        protocol: u8,
    },
    /// Segments without payload.
    #[error("the super-packet's segments are said to be 0 bytes long: drop the frame")]
    SegmentSize,
    /// The TCP or UDP header is cut short or gives itself less than its least length.
    #[error("the super-packet's transport header needs {need} bytes of {have}: drop the frame")]
    TransportHeader {
        /// The bytes behind the IP header.
        have: usize,
        /// The bytes that the header needs.
        need: usize,
    },
}

/// The packets of one frame, from first to last.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    /// The bytes that each packet starts with: the IP and transport header, or all of a packet that stays whole.
    headers: &'a [u8],
    payloads: Chunks<'a, u8>,
    largest: usize,
    cut: Cut,
}

/// What is done to each packet.
#[derive(Debug, Clone)]
enum Cut {
    /// Nothing is left to write.
    Done,
    /// One packet as it is, but for a checksum.
    Whole(Option<Unfinished>),
    /// A segment of a super-packet.
    Segment(Segment),
}

/// A checksum that holds only the pseudo-header's sum.
#[derive(Debug, Clone, Copy)]
struct Unfinished {
    /// Where the checksummed bytes start.
    start: usize,
    /// Where the checksum stands, from the packet's start; both bytes are inside the packet.
    at: usize,
}

/// The next segment's numbers, and the sums that all segments share.
#[derive(Debug, Clone)]
struct Segment {
    /// The length of the IP header.
    ip_header: usize,
    /// The IPv4 id and the sum of the IPv4 header without length, id and checksum.
    ipv4: Option<(u16, Sum)>,
    /// The sum of the transport header and the pseudo-header, without length, checksum and what `tcp` holds.
    shared: Sum,
    /// The sequence number and the flags' word; `None` for UDP.
    tcp: Option<(u32, u16)>,
    first: bool,
}

impl<'a> Segments<'a> {
    /// Looks at a frame's headers. The header's `header_bytes` is not believed: the length is the headers' own.
    ///
    /// # Errors
    /// The frame holds no IP packet, or is not what its header claims.
    pub fn new(frame: &Frame<'a>) -> Result<Self, SplitError> {
        let packet = IpPacket::parse(frame.packet)?;
        if frame.header.gso == GsoKind::None {
            return Self::whole(frame, &packet);
        }
        let segment_bytes = usize::from(frame.header.segment_bytes);
        if segment_bytes == 0 {
            return Err(SplitError::SegmentSize);
        }
        let ip_header = packet.header().len();
        let (segment, transport_header) = Segment::new(frame.header.gso, &packet)?;
        let (headers, payload) = packet.bytes().split_at(ip_header + transport_header);
        // A super-packet without payload is one packet all the same.
        let payloads = payload.chunks(segment_bytes);
        let largest = headers.len() + segment_bytes.min(payload.len());
        Ok(Self { headers, payloads, largest, cut: Cut::Segment(segment) })
    }

    fn whole(frame: &Frame<'a>, packet: &IpPacket<'a>) -> Result<Self, SplitError> {
        let unfinished = if frame.header.needs_checksum {
            let start = usize::from(frame.header.checksum_start);
            let at = start + usize::from(frame.header.checksum_offset);
            if start < packet.header().len() || at + 2 > packet.bytes().len() {
                return Err(SplitError::ChecksumPlace { at, length: packet.bytes().len() });
            }
            Some(Unfinished { start, at })
        } else {
            None
        };
        let headers = packet.bytes();
        Ok(Self {
            headers,
            payloads: [].chunks(1),
            largest: headers.len(),
            cut: Cut::Whole(unfinished),
        })
    }

    /// The length of the longest packet in bytes: what a buffer must hold.
    pub const fn largest(&self) -> usize {
        self.largest
    }

    /// The number of packets that are still to be written.
    pub fn remaining(&self) -> usize {
        match &self.cut {
            Cut::Done => 0,
            Cut::Whole(_) => 1,
            // Before the first segment, a super-packet without payload has one left too.
            Cut::Segment(segment) => self.payloads.len().max(usize::from(segment.first)),
        }
    }

    /// Writes the next packet, headers and checksums complete, to the start of the buffer and returns its length.
    /// `None` after the last one. The buffer must hold [`largest`](Self::largest) bytes; with less, `None` comes early.
    pub fn next_into(&mut self, buffer: &mut [u8]) -> Option<usize> {
        debug_assert!(buffer.len() >= self.largest || self.remaining() == 0, "short buffer");
        match &mut self.cut {
            Cut::Done => None,
            Cut::Whole(unfinished) => {
                let unfinished = unfinished.take();
                self.cut = Cut::Done;
                let packet = buffer.get_mut(..self.headers.len())?;
                packet.copy_from_slice(self.headers);
                if let Some(Unfinished { start, at }) = unfinished {
                    // Never 0, for any protocol: as the kernel completes it (`skb_checksum_help`).
                    let checksum = Sum::of(&packet[start..]).udp_checksum();
                    put_word(packet, at, checksum);
                }
                Some(packet.len())
            }
            Cut::Segment(segment) => {
                let payload = match self.payloads.next() {
                    Some(payload) => payload,
                    None if segment.first => &[],
                    None => return None,
                };
                let packet = buffer.get_mut(..self.headers.len() + payload.len())?;
                let (headers, copy) = packet.split_at_mut(self.headers.len());
                headers.copy_from_slice(self.headers);
                copy.copy_from_slice(payload);
                segment.finish(headers, payload, self.payloads.len() == 0);
                Some(packet.len())
            }
        }
    }
}

impl Segment {
    /// The first segment of a super-packet, and the length of its transport header.
    fn new(kind: GsoKind, packet: &IpPacket<'_>) -> Result<(Self, usize), SplitError> {
        let protocol = packet.protocol();
        let fits = match kind {
            GsoKind::Tcp4 => packet.version() == IpVersion::V4 && protocol == TCP,
            GsoKind::Tcp6 => packet.version() == IpVersion::V6 && protocol == TCP,
            GsoKind::Udp => protocol == UDP,
            GsoKind::None => false,
        };
        if !fits {
            return Err(SplitError::Kind { kind, protocol });
        }
        if packet.is_fragment() {
            return Err(SplitError::Fragment);
        }
        let transport = packet.payload();
        let have = transport.len();
        let least = if protocol == TCP { 20 } else { 8 };
        if have < least {
            return Err(SplitError::TransportHeader { have, need: least });
        }
        let length = if protocol == TCP { usize::from(transport[12] >> 4) * 4 } else { least };
        if length < least || have < length {
            return Err(SplitError::TransportHeader { have, need: length.max(least) });
        }
        let sum = Sum::of(&transport[..length]).and(Sum::of_pseudo_header(
            packet.addresses(),
            protocol,
            0,
        ));
        let (shared, tcp) = if protocol == TCP {
            let (sequence, flags) = (long(transport, 4), word(transport, 12));
            let shared = sum
                .without(word(transport, 4))
                .without(word(transport, 6))
                .without(flags)
                .without(word(transport, 16));
            (shared, Some((sequence, flags)))
        } else {
            (sum.without(word(transport, 4)).without(word(transport, 6)), None)
        };
        let header = packet.header();
        let ipv4 = (packet.version() == IpVersion::V4).then(|| {
            let (length, id, checksum) = (word(header, 2), word(header, 4), word(header, 10));
            (id, Sum::of(header).without(length).without(id).without(checksum))
        });
        Ok((Self { ip_header: header.len(), ipv4, shared, tcp, first: true }, length))
    }

    /// Fits the headers to this payload and moves on. No length exceeds that of the super-packet, which is 16 bits.
    fn finish(&mut self, headers: &mut [u8], payload: &[u8], last: bool) {
        let length = headers.len() + payload.len();
        let (ip, transport) = headers.split_at_mut(self.ip_header);
        let transport_length = length - ip.len();
        match &mut self.ipv4 {
            Some((id, sum)) => {
                put_word(ip, 2, length as u16);
                put_word(ip, 4, *id);
                put_word(ip, 10, sum.word(length as u16).word(*id).checksum());
                *id = id.wrapping_add(1);
            }
            None => put_word(ip, 4, transport_length as u16),
        }
        let sum = self.shared.length(transport_length).and(Sum::of(payload));
        match &mut self.tcp {
            Some((sequence, flags)) => {
                let kept = if last { *flags } else { *flags & !TCP_LAST_FLAGS };
                *flags &= !TCP_FIRST_FLAGS;
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                put_word(transport, 12, kept);
                let [high, low] = [(*sequence >> 16) as u16, *sequence as u16];
                put_word(transport, 16, sum.word(kept).word(high).word(low).checksum());
                *sequence = sequence.wrapping_add(payload.len() as u32);
            }
            None => {
                // The length counts twice: in the pseudo-header and in the UDP header.
                put_word(transport, 4, transport_length as u16);
                put_word(transport, 6, sum.word(transport_length as u16).udp_checksum());
            }
        }
        self.first = false;
    }
}

#[cfg(test)]
mod tests;
