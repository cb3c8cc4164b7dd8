//! The numbers of a session's messages, which are the cipher's nonces: none is ever given out twice, and none can be
//! used twice.

use std::ops::Range;

use super::sync::{AtomicU64, Ordering};

/// Gives out numbers from 0 on, to any number of threads.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

/// Numbers that were given out together. They can't be copied, so each is used by one owner at most.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Numbers(Range<u64>);

/// A number that nobody else has. Whoever uses it gives it away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Number(u64);

impl Counter {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Takes up to `count` numbers below the limit for the caller alone: fewer close to the limit, none at it. It never
    /// passes the limit, and so never wraps, however many threads ask.
    pub(crate) fn reserve(&self, count: u64, limit: u64) -> Numbers {
        let after = |first: u64| first.saturating_add(count).min(limit);
        // The numbers alone are shared, nothing that a thread wrote before, so no order is needed.
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
            (first < limit).then(|| after(first))
        });
        Numbers(taken.map_or(limit..limit, |first| first..after(first)))
    }

    /// How many were given out.
    pub(crate) fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Numbers {
    /// How many are left.
    pub(crate) const fn left(&self) -> u64 {
        self.0.end - self.0.start
    }
}

impl Iterator for Numbers {
    type Item = Number;

    fn next(&mut self) -> Option<Number> {
        self.0.next().map(Number)
    }
}

impl Number {
    pub(crate) const fn value(&self) -> u64 {
        self.0
    }
}
