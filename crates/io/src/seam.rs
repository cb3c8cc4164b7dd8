//! What the data plane asks of a device and of the network. The kernel's are [`tun`](crate::tun) and
//! [`udp`](crate::udp); [`memory`](crate::memory) has others for tests and benches.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::Duration;

use wireloom_packet::{MergeOffloads, Outbox, VnetHeader};

use crate::buffer::{FrameBuffer, ReceiveBuffer};
use crate::signal::{Signal, Wake};
use crate::tun::UnfinishedPackets;
use crate::udp::BindError;

/// A TUN device: both sides, and what can be switched on it.
///
/// It has one queue or several. A flow's frames come out of one of them, in order; which one, the kernel chooses by the
/// flow's hash, or else it is the queue through which the flow's other direction was written last.
pub trait TunDevice: TunWrite {
    /// The sides that hand out frames, one a queue. Each queue should have one reader: a frame goes to one only.
    fn readers(&self) -> Vec<Box<dyn TunRead>>;

    /// The device's MTU in bytes.
    ///
    /// # Errors
    ///
    /// If the device is gone.
    fn mtu(&self) -> io::Result<u32>;

    /// The super-packets that the device hands out.
    fn reads(&self) -> UnfinishedPackets;

    /// Asks the device to hand out these super-packets from now on; [`reads`](Self::reads) says what it takes of that.
    fn set_reads(&self, wanted: UnfinishedPackets);

    /// The super-packets that may be written to the device.
    fn writes(&self) -> MergeOffloads;

    /// Says which super-packets may be written from now on.
    fn set_writes(&self, offloads: MergeOffloads);

    /// The super-packets that the device refused and that were written as packets.
    fn refused(&self) -> u64;
}

/// The side of a TUN device that hands out what the host sends into the tunnel.
pub trait TunRead: Send {
    /// Fills the buffer with what is there, up to its budget, and waits only for the first frame. What the buffer held
    /// is forgotten.
    ///
    /// # Errors
    ///
    /// If the device is gone; see [`is_gone`](crate::tun::is_gone).
    fn read(&mut self, frames: &mut FrameBuffer, stop: &Signal) -> io::Result<Wake>;
}

/// The side of a TUN device that takes what came out of the tunnel.
pub trait TunWrite: Send + Sync {
    /// Writes one frame through a queue, whose packet is these places of `bytes` one behind the other. A super-packet has
    /// its first packet as its first part and the payload of one more packet in each other part.
    ///
    /// # Errors
    ///
    /// If the kernel takes it neither whole nor split into its packets.
    fn write(
        &self,
        queue: usize,
        header: &VnetHeader,
        parts: &[Range<usize>],
        bytes: &[u8],
    ) -> io::Result<()>;
}

/// The receiving side of a UDP socket.
pub trait UdpReceive: Send {
    /// Fills the buffer with what is there, up to its budget, and waits only for the first datagram. What the buffer
    /// held is forgotten.
    ///
    /// # Errors
    ///
    /// Those of recvmmsg(2) that are no report about an earlier send.
    fn receive(&mut self, buffer: &mut ReceiveBuffer, stop: &Signal) -> io::Result<Wake>;
}

/// The sending side of the UDP sockets of both families.
pub trait UdpSend: Send + Sync {
    /// Sends all that waits in the outbox, in order, on the sockets of a queue, and says what became of it. `now` is the
    /// time since boot.
    fn send(&self, queue: usize, now: Duration, outbox: &Outbox) -> SendReport;

    /// How long a packet to the far end may be, IP header included, as far as the kernel knows: by its route's device, or
    /// by what routers on the way have said (RFC 1191, RFC 8201). `None` without a route.
    fn path_mtu(&self, remote: SocketAddr) -> Option<u32>;

    /// Marks every outer packet from now on (`SO_MARK`, 0 for none), so that policy routing can keep it out of the
    /// tunnel.
    ///
    /// # Errors
    ///
    /// If the process may not (`CAP_NET_ADMIN`).
    fn set_mark(&self, mark: u32) -> io::Result<()>;

    /// Switches UDP GSO on send and UDP GRO on receive, where the kernel has them.
    fn set_offloads(&self, gso: bool, gro: bool);

    /// Whether UDP GSO and UDP GRO are in use.
    fn offloads(&self) -> (bool, bool);
}

/// The network as the data plane sees it: a place to bind sockets.
pub trait UdpBind: Send + Sync {
    /// Binds one socket a family and queue to the port; 0 lets the kernel choose. The messages of a peer arrive at one
    /// queue, in order: see [`udp`](crate::udp).
    ///
    /// # Errors
    ///
    /// If the port is in use or no family can be bound.
    fn bind(&self, port: u16, mark: u32, queues: NonZeroUsize) -> Result<Binding, BindError>;

    /// Watches the routes by which datagrams leave; `None` where nobody tells of them.
    fn routes(&self) -> Option<Box<dyn RouteWatch>>;
}

/// The routes by which datagrams leave.
pub trait RouteWatch: Send {
    /// Waits until routes may have changed since this was called last, or what came meanwhile may have to be looked at by
    /// the last change again.
    ///
    /// # Errors
    ///
    /// If nothing can be heard any more.
    fn wait(&mut self, stop: &Signal) -> io::Result<Wake>;

    /// The index of the interface by which a datagram with this source address and mark leaves for the far end; `None`
    /// without a route.
    fn interface(&mut self, remote: SocketAddr, source: IpAddr, mark: u32) -> Option<u32>;
}

/// Bound sockets. They are closed when the sender and the receivers are dropped.
pub struct Binding {
    /// The port that both families have.
    pub port: u16,
    /// Sends on all of them.
    pub sender: Arc<dyn UdpSend>,
    /// Receives: for each queue, one a family.
    pub receivers: Vec<Vec<Box<dyn UdpReceive>>>,
}

/// What became of an outbox. `sent` and `dropped` together are all datagrams that waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendReport {
    /// The datagrams that the kernel took.
    pub sent: u64,
    /// Their bytes, without UDP and IP headers.
    pub sent_bytes: u64,
    /// The datagrams that it did not take.
    pub dropped: u64,
    /// The batches that it took only as single datagrams.
    pub unbatched: u64,
    /// The datagrams that it took only from a source address of its own choice.
    pub unsourced: u64,
    /// The operating system's number of the last error that cost a datagram.
    pub error: Option<i32>,
}

impl AddAssign for SendReport {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.dropped += other.dropped;
        self.unbatched += other.unbatched;
        self.unsourced += other.unsourced;
        self.error = other.error.or(self.error);
    }
}
