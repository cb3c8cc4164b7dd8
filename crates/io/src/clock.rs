//! The two clocks of the packet path, each as the time since the machine started.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Reads `CLOCK_BOOTTIME`: goes on while the machine sleeps, so that a session's age is its real age.
pub fn boottime() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

/// Reads `CLOCK_MONOTONIC`: stands still while the machine sleeps. Its distance to [`boottime`] grows by each sleep.
pub fn monotonic() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// Neither clock is ever negative, and nanoseconds stay below a second (clock_gettime(2)).
fn duration(time: Timespec) -> Duration {
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_and_sleep_counts_in_one_clock_only() {
        let (monotonic_before, boottime_before) = (monotonic(), boottime());
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic() - monotonic_before >= Duration::from_millis(2));
        assert!(boottime() - boottime_before >= Duration::from_millis(2));
        assert!(monotonic() <= boottime());
    }
}
