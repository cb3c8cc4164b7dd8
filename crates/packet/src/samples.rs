//! Packets for tests, made and checked by another implementation (etherparse).

use std::ops::Range;

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TcpHeader,
    TransportSlice, ip_number,
};

use crate::batch::{Arena, Frame};
use crate::merge::{MergeOffloads, Merger};
use crate::split::Segments;
use crate::vnet::{GsoKind, VnetHeader};

pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const FIN: u8 = 0x01;

pub(crate) const ALL: MergeOffloads = MergeOffloads { tcp4: true, tcp6: true, udp: true };

/// What the headers of a flow's packets have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) v6: bool,
    pub(crate) port: u16,
    pub(crate) id: u16,
    pub(crate) traffic_class: u8,
    pub(crate) hops: u8,
    pub(crate) df: bool,
}

impl Sample {
    pub(crate) const fn new(v6: bool, port: u16) -> Self {
        Self { v6, port, id: 0xfffe, traffic_class: 0, hops: 64, df: true }
    }

    pub(crate) fn both() -> [Self; 2] {
        [Self::new(false, 80), Self::new(true, 80)]
    }

    fn ip(&self) -> IpHeaders {
        if self.v6 {
            let header = Ipv6Header {
                traffic_class: self.traffic_class,
                hop_limit: self.hops,
                source: [0xfd; 16],
                destination: [0xfe; 16],
                ..Default::default()
            };
            return IpHeaders::Ipv6(header, Default::default());
        }
        let tcp = ip_number::TCP;
        let mut header =
            Ipv4Header::new(0, self.hops, tcp, [192, 0, 2, 1], [198, 51, 100, 2]).unwrap();
        header.identification = self.id;
        header.dont_fragment = self.df;
        header.dscp = (self.traffic_class >> 2).try_into().unwrap();
        header.ecn = (self.traffic_class & 3).try_into().unwrap();
        IpHeaders::Ipv4(header, Default::default())
    }

    pub(crate) fn tcp(&self, sequence: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let flag = |bit: u8| flags & bit != 0;
        let mut header = TcpHeader::new(self.port, 443, sequence, 1000);
        header.acknowledgment_number = 77;
        (header.fin, header.syn, header.rst, header.psh) =
            (flag(0x01), flag(0x02), flag(0x04), flag(0x08));
        (header.ack, header.urg, header.ece, header.cwr) =
            (flag(0x10), flag(0x20), flag(0x40), flag(0x80));
        header.set_options_raw(options).unwrap();
        let mut packet = Vec::new();
        PacketBuilder::ip(self.ip()).tcp_header(header).write(&mut packet, payload).unwrap();
        packet
    }

    pub(crate) fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ip(self.ip()).udp(self.port, 443).write(&mut packet, payload).unwrap();
        packet
    }

    /// Packets of a TCP stream with payloads of these lengths, in sequence.
    pub(crate) fn stream(&self, payloads: &[usize]) -> Vec<Vec<u8>> {
        let (mut flow, mut sequence) = (*self, u32::MAX - 150);
        let mut packets = Vec::new();
        for length in payloads {
            packets.push(flow.tcp(sequence, ACK, &[], &bytes(*length)));
            sequence = sequence.wrapping_add(*length as u32);
            flow.id = flow.id.wrapping_add(1);
        }
        packets
    }

    /// Datagrams with payloads of these lengths.
    pub(crate) fn datagrams(&self, payloads: &[usize]) -> Vec<Vec<u8>> {
        let mut flow = *self;
        let mut packets = Vec::new();
        for length in payloads {
            packets.push(flow.udp(&bytes(*length)));
            flow.id = flow.id.wrapping_add(1);
        }
        packets
    }
}

/// Bytes that differ from place to place.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Asks the oracle whether a packet is whole and its checksums are right.
pub(crate) fn assert_valid(packet: &[u8]) {
    let parsed = SlicedPacket::from_ip(packet).unwrap();
    let (mut v4, mut v6) = (None, None);
    match parsed.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.total_len), packet.len());
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            v4 = Some((header.source, header.destination));
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, packet.len());
            v6 = Some((header.source, header.destination));
        }
        NetSlice::Arp(_) => panic!("not IP"),
    }
    let (stated, right) = match parsed.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let right = match (v4, v6) {
                (Some((from, to)), _) => header.calc_checksum_ipv4_raw(from, to, payload),
                (_, Some((from, to))) => header.calc_checksum_ipv6_raw(from, to, payload),
                _ => unreachable!(),
            };
            (header.checksum, right)
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            assert_eq!(usize::from(header.length), 8 + payload.len());
            let right = match (v4, v6) {
                (Some((from, to)), _) => header.calc_checksum_ipv4_raw(from, to, payload),
                (_, Some((from, to))) => header.calc_checksum_ipv6_raw(from, to, payload),
                _ => unreachable!(),
            };
            (header.checksum, right)
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    assert_eq!(stated, right.unwrap());
}

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
