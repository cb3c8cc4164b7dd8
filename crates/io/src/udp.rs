//! UDP sockets of both families with segmentation offload both ways.
//!
//! GSO (`UDP_SEGMENT`, Linux 4.18) and GRO (`UDP_GRO`, Linux 5.0) are taken only where they are proven when sockets are
//! bound; see [`probe`]. Outer packets that fit the path as it is known carry DF, so that routers with a smaller MTU tell,
//! and the sockets tell on ([`path_mtu`](crate::UdpSend::path_mtu)); larger ones leave in fragments. So a tunnel whose MTU
//! is too large is slow at first and never dead.
//!
//! With several queues each has a socket of its own in a group on one port (`SO_REUSEPORT`), and what a message says of
//! its receiver chooses among them; see `queues.rs`.

pub(crate) mod address;
pub mod control;
mod probe;
mod queues;
mod receive;
mod send;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::routes::KernelRoutes;
use crate::seam::{Binding, RouteWatch, UdpBind, UdpReceive, UdpSend};
use crate::sys;

pub use probe::{UdpOffloads, probe};
pub use receive::UdpReceiver;
pub(crate) use send::{DatagramSink, Message, UdpSender};

/// `UDP_SEGMENT` of `linux/udp.h`.
pub(crate) const UDP_SEGMENT: i32 = 103;
/// `UDP_GRO` of `linux/udp.h`.
pub(crate) const UDP_GRO: i32 = 104;

/// The room for packets in each socket's queues, in bytes, as far as the kernel grants it.
pub const SOCKET_BUFFER_BYTES: usize = 7 * 1024 * 1024;
/// How long a send waits for room in the queue before it gives a datagram up.
pub const SEND_PATIENCE: Duration = Duration::from_millis(100);
/// The network namespace of the thread that looks.
const THREAD_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// How often a port that the kernel chose for one family is tried for the other.
const PORT_ATTEMPTS: usize = 16;

/// Why no sockets could be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The kernel has neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6 sockets can be made: enable one of them in this kernel")]
    NoFamily,
    /// Another socket has the port.
    #[error(
        "UDP port {port} is in use by {} ({family}): stop what listens there (`ss -lunp sport = :{port}`) \
         or choose another listen port; 0 takes a free one",
        .holder.as_deref().unwrap_or("another socket")
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Who holds it, once somebody who can tell has looked.
        holder: Option<String>,
    },
    /// A call failed that should not.
    #[error("a UDP socket for port {port}: {deed}: {source}")]
    System {
        /// The port.
        port: u16,
        /// What was tried.
        deed: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
}

/// The kernel's sockets, in one network namespace.
#[derive(Debug)]
pub struct UdpBinder {
    /// `None` where nobody says: then it is the namespace of the thread that binds.
    namespace: Option<File>,
}

/// One socket, shared by who sends and who receives.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    socket: Socket,
    /// Asks for the MTU of paths, for all sockets of a group. It sends nothing.
    asker: Arc<Mutex<Socket>>,
    is_v4: bool,
    /// What the probe proved.
    proven: UdpOffloads,
    gro: AtomicBool,
}

impl UdpBinder {
    /// Binds in the network namespace of the calling thread, whichever thread asks for it later.
    pub fn new() -> Self {
        Self { namespace: File::open(THREAD_NAMESPACE).ok() }
    }

    /// The namespace's file, if the calling thread is in another one.
    fn elsewhere(&self) -> Option<&File> {
        let namespace = self.namespace.as_ref()?;
        let (ours, here) = (namespace.metadata().ok()?, fs::metadata(THREAD_NAMESPACE).ok()?);
        ((ours.dev(), ours.ino()) != (here.dev(), here.ino())).then_some(namespace)
    }

    /// Does something in the namespace; an error if it cannot be entered.
    fn there<T: Send>(&self, deed: impl FnOnce() -> T + Send) -> io::Result<T> {
        let Some(namespace) = self.elsewhere() else { return Ok(deed()) };
        let enter = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)?;
            Ok(deed())
        };
        // A thread that goes into another namespace does not come back.
        thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Default for UdpBinder {
    fn default() -> Self {
        Self::new()
    }
}

impl UdpBind for UdpBinder {
    fn bind(&self, port: u16, mark: u32, queues: NonZeroUsize) -> Result<Binding, BindError> {
        self.there(|| bind_here(port, mark, queues)).unwrap_or_else(|source| {
            Err(BindError::System { port, deed: "enter its namespace", source })
        })
    }

    fn routes(&self) -> Option<Box<dyn RouteWatch>> {
        let routes = self.there(KernelRoutes::open).and_then(|opened| opened).ok()?;
        Some(Box::new(routes))
    }
}

/// The sending side of no sockets at all: what it is given is lost.
pub fn nowhere() -> Arc<dyn UdpSend> {
    Arc::new(UdpSender::<UdpSocket>::new(Vec::new(), Vec::new(), UdpOffloads::default()))
}

fn bind_here(port: u16, mark: u32, queues: NonZeroUsize) -> Result<Binding, BindError> {
    let proven = probe();
    let (v4, v6) = bind_both(port, queues, proven)?;
    let port = v4.iter().chain(&v6).next().map_or(Ok(port), |socket| socket.port());
    let port = port.map_err(|source| BindError::System { port: 0, deed: "port", source })?;
    let receiver = |socket| Box::new(UdpReceiver::new(Arc::clone(socket))) as Box<dyn UdpReceive>;
    let receivers = (0..queues.get())
        .map(|queue| [&v4, &v6].into_iter().filter_map(move |group| group.get(queue)).map(receiver))
        .map(Iterator::collect)
        .collect();
    let sender = UdpSender::new(v4, v6, proven);
    if mark != 0 {
        UdpSend::set_mark(&sender, mark).map_err(|source| BindError::System {
            port,
            deed: "firewall mark",
            source,
        })?;
    }
    Ok(Binding { port, sender: Arc::new(sender), receivers })
}

/// One a queue; none of a family that the kernel lacks.
type Sockets = Vec<Arc<UdpSocket>>;

/// Binds both families to one port.
fn bind_both(
    port: u16,
    queues: NonZeroUsize,
    proven: UdpOffloads,
) -> Result<(Sockets, Sockets), BindError> {
    let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let v4 = queues::bind(true, port, queues, proven)?;
        let chosen = match v4.first() {
            Some(socket) => {
                socket.port().map_err(|source| BindError::System { port, deed: "port", source })?
            }
            None => port,
        };
        match queues::bind(false, chosen, queues, proven) {
            Err(BindError::PortInUse { .. }) if attempts > 0 => {}
            Err(error) => return Err(error),
            Ok(v6) if v4.is_empty() && v6.is_empty() => return Err(BindError::NoFamily),
            Ok(v6) => return Ok((v4, v6)),
        }
    }
}

impl UdpSocket {
    /// A bound socket, or `None` if the kernel lacks the family. One that joins the group of a first may share its port with
    /// others that do.
    fn bind(
        is_v4: bool,
        port: u16,
        first: Option<&Self>,
        proven: UdpOffloads,
    ) -> Result<Option<Self>, BindError> {
        let system = |deed| move |source| BindError::System { port, deed, source };
        let (domain, any): (Domain, SocketAddr) = if is_v4 {
            (Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        } else {
            (Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
        };
        let socket = match Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
            socket => socket.map_err(system("socket"))?,
        };
        if !is_v4 {
            socket.set_only_v6(true).map_err(system("IPV6_V6ONLY"))?;
        }
        if first.is_some() {
            socket.set_reuse_port(true).map_err(system("SO_REUSEPORT"))?;
        }
        match socket.bind(&any.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                return Err(BindError::PortInUse { port, family, holder: None });
            }
            // With IPv6 disabled by sysctl there may be sockets and no address.
            Err(error) if !is_v4 && error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Ok(None);
            }
            bound => bound.map_err(system("bind"))?,
        }
        socket.set_write_timeout(Some(SEND_PATIENCE)).map_err(system("SO_SNDTIMEO"))?;
        let asker = match first {
            Some(first) => Arc::clone(&first.asker),
            None => {
                let asker = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP));
                Arc::new(Mutex::new(asker.map_err(system("socket"))?))
            }
        };
        let bound = Self { socket, asker, is_v4, proven, gro: AtomicBool::new(false) };
        bound.ask_for_control().map_err(system("control messages"))?;
        bound.enlarge_buffers();
        bound.set_gro(true);
        Ok(Some(bound))
    }

    /// Asks for where a datagram was sent to and its ECN bits, and lets outer packets be fragmented.
    fn ask_for_control(&self) -> io::Result<()> {
        let options: [(i32, i32, i32); 3] = if self.is_v4 {
            [
                (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
                (libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT),
            ]
        } else {
            [
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
            ]
        };
        options.iter().try_for_each(|(level, name, value)| {
            sys::set_option(self.socket.as_fd(), *level, *name, *value)
        })
    }

    /// Enlarges both queues beyond the system's limit, or up to it where the process may not.
    fn enlarge_buffers(&self) {
        let force = |name| {
            let bytes = SOCKET_BUFFER_BYTES as i32;
            sys::set_option(self.socket.as_fd(), libc::SOL_SOCKET, name, bytes).is_ok()
        };
        // A smaller queue is a slower tunnel and no reason to fail.
        if !force(libc::SO_RCVBUFFORCE) {
            let _ = self.socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        }
        if !force(libc::SO_SNDBUFFORCE) {
            let _ = self.socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        }
    }

    fn set_gro(&self, on: bool) {
        let on = on && self.proven.gro;
        if sys::set_option(self.socket.as_fd(), libc::SOL_UDP, UDP_GRO, on.into()).is_ok() {
            self.gro.store(on, Ordering::Relaxed);
        }
    }

    fn port(&self) -> io::Result<u16> {
        let address = self.socket.local_addr()?;
        Ok(address.as_socket().map_or(0, |address| address.port()))
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The running kernel's version, major and minor; 0.0 where nobody says.
pub(crate) fn kernel_version() -> (u32, u32) {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .ok()
        .and_then(|release| version(&release))
        .unwrap_or_default()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
