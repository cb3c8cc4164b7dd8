//! A TUN device and a network in memory, for tests and benches without root.
//!
//! They behave as the kernel's do where it matters to the data plane: reads are batches that block until something is
//! there, a device can be deleted under its reader, and datagrams to nobody are lost without a word. Each can be told to
//! refuse offloads as a kernel would, when it is set up or while packets flow; what is done about it is the code that
//! runs on the kernel's own.

mod network;
mod tun;

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::signal::{Signal, Wake};

pub use network::{MemoryNetwork, MemoryUdp};
pub use tun::{MemoryHost, MemoryTun, tun};

/// A queue that can be waited for.
#[derive(Debug)]
struct Pipe<T> {
    queue: Mutex<VecDeque<T>>,
    ready: Signal,
}

impl<T> Pipe<T> {
    fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::new(VecDeque::new()), ready: Signal::new()? })
    }

    fn push(&self, item: T) {
        self.push_all([item]);
    }

    fn push_all(&self, items: impl IntoIterator<Item = T>) {
        lock(&self.queue).extend(items);
        self.ready.raise();
    }

    /// The first item, waiting for it; `None` when stopped or out of time.
    fn wait(&self, stop: &Signal, timeout: Option<Duration>) -> io::Result<Option<T>> {
        loop {
            if let Some(item) = self.pop() {
                return Ok(Some(item));
            }
            match stop.or_readable(&self.ready, timeout)? {
                Wake::Ready => {}
                Wake::Stopped | Wake::TimedOut => return Ok(None),
            }
        }
    }

    fn pop(&self) -> Option<T> {
        let mut queue = lock(&self.queue);
        let item = queue.pop_front();
        if queue.is_empty() {
            self.ready.lower();
        }
        item
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroUsize;

    use wireloom_packet::{Ecn, Outbox, Path, VnetHeader};

    use super::*;
    use crate::buffer::{FrameBuffer, ReceiveBuffer};
    use crate::seam::{TunDevice as _, TunWrite as _, UdpBind as _};
    use crate::udp::BindError;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn packets_pass_both_ways_through_the_device() {
        let (tun, host) = tun().unwrap();
        let mut reader = tun.readers().remove(0);
        let stop = Signal::new().unwrap();
        let mut frames = FrameBuffer::new();
        host.send(&[0x45; 20]);
        host.send(&[0x60; 40]);
        assert_eq!(reader.read(&mut frames, &stop).unwrap(), Wake::Ready);
        frames.with(|frames| {
            assert_eq!(frames.iter().map(|f| f.packet.len()).collect::<Vec<_>>(), [20, 40]);
        });
        let packet = [&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0][..], &[9; 8]].concat();
        tun.write(0, &VnetHeader::default(), &[0..10, 10..20], &packet).unwrap();
        assert_eq!(host.receive(PATIENCE), Some(packet));
        host.delete();
        let error = reader.read(&mut frames, &stop).unwrap_err();
        assert!(crate::tun::is_gone(&error), "{error}");
        stop.raise();
        assert_eq!(reader.read(&mut frames, &stop).unwrap(), Wake::Stopped);
    }

    #[test]
    fn datagrams_find_their_host_and_know_their_way_back() {
        let network = MemoryNetwork::default();
        let (a, b): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let from = network.host(a).bind(0, 0, NonZeroUsize::MIN).unwrap();
        let mut to = network.host(b).bind(51820, 0, NonZeroUsize::MIN).unwrap();
        assert!(matches!(
            network.host(b).bind(51820, 0, NonZeroUsize::MIN),
            Err(BindError::PortInUse { port: 51820, .. })
        ));
        let mut outbox = Outbox::default();
        let path = Path { remote: (b, 51820).into(), local: None };
        (0..3).for_each(|_| outbox.push(&[7; 100], &path, Ecn::Ect0));
        assert_eq!(from.sender.send(0, Duration::ZERO, &outbox).sent, 3);
        let mut buffer = ReceiveBuffer::new();
        let stop = Signal::new().unwrap();
        to.receivers[0][0].receive(&mut buffer, &stop).unwrap();
        buffer.with(|received| {
            assert_eq!(received[0].datagrams().count(), 3);
            assert_eq!(received[0].path.remote, (a, from.port).into());
        });
        drop(to);
        assert_eq!(from.sender.send(0, Duration::ZERO, &outbox).dropped, 0);
        assert!(
            network.host(b).bind(51820, 0, NonZeroUsize::MIN).is_ok(),
            "a dropped binding frees its port"
        );
    }
}
