//! Sending an outbox.
//!
//! One call hands over as many batches as it takes. What the kernel refuses is tried again with less asked of it: the
//! same datagrams one by one, then from a source address of the kernel's choice. So a route without segmentation or an
//! address that went away costs calls, not packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use wireloom_packet::{Outbox, Path, TrafficClass};

use super::address::SocketName;
use super::control::ControlBuffer;
use super::{UdpOffloads, UdpSocket};
use crate::seam::{SendReport, UdpSend};
use crate::sys::{self, Departure, MESSAGES};

/// How long a destination that refused a batch gets datagrams of that size one by one, before batches are tried again: its
/// route may have changed.
const UNBATCHED_FOR: Duration = Duration::from_secs(60);
/// The destinations that are remembered as such; beyond them the oldest is tried again.
const UNBATCHED_MOST: usize = 256;
/// How often a full device queue is tried again, with a millisecond between.
const FULL_ATTEMPTS: usize = 3;

/// A socket of one family, to send on.
pub(crate) trait DatagramSink: Send + Sync {
    /// Takes messages, at most [`MESSAGES`] of them, and returns how many were taken whole: an error is returned only
    /// when the first one is refused.
    fn send(&self, messages: &[Message<'_>]) -> io::Result<usize>;

    /// How long a packet to the far end may be.
    fn path_mtu(&self, remote: SocketAddr) -> io::Result<u32>;

    /// Waits a little while the queue is full.
    fn wait_for_room(&self);

    /// Marks what is sent from now on.
    fn set_mark(&self, mark: u32) -> io::Result<()>;

    /// Switches GRO on what is received, if the kernel has it.
    fn set_gro(&self, on: bool);

    /// Whether GRO is in use.
    fn gro(&self) -> bool;
}

/// The sending side of the sockets of both families.
#[derive(Debug)]
pub(crate) struct UdpSender<S> {
    /// One a queue, as long as the kernel has the family.
    v4: Vec<Arc<S>>,
    v6: Vec<Arc<S>>,
    proven: UdpOffloads,
    gso: AtomicBool,
    /// Destinations that refused a batch. `unbatched_count` spares the lock while there are none.
    unbatched: Mutex<Vec<Unbatched>>,
    unbatched_count: AtomicUsize,
}

/// A destination that refused a batch.
#[derive(Debug)]
struct Unbatched {
    remote: IpAddr,
    /// The size of its datagrams: smaller ones may fit the route's MTU.
    segment: usize,
    /// Until when that counts, since boot.
    until: Duration,
}

/// Datagrams of one size, but for the last, that leave together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) path: Path,
    pub(crate) class: TrafficClass,
    pub(crate) segment: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Message<'a> {
    fn datagrams(&self) -> u64 {
        self.bytes.len().div_ceil(self.segment.max(1)) as u64
    }

    pub(crate) const fn is_batch(&self) -> bool {
        self.bytes.len() > self.segment
    }

    fn departure(&self) -> Departure<'a> {
        let segment = if self.is_batch() { u16::try_from(self.segment).ok() } else { None };
        let source = self.path.local.map(|local| local.address);
        let is_v4 = self.path.remote.is_ipv4();
        Departure {
            name: SocketName::from(self.path.remote),
            control: ControlBuffer::for_sending(is_v4, segment, source, self.class),
            bytes: self.bytes,
        }
    }
}

impl DatagramSink for UdpSocket {
    fn send(&self, messages: &[Message<'_>]) -> io::Result<usize> {
        let mut departures = [Departure::default(); MESSAGES];
        let count = messages.len().min(MESSAGES);
        for (departure, message) in departures.iter_mut().zip(messages) {
            *departure = message.departure();
        }
        sys::send_many(self.as_fd(), &departures[..count])
    }

    /// A socket tells the MTU of the route that it is connected by, so there is one for asking.
    fn path_mtu(&self, remote: SocketAddr) -> io::Result<u32> {
        let asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        // Or else it would go on with the source address that the last route chose.
        rustix::net::connect_unspec(&*asker)?;
        asker.connect(&remote.into())?;
        Ok(if self.is_v4 { ip_mtu(&*asker)? } else { ipv6_mtu(&*asker)? })
    }

    fn wait_for_room(&self) {
        let millisecond = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // However the wait ends, the send that follows tells.
        let _ = poll(&mut [PollFd::new(self, PollFlags::empty())], Some(&millisecond));
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.asker.lock().unwrap_or_else(PoisonError::into_inner).set_mark(mark)?;
        self.socket.set_mark(mark)
    }

    fn set_gro(&self, on: bool) {
        Self::set_gro(self, on);
    }

    fn gro(&self) -> bool {
        self.gro.load(Ordering::Relaxed)
    }
}

impl<S: DatagramSink> UdpSender<S> {
    pub(crate) fn new(v4: Vec<Arc<S>>, v6: Vec<Arc<S>>, proven: UdpOffloads) -> Self {
        let gso = AtomicBool::new(proven.gso);
        let unbatched = Mutex::new(Vec::new());
        Self { v4, v6, proven, gso, unbatched, unbatched_count: AtomicUsize::new(0) }
    }

    fn socket(&self, queue: usize, is_v4: bool) -> Option<&S> {
        let queues = if is_v4 { &self.v4 } else { &self.v6 };
        queues.get(queue).or_else(|| queues.first()).map(|socket| &**socket)
    }

    fn sockets(&self) -> impl Iterator<Item = &S> {
        self.v4.iter().chain(&self.v6).map(|socket| &**socket)
    }

    fn may_batch(&self, now: Duration, remote: IpAddr, segment: usize) -> bool {
        if !self.gso.load(Ordering::Relaxed) {
            return false;
        }
        if self.unbatched_count.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut unbatched = self.unbatched.lock().unwrap_or_else(PoisonError::into_inner);
        unbatched.retain(|one| now < one.until);
        self.unbatched_count.store(unbatched.len(), Ordering::Relaxed);
        unbatched.iter().all(|one| one.remote != remote || segment < one.segment)
    }

    fn stop_batching(&self, now: Duration, remote: IpAddr, segment: usize) {
        let mut unbatched = self.unbatched.lock().unwrap_or_else(PoisonError::into_inner);
        unbatched.retain(|one| one.remote != remote);
        if unbatched.len() >= UNBATCHED_MOST {
            unbatched.remove(0);
        }
        unbatched.push(Unbatched { remote, segment, until: now + UNBATCHED_FOR });
        self.unbatched_count.store(unbatched.len(), Ordering::Relaxed);
    }

    /// Sends messages of one family, on its socket if the kernel has it.
    fn flush(
        &self,
        now: Duration,
        socket: Option<&S>,
        messages: &[Message<'_>],
        report: &mut SendReport,
    ) {
        let Some(socket) = socket else {
            messages.iter().for_each(|message| lose(message, libc::EAFNOSUPPORT, report));
            return;
        };
        let mut done = 0;
        while done < messages.len() {
            match socket.send(&messages[done..]) {
                Ok(sent) => {
                    messages[done..done + sent].iter().for_each(|message| count(message, report));
                    done += sent.max(1);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.retry(now, socket, &messages[done], error, report);
                    done += 1;
                }
            }
        }
    }

    /// Sends a refused message again with less asked of the kernel.
    fn retry(
        &self,
        now: Duration,
        socket: &S,
        message: &Message<'_>,
        error: io::Error,
        report: &mut SendReport,
    ) {
        if !(message.is_batch() && is_refused_batch(&error)) {
            send_single(socket, message, error, report);
            return;
        }
        let before = *report;
        for bytes in message.bytes.chunks(message.segment) {
            let single = Message { bytes, ..*message };
            match socket.send(&[single]) {
                Ok(_) => count(&single, report),
                Err(error) => send_single(socket, &single, error, report),
            }
        }
        // Only if the batch was at fault, and not the source, the route or the device.
        if report.sent > before.sent && report.unsourced == before.unsourced {
            report.unbatched += 1;
            self.stop_batching(now, message.path.remote.ip(), message.segment);
        }
    }
}

impl<S: DatagramSink> UdpSend for UdpSender<S> {
    fn send(&self, queue: usize, now: Duration, outbox: &Outbox) -> SendReport {
        let mut report = SendReport::default();
        let nowhere = Path { remote: ([0, 0, 0, 0], 0).into(), local: None };
        let class = TrafficClass::default();
        let empty = Message { path: nowhere, class, segment: 1, bytes: &[] };
        let mut messages = [empty; MESSAGES];
        let mut count = 0;
        let mut family = true;
        for (transmit, bytes) in outbox.transmits() {
            let remote = transmit.path.remote;
            let batch =
                transmit.datagrams() > 1 && self.may_batch(now, remote.ip(), transmit.segment);
            for bytes in bytes.chunks(if batch { bytes.len() } else { transmit.segment }) {
                if count == MESSAGES || (count > 0 && family != remote.is_ipv4()) {
                    let socket = self.socket(queue, family);
                    self.flush(now, socket, &messages[..count], &mut report);
                    count = 0;
                }
                family = remote.is_ipv4();
                let (path, class, segment) = (transmit.path, transmit.class, transmit.segment);
                messages[count] = Message { path, class, segment, bytes };
                count += 1;
            }
        }
        self.flush(now, self.socket(queue, family), &messages[..count], &mut report);
        report
    }

    fn path_mtu(&self, remote: SocketAddr) -> Option<u32> {
        self.socket(0, remote.is_ipv4())?.path_mtu(remote).ok()
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.sockets().try_for_each(|socket| socket.set_mark(mark))
    }

    fn set_offloads(&self, gso: bool, gro: bool) {
        self.gso.store(gso && self.proven.gso, Ordering::Relaxed);
        self.sockets().for_each(|socket| socket.set_gro(gro));
    }

    fn offloads(&self) -> (bool, bool) {
        let gro = self.sockets().any(S::gro);
        (self.gso.load(Ordering::Relaxed), gro)
    }
}

/// Sends a message that was refused for another reason than being a batch: once more if the queue was full, and from
/// any source if its own does not do.
fn send_single(
    socket: &impl DatagramSink,
    message: &Message<'_>,
    mut error: io::Error,
    report: &mut SendReport,
) {
    let mut message = *message;
    let had_source = message.path.local.is_some();
    for _ in 0..FULL_ATTEMPTS {
        match error.raw_os_error() {
            Some(libc::ENOBUFS) => socket.wait_for_room(),
            Some(libc::EINTR) => {}
            Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV)
                if message.path.local.is_some() =>
            {
                message.path.local = None;
            }
            _ => break,
        }
        match socket.send(&[message]) {
            Ok(_) => {
                if message.path.local.is_none() && had_source {
                    report.unsourced += message.datagrams();
                }
                count(&message, report);
                return;
            }
            Err(again) => error = again,
        }
    }
    lose(&message, error.raw_os_error().unwrap_or(libc::EIO), report);
}

/// Whether the kernel may take the same datagrams one by one: the route's device cannot checksum (EIO), the route
/// cannot segment or the segments exceed its MTU (EINVAL, EMSGSIZE).
fn is_refused_batch(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

fn count(message: &Message<'_>, report: &mut SendReport) {
    report.sent += message.datagrams();
    report.sent_bytes += message.bytes.len() as u64;
}

fn lose(message: &Message<'_>, error: i32, report: &mut SendReport) {
    report.dropped += message.datagrams();
    report.error = Some(error);
}
