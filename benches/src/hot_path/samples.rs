//! The packets that the hot path is measured with.

use wireloom_packet::{Arena, Frame, GsoKind, Segments, VnetHeader};

/// The bytes of the largest packet, and so of every super-packet here.
pub(super) const LARGEST: usize = 65_535;

/// The payload of a TCP segment at an MTU of 1420, with timestamps.
const SEGMENT: u16 = 1_368;

/// A super-packet as the kernel hands it over.
pub(super) fn super_packet(gso: GsoKind) -> (VnetHeader, Vec<u8>) {
    super_packet_of(gso, SEGMENT)
}

fn super_packet_of(gso: GsoKind, segment_bytes: u16) -> (VnetHeader, Vec<u8>) {
    let six = gso == GsoKind::Tcp6;
    let start: usize = if six { 40 } else { 20 };
    let (protocol, transport, checksum_offset) = match gso {
        GsoKind::Udp => (17, 8, 6),
        _ => (6, 32, 16),
    };
    let mut packet: Vec<u8> = (0..LARGEST).map(|at| (at * 31) as u8).collect();
    packet[..start].fill(0);
    if six {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((LARGEST - 40) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, 64]);
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(LARGEST as u16).to_be_bytes());
        packet[6..10].copy_from_slice(&[0x40, 0, 64, protocol]);
    }
    if protocol == 6 {
        packet[start + 12..start + 14].copy_from_slice(&[0x80, 0x10]);
    }
    let header = VnetHeader {
        needs_checksum: true,
        gso,
        header_bytes: (start + transport) as u16,
        segment_bytes,
        checksum_start: start as u16,
        checksum_offset,
    };
    (header, packet)
}

/// Splits a frame into the arena, as the tunnel splits it into the outbox.
pub(super) fn split(header: VnetHeader, packet: &[u8], arena: &mut Arena) {
    let mut segments = Segments::new(&Frame { header, packet }).unwrap();
    while segments.remaining() > 0 {
        let length = segments.next_into(arena.slot(segments.largest())).unwrap();
        arena.commit(length);
    }
}

/// So many UDP packets of one flow over IPv4, each of `length` bytes with a right checksum.
///
/// # Panics
///
/// If the length is none that a UDP packet can have.
pub fn packets(length: usize, count: usize) -> Vec<Vec<u8>> {
    let (header, packet) = super_packet_of(GsoKind::Udp, (length - 28) as u16);
    let mut arena = Arena::default();
    split(header, &packet, &mut arena);
    // The last one may be shorter.
    let places = arena.packets().iter().filter(|place| place.len() == length).cycle().take(count);
    places.map(|place| arena.bytes()[place.clone()].to_vec()).collect()
}
