use proptest::prelude::*;
use wireloom_testkit::sample::{ACK, FIN, PSH, Sample, assert_valid, bytes};

use super::*;
use crate::ip::IpError;
use crate::samples::{split, superpacket};
use crate::vnet::VnetHeader;

const CWR: u8 = 0x80;
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

fn new(header: VnetHeader, packet: &[u8]) -> Result<Segments<'_>, SplitError> {
    Segments::new(&Frame { header, packet })
}

#[test]
fn a_tcp_super_packet_becomes_a_stream() {
    for flow in Sample::both() {
        let packet = flow.tcp(u32::MAX - 50, ACK | PSH | FIN | CWR, &OPTIONS, &bytes(250));
        let (header, packet) = superpacket(packet, 100);
        let packets = split(header, &packet);
        let expected: Vec<_> = [(0, 100, ACK | CWR), (100, 100, ACK), (200, 50, ACK | PSH | FIN)]
            .into_iter()
            .enumerate()
            .map(|(index, (from, length, flags))| {
                let flow = Sample { id: flow.id.wrapping_add(index as u16), ..flow };
                let sequence = (u32::MAX - 50).wrapping_add(from as u32);
                flow.tcp(sequence, flags, &OPTIONS, &bytes(250)[from..from + length])
            })
            .collect();
        assert_eq!(packets, expected);
    }
}

#[test]
fn a_udp_super_packet_becomes_datagrams() {
    for flow in Sample::both() {
        let (header, packet) = superpacket(flow.udp(&bytes(250)), 100);
        let expected: Vec<_> = [0..100, 100..200, 200..250]
            .into_iter()
            .enumerate()
            .map(|(index, range)| {
                let flow = Sample { id: flow.id.wrapping_add(index as u16), ..flow };
                flow.udp(&bytes(250)[range])
            })
            .collect();
        assert_eq!(split(header, &packet), expected);
    }
}

#[test]
fn a_plain_frame_is_copied() {
    for flow in Sample::both() {
        for packet in [flow.udp(&bytes(33)), flow.tcp(1, ACK, &[], &bytes(0))] {
            assert_eq!(split(VnetHeader::default(), &packet), [packet]);
        }
    }
}

#[test]
fn a_plain_frames_checksum_is_completed() {
    for flow in Sample::both() {
        for whole in [flow.udp(&bytes(33)), flow.tcp(1, ACK, &OPTIONS, &bytes(99))] {
            let (header, packet) = superpacket(whole.clone(), 0);
            assert_ne!(packet, whole);
            let header = VnetHeader { gso: GsoKind::None, ..header };
            assert_eq!(split(header, &packet), [whole]);
        }
    }
}

/// A UDP checksum of 0 would mean that there is none.
#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_written_as_ones() {
    let flow = Sample::new(true, 80);
    let with = |word: u16| flow.udp(&word.to_be_bytes());
    // What is missing in the sum of the packet with a zero word makes the complement 0.
    let missing = u16::from_be_bytes([with(0)[46], with(0)[47]]);
    let whole = with(missing);
    assert_eq!(whole[46..48], [0xff, 0xff]);
    let (header, packet) = superpacket(whole.clone(), 100);
    assert_eq!(split(header, &packet), std::slice::from_ref(&whole));
    assert_eq!(split(VnetHeader { gso: GsoKind::None, ..header }, &packet), [whole]);
}

/// Fault D24's neighbour on the other side: a length of headers that is a hint and no more.
#[test]
fn the_hint_of_the_headers_length_is_not_believed() {
    for flow in Sample::both() {
        let (header, packet) = superpacket(flow.tcp(1, ACK, &OPTIONS, &bytes(250)), 100);
        let expected = split(header, &packet);
        for header_bytes in [0, 1, 40, 128, u16::MAX] {
            assert_eq!(split(VnetHeader { header_bytes, ..header }, &packet), expected);
        }
    }
}

#[test]
fn ipv4_options_are_repeated() {
    let (header, plain) = superpacket(Sample::new(false, 80).udp(&bytes(250)), 100);
    let mut packet = plain;
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    let length = packet.len() as u16;
    put_word(&mut packet, 2, length);
    for segment in split(VnetHeader { checksum_start: 24, ..header }, &packet) {
        assert_valid(&segment);
        assert_eq!(segment[20..24], [1, 1, 1, 0]);
    }
}

#[test]
fn a_super_packet_without_payload_is_one_packet() {
    for flow in Sample::both() {
        for whole in [flow.udp(&[]), flow.tcp(1, ACK | FIN, &[], &[])] {
            let (header, packet) = superpacket(whole.clone(), 100);
            assert_eq!(split(header, &packet), [whole]);
        }
    }
}

#[test]
fn bytes_behind_the_packet_are_left_out() {
    for flow in Sample::both() {
        let whole = flow.udp(&bytes(250));
        let (header, mut packet) = superpacket(whole, 100);
        let expected = split(header, &packet);
        packet.extend([9; 30]);
        assert_eq!(split(header, &packet), expected);
    }
}

#[test]
fn malformed_frames_are_refused_by_name() {
    let flow = Sample::new(false, 80);
    let (tcp, packet) = superpacket(flow.tcp(1, ACK, &[], &bytes(250)), 100);
    let refused = |header, packet: &[u8]| new(header, packet).unwrap_err();
    let changed = |at: usize, to: u8| {
        let mut packet = packet.clone();
        packet[at] = to;
        packet
    };
    let no_segment = VnetHeader { segment_bytes: 0, ..tcp };
    assert_eq!(refused(no_segment, &packet), SplitError::SegmentSize);
    for (kind, protocol) in [(GsoKind::Tcp6, 6), (GsoKind::Udp, 6)] {
        let header = VnetHeader { gso: kind, ..tcp };
        assert_eq!(refused(header, &packet), SplitError::Kind { kind, protocol });
    }
    let kind = GsoKind::Tcp4;
    assert_eq!(refused(tcp, &changed(9, 47)), SplitError::Kind { kind, protocol: 47 });
    assert_eq!(refused(tcp, &changed(6, 0x20)), SplitError::Fragment);
    let short = SplitError::TransportHeader { have: 270, need: 20 };
    assert_eq!(refused(tcp, &changed(32, 0x40)), short);
    let mut long = changed(32, 0xf0);
    long.truncate(60);
    long[3] = 60;
    long[2] = 0;
    assert_eq!(refused(tcp, &long), SplitError::TransportHeader { have: 40, need: 60 });
    long.truncate(39);
    long[3] = 39;
    assert_eq!(refused(tcp, &long), SplitError::TransportHeader { have: 19, need: 20 });
    let cut = &packet[..289];
    assert_eq!(refused(tcp, cut), SplitError::Ip(IpError::Short { have: 289, need: 290 }));
    assert_eq!(refused(tcp, &changed(0, 0x55)), SplitError::Ip(IpError::Version(5)));
    assert_eq!(refused(tcp, &changed(0, 0x44)), SplitError::Ip(IpError::HeaderLength(16)));
    assert_eq!(refused(tcp, &[]), SplitError::Ip(IpError::Short { have: 0, need: 20 }));
}

#[test]
fn a_checksum_outside_the_payload_is_refused() {
    let packet = Sample::new(false, 80).udp(&bytes(10));
    let header = |checksum_start, checksum_offset| VnetHeader {
        needs_checksum: true,
        checksum_start,
        checksum_offset,
        ..VnetHeader::default()
    };
    assert!(new(header(20, 16), &packet).is_ok());
    for (start, offset, at) in [(20, 17, 37), (19, 6, 25), (u16::MAX, u16::MAX, 131_070)] {
        let error = SplitError::ChecksumPlace { at, length: 38 };
        assert_eq!(new(header(start, offset), &packet).unwrap_err(), error);
    }
}

/// Fault D35: what an extension header says or hides is not taken for a transport header.
#[test]
fn an_extension_header_is_no_transport_header() {
    let (header, mut packet) = superpacket(Sample::new(true, 80).udp(&bytes(250)), 100);
    for next in [0, 43, 44, 60, 132] {
        packet[6] = next;
        let error = SplitError::Kind { kind: GsoKind::Udp, protocol: next };
        assert_eq!(new(header, &packet).unwrap_err(), error);
    }
}

proptest! {
    #[test]
    fn every_segment_is_valid_and_nothing_is_lost(
        v6: bool,
        tcp: bool,
        sequence: u32,
        flags in any::<u8>(),
        options in 0_usize..=10,
        segment in 1_usize..3000,
        length in 0_usize..20_000,
        id: u16,
    ) {
        let flow = Sample { id, ..Sample::new(v6, 80) };
        let payload = bytes(length);
        let options = vec![1; 4 * options];
        let packet = if tcp { flow.tcp(sequence, flags, &options, &payload) } else { flow.udp(&payload) };
        let (header, packet) = superpacket(packet, segment);
        let at = usize::from(header.header_bytes);
        let packets = split(header, &packet);
        prop_assert_eq!(packets.len(), length.div_ceil(segment).max(1));
        let mut together = Vec::new();
        for packet in &packets {
            assert_valid(packet);
            together.extend_from_slice(&packet[at..]);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn any_frame_is_split_or_refused(
        raw in proptest::collection::vec(any::<u8>(), 10..200),
        start in prop_oneof![Just(0x45_u8), Just(0x46), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
        gso in 0_usize..4,
        honest: bool,
    ) {
        let mut header = VnetHeader::decode(&raw).unwrap_or_default();
        header.gso = [GsoKind::None, GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][gso];
        let mut packet = raw[10..].to_vec();
        if packet.len() >= 40 {
            packet[0] = start;
            packet[if start == 0x60 { 6 } else { 9 }] = protocol;
            if honest {
                let length = packet.len() as u16;
                let at = if start == 0x60 { 4 } else { 2 };
                put_word(&mut packet, at, if start == 0x60 { length - 40 } else { length });
            }
        }
        if let Ok(mut segments) = new(header, &packet) {
            let mut buffer = vec![0; segments.largest()];
            let count = segments.remaining();
            let mut written = 0;
            while let Some(length) = segments.next_into(&mut buffer) {
                prop_assert_eq!(IpPacket::parse(&buffer[..length]).unwrap().bytes().len(), length);
                written += 1;
            }
            prop_assert_eq!(written, count);
        }
    }
}
