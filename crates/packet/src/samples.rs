//! What tests of splitting and merging share, beside the testkit's packets.

use std::ops::Range;

use crate::batch::{Arena, Frame};
use crate::merge::{MergeOffloads, Merger};
use crate::split::Segments;
use crate::vnet::{GsoKind, VnetHeader};

pub(crate) const ALL: MergeOffloads = MergeOffloads { tcp4: true, tcp6: true, udp: true };

/// Turns a packet with a large payload into a super-packet as the kernel hands it over.
pub(crate) fn superpacket(mut packet: Vec<u8>, segment: usize) -> (VnetHeader, Vec<u8>) {
    let (start, addresses, protocol) = match packet[0] >> 4 {
        4 => (usize::from(packet[0] & 0xf) * 4, 12..20, packet[9]),
        _ => (40, 8..40, packet[6]),
    };
    let (gso, offset, transport_header) = match (protocol, start) {
        (6, 40) if packet[0] >> 4 == 6 => (GsoKind::Tcp6, 16, packet[start + 12] >> 4 << 2),
        (6, _) => (GsoKind::Tcp4, 16, packet[start + 12] >> 4 << 2),
        _ => (GsoKind::Udp, 6, 8),
    };
    let length = packet.len() - start;
    let pseudo =
        packet[addresses].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum = pseudo.sum::<u32>() + u32::from(protocol) + length as u32;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    packet[start + offset..start + offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    let header = VnetHeader {
        needs_checksum: true,
        gso,
        header_bytes: (start + usize::from(transport_header)) as u16,
        segment_bytes: segment as u16,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
    };
    (header, packet)
}

/// The packets of a frame.
pub(crate) fn split(header: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(&Frame { header, packet }).unwrap();
    let mut buffer = vec![0xaa; segments.largest()];
    let mut packets = Vec::new();
    let count = segments.remaining();
    while let Some(length) = segments.next_into(&mut buffer) {
        packets.push(buffer[..length].to_vec());
    }
    assert_eq!(packets.len(), count);
    assert_eq!(segments.remaining(), 0);
    assert!(packets.iter().any(|packet| packet.len() == buffer.len()), "largest is too large");
    packets
}

/// The runs that these packets merge into, each as its header, its bytes and the number of its parts.
pub(crate) fn merge(
    packets: &[Vec<u8>],
    offloads: MergeOffloads,
) -> Vec<(VnetHeader, Vec<u8>, usize)> {
    let mut arena = Arena::default();
    for packet in packets {
        arena.slot(packet.len()).copy_from_slice(packet);
        arena.commit(packet.len());
    }
    let mut merger = Merger::default();
    merger.merge(&mut arena, offloads);
    let starts: Vec<_> = merger.runs().map(|run| run.parts[0].start).collect();
    assert!(starts.is_sorted(), "runs stand in the order of their first packets");
    let join = |parts: &[Range<usize>]| {
        parts.iter().flat_map(|part| arena.bytes()[part.clone()].to_vec()).collect()
    };
    merger.runs().map(|run| (run.header, join(run.parts), run.parts.len())).collect()
}

/// The numbers of packets in the runs that these packets merge into.
pub(crate) fn run_lengths(packets: &[Vec<u8>]) -> Vec<usize> {
    merge(packets, ALL).into_iter().map(|(_, _, parts)| parts).collect()
}
