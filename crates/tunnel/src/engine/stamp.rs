//! The timestamps of initiations, by which an old one is told from a new one (WireGuard paper, section 5.1).

use std::time::Duration;

/// The length of a timestamp on the wire.
pub(super) const STAMP_BYTES: usize = 12;

/// TAI64's label of the Unix epoch, ten leap seconds included (`cr.yp.to/libtai/tai64.html`).
const EPOCH: u64 = (1 << 62) + 10;
/// A timestamp tells no more than about 17 ms, so that it says little of how long we took for anything.
const GRAIN: u32 = 1 << 24;
const SECOND: u32 = 1_000_000_000;

/// A TAI64N timestamp. Only its order means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    seconds: u64,
    nanos: u32,
}

impl Stamp {
    /// The timestamp of this time since the Unix epoch.
    pub(super) const fn of(unix: Duration) -> Self {
        let nanos = unix.subsec_nanos();
        Self { seconds: EPOCH.saturating_add(unix.as_secs()), nanos: nanos - nanos % GRAIN }
    }

    /// The next higher one.
    pub(super) const fn next(self) -> Self {
        if self.nanos + 1 < SECOND {
            Self { nanos: self.nanos + 1, ..self }
        } else {
            Self { seconds: self.seconds.saturating_add(1), nanos: 0 }
        }
    }

    pub(super) fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nanos.to_be_bytes());
        bytes
    }

    /// The timestamp that somebody else sent. No form is asked of it: its bytes have the order that counts.
    pub(super) const fn from_bytes(bytes: [u8; STAMP_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            seconds: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            nanos: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_those_of_tai64n() {
        // 1999-12-31 23:59:59.5 UTC, in our grain.
        let stamp = Stamp::of(Duration::new(946_684_799, 500_000_000));
        assert_eq!(hex::encode(stamp.to_bytes()), "40000000386d43891d000000");
        assert_eq!(Stamp::from_bytes(stamp.to_bytes()), stamp);
    }

    #[test]
    fn the_next_one_is_higher_in_bytes_too() {
        let mut stamp = Stamp { seconds: EPOCH, nanos: SECOND - 2 };
        for _ in 0..4 {
            let next = stamp.next();
            assert!(next > stamp && next.to_bytes() > stamp.to_bytes());
            stamp = next;
        }
        assert_eq!(stamp, Stamp { seconds: EPOCH + 1, nanos: 2 });
    }
}
