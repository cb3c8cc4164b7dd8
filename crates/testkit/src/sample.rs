//! Packets, made and checked by another implementation than ours (etherparse).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
    NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, ip_number,
};

/// TCP's flag for an acknowledgement.
pub const ACK: u8 = 0x10;
/// TCP's flag for data that the receiver shall not keep waiting.
pub const PSH: u8 = 0x08;
/// TCP's flag for the end of the stream.
pub const FIN: u8 = 0x01;

/// Options of IPv4 that do nothing.
const NO_OPERATION_4: [u8; 4] = [1, 1, 1, 0];
/// What an extension header with options that do nothing holds (RFC 8200 section 4.2, PadN).
const NO_OPERATION_6: [u8; 6] = [1, 4, 0, 0, 0, 0];

/// Who sends, IPv4 and IPv6: 10.1.0.1 and fd01::1.
pub const SOURCE: [IpAddr; 2] = [v4(1), v6(1)];
/// Who receives, IPv4 and IPv6: 10.2.0.1 and fd02::1.
pub const DESTINATION: [IpAddr; 2] = [v4(2), v6(2)];

const fn v4(net: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, 0, 1))
}

const fn v6(net: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00 + net, 0, 0, 0, 0, 0, 0, 1))
}

/// What the headers of a flow's packets have in common. It goes from [`SOURCE`] to port 443 of [`DESTINATION`].
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Whether it is IPv6.
    pub v6: bool,
    /// The source port.
    pub port: u16,
    /// The identification of IPv4.
    pub id: u16,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// Time to live or hop limit.
    pub hops: u8,
    /// Whether IPv4 may not fragment it.
    pub df: bool,
    /// The flow label of IPv6, 20 bits.
    pub label: u32,
    /// Whether there are options in the IP header, or in an extension header of IPv6.
    pub ip_options: bool,
}

impl Sample {
    /// A flow from this port.
    pub const fn new(v6: bool, port: u16) -> Self {
        Self {
            v6,
            port,
            id: 0xfffe,
            traffic_class: 0,
            hops: 64,
            df: true,
            label: 0,
            ip_options: false,
        }
    }

    /// A flow of each family.
    pub fn both() -> [Self; 2] {
        [Self::new(false, 80), Self::new(true, 80)]
    }

    fn ip(&self) -> IpHeaders {
        let place = usize::from(self.v6);
        match (SOURCE[place], DESTINATION[place]) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (from, to) = (source.octets(), destination.octets());
                let mut header = Ipv4Header::new(0, self.hops, ip_number::TCP, from, to).unwrap();
                header.identification = self.id;
                header.dont_fragment = self.df;
                header.dscp = (self.traffic_class >> 2).try_into().unwrap();
                header.ecn = (self.traffic_class & 3).try_into().unwrap();
                if self.ip_options {
                    header.options = NO_OPERATION_4.into();
                }
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.traffic_class,
                    flow_label: self.label.try_into().unwrap(),
                    hop_limit: self.hops,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                let mut extensions = Ipv6Extensions::default();
                if self.ip_options {
                    let udp = ip_number::UDP;
                    let options = Ipv6RawExtHeader::new_raw(udp, &NO_OPERATION_6).unwrap();
                    extensions.destination_options = Some(options);
                }
                IpHeaders::Ipv6(header, extensions)
            }
            _ => unreachable!("both ends are of one family"),
        }
    }

    /// A segment with these options, padded to four bytes each, and this payload.
    pub fn tcp(&self, sequence: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
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

    /// A datagram with this payload.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ip(self.ip()).udp(self.port, 443).write(&mut packet, payload).unwrap();
        packet
    }

    /// Packets of a TCP stream with payloads of these lengths, in sequence.
    pub fn stream(&self, payloads: &[usize]) -> Vec<Vec<u8>> {
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
    pub fn datagrams(&self, payloads: &[usize]) -> Vec<Vec<u8>> {
        let mut flow = *self;
        let mut packets = Vec::new();
        for length in payloads {
            packets.push(flow.udp(&bytes(*length)));
            flow.id = flow.id.wrapping_add(1);
        }
        packets
    }
}

/// Cuts a packet without options into fragments of so many bytes of payload, a multiple of 8.
///
/// # Panics
///
/// If it is no packet that can be cut so.
pub fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (ip, payload) = IpHeaders::from_slice(packet).unwrap();
    let last = payload.payload.len().div_ceil(size) - 1;
    let pieces = payload.payload.chunks(size).enumerate();
    let fragment = |(place, piece): (usize, &[u8])| {
        let offset = u16::try_from(place * size / 8).unwrap().try_into().unwrap();
        let more = place < last;
        let mut ip = ip.clone();
        match &mut ip {
            IpHeaders::Ipv4(header, _) => {
                header.dont_fragment = false;
                header.more_fragments = more;
                header.fragment_offset = offset;
            }
            IpHeaders::Ipv6(_, extensions) => {
                let header = Ipv6FragmentHeader::new(payload.ip_number, offset, more, 77);
                extensions.fragment = Some(header);
            }
        }
        ip.set_next_headers(payload.ip_number);
        ip.set_payload_len(piece.len()).unwrap();
        let mut bytes = Vec::new();
        ip.write(&mut bytes).unwrap();
        bytes.extend_from_slice(piece);
        bytes
    };
    pieces.map(fragment).collect()
}

/// Bytes that differ from place to place.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Asks etherparse whether a packet is whole and its checksums are right.
///
/// # Panics
///
/// If it says no, or the packet holds neither TCP nor UDP.
pub fn assert_valid(packet: &[u8]) {
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
