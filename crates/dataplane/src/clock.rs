//! The time of a batch, and the sleep of the machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wireloom_io::clock::{boottime, monotonic};
use wireloom_tunnel::Moment;

/// The shortest sleep that counts: the peers' middleboxes forget us no sooner.
const SLEEP: Duration = Duration::from_secs(5);

/// Tells the time, and once for each sleep of the machine that there was one.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The time that the machine has slept since boot, in nanoseconds, as far as it was told.
    slept: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let clock = Self { slept: AtomicU64::new(0) };
        clock.slept(monotonic(), boottime());
        clock
    }

    /// The time, and whether the machine slept since somebody was last told.
    pub(crate) fn read(&self) -> (Moment, bool) {
        let monotonic = monotonic();
        let boottime = boottime();
        (Moment::new(boottime), self.slept(monotonic, boottime))
    }

    /// Whether the machine slept, told to one caller only.
    fn slept(&self, monotonic: Duration, boottime: Duration) -> bool {
        let gap = boottime.saturating_sub(monotonic);
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        let known = self.slept.load(Ordering::Relaxed);
        gap.saturating_sub(known) > SLEEP.as_nanos() as u64
            && self.slept.compare_exchange(known, gap, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_told_once() {
        let clock = Clock { slept: AtomicU64::new(0) };
        let s = Duration::from_secs;
        assert!(!clock.slept(s(100), s(105)));
        assert!(clock.slept(s(100), s(700)));
        assert!(!clock.slept(s(101), s(701)));
        assert!(!clock.slept(s(110), s(715)), "a short sleep");
        assert!(clock.slept(s(120), s(730)), "two short ones add up");
    }

    #[test]
    fn sleeps_before_the_start_do_not_count() {
        assert!(!Clock::new().read().1);
    }
}
