//! The Internet checksum (RFC 1071): sums over bytes, pseudo-headers, updates in place, and the check of a whole packet.

use crate::ip::{IpPacket, IpVersion, TCP, UDP, word};

/// A one's complement sum that is still being added to. The order of its parts does not matter, but each part that
/// does not come last has an even number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

/// The bytes that one turn of the inner loop adds.
const LANES: usize = 8;

impl Sum {
    /// The sum of these bytes as 16-bit big-endian words; an odd last byte is padded with a zero (RFC 1071 section 1).
    pub fn of(bytes: &[u8]) -> Self {
        // The sum of swapped words is the swapped sum (RFC 1071 section 2(B)), so the loop adds words of the machine's
        // own order, and wide ones: carries gather in the upper half of each lane.
        let mut lanes = [0_u64; LANES];
        let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, odd) = rest.as_chunks::<2>();
        let mut sum: u64 = lanes.iter().map(|lane| (lane >> 32) + (lane & 0xffff_ffff)).sum();
        sum += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(u64::from(u16::from_be(fold(sum))))
    }

    /// The sum of a TCP or UDP pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1): both addresses as they
    /// stand in the IP header, the protocol, and the length of transport header and payload.
    pub fn of_pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        Self::of(addresses).word(u16::from(protocol)).length(length)
    }

    /// Adds another sum.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds one 16-bit word.
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes one 16-bit word out again.
    pub const fn without(self, word: u16) -> Self {
        self.word(!word)
    }

    /// Adds a length as the pseudo-header of IPv6 does: 32 bits.
    pub const fn length(self, length: usize) -> Self {
        Self(self.0 + (length as u64 >> 16) + (length as u64 & 0xffff))
    }

    /// The sum in 16 bits: what a header holds whose checksum somebody else completes.
    pub const fn partial(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the sum's complement.
    pub const fn checksum(self) -> u16 {
        !self.partial()
    }

    /// The checksum as UDP writes it: never 0, which means that there is none (RFC 768).
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether bytes that hold their own checksum add up.
    pub const fn adds_up(self) -> bool {
        self.partial() == 0xffff
    }
}

/// Adds the carries back in until 16 bits are left.
const fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The checksum after one 16-bit word that it covers has changed (RFC 1624, equation 3).
pub const fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// Whether the TCP or UDP checksum of a packet is right. `false` for other protocols, fragments, transport headers that
/// are cut short, UDP of another length than the packet's, and UDP without a checksum: nobody can vouch for those.
pub fn is_right(packet: &IpPacket<'_>) -> bool {
    if packet.is_fragment() {
        return false;
    }
    let payload = packet.payload();
    let checked = match packet.protocol() {
        TCP => payload.len() >= 20,
        UDP => {
            payload.len() >= 8
                && usize::from(word(payload, 4)) == payload.len()
                && word(payload, 6) != 0
        }
        _ => false,
    };
    checked
        && Sum::of(payload)
            .and(Sum::of_pseudo_header(packet.addresses(), packet.protocol(), payload.len()))
            .adds_up()
}

/// Whether the header checksum of an IPv4 packet is right. `true` for IPv6, which has none.
pub fn header_is_right(packet: &IpPacket<'_>) -> bool {
    packet.version() == IpVersion::V6 || Sum::of(packet.header()).adds_up()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wireloom_testkit::sample::{Sample, bytes};

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    #[test]
    fn rfc_1071s_own_example() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).partial(), 0xddf2);
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        let sum = Sum::default().word(0xffff);
        assert_eq!((sum.checksum(), sum.udp_checksum()), (0, 0xffff));
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        assert_eq!(Sum::of(&[0xff; 65_535]).partial(), naive(&[0xff; 65_535]));
    }

    #[test]
    fn only_a_whole_packet_with_a_checksum_is_right() {
        for sample in Sample::both() {
            let is_right = |packet: &[u8]| is_right(&IpPacket::parse(packet).unwrap());
            let t = if sample.v6 { 40 } else { 20 };
            let udp = sample.udp(&bytes(9));
            assert!(is_right(&udp) && is_right(&sample.tcp(1, 0x10, &[], &bytes(9))));
            for at in [t, t + 4, t + 6, t + 16] {
                let mut spoilt = udp.clone();
                spoilt[at] ^= 1;
                assert!(!is_right(&spoilt), "byte {at}");
            }
            // A payload that makes the checksum all ones, so that the sum is right without one too.
            let mut without = sample.udp(&[0, 0]);
            let missing = [without[t + 6], without[t + 7]];
            without[t + 8..t + 10].copy_from_slice(&missing);
            without[t + 6..t + 8].fill(0xff);
            assert!(is_right(&without));
            without[t + 6..t + 8].fill(0);
            assert!(!is_right(&without));
            let mut other = udp;
            other[if sample.v6 { 6 } else { 9 }] = 47;
            assert!(!is_right(&other));
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::of(&bytes).partial(), naive(&bytes));
        }

        #[test]
        fn parts_of_even_length_add_up_to_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0_usize..150,
        ) {
            let (head, tail) = bytes.split_at((2 * cut).min(bytes.len()));
            prop_assert_eq!(Sum::of(head).and(Sum::of(tail)).partial(), naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..100),
            at in 0_usize..50,
            new: u16,
        ) {
            let at = 2 * (at % (bytes.len() / 2));
            // Real headers are never all zero: the one case in which the two zeros of one's complement differ.
            bytes.extend([0x45, 0x00]);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            let before = Sum::of(&bytes).checksum();
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(updated(before, old, new), Sum::of(&bytes).checksum());
        }
    }
}
