//! A TUN device and a network in memory, for tests and benches without root.
//!
//! They behave as the kernel's do where it matters to the data plane: reads are batches that block until something is
//! there, a device can be deleted under its reader, and datagrams to nobody are lost without a word.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wireloom_packet::vnet::VNET_HEADER_BYTES;
use wireloom_packet::{Ecn, Frame, Local, MergeOffloads, Outbox, Path, Segments, VnetHeader};

use crate::buffer::{FrameBuffer, ReceiveBuffer, TURN_DATAGRAMS};
use crate::seam::{
    Binding, SendReport, TunDevice, TunRead, TunWrite, UdpBind, UdpReceive, UdpSend,
};
use crate::signal::{Signal, Wake};
use crate::tun::{DEFAULT_MTU, UnfinishedPackets};
use crate::udp::BindError;

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
        lock(&self.queue).push_back(item);
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

/// The tunnel's end of a TUN device in memory; clones are the same device.
#[derive(Debug, Clone)]
pub struct MemoryTun(Arc<Device>);

/// The host's end of a TUN device in memory.
#[derive(Debug, Clone)]
pub struct MemoryHost(Arc<Device>);

#[derive(Debug)]
struct Device {
    to_tunnel: Pipe<Option<Vec<u8>>>,
    to_host: Pipe<Vec<u8>>,
    never: Signal,
    switches: Mutex<(UnfinishedPackets, MergeOffloads)>,
}

/// Makes a TUN device in memory.
///
/// # Errors
///
/// If the process has no file descriptor left.
pub fn tun() -> io::Result<(MemoryTun, MemoryHost)> {
    let reads = UnfinishedPackets { checksum: true, tcp: true, udp: true };
    let writes = MergeOffloads { tcp4: true, tcp6: true, udp: true };
    let device = Arc::new(Device {
        to_tunnel: Pipe::new()?,
        to_host: Pipe::new()?,
        never: Signal::new()?,
        switches: Mutex::new((reads, writes)),
    });
    Ok((MemoryTun(Arc::clone(&device)), MemoryHost(device)))
}

impl MemoryHost {
    /// Sends a packet into the tunnel.
    pub fn send(&self, packet: &[u8]) {
        self.send_frame(&VnetHeader::default(), packet);
    }

    /// Sends a frame into the tunnel, super-packet or not.
    pub fn send_frame(&self, header: &VnetHeader, packet: &[u8]) {
        self.0.to_tunnel.push(Some([&header.encode()[..], packet].concat()));
    }

    /// The next packet out of the tunnel; `None` if there is none for that long.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.0.to_host.wait(&self.0.never, Some(timeout)).ok().flatten()
    }

    /// Deletes the device: its reader gets the error that a deleted interface gives.
    pub fn delete(&self) {
        self.0.to_tunnel.push(None);
    }
}

impl TunDevice for MemoryTun {
    fn reader(&self) -> Box<dyn TunRead> {
        Box::new(MemoryReader(Arc::clone(&self.0)))
    }

    fn mtu(&self) -> io::Result<u32> {
        Ok(DEFAULT_MTU)
    }

    fn reads(&self) -> UnfinishedPackets {
        lock(&self.0.switches).0
    }

    fn set_reads(&self, wanted: UnfinishedPackets) {
        lock(&self.0.switches).0 = wanted;
    }

    fn writes(&self) -> MergeOffloads {
        lock(&self.0.switches).1
    }

    fn set_writes(&self, offloads: MergeOffloads) {
        lock(&self.0.switches).1 = offloads;
    }

    fn refused(&self) -> u64 {
        0
    }
}

#[derive(Debug)]
struct MemoryReader(Arc<Device>);

impl TunRead for MemoryReader {
    fn read(&mut self, frames: &mut FrameBuffer, stop: &Signal) -> io::Result<Wake> {
        frames.clear();
        let Some(mut next) = self.0.to_tunnel.wait(stop, None)? else { return Ok(Wake::Stopped) };
        loop {
            let frame = next.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADFD))?;
            if let Some(slot) = frames.slot() {
                let length = frame.len().min(slot.len());
                slot[..length].copy_from_slice(&frame[..length]);
                frames.commit(length);
            }
            if frames.slot().is_none() {
                return Ok(Wake::Ready);
            }
            let Some(more) = self.0.to_tunnel.pop() else { return Ok(Wake::Ready) };
            next = more;
        }
    }
}

impl TunWrite for MemoryTun {
    /// The host gets single packets, as it would behind the kernel's own segmentation.
    fn write(&self, header: &VnetHeader, parts: &[Range<usize>], bytes: &[u8]) -> io::Result<()> {
        let place = |part: &Range<usize>| bytes.get(part.clone()).unwrap_or_default();
        let packet: Vec<u8> = parts.iter().flat_map(place).copied().collect();
        let frame = Frame { header: *header, packet: &packet };
        let mut segments = Segments::new(&frame)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut segment = vec![0; segments.largest().max(VNET_HEADER_BYTES)];
        while let Some(length) = segments.next_into(&mut segment) {
            self.0.to_host.push(segment[..length].to_vec());
        }
        Ok(())
    }
}

/// A network in memory: every bound port of every host, each found by its address.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<BTreeMap<SocketAddr, Arc<Pipe<Datagrams>>>>>);

/// A host's place in a [`MemoryNetwork`].
#[derive(Debug, Clone)]
pub struct MemoryUdp {
    network: MemoryNetwork,
    address: IpAddr,
}

#[derive(Debug, Clone)]
struct Datagrams {
    path: Path,
    ecn: Ecn,
    segment: usize,
    bytes: Vec<u8>,
}

/// The first port that is given to those who ask for any (RFC 6335: the dynamic ports).
const FIRST_FREE_PORT: u16 = 49_152;

impl MemoryNetwork {
    /// The host with this address.
    pub fn host(&self, address: IpAddr) -> MemoryUdp {
        MemoryUdp { network: self.clone(), address }
    }
}

impl UdpBind for MemoryUdp {
    fn bind(&self, port: u16, mark: u32) -> Result<Binding, BindError> {
        let pipe = Pipe::new().map_err(|source| BindError::System {
            port,
            deed: "make a queue",
            source,
        })?;
        let pipe = Arc::new(pipe);
        let mut bound = lock(&self.network.0);
        let free = |port: &u16| !bound.contains_key(&SocketAddr::new(self.address, *port));
        let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let port = match port {
            0 => (FIRST_FREE_PORT..=u16::MAX).find(free),
            port => Some(port).filter(free),
        }
        .ok_or(BindError::PortInUse { port, family, holder: None })?;
        let local = SocketAddr::new(self.address, port);
        bound.insert(local, Arc::clone(&pipe));
        let (network, gso, mark) = (self.network.clone(), true.into(), mark.into());
        let sender = MemorySender { network: network.clone(), local, gso, mark };
        let receiver = MemoryReceiver { network, local, pipe };
        Ok(Binding { port, sender: Arc::new(sender), receivers: vec![Box::new(receiver)] })
    }
}

#[derive(Debug)]
struct MemorySender {
    network: MemoryNetwork,
    local: SocketAddr,
    gso: AtomicBool,
    mark: AtomicU32,
}

impl UdpSend for MemorySender {
    fn send(&self, _now: Duration, outbox: &Outbox) -> SendReport {
        let mut report = SendReport::default();
        for (transmit, bytes) in outbox.transmits() {
            let target = lock(&self.network.0).get(&transmit.path.remote).cloned();
            if let Some(target) = target {
                let local = Some(Local { address: transmit.path.remote.ip(), interface: 1 });
                let path = Path { remote: self.local, local };
                let (ecn, segment) = (transmit.ecn, transmit.segment);
                target.push(Datagrams { path, ecn, segment, bytes: bytes.to_vec() });
            }
            report.sent += transmit.datagrams() as u64;
            report.sent_bytes += bytes.len() as u64;
        }
        report
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.mark.store(mark, Ordering::Relaxed);
        Ok(())
    }

    fn set_offloads(&self, gso: bool, _gro: bool) {
        self.gso.store(gso, Ordering::Relaxed);
    }

    fn offloads(&self) -> (bool, bool) {
        (self.gso.load(Ordering::Relaxed), true)
    }
}

#[derive(Debug)]
struct MemoryReceiver {
    network: MemoryNetwork,
    local: SocketAddr,
    pipe: Arc<Pipe<Datagrams>>,
}

impl UdpReceive for MemoryReceiver {
    fn receive(&mut self, buffer: &mut ReceiveBuffer, stop: &Signal) -> io::Result<Wake> {
        buffer.clear();
        let Some(first) = self.pipe.wait(stop, None)? else { return Ok(Wake::Stopped) };
        let rest = std::iter::from_fn(|| self.pipe.pop());
        for (number, batch) in std::iter::once(first).chain(rest).take(TURN_DATAGRAMS).enumerate() {
            if let Some(slot) = buffer.slot(number) {
                let length = batch.bytes.len().min(slot.len());
                slot[..length].copy_from_slice(&batch.bytes[..length]);
                buffer.commit(number, length, batch.path, batch.ecn, batch.segment);
            }
        }
        Ok(Wake::Ready)
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        lock(&self.network.0).remove(&self.local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn packets_pass_both_ways_through_the_device() {
        let (tun, host) = tun().unwrap();
        let mut reader = tun.reader();
        let stop = Signal::new().unwrap();
        let mut frames = FrameBuffer::new();
        host.send(&[0x45; 20]);
        host.send(&[0x60; 40]);
        assert_eq!(reader.read(&mut frames, &stop).unwrap(), Wake::Ready);
        frames.with(|frames| {
            assert_eq!(frames.iter().map(|f| f.packet.len()).collect::<Vec<_>>(), [20, 40]);
        });
        let packet = [&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0][..], &[9; 8]].concat();
        tun.write(&VnetHeader::default(), &[0..10, 10..20], &packet).unwrap();
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
        let from = network.host(a).bind(0, 0).unwrap();
        let mut to = network.host(b).bind(51820, 0).unwrap();
        assert!(matches!(
            network.host(b).bind(51820, 0),
            Err(BindError::PortInUse { port: 51820, .. })
        ));
        let mut outbox = Outbox::default();
        let path = Path { remote: (b, 51820).into(), local: None };
        (0..3).for_each(|_| outbox.push(&[7; 100], &path, Ecn::Ect0));
        assert_eq!(from.sender.send(Duration::ZERO, &outbox).sent, 3);
        let mut buffer = ReceiveBuffer::new();
        let stop = Signal::new().unwrap();
        to.receivers[0].receive(&mut buffer, &stop).unwrap();
        buffer.with(|received| {
            assert_eq!(received[0].datagrams().count(), 3);
            assert_eq!(received[0].path.remote, (a, from.port).into());
        });
        drop(to);
        assert_eq!(from.sender.send(Duration::ZERO, &outbox).dropped, 0);
        assert!(network.host(b).bind(51820, 0).is_ok(), "a dropped binding frees its port");
    }
}
