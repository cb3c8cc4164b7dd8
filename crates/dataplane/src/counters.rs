//! Counters of the threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the threads count. Each is a metric of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Counter {
    /// Frames read from the TUN device, super-packets counted once.
    FramesRead,
    /// Frames written to the TUN device, super-packets counted once.
    FramesWritten,
    /// ICMP errors written to the TUN device for packets that go nowhere.
    Refusals,
    /// Super-datagrams received.
    BatchesReceived,
    /// Datagrams received.
    DatagramsReceived,
    /// Their bytes, without UDP and IP headers.
    BytesReceived,
    /// Datagrams sent.
    DatagramsSent,
    /// Their bytes, without UDP and IP headers.
    BytesSent,
    /// Batches that the kernel took only as single datagrams.
    Unbatched,
    /// Datagrams that the kernel took only from a source address of its own choice.
    Unsourced,
    /// Frames that were dropped because nobody can read their virtio-net header.
    DroppedUnreadable,
    /// Datagrams that were dropped because they arrived cut off.
    DroppedTruncated,
    /// Datagrams that the kernel did not take.
    DroppedSending,
    /// Packets that the TUN device did not take.
    DroppedWriting,
}

impl Counter {
    /// All counters, in order.
    pub const ALL: [Self; 14] = [
        Self::FramesRead,
        Self::FramesWritten,
        Self::Refusals,
        Self::BatchesReceived,
        Self::DatagramsReceived,
        Self::BytesReceived,
        Self::DatagramsSent,
        Self::BytesSent,
        Self::Unbatched,
        Self::Unsourced,
        Self::DroppedUnreadable,
        Self::DroppedTruncated,
        Self::DroppedSending,
        Self::DroppedWriting,
    ];

    /// The counter's name as a metric has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FramesRead => "frames_read",
            Self::FramesWritten => "frames_written",
            Self::Refusals => "refusals",
            Self::BatchesReceived => "batches_received",
            Self::DatagramsReceived => "datagrams_received",
            Self::BytesReceived => "bytes_received",
            Self::DatagramsSent => "datagrams_sent",
            Self::BytesSent => "bytes_sent",
            Self::Unbatched => "unbatched",
            Self::Unsourced => "unsourced",
            Self::DroppedUnreadable => "unreadable_frame",
            Self::DroppedTruncated => "truncated_datagram",
            Self::DroppedSending => "not_sent",
            Self::DroppedWriting => "not_written",
        }
    }

    /// Whether it counts packets that were lost.
    pub const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::DroppedUnreadable
                | Self::DroppedTruncated
                | Self::DroppedSending
                | Self::DroppedWriting
        )
    }
}

/// Counts by counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Counters {
    /// The count of one counter.
    pub const fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Every counter with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.into_iter().zip(self.0)
    }

    pub(crate) const fn add(&mut self, counter: Counter, count: u64) {
        self.0[counter as usize] += count;
    }
}

/// The counters that one kind of thread writes once a batch, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Lane([AtomicU64; Counter::ALL.len()]);

impl Lane {
    /// Adds a batch's counts.
    pub(crate) fn add(&self, batch: &Counters) {
        for (counter, count) in self.0.iter().zip(batch.0) {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Adds this lane's counts to a sum.
    pub(crate) fn add_to(&self, sum: &mut Counters) {
        for (sum, counter) in sum.0.iter_mut().zip(&self.0) {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_place_and_label() {
        let mut labels = std::collections::BTreeSet::new();
        for (place, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, place, "{counter:?} is out of order in ALL");
            assert!(labels.insert(counter.label()), "{} names two counters", counter.label());
            let (lane, mut batch, mut sum) =
                (Lane::default(), Counters::default(), Counters::default());
            batch.add(counter, 3);
            lane.add(&batch);
            lane.add(&batch);
            lane.add_to(&mut sum);
            assert_eq!(sum.of(counter), 6);
            assert_eq!(sum.iter().map(|(_, count)| count).sum::<u64>(), 6);
        }
    }
}
