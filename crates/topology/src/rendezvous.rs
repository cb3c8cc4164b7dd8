//! Weighted rendezvous hashing: everybody ranks the candidates alike, and a candidate that comes or goes moves only
//! what it wins or held.
//!
//! The encoding is frozen, since nodes of different versions must agree. A hash is SipHash-2-4 under [`KEY`] of one
//! purpose byte, followed by each part as its length (32 bits, little-endian) and its bytes. A score is
//! `weight / -log2(hash / 2^64)` (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables"), computed and compared in integers, because floating
//! point logarithms differ from one machine to the next.

use std::cmp::Ordering;

use siphasher::sip::SipHasher24;

/// The fixed SipHash key. Nothing here is secret; the key only makes our hashes our own.
const KEY: &[u8; 16] = b"wireloom/mesh/v1";

/// The fractional bits of a logarithm.
const FRACTION: u32 = 32;

/// What a choice is for, so that one pair of names hashes differently for each. The numbers are frozen.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// Which nodes of a segment are gateways.
    Gateway = 1,
    /// Which gateway is a node's home.
    Home = 2,
    /// Where in the overlay range a node's address lies.
    Overlay = 3,
    /// Which gateway is a peer's anchor.
    Anchor = 4,
    /// Which gateway owns an extra prefix.
    Owner = 5,
    /// Which node carries an extra prefix on from its owner.
    Carrier = 6,
    /// Which Ethernet address a node has where packets are wrapped.
    Ethernet = 7,
}

/// A candidate's score for one choice; the greatest wins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score {
    weight: u16,
    /// `-log2(hash / 2^64)` with [`FRACTION`] fractional bits; never 0.
    depth: u64,
    hash: u64,
}

/// The frozen hash of a purpose and its parts.
pub(crate) fn hash(purpose: Purpose, parts: &[&[u8]]) -> u64 {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(purpose as u8);
    for part in parts {
        // Parts are names and addresses of at most 253 bytes, so the length always fits.
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    SipHasher24::new_with_key(KEY).hash(&bytes)
}

impl Score {
    /// The score of a candidate of this weight.
    pub(crate) fn new(weight: u16, purpose: Purpose, parts: &[&[u8]]) -> Self {
        let hash = hash(purpose, parts);
        Self { weight, depth: (64 << FRACTION) - log2(hash.max(1)), hash }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        let share = |one: &Self, two: &Self| u128::from(one.weight) * u128::from(two.depth);
        share(self, other).cmp(&share(other, self)).then(self.hash.cmp(&other.hash))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

/// The binary logarithm of a number above 0, rounded down to [`FRACTION`] fractional bits: by repeated squaring of the
/// mantissa, each of which yields one bit.
fn log2(number: u64) -> u64 {
    let whole = number.ilog2();
    let mut mantissa = number << (63 - whole);
    let mut result = u64::from(whole);
    for _ in 0..FRACTION {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = square >> 127;
        // The square of a number in [2^63, 2^64) lies in [2^126, 2^128), so these 64 bits start with a one again.
        mantissa = (square >> (63 + carry)) as u64;
        result = result << 1 | carry as u64;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors come from another implementation, written from the module's text and the SipHash paper.
    #[test]
    fn the_encoding_never_changes() {
        assert_eq!(hash(Purpose::Gateway, &[b"nl-ams", b"ams-1"]), 8_453_501_687_943_468_203);
        assert_eq!(hash(Purpose::Home, &[b"ams-1", b"ams-2"]), 8_352_236_752_536_314_907);
        assert_eq!(hash(Purpose::Overlay, &[b"", b"a"]), 3_557_126_443_761_759_100);
    }

    #[test]
    fn parts_do_not_run_together() {
        let purpose = Purpose::Home;
        assert_ne!(hash(purpose, &[b"ab", b"c"]), hash(purpose, &[b"a", b"bc"]));
        assert_ne!(hash(purpose, &[b"a"]), hash(Purpose::Anchor, &[b"a"]));
    }

    #[test]
    fn logarithms_are_those_of_floating_point() {
        for number in [1, 2, 3, 10, 1 << 40, u64::MAX / 3, u64::MAX] {
            let exact = (number as f64).log2();
            let ours = log2(number) as f64 / (1u64 << FRACTION) as f64;
            assert!((exact - ours).abs() < 1e-9, "{number}: {exact} {ours}");
        }
        assert!(log2(u64::MAX) < 64 << FRACTION);
    }

    #[test]
    fn shares_follow_weights() {
        let mut wins = [0u32; 3];
        for item in 0..20_000u32 {
            let best = (0..3u16)
                .max_by_key(|&at| {
                    let parts: [&[u8]; 2] = [&item.to_le_bytes(), &at.to_le_bytes()];
                    Score::new([0, 100, 300][usize::from(at)], Purpose::Home, &parts)
                })
                .unwrap();
            wins[usize::from(best)] += 1;
        }
        assert_eq!(wins[0], 0);
        assert!((4_800..5_200).contains(&wins[1]), "{wins:?}");
    }
}
