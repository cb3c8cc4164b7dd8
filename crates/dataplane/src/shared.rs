//! What the threads share.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use wireloom_io::{Alarm, Signal, TunDevice, UdpSend, tun};
use wireloom_packet::Outbox;
use wireloom_tunnel::{Device, Moment};

use crate::clock::Clock;
use crate::counters::{Counter, Counters, Lane};

/// Why a data plane ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The TUN device was deleted.
    DeviceGone,
    /// A thread could not go on.
    Failed {
        /// What the thread did, for example `reading the TUN device`.
        deed: &'static str,
        /// The operating system's word.
        error: String,
    },
    /// It was asked to.
    Stopped,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DeviceGone => f.write_str("the TUN device was deleted"),
            Self::Failed { deed, error } => write!(f, "{deed} failed: {error}"),
            Self::Stopped => f.write_str("it was stopped"),
        }
    }
}

/// Where outer datagrams go out now.
pub(crate) struct Outlet {
    pub(crate) port: u16,
    pub(crate) sender: Arc<dyn UdpSend>,
}

/// What the threads of one queue have for themselves.
#[derive(Default)]
pub(crate) struct Queue {
    /// Held while packets of the queue are sealed and sent, and of every queue while those that waited for a handshake
    /// leave: so none of them is overtaken. It is free but for that moment.
    pub(crate) order: Mutex<()>,
    pub(crate) sent: Lane,
    pub(crate) received: Lane,
}

pub(crate) struct Shared {
    pub(crate) device: Device,
    pub(crate) tun: Arc<dyn TunDevice>,
    pub(crate) outlet: ArcSwap<Outlet>,
    /// The mark of outer packets; 0 is none. Changed under the control lock.
    pub(crate) mark: AtomicU32,
    /// By their numbers; there is one at least.
    pub(crate) queues: Box<[Queue]>,
    /// Raised when everything ends.
    pub(crate) stop: Signal,
    pub(crate) alarm: Alarm,
    /// What the alarm is set to, in nanoseconds since boot; `u64::MAX` for nothing.
    armed: AtomicU64,
    arming: Mutex<()>,
    clock: Clock,
    /// When somebody was last told to look at MTUs, in nanoseconds since boot.
    looked: AtomicU64,
    ended: Mutex<Option<Ended>>,
    has_ended: Condvar,
}

impl Shared {
    pub(crate) fn new(
        device: Device,
        tun: Arc<dyn TunDevice>,
        outlet: Outlet,
        queues: NonZeroUsize,
    ) -> std::io::Result<Self> {
        Ok(Self {
            device,
            tun,
            outlet: ArcSwap::from_pointee(outlet),
            mark: AtomicU32::new(0),
            queues: (0..queues.get()).map(|_| Queue::default()).collect(),
            stop: Signal::new()?,
            alarm: Alarm::new()?,
            armed: AtomicU64::new(u64::MAX),
            arming: Mutex::new(()),
            clock: Clock::new(),
            looked: AtomicU64::new(0),
            ended: Mutex::new(None),
            has_ended: Condvar::new(),
        })
    }

    /// The time of a batch. After a sleep of the machine the device is told first.
    pub(crate) fn now(&self) -> Moment {
        let (now, slept) = self.clock.read();
        if slept {
            tracing::info!("the machine slept: peers are called afresh");
            self.device.resumed(now);
            self.arm();
        }
        now
    }

    /// Holds up every queue.
    pub(crate) fn order(&self) -> Vec<MutexGuard<'_, ()>> {
        self.queues.iter().map(|queue| lock(&queue.order)).collect()
    }

    /// Whether it is time to look at something that is looked at so often, told to one caller only.
    pub(crate) fn is_time_to_look(&self, now: Moment, every: Duration) -> bool {
        let (now, last) = (nanos(now), self.looked.load(Ordering::Relaxed));
        u128::from(now.saturating_sub(last)) >= every.as_nanos()
            && self.looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sends what waits on a queue's sockets, counts it and empties the outbox.
    pub(crate) fn flush(
        &self,
        queue: usize,
        now: Moment,
        outbox: &mut Outbox,
        counts: &mut Counters,
    ) {
        if outbox.is_empty() {
            return;
        }
        let report = self.outlet.load().sender.send(queue, now.since_boot(), outbox);
        outbox.clear();
        counts.add(Counter::DatagramsSent, report.sent);
        counts.add(Counter::BytesSent, report.sent_bytes);
        counts.add(Counter::DroppedSending, report.dropped);
        counts.add(Counter::Unbatched, report.unbatched);
        counts.add(Counter::Unsourced, report.unsourced);
    }

    /// Brings the alarm forward if the device's timers are due earlier than it is set. Costs two loads otherwise.
    pub(crate) fn arm(&self) {
        let due = |device: &Device| device.poll_timeout().map_or(u64::MAX, nanos);
        if due(&self.device) < self.armed.load(Ordering::SeqCst) {
            let _arming = lock(&self.arming);
            let due = due(&self.device);
            if due < self.armed.load(Ordering::SeqCst) {
                self.armed.store(due, Ordering::SeqCst);
                self.alarm.set(Some(Duration::from_nanos(due)));
            }
        }
    }

    /// Takes the alarm back, before the device is asked to do what is due: whatever becomes due from here on arms it
    /// again, so nothing is missed.
    pub(crate) fn disarm(&self) {
        let _arming = lock(&self.arming);
        self.armed.store(u64::MAX, Ordering::SeqCst);
        self.alarm.set(None);
    }

    /// Ends everything; the first reason stands.
    pub(crate) fn end(&self, reason: Ended) {
        lock(&self.ended).get_or_insert(reason);
        self.has_ended.notify_all();
        self.stop.raise();
    }

    /// Ends everything because of an error of the TUN device.
    pub(crate) fn end_by_tun(&self, deed: &'static str, error: &std::io::Error) {
        self.end(if tun::is_gone(error) {
            Ended::DeviceGone
        } else {
            Ended::Failed { deed, error: error.to_string() }
        });
    }

    /// The reason of the end, if it has come.
    pub(crate) fn ended(&self) -> Option<Ended> {
        lock(&self.ended).clone()
    }

    /// Waits for the end.
    pub(crate) fn wait(&self) -> Ended {
        let mut ended = lock(&self.ended);
        loop {
            if let Some(reason) = &*ended {
                return reason.clone();
            }
            ended = self.has_ended.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Nanoseconds since boot, good for 584 years.
fn nanos(moment: Moment) -> u64 {
    u64::try_from(moment.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

/// Locks a mutex. What the mutexes here guard is right at every moment, also when a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
