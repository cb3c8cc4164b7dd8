//! The network.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use wireloom_packet::{Ecn, Local, Path};

use super::{Pipe, lock};
use crate::buffer::{ReceiveBuffer, TURN_DATAGRAMS};
use crate::seam::{Binding, RouteWatch, UdpBind, UdpReceive};
use crate::signal::{Signal, Wake};
use crate::udp::{BindError, DatagramSink, Message, UdpOffloads, UdpSender};

/// A network in memory: every bound port of every host, each found by its address.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork(Arc<Network>);

#[derive(Debug)]
struct Network {
    ports: Mutex<BTreeMap<SocketAddr, Arc<Port>>>,
    /// The error by which batches are refused; 0 for none.
    refusal: AtomicI32,
    /// The MTU of every path.
    mtu: AtomicU32,
}

impl Default for Network {
    fn default() -> Self {
        let (ports, refusal) = (Mutex::default(), AtomicI32::new(0));
        Self { ports, refusal, mtu: AtomicU32::new(1500) }
    }
}

/// A host's place in a [`MemoryNetwork`].
#[derive(Debug, Clone)]
pub struct MemoryUdp {
    network: MemoryNetwork,
    address: IpAddr,
    offloads: UdpOffloads,
}

/// A bound port: what has arrived, and whether datagrams that left together arrive together.
#[derive(Debug)]
struct Port {
    arrived: Pipe<Datagrams>,
    gro: AtomicBool,
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
        let offloads = UdpOffloads { gso: true, gro: true };
        MemoryUdp { network: self.clone(), address, offloads }
    }

    /// From now on every path is said to have this MTU, in bytes. At first it is 1,500.
    pub fn narrow(&self, mtu: u32) {
        self.0.mtu.store(mtu, Ordering::Relaxed);
    }

    /// From now on batches are refused with this error number; 0 takes it back.
    pub fn refuse(&self, errno: i32) {
        self.0.refusal.store(errno, Ordering::Relaxed);
    }
}

impl MemoryUdp {
    /// The same host with a kernel that has these offloads only.
    #[must_use]
    pub fn with_offloads(self, offloads: UdpOffloads) -> Self {
        Self { offloads, ..self }
    }
}

impl UdpBind for MemoryUdp {
    /// All queues share one socket.
    fn bind(&self, port: u16, mark: u32, _queues: NonZeroUsize) -> Result<Binding, BindError> {
        let arrived = Pipe::new().map_err(|source| BindError::System {
            port,
            deed: "make a queue",
            source,
        })?;
        let own = Arc::new(Port { arrived, gro: self.offloads.gro.into() });
        let mut bound = lock(&self.network.0.ports);
        let free = |port: &u16| !bound.contains_key(&SocketAddr::new(self.address, *port));
        let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let port = match port {
            0 => (FIRST_FREE_PORT..=u16::MAX).find(free),
            port => Some(port).filter(free),
        }
        .ok_or(BindError::PortInUse { port, family, holder: None })?;
        let local = SocketAddr::new(self.address, port);
        bound.insert(local, Arc::clone(&own));
        let (network, has_gro) = (self.network.clone(), self.offloads.gro);
        let receiver = MemoryReceiver { network: network.clone(), local, port: Arc::clone(&own) };
        let socket = Arc::new(MemorySocket { network, local, own, has_gro, mark: mark.into() });
        // A host has one address, from which it reaches those of either family.
        let sender = UdpSender::new(vec![Arc::clone(&socket)], vec![socket], self.offloads);
        Ok(Binding { port, sender: Arc::new(sender), receivers: vec![vec![Box::new(receiver)]] })
    }

    fn routes(&self) -> Option<Box<dyn RouteWatch>> {
        None
    }
}

#[derive(Debug)]
struct MemorySocket {
    network: MemoryNetwork,
    local: SocketAddr,
    own: Arc<Port>,
    has_gro: bool,
    mark: AtomicU32,
}

impl DatagramSink for MemorySocket {
    fn send(&self, messages: &[Message<'_>]) -> io::Result<usize> {
        let network = &self.network.0;
        let refusal = network.refusal.load(Ordering::Relaxed);
        for (number, message) in messages.iter().enumerate() {
            if message.is_batch() && refusal != 0 {
                let refused = io::Error::from_raw_os_error(refusal);
                return if number == 0 { Err(refused) } else { Ok(number) };
            }
            let target = lock(&network.ports).get(&message.path.remote).cloned();
            let Some(target) = target else { continue };
            let local = Some(Local { address: message.path.remote.ip(), interface: 1 });
            let path = Path { remote: self.local, local };
            let (ecn, segment) = (message.class.ecn(), message.segment);
            let together = target.gro.load(Ordering::Relaxed);
            for bytes in message.bytes.chunks(if together { message.bytes.len() } else { segment })
            {
                target.arrived.push(Datagrams { path, ecn, segment, bytes: bytes.to_vec() });
            }
        }
        Ok(messages.len())
    }

    fn path_mtu(&self, _remote: SocketAddr) -> io::Result<u32> {
        Ok(self.network.0.mtu.load(Ordering::Relaxed))
    }

    fn wait_for_room(&self) {}

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.mark.store(mark, Ordering::Relaxed);
        Ok(())
    }

    fn set_gro(&self, on: bool) {
        self.own.gro.store(on && self.has_gro, Ordering::Relaxed);
    }

    fn gro(&self) -> bool {
        self.own.gro.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct MemoryReceiver {
    network: MemoryNetwork,
    local: SocketAddr,
    port: Arc<Port>,
}

impl UdpReceive for MemoryReceiver {
    fn receive(&mut self, buffer: &mut ReceiveBuffer, stop: &Signal) -> io::Result<Wake> {
        buffer.clear();
        let arrived = &self.port.arrived;
        let Some(first) = arrived.wait(stop, None)? else { return Ok(Wake::Stopped) };
        let rest = std::iter::from_fn(|| arrived.pop());
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
        lock(&self.network.0.ports).remove(&self.local);
    }
}
