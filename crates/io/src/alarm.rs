//! Waiting for a point in time that counts while the machine sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that can be waited for like a file (timerfd_create(2)). It runs on `CLOCK_BOOTTIME`: what came due while the
/// machine slept is due when it wakes.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Boottime, flags)?))
    }

    /// Sets the alarm to this time since boot, or takes it back. The descriptor can be read from then on, until the
    /// alarm is set again.
    pub fn set(&self, at: Option<Duration>) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A value of zero would take the alarm back, so what is long due is due a nanosecond after boot.
        let at = at.map(|at| at.max(Duration::from_nanos(1)));
        let value = at.and_then(|at| Timespec::try_from(at).ok()).unwrap_or(zero);
        let value = Itimerspec { it_interval: zero, it_value: value };
        // It fails for a bad descriptor or a bad time only, and both are right here.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &value);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::boottime;
    use crate::signal::{Signal, Wake};

    #[test]
    fn an_alarm_goes_off_once_its_time_has_come() {
        let (alarm, stop) = (Alarm::new().unwrap(), Signal::new().unwrap());
        let wait = || stop.or_readable(&alarm, Some(Duration::from_millis(20))).unwrap();
        assert_eq!(wait(), Wake::TimedOut);
        let due = boottime() + Duration::from_millis(3);
        alarm.set(Some(due));
        assert_eq!(wait(), Wake::Ready);
        assert!(boottime() >= due);
        alarm.set(Some(boottime() + Duration::from_secs(1000)));
        assert_eq!(wait(), Wake::TimedOut);
        alarm.set(Some(Duration::ZERO));
        assert_eq!(wait(), Wake::Ready, "what is long due is due");
        alarm.set(None);
        assert_eq!(wait(), Wake::TimedOut);
    }
}
