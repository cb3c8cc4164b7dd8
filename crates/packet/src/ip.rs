//! Bounded views of IP packets over bytes that nobody vouches for (RFC 791, RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ecn::Ecn;

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;
/// The protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// The next header of an IPv6 fragment (RFC 8200 section 4.5).
pub const IPV6_FRAGMENT: u8 = 44;
/// The length of an IPv4 header without options, in bytes.
pub const IPV4_HEADER_BYTES: usize = 20;
/// The length of an IPv6 header without extension headers, in bytes.
pub const IPV6_HEADER_BYTES: usize = 40;

/// The version of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Why bytes are no IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpError {
    /// The header names fewer bytes than a header has.
    #[error("the IP header gives itself {0} bytes, fewer than a header has: drop the packet")]
    HeaderLength(usize),
    /// There are fewer bytes than the packet's header says.
    #[error("the packet has {have} bytes where its IP header needs {need}: drop the packet")]
    Short {
        /// The bytes that are there.
        have: usize,
        /// The bytes that the header asks for.
        need: usize,
    },
    /// The version is neither 4 nor 6.
    #[error("IP version {0} is neither 4 nor 6: drop the packet")]
    Version(u8),
}

/// The two ends of a packet and its length: all that the tunnel asks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Who sent it.
    pub source: IpAddr,
    /// Who shall get it.
    pub destination: IpAddr,
    /// The length of the packet without padding, in bytes.
    pub length: usize,
}

impl Ends {
    /// Reads the ends of the packet that these bytes start with; padding may follow it.
    ///
    /// # Errors
    /// As [`IpPacket::parse`].
    #[inline]
    pub fn of(bytes: &[u8]) -> Result<Self, IpError> {
        let packet = IpPacket::parse(bytes)?;
        Ok(Self {
            source: packet.source(),
            destination: packet.destination(),
            length: packet.bytes.len(),
        })
    }
}

/// An IP packet whose header is whole and whose length is true to the header's.
///
/// Extension headers of IPv6 are never walked: the [`protocol`](Self::protocol) of a packet that has some is the first
/// of them, so nobody takes its bytes for ports.
#[derive(Debug, Clone, Copy)]
pub struct IpPacket<'a> {
    /// The packet without padding; at least the fixed header.
    bytes: &'a [u8],
    version: IpVersion,
    /// Between the fixed header's length and that of `bytes`.
    header_bytes: usize,
}

impl<'a> IpPacket<'a> {
    /// Reads the packet that these bytes start with; what follows it is padding and left out.
    ///
    /// # Errors
    /// The version is unknown, the header is shorter than its own least, or the bytes end before the packet does.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IpError> {
        let first = *bytes.first().ok_or(IpError::Short { have: 0, need: IPV4_HEADER_BYTES })?;
        let (version, least) = match first >> 4 {
            4 => (IpVersion::V4, IPV4_HEADER_BYTES),
            6 => (IpVersion::V6, IPV6_HEADER_BYTES),
            other => return Err(IpError::Version(other)),
        };
        let short = |need| IpError::Short { have: bytes.len(), need };
        if bytes.len() < least {
            return Err(short(least));
        }
        let (header_bytes, length) = match version {
            IpVersion::V4 => (usize::from(first & 0xf) * 4, word(bytes, 2).into()),
            IpVersion::V6 => (least, least + usize::from(word(bytes, 4))),
        };
        if header_bytes < least || length < header_bytes {
            return Err(IpError::HeaderLength(header_bytes.min(length)));
        }
        let bytes = bytes.get(..length).ok_or_else(|| short(length))?;
        Ok(Self { bytes, version, header_bytes })
    }

    /// The version.
    pub const fn version(&self) -> IpVersion {
        self.version
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.address(0)
    }

    /// Who shall get it.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.address(1)
    }

    /// The source's address (0) or the destination's (1).
    #[inline]
    fn address(&self, which: usize) -> IpAddr {
        match self.version {
            IpVersion::V4 => {
                let mut address = [0; 4];
                address.copy_from_slice(&self.bytes[12 + 4 * which..][..4]);
                Ipv4Addr::from(address).into()
            }
            IpVersion::V6 => {
                let mut address = [0; 16];
                address.copy_from_slice(&self.bytes[8 + 16 * which..][..16]);
                Ipv6Addr::from(address).into()
            }
        }
    }

    /// Both addresses as they stand in the header, one behind the other: 8 or 32 bytes.
    #[inline]
    pub fn addresses(&self) -> &'a [u8] {
        match self.version {
            IpVersion::V4 => &self.bytes[12..20],
            IpVersion::V6 => &self.bytes[8..40],
        }
    }

    /// The whole packet without padding.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The IP header: with the options of IPv4, without the extension headers of IPv6.
    pub fn header(&self) -> &'a [u8] {
        &self.bytes[..self.header_bytes]
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_bytes..]
    }

    /// The protocol of the payload (IPv4) or the next header (IPv6).
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes[match self.version {
            IpVersion::V4 => 9,
            IpVersion::V6 => 6,
        }]
    }

    /// The traffic class (IPv6) or type of service (IPv4): 6 bits DSCP, 2 bits ECN.
    pub fn traffic_class(&self) -> u8 {
        match self.version {
            IpVersion::V4 => self.bytes[1],
            IpVersion::V6 => self.bytes[0] << 4 | self.bytes[1] >> 4,
        }
    }

    /// The ECN bits.
    pub fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class())
    }

    /// Whether the packet is a fragment of a larger one. Of IPv6 packets only those whose first extension header says
    /// so.
    pub fn is_fragment(&self) -> bool {
        match self.version {
            // More fragments, or an offset.
            IpVersion::V4 => word(self.bytes, 6) & 0x3fff != 0,
            IpVersion::V6 => self.protocol() == IPV6_FRAGMENT,
        }
    }

    /// Whether the packet is delivered whole or not at all: an IPv4 packet with DF, and any of IPv6 (RFC 8200 section 5).
    pub fn stays_whole(&self) -> bool {
        match self.version {
            IpVersion::V4 => word(self.bytes, 6) & 0x4000 != 0,
            IpVersion::V6 => true,
        }
    }

    /// Whether the packet is a fragment that does not hold the start of the payload.
    pub fn is_later_fragment(&self) -> bool {
        match self.version {
            IpVersion::V4 => word(self.bytes, 6) & 0x1fff != 0,
            IpVersion::V6 => {
                self.protocol() == IPV6_FRAGMENT
                    && self.payload().get(2..4).is_none_or(|offset| word(offset, 0) & 0xfff8 != 0)
            }
        }
    }
}

/// The 16-bit word at this place, which must be there.
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes the 16-bit word at this place, which must be there.
pub(crate) fn put_word(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// The 32-bit word at this place, which must be there.
pub(crate) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wireloom_testkit::sample::{DESTINATION, SOURCE, Sample, bytes};

    use super::*;

    #[test]
    fn both_versions_are_read() {
        for sample in Sample::both() {
            let packet = Sample { traffic_class: 0xb9, ..sample }.udp(&bytes(10));
            let view = IpPacket::parse(&packet).unwrap();
            let place = usize::from(sample.v6);
            let (from, to) = (SOURCE[place], DESTINATION[place]);
            assert_eq!((view.source(), view.destination()), (from, to));
            assert_eq!(view.version() == IpVersion::V6, sample.v6);
            assert_eq!((view.protocol(), view.traffic_class()), (UDP, 0xb9));
            assert_eq!(view.ecn(), Ecn::Ect1);
            assert_eq!(view.header().len() + view.payload().len(), packet.len());
            assert_eq!(view.payload().len(), 18);
            assert!(!view.is_fragment() && !view.is_later_fragment());
        }
    }

    /// The tunnel pads to 16 bytes before it seals; what it opens is cut to the header's own length.
    #[test]
    fn padding_is_left_out() {
        for sample in Sample::both() {
            let mut packet = sample.udp(&bytes(10));
            let length = packet.len();
            packet.resize(length.next_multiple_of(16), 0);
            assert_eq!(Ends::of(&packet).unwrap().length, length);
            assert_eq!(IpPacket::parse(&packet).unwrap().bytes(), &packet[..length]);
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let parse = |bytes: &[u8]| IpPacket::parse(bytes).map(|_| ()).unwrap_err();
        for sample in Sample::both() {
            let packet = sample.udp(&bytes(10));
            let (have, need) = (packet.len() - 1, packet.len());
            assert_eq!(parse(&packet[..have]), IpError::Short { have, need });
        }
        let mut packet = Sample::new(false, 80).udp(&bytes(10));
        packet[3] = 19;
        assert_eq!(parse(&packet), IpError::HeaderLength(19));
        packet[0] = 0x4f;
        packet[3] = 38;
        assert_eq!(parse(&packet), IpError::HeaderLength(38), "options beyond the packet");
        packet[0] = 0x05;
        assert_eq!(parse(&packet), IpError::Version(0));
        assert_eq!(parse(&[]), IpError::Short { have: 0, need: 20 });
        assert_eq!(parse(&[0x60; 39]), IpError::Short { have: 39, need: 40 });
    }

    #[test]
    fn fragments_are_told_apart() {
        let mut packet = Sample::new(false, 80).udp(&bytes(10));
        for (field, fragment, later) in
            [(0x4000, false, false), (0x2000, true, false), (0x2001, true, true), (1, true, true)]
        {
            put_word(&mut packet, 6, field);
            let view = IpPacket::parse(&packet).unwrap();
            assert_eq!((view.is_fragment(), view.is_later_fragment()), (fragment, later));
        }
        let mut packet = Sample::new(true, 80).udp(&bytes(10));
        packet[6] = IPV6_FRAGMENT;
        for (field, later) in [(0, false), (1, false), (8, true), (0xfff9, true)] {
            put_word(&mut packet, 42, field);
            let view = IpPacket::parse(&packet).unwrap();
            assert_eq!((view.is_fragment(), view.is_later_fragment()), (true, later));
        }
        // A fragment header that is cut short: nobody can tell, so it is not a first one.
        packet[5] = 3;
        assert!(IpPacket::parse(&packet).unwrap().is_later_fragment());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            start in prop_oneof![0x44_u8..0x50, Just(0x60), any::<u8>()],
            length in 0_u8..130,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = start;
            }
            if bytes.len() > 6 {
                let at = if start >> 4 == 6 { 4 } else { 2 };
                put_word(&mut bytes, at, length.into());
            }
            if let Ok(view) = IpPacket::parse(&bytes) {
                prop_assert_eq!([view.header(), view.payload()].concat(), view.bytes());
                prop_assert!(bytes.starts_with(view.bytes()));
                let ends = Ends::of(&bytes).unwrap();
                prop_assert_eq!(ends.length, view.bytes().len());
                prop_assert_eq!(ends.source.is_ipv6(), ends.destination.is_ipv6());
                let _ = (view.traffic_class(), view.is_later_fragment(), view.protocol());
            }
        }
    }
}
