//! Time as the device sees it.

use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: the time since boot, suspends included (`CLOCK_BOOTTIME`, `clock_gettime(2)`).
///
/// Every method that depends on time takes it as `now`. It never runs backwards; a `now` from before an earlier one is
/// harmless, since all spans saturate at zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after boot.
    pub const fn new(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time since boot.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// The time that has passed since an earlier moment; zero if that one is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Nanoseconds since boot, good for 584 years.
    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }
}

/// The time since the Unix epoch by the system's clock, whatever the moment: it may be set while we run.
pub(crate) fn wall_clock(_: Moment) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "read once a handshake, for the other end alone")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}
