use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;

const ROUTER4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe));
const HOST4: [u8; 4] = [192, 0, 2, 1];
const FAR4: [u8; 4] = [198, 51, 100, 2];

fn v6(last: u8) -> [u8; 16] {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).octets()
}

fn udp4(from: [u8; 4], to: [u8; 4], payload: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(from, to, 64).udp(1, 2).write(&mut packet, &vec![7; payload]).unwrap();
    packet
}

fn udp6(from: [u8; 16], to: [u8; 16], payload: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6(from, to, 64).udp(1, 2).write(&mut packet, &vec![7; payload]).unwrap();
    packet
}

fn answer(inner: &[u8], trouble: Trouble) -> Option<Vec<u8>> {
    let from = if inner.first().is_some_and(|first| first >> 4 == 6) { ROUTER6 } else { ROUTER4 };
    let mut buffer = [0xaa; ERROR_BYTES];
    error(inner, trouble, from, &mut buffer).map(|length| buffer[..length].to_vec())
}

#[test]
fn ipv4_errors_are_whole_and_quote_the_packet() {
    let codes = [
        (Trouble::NoRoute, 0, 0),
        (Trouble::Prohibited, 13, 0),
        (Trouble::TooBig { mtu: 1420 }, 4, 1420),
        (Trouble::Unreachable, 1, 0),
    ];
    for (trouble, code, rest) in codes {
        for payload in [0, 10, 1400] {
            let inner = udp4(HOST4, FAR4, payload);
            let packet = answer(&inner, trouble).unwrap();
            let parsed = SlicedPacket::from_ip(&packet).unwrap();
            let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4") };
            assert_eq!(
                ip.header().header_checksum(),
                ip.header().to_header().calc_header_checksum()
            );
            assert_eq!(ip.header().destination(), HOST4);
            assert_eq!(IpAddr::V4(ip.header().source_addr()), ROUTER4);
            let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("no ICMP") };
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, code));
            assert_eq!(icmp.bytes5to8(), u32::to_be_bytes(rest));
            assert!(matches!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(_)));
            assert_eq!(Sum::of(icmp.slice()).partial(), 0xffff);
            assert_eq!(icmp.payload(), &inner[..inner.len().min(576 - 28)]);
        }
    }
}

#[test]
fn ipv6_errors_are_whole_and_quote_the_packet() {
    let codes = [
        (Trouble::NoRoute, 1, 0, 0),
        (Trouble::Prohibited, 1, 1, 0),
        (Trouble::TooBig { mtu: 1280 }, 2, 0, 1280),
        (Trouble::Unreachable, 1, 3, 0),
    ];
    for (trouble, kind, code, rest) in codes {
        for payload in [0, 11, 1400] {
            let inner = udp6(v6(1), v6(2), payload);
            let packet = answer(&inner, trouble).unwrap();
            let parsed = SlicedPacket::from_ip(&packet).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!("no IPv6") };
            assert_eq!(ip.header().destination(), v6(1));
            let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("no ICMP") };
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (kind, code));
            assert_eq!(icmp.bytes5to8(), u32::to_be_bytes(rest));
            assert!(!matches!(icmp.icmp_type(), Icmpv6Type::Unknown { .. }));
            assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
            assert_eq!(icmp.payload(), &inner[..inner.len().min(1280 - 48)]);
        }
    }
}

#[test]
fn an_mtu_beyond_16_bits_is_cut_for_ipv4() {
    let packet = answer(&udp4(HOST4, FAR4, 0), Trouble::TooBig { mtu: 100_000 }).unwrap();
    assert_eq!(packet[24..28], [0, 0, 0xff, 0xff]);
}

#[test]
fn no_error_about_an_error_but_about_a_ping() {
    for inner in [udp4(HOST4, FAR4, 9), udp6(v6(1), v6(2), 9)] {
        let mut error = answer(&inner, Trouble::Unreachable).unwrap();
        assert_eq!(answer(&error, Trouble::Unreachable), None);
        let (at, echo, unknown) = if inner[0] >> 4 == 4 { (20, 8, 200) } else { (40, 128, 100) };
        error[at] = echo;
        assert!(answer(&error, Trouble::Unreachable).is_some());
        error[at] = unknown;
        assert_eq!(answer(&error, Trouble::Unreachable), None);
    }
    let mut redirect = answer(&udp6(v6(1), v6(2), 9), Trouble::NoRoute).unwrap();
    redirect[40] = 137;
    assert_eq!(answer(&redirect, Trouble::NoRoute), None);
}

#[test]
fn no_error_about_later_fragments_but_about_the_first() {
    let mut first = udp4(HOST4, FAR4, 64);
    first[6] = 0x20;
    assert!(answer(&first, Trouble::NoRoute).is_some());
    first[7] = 1;
    assert_eq!(answer(&first, Trouble::NoRoute), None);

    let mut first = udp6(v6(1), v6(2), 64);
    first[6] = IPV6_FRAGMENT;
    first[40..48].copy_from_slice(&[17, 0, 0, 1, 0, 0, 0, 7]);
    assert!(answer(&first, Trouble::NoRoute).is_some());
    first[43] = 0x09;
    assert_eq!(answer(&first, Trouble::NoRoute), None);
}

#[test]
fn no_error_about_what_an_extension_header_hides() {
    let mut packet = udp6(v6(1), v6(2), 64);
    for next in [0, 43, 51, 60] {
        packet[6] = next;
        assert_eq!(answer(&packet, Trouble::NoRoute), None, "next header {next}");
    }
}

#[test]
fn no_error_about_multicast_or_broadcast() {
    assert_eq!(answer(&udp4(HOST4, [224, 0, 0, 251], 9), Trouble::NoRoute), None);
    assert_eq!(answer(&udp4(HOST4, [255; 4], 9), Trouble::NoRoute), None);
    let mut group = [0; 16];
    group[..2].copy_from_slice(&[0xff, 0x02]);
    let packet = udp6(v6(1), group, 9);
    assert_eq!(answer(&packet, Trouble::NoRoute), None);
    assert!(answer(&packet, Trouble::TooBig { mtu: 1280 }).is_some(), "the RFC's exception");
}

#[test]
fn no_error_to_a_source_that_is_not_one_host() {
    for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        assert_eq!(answer(&udp4(source, FAR4, 9), Trouble::NoRoute), None, "{source:?}");
    }
    let loopback = Ipv6Addr::LOCALHOST.octets();
    for source in [[0; 16], loopback, [0xff; 16]] {
        assert_eq!(answer(&udp6(source, v6(2), 9), Trouble::NoRoute), None, "{source:?}");
    }
}

#[test]
fn another_family_or_a_short_buffer_gets_nothing() {
    let inner = udp4(HOST4, FAR4, 9);
    assert_eq!(error(&inner, Trouble::NoRoute, ROUTER6, &mut [0; ERROR_BYTES]), None);
    assert_eq!(error(&inner, Trouble::NoRoute, ROUTER4, &mut [0; ERROR_BYTES - 1]), None);
}

proptest! {
    #[test]
    fn any_bytes_get_a_valid_error_or_none(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        six: bool,
        mtu: u32,
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x45 };
        }
        // Lengths that fit now and then, so that not all is refused.
        let length = bytes.len();
        if length > 40 && bytes[7] % 2 == 0 {
            put_word(&mut bytes, if six { 4 } else { 2 }, (length - if six { 40 } else { 0 }) as u16);
        }
        if let Some(packet) = answer(&bytes, Trouble::TooBig { mtu }) {
            let parsed = IpPacket::parse(&packet).unwrap();
            prop_assert_eq!(parsed.bytes().len(), packet.len());
            prop_assert_eq!(answer(&packet, Trouble::Unreachable), None);
        }
    }
}
