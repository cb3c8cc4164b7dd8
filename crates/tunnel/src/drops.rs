//! Why packets were not passed on, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet or datagram was dropped. Each reason is a counter of [`Device::drops`](crate::Device::drops).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// A handshake message that no key of ours makes sense of: a wrong key, or a response that nobody awaits.
    BadHandshake,
    /// A handshake message whose first MAC was not made for our key (WireGuard paper, section 5.4.4).
    BadMac,
    /// A datagram that is no WireGuard message.
    BadMessage,
    /// A packet that is not IPv4 or IPv6, or has wrong lengths.
    BadPacket,
    /// A data message that does not authenticate.
    BadTag,
    /// A packet whose outer header tells of congestion while its inner one can't (RFC 6040, section 4.2).
    Congested,
    /// A data message for a session older than 180 s or with a counter beyond the limit.
    Expired,
    /// A message of ours that was routed back into the tunnel: the way to the peer's endpoint leads through the tunnel
    /// itself.
    Looped,
    /// A packet for a peer whose endpoint is not known.
    NoEndpoint,
    /// A packet for a peer while the device has no private key.
    NoKey,
    /// A packet for an address that is in no peer's allowed IPs.
    NoPeer,
    /// A message that was received before, or is too old to tell.
    Replay,
    /// A packet that may not be fragmented and is longer than what the way to the peer carries whole.
    TooBig,
    /// A handshake message above the load that the device accepts.
    UnderLoad,
    /// An initiation from a key that is no peer's.
    UnknownPeer,
    /// A message for a session that is not here.
    UnknownSession,
    /// A packet that waited for a session until newer ones took its place, or until the handshake was given up.
    Unsent,
    /// A packet whose source address is not in the allowed IPs of the peer that sent it.
    WrongSource,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [Self; 18] = [
        Self::BadHandshake,
        Self::BadMac,
        Self::BadMessage,
        Self::BadPacket,
        Self::BadTag,
        Self::Congested,
        Self::Expired,
        Self::Looped,
        Self::NoEndpoint,
        Self::NoKey,
        Self::NoPeer,
        Self::Replay,
        Self::TooBig,
        Self::UnderLoad,
        Self::UnknownPeer,
        Self::UnknownSession,
        Self::Unsent,
        Self::WrongSource,
    ];

    /// The reason as a metric's label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadHandshake => "bad_handshake",
            Self::BadMac => "bad_mac",
            Self::BadMessage => "bad_message",
            Self::BadPacket => "bad_packet",
            Self::BadTag => "bad_tag",
            Self::Congested => "congested",
            Self::Expired => "expired",
            Self::Looped => "looped",
            Self::NoEndpoint => "no_endpoint",
            Self::NoKey => "no_key",
            Self::NoPeer => "no_peer",
            Self::Replay => "replay",
            Self::TooBig => "too_big",
            Self::UnderLoad => "under_load",
            Self::UnknownPeer => "unknown_peer",
            Self::UnknownSession => "unknown_session",
            Self::Unsent => "unsent",
            Self::WrongSource => "wrong_source",
        }
    }
}

/// Drops by reason since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl DropCounts {
    /// The packets dropped for this reason.
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }

    pub(crate) const fn add(&mut self, reason: DropReason) {
        self.add_many(reason, 1);
    }

    pub(crate) const fn add_many(&mut self, reason: DropReason, count: u64) {
        self.0[reason as usize] += count;
    }
}

/// The device's counters, written once a batch.
#[derive(Debug, Default)]
pub(crate) struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Drops {
    pub(crate) fn add(&self, batch: &DropCounts) {
        for (counter, count) in self.0.iter().zip(batch.0) {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn read(&self) -> DropCounts {
        let mut counts = DropCounts::default();
        for (count, counter) in counts.0.iter_mut().zip(&self.0) {
            *count = counter.load(Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?} is out of order in ALL");
            let drops = Drops::default();
            let mut batch = DropCounts::default();
            batch.add(reason);
            drops.add(&batch);
            drops.add(&batch);
            assert_eq!(drops.read().of(reason), 2);
            assert_eq!(drops.read().iter().map(|(_, count)| count).sum::<u64>(), 2);
        }
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert!(labels.is_sorted(), "{labels:?}");
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
    }
}
