//! The traffic class between the inner and the outer header: explicit congestion notification (RFC 3168, RFC 6040), and
//! the code point (DSCP), which is not carried over (RFC 2983, the pipe model).

use crate::checksum;
use crate::ip::{IpPacket, IpVersion, put_word, word};

/// The two ECN bits of an IP header's traffic class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable: 00.
    #[default]
    NotEct = 0b00,
    /// ECN-capable transport (1): 01.
    Ect1 = 0b01,
    /// ECN-capable transport (0): 10.
    Ect0 = 0b10,
    /// Congestion experienced: 11.
    Ce = 0b11,
}

/// The traffic class (IPv6) or type of service (IPv4) of an outer packet: 6 bits DSCP, 2 bits ECN.
///
/// As the kernel's own WireGuard does it (`drivers/net/wireguard/send.c`, `ip_tunnel_ecn_encap` with a class of 0), data has
/// the inner packet's ECN bits and the default code point, whatever the inner packet's is: that would tell whoever watches
/// what is inside, and no network between has agreed to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficClass(u8);

impl TrafficClass {
    /// That of initiations and responses: AF41, not ECN-capable (`HANDSHAKE_DSCP` of the kernel's `messages.h`).
    pub const HANDSHAKE: Self = Self(0x88);

    /// The byte as a header has it.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Its ECN bits.
    pub const fn ecn(self) -> Ecn {
        Ecn::of(self.0)
    }
}

/// The default code point with these bits.
impl From<Ecn> for TrafficClass {
    fn from(ecn: Ecn) -> Self {
        Self(ecn as u8)
    }
}

/// What becomes of a packet that leaves a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Congestion was marked on the way and the packet's ends would not hear of it: the drop tells them.
    Drop,
    /// The packet goes on with these bits.
    Forward(Ecn),
}

impl Ecn {
    /// The bits of a traffic class (IPv6) or type of service (IPv4) byte.
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The bits of the outer header for an inner packet that enters a tunnel: the same (RFC 6040 section 4.1, normal
    /// mode).
    pub const fn entering(inner: Self) -> Self {
        inner
    }

    /// What becomes of an inner packet that leaves a tunnel whose outer header bore these bits (RFC 6040 section 4.2,
    /// figure 4).
    pub const fn leaving(inner: Self, outer: Self) -> Egress {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => Egress::Drop,
            (Self::NotEct, _) => Egress::Forward(Self::NotEct),
            (_, Self::Ce) => Egress::Forward(Self::Ce),
            (Self::Ect0, Self::Ect1) => Egress::Forward(Self::Ect1),
            _ => Egress::Forward(inner),
        }
    }
}

/// Gives an inner packet that leaves a tunnel the bits that it shall go on with, and says whether it goes on. Bytes that
/// are no IP packet are left as they are and go on.
pub fn leave(packet: &mut [u8], outer: Ecn) -> bool {
    let Ok(inner) = IpPacket::parse(packet).map(|packet| packet.ecn()) else { return true };
    match Ecn::leaving(inner, outer) {
        Egress::Drop => return false,
        Egress::Forward(ecn) if ecn != inner => rewrite(packet, ecn),
        Egress::Forward(_) => {}
    }
    true
}

/// Writes the ECN bits of a packet and brings an IPv4 header checksum along: what was right stays right, what was wrong
/// stays wrong. Bytes that are no IP packet are left as they are.
pub fn rewrite(packet: &mut [u8], ecn: Ecn) {
    let Ok(version) = IpPacket::parse(packet).map(|packet| packet.version()) else { return };
    let old = word(packet, 0);
    // The bits stand at the end of the second byte (IPv4), or before the flow label's 20 bits (IPv6).
    let shift = match version {
        IpVersion::V4 => 0,
        IpVersion::V6 => 4,
    };
    let new = old & !(0b11 << shift) | (ecn as u16) << shift;
    put_word(packet, 0, new);
    if version == IpVersion::V4 {
        let checksum = checksum::updated(word(packet, 10), old, new);
        put_word(packet, 10, checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::header_is_right;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    /// The table of RFC 6040, figure 4: a row for each inner, a column for each outer, both in the order of `ALL`.
    #[test]
    fn leaving_follows_the_rfcs_table() {
        let expected = [
            [Some(Ecn::NotEct), Some(Ecn::NotEct), Some(Ecn::NotEct), None],
            [Some(Ecn::Ect0), Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)],
            [Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ce)],
            [Some(Ecn::Ce); 4],
        ];
        for (inner, row) in ALL.into_iter().zip(expected) {
            for (outer, cell) in ALL.into_iter().zip(row) {
                let egress = cell.map_or(Egress::Drop, Egress::Forward);
                assert_eq!(Ecn::leaving(inner, outer), egress, "{inner:?} in {outer:?}");
            }
            assert_eq!(Ecn::entering(inner), inner);
        }
    }

    fn ipv4(traffic_class: u8) -> Vec<u8> {
        let mut packet = vec![0x45, traffic_class, 0, 20, 0, 1, 0x40, 0, 64, 59, 0, 0];
        packet.extend([192, 0, 2, 1, 198, 51, 100, 2]);
        let checksum = checksum::Sum::of(&packet).checksum();
        put_word(&mut packet, 10, checksum);
        packet
    }

    fn ipv6(traffic_class: u8) -> Vec<u8> {
        let mut packet = vec![0x60 | traffic_class >> 4, traffic_class << 4 | 0x0a, 0xbc, 0xde];
        packet.extend([0, 0, 59, 64]);
        packet.extend([7; 32]);
        packet
    }

    #[test]
    fn only_the_two_bits_change_and_the_checksum_follows() {
        for before in ALL {
            for after in ALL {
                for dscp in [0, 46 << 2, 63 << 2] {
                    let mut packet = ipv4(dscp | before as u8);
                    rewrite(&mut packet, after);
                    assert_eq!(packet, ipv4(dscp | after as u8));
                    assert!(header_is_right(&IpPacket::parse(&packet).unwrap()));
                    let mut packet = ipv6(dscp | before as u8);
                    rewrite(&mut packet, after);
                    assert_eq!(packet, ipv6(dscp | after as u8));
                }
            }
        }
    }

    /// Fault D27: congestion on the way reaches the receiver, by the mark or by the loss.
    #[test]
    fn congestion_outside_is_marked_inside_or_the_packet_is_dropped() {
        for make in [ipv4, ipv6] {
            let mut packet = make(Ecn::Ect0 as u8);
            assert!(leave(&mut packet, Ecn::Ce));
            assert_eq!(packet, make(Ecn::Ce as u8));
            let mut deaf = make(Ecn::NotEct as u8);
            assert!(!leave(&mut deaf, Ecn::Ce));
            assert!(leave(&mut packet, Ecn::NotEct));
            assert_eq!(packet, make(Ecn::Ce as u8), "a mark is never cleared");
        }
    }

    #[test]
    fn a_wrong_header_checksum_stays_wrong() {
        let mut packet = ipv4(Ecn::Ect0 as u8);
        packet[10] ^= 0x40;
        assert!(leave(&mut packet, Ecn::Ce));
        assert!(!header_is_right(&IpPacket::parse(&packet).unwrap()));
    }

    #[test]
    fn bytes_that_are_no_packet_are_left_alone() {
        for bytes in [&[][..], &[0x45], &[0x60; 39], &[0; 64]] {
            let mut copy = bytes.to_vec();
            assert!(leave(&mut copy, Ecn::Ce));
            assert_eq!(copy, bytes);
        }
    }
}
