//! The batches that cross every seam of the hot path: never one packet, always a slice of them.
//!
//! Outbound: [`Frame`]s are read from the TUN device, sealed into an [`Outbox`], and sent from there. Inbound:
//! [`Received`] super-datagrams are opened into an [`Arena`], merged there, and written to the TUN device. All buffers
//! are reused: after the first batches nothing is allocated.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::ecn::{Ecn, TrafficClass};
use crate::vnet::VnetHeader;

/// The datagrams that one send hands to the kernel at most (`UDP_MAX_SEGMENTS` was 64 before Linux 6.9).
pub const SEND_DATAGRAMS: usize = 64;
/// The bytes that one send hands to the kernel at most: the payload of the largest IPv4 UDP datagram.
pub const SEND_BYTES: usize = 65_507;

/// One read of a TUN device: a packet, or a super-packet that its header tells how to split.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What the kernel says of the packet.
    pub header: VnetHeader,
    /// The bytes from the IP header on.
    pub packet: &'a [u8],
}

/// The two ends of an outer datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The far end.
    pub remote: SocketAddr,
    /// Our end, as the far end last addressed us, so that replies leave from there. `None` lets the kernel choose.
    pub local: Option<Local>,
}

/// An address of ours, and the interface that a datagram to it came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// The address that the datagram was sent to.
    pub address: IpAddr,
    /// The index of the interface.
    pub interface: u32,
}

/// Outer datagrams from one path that arrived together: all of `segment` bytes but the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Where they came from and to.
    pub path: Path,
    /// The ECN bits of the outer header.
    pub ecn: Ecn,
    /// The size of each datagram but the last, in bytes; at least 1.
    pub segment: usize,
    /// The datagrams, one behind the other.
    pub bytes: &'a [u8],
}

impl<'a> Received<'a> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.segment.max(1))
    }
}

/// Outer datagrams that wait to be sent, in order. Datagrams that follow each other on one path and have the same size
/// (the last may be shorter) form one [`Transmit`], which the kernel takes in one call.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    used: usize,
    transmits: Vec<Transmit>,
}

/// What one send hands to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The two ends.
    pub path: Path,
    /// The traffic class for the outer header.
    pub class: TrafficClass,
    /// The size of each datagram but the last, in bytes.
    pub segment: usize,
    /// Where the datagrams stand in the outbox.
    range: Range<usize>,
}

impl Transmit {
    /// The number of datagrams.
    pub fn datagrams(&self) -> usize {
        self.range.len().div_ceil(self.segment.max(1))
    }

    /// Whether one more datagram of this length can join.
    fn takes(&self, length: usize, path: &Path, class: TrafficClass) -> bool {
        self.path == *path
            && self.class == class
            && length <= self.segment
            && self.range.len().is_multiple_of(self.segment)
            && self.datagrams() < SEND_DATAGRAMS
            && self.range.len() + length <= SEND_BYTES
    }
}

impl Outbox {
    /// An outbox with room for this many bytes before it grows.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], used: 0, transmits: Vec::with_capacity(SEND_DATAGRAMS) }
    }

    /// The place where the next datagram is written: at least `length` bytes, with whatever stood there before.
    pub fn slot(&mut self, length: usize) -> &mut [u8] {
        let end = self.used + length;
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// Takes the first `length` bytes of the last [`slot`](Self::slot) as a datagram for this path. An empty datagram
    /// is not sent.
    pub fn commit(&mut self, length: usize, path: &Path, class: impl Into<TrafficClass>) {
        let class = class.into();
        debug_assert!(
            self.used + length <= self.bytes.len(),
            "commit without a slot of that length"
        );
        let range = self.used..self.used + length;
        if range.is_empty() {
            return;
        }
        self.used = range.end;
        match self.transmits.last_mut() {
            Some(last) if last.takes(length, path, class) => last.range.end = range.end,
            _ => self.transmits.push(Transmit { path: *path, class, segment: length, range }),
        }
    }

    /// Copies a whole datagram in.
    pub fn push(&mut self, datagram: &[u8], path: &Path, class: impl Into<TrafficClass>) {
        self.slot(datagram.len()).copy_from_slice(datagram);
        self.commit(datagram.len(), path, class);
    }

    /// What waits, each with its bytes, in the order of the commits.
    pub fn transmits(&self) -> impl ExactSizeIterator<Item = (&Transmit, &[u8])> {
        self.transmits.iter().map(|transmit| (transmit, &self.bytes[transmit.range.clone()]))
    }

    /// The bytes that wait.
    pub const fn len(&self) -> usize {
        self.used
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets everything that waits and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        self.transmits.clear();
    }
}

/// Inner packets that were opened and wait to be written to the TUN device, in order.
#[derive(Debug, Default)]
pub struct Arena {
    bytes: Vec<u8>,
    used: usize,
    packets: Vec<Range<usize>>,
}

impl Arena {
    /// An arena with room for this many bytes before it grows.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], used: 0, packets: Vec::with_capacity(256) }
    }

    /// The place where the next packet is written: at least `length` bytes, with whatever stood there before.
    pub fn slot(&mut self, length: usize) -> &mut [u8] {
        let end = self.used + length;
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// Takes the first `length` bytes of the last [`slot`](Self::slot) as a packet. An empty packet is left out.
    pub fn commit(&mut self, length: usize) {
        debug_assert!(
            self.used + length <= self.bytes.len(),
            "commit without a slot of that length"
        );
        if length > 0 {
            self.packets.push(self.used..self.used + length);
            self.used += length;
        }
    }

    /// The packets, each as its place in [`bytes`](Self::bytes), in the order of the commits.
    pub fn packets(&self) -> &[Range<usize>] {
        &self.packets
    }

    /// All packets' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// The packets' places and all bytes, to change headers in place.
    pub fn parts_mut(&mut self) -> (&[Range<usize>], &mut [u8]) {
        (&self.packets, &mut self.bytes[..self.used])
    }

    /// Whether there is no packet.
    pub const fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets all packets and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
        self.packets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path { remote: SocketAddr::from(([192, 0, 2, 1], port)), local: None }
    }

    fn sizes(outbox: &Outbox) -> Vec<(usize, usize)> {
        outbox.transmits().map(|(transmit, bytes)| (transmit.datagrams(), bytes.len())).collect()
    }

    #[test]
    fn equal_datagrams_of_one_path_leave_together() {
        let mut outbox = Outbox::default();
        for length in [100, 100, 60, 100, 120] {
            outbox.push(&vec![1; length], &path(1), Ecn::NotEct);
        }
        outbox.push(&[1; 120], &path(2), Ecn::NotEct);
        outbox.push(&[1; 120], &path(2), Ecn::Ect0);
        // A shorter one ends a run, a longer one and another path or ECN starts one.
        assert_eq!(sizes(&outbox), [(3, 260), (1, 100), (1, 120), (1, 120), (1, 120)]);
        outbox.clear();
        assert!(outbox.is_empty() && outbox.transmits().len() == 0);
    }

    #[test]
    fn one_send_stays_below_the_kernels_limits() {
        let mut outbox = Outbox::with_capacity(16);
        (0..65).for_each(|_| outbox.push(&[0; 10], &path(1), Ecn::NotEct));
        assert_eq!(sizes(&outbox), [(64, 640), (1, 10)]);
        outbox.clear();
        (0..46).for_each(|_| outbox.push(&[0; 1452], &path(1), Ecn::NotEct));
        assert_eq!(sizes(&outbox), [(45, 45 * 1452), (1, 1452)]);
    }

    #[test]
    fn received_bytes_fall_into_datagrams() {
        let received = Received { path: path(1), ecn: Ecn::Ce, segment: 4, bytes: &[0; 10] };
        assert_eq!(received.datagrams().map(<[u8]>::len).collect::<Vec<_>>(), [4, 4, 2]);
    }
}
