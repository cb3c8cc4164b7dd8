//! Waking and stopping threads that block in the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// A flag that threads can wait for beside a file descriptor (eventfd(2)). Raised, it stays raised until lowered, so
/// every thread that waits for it sees it, also one that comes late.
#[derive(Debug)]
pub struct Signal(OwnedFd);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// What was waited for is there.
    Ready,
    /// The signal to stop was raised.
    Stopped,
    /// The time is over.
    TimedOut,
}

impl Signal {
    /// A lowered signal.
    ///
    /// # Errors
    ///
    /// If the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes every thread that waits for this signal, now or later.
    pub fn raise(&self) {
        // The counter is full only if the signal was raised 2^64 times: then it is raised already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes a raise back.
    pub fn lower(&self) {
        // Nothing to read means that it is lowered already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    /// Waits until the descriptor can be read or this signal is raised, which wins. An error or a hang-up of the
    /// descriptor counts as ready: the read that follows tells it.
    ///
    /// # Errors
    ///
    /// Those of poll(2), except for interruptions.
    pub fn or_readable(&self, fd: impl AsFd, timeout: Option<Duration>) -> io::Result<Wake> {
        self.or_event(fd.as_fd(), PollFlags::IN, timeout)
    }

    fn or_event(
        &self,
        fd: BorrowedFd<'_>,
        events: PollFlags,
        timeout: Option<Duration>,
    ) -> io::Result<Wake> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [PollFd::new(&self.0, PollFlags::IN), PollFd::from_borrowed_fd(fd, events)];
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(Wake::Ready),
            Err(error) => Err(error.into()),
            Ok(_) if !fds[0].revents().is_empty() => Ok(Wake::Stopped),
            Ok(0) => Ok(Wake::TimedOut),
            Ok(_) => Ok(Wake::Ready),
        }
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_stays_raised_until_lowered() {
        let (stop, nudge) = (Signal::new().unwrap(), Signal::new().unwrap());
        let wake = || stop.or_readable(&nudge, Some(Duration::from_millis(1))).unwrap();
        assert_eq!(wake(), Wake::TimedOut);
        nudge.raise();
        nudge.raise();
        assert_eq!((wake(), wake()), (Wake::Ready, Wake::Ready));
        nudge.lower();
        assert_eq!(wake(), Wake::TimedOut);
        nudge.raise();
        stop.raise();
        assert_eq!(wake(), Wake::Stopped);
        nudge.lower();
        nudge.lower();
        assert_eq!(wake(), Wake::Stopped);
    }
}
