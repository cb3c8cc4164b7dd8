//! Control messages beside a datagram (cmsg(3)): where it was sent to, its ECN bits, the size of its segments. Reading
//! them is a pure function over bytes that trusts no length in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wireloom_packet::{Ecn, Local, TrafficClass};

use super::{UDP_GRO, UDP_SEGMENT};

/// Room for every message that we ask for: packet info (20 bytes), traffic class (4), segment size (4), a header of 16
/// bytes before each and padding behind it.
const CONTROL_BYTES: usize = 128;
/// `struct cmsghdr`: the length with the header as a machine word, then level and type.
const HEADER_BYTES: usize = size_of::<usize>() + 8;

/// A buffer of control messages, aligned as the kernel wants it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct ControlBuffer {
    bytes: [u8; CONTROL_BYTES],
    length: usize,
}

/// What control messages say of a received datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// The address that it was sent to and the interface that it came in on.
    pub local: Option<Local>,
    /// The ECN bits of its IP header.
    pub ecn: Ecn,
    /// The size of each of its segments but the last, if it is a super-datagram.
    pub segment: Option<usize>,
}

/// Reads control messages as the kernel wrote them. Unknown ones are passed over; reading ends at the first whose
/// length makes no sense.
pub fn parse(mut bytes: &[u8]) -> Control {
    let mut control = Control::default();
    while let Some((level, kind, data, rest)) = next_message(bytes) {
        bytes = rest;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let (Some(interface), Some(address)) = (word(data, 0), chunk::<4>(data, 8)) {
                    let address = IpAddr::V4(Ipv4Addr::from(address));
                    control.local = Some(Local { address, interface });
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let (Some(address), Some(interface)) = (chunk::<16>(data, 0), word(data, 16)) {
                    let address = IpAddr::V6(Ipv6Addr::from(address));
                    control.local = Some(Local { address, interface });
                }
            }
            // One byte in IPv4, an integer in IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                control.ecn = data.first().copied().map(Ecn::of).unwrap_or_default();
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                control.ecn = word(data, 0).map(|class| Ecn::of(class as u8)).unwrap_or_default();
            }
            (libc::SOL_UDP, UDP_GRO) => {
                control.segment = word(data, 0).map(|size| size as usize).filter(|size| *size > 0);
            }
            _ => {}
        }
    }
    control
}

/// The level, type and data of the first message, and the bytes behind it.
fn next_message(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(chunk(bytes, 0)?);
    let level = i32::from_ne_bytes(chunk(bytes, size_of::<usize>())?);
    let kind = i32::from_ne_bytes(chunk(bytes, size_of::<usize>() + 4)?);
    let data = bytes.get(HEADER_BYTES..length)?;
    let rest = length.checked_next_multiple_of(size_of::<usize>());
    Some((level, kind, data, rest.and_then(|at| bytes.get(at..)).unwrap_or_default()))
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_ne_bytes)
}

impl ControlBuffer {
    /// The messages for datagrams that are sent: cut into segments of this size, from this source, in this class.
    ///
    /// The source is an address only. Its interface is left to the routing table: bound to it, the path would die with
    /// a route that moves while the address stays.
    pub(crate) fn for_sending(
        is_v4: bool,
        segment: Option<u16>,
        source: Option<IpAddr>,
        class: TrafficClass,
    ) -> Self {
        let mut buffer = Self::default();
        match source {
            Some(IpAddr::V4(address)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                buffer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(address)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                buffer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if class != TrafficClass::default() {
            let (level, kind) = if is_v4 {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            buffer.push(level, kind, &i32::from(class.byte()).to_ne_bytes());
        }
        if let Some(segment) = segment {
            buffer.push(libc::SOL_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        }
        buffer
    }

    /// Appends a message. All that [`for_sending`](Self::for_sending) makes fits.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER_BYTES + data.len();
        let fields: [&[u8]; 4] =
            [&length.to_ne_bytes(), &level.to_ne_bytes(), &kind.to_ne_bytes(), data];
        let mut at = self.length;
        for field in fields {
            self.bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        self.length += length.next_multiple_of(size_of::<usize>());
    }

    /// The messages' bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) const fn as_raw(&self) -> (*const u8, usize) {
        (self.bytes.as_ptr(), self.length)
    }

    /// The place for the kernel to write messages, with its room.
    pub(crate) const fn as_raw_mut(&mut self) -> (*mut u8, usize) {
        (self.bytes.as_mut_ptr(), CONTROL_BYTES)
    }

    /// Says how much the kernel wrote.
    pub(crate) fn set_length(&mut self, length: usize) {
        self.length = length.min(CONTROL_BYTES);
    }
}

impl Default for ControlBuffer {
    fn default() -> Self {
        Self { bytes: [0; CONTROL_BYTES], length: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> ControlBuffer {
        let mut buffer = ControlBuffer::default();
        buffer.push(level, kind, data);
        buffer
    }

    #[test]
    fn several_messages_of_a_v6_datagram_are_all_read() {
        let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let mut buffer = message(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &3i32.to_ne_bytes());
        let mut info = address.octets().to_vec();
        info.extend(9u32.to_ne_bytes());
        buffer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        buffer.push(libc::SOL_UDP, UDP_GRO, &1452i32.to_ne_bytes());
        let local = Some(Local { address: address.into(), interface: 9 });
        assert_eq!(parse(buffer.bytes()), Control { local, ecn: Ecn::Ce, segment: Some(1452) });
    }

    #[test]
    fn v4_packet_info_tells_the_address_of_the_header() {
        let mut info = 5u32.to_ne_bytes().to_vec();
        info.extend([10, 0, 0, 1, 192, 0, 2, 9]);
        let mut buffer = message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        buffer.push(libc::IPPROTO_IP, libc::IP_TOS, &[0b1010_0110]);
        let local = Some(Local { address: [192, 0, 2, 9].into(), interface: 5 });
        assert_eq!(parse(buffer.bytes()), Control { local, ecn: Ecn::Ect0, segment: None });
    }

    #[test]
    fn unknown_and_short_messages_are_passed_over() {
        let mut buffer = message(libc::SOL_SOCKET, 77, &[1, 2, 3]);
        buffer.push(libc::SOL_UDP, UDP_GRO, &[1]);
        buffer.push(libc::IPPROTO_IP, libc::IP_TOS, &[]);
        buffer.push(libc::SOL_UDP, UDP_GRO, &0i32.to_ne_bytes());
        assert_eq!(parse(buffer.bytes()), Control::default());
    }

    #[test]
    fn a_length_without_sense_ends_the_reading() {
        for length in [0usize, HEADER_BYTES - 1, HEADER_BYTES + 9, usize::MAX] {
            let mut buffer = message(libc::SOL_UDP, UDP_GRO, &1452i32.to_ne_bytes());
            buffer.bytes[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(parse(buffer.bytes()).segment, None, "length {length}");
        }
    }

    #[test]
    fn everything_that_is_sent_fits() {
        let source = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
        let buffer = ControlBuffer::for_sending(false, Some(1452), source, Ecn::Ce.into());
        assert!(buffer.bytes().len() <= CONTROL_BYTES);
        let control = parse(buffer.bytes());
        assert_eq!(control.local.map(|local| local.address), source);
        assert_eq!(control.ecn, Ecn::Ce);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn no_lengths_panic(length in 0usize..200, data in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(libc::IPPROTO_IPV6.to_ne_bytes());
            bytes.extend(libc::IPV6_PKTINFO.to_ne_bytes());
            bytes.extend(data);
            parse(&bytes);
        }
    }
}
