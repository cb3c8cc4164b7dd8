//! What the kernel's UDP offloads do, found out before traffic depends on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use wireloom_packet::TrafficClass;

use super::address::SocketName;
use super::control::{self, ControlBuffer};
use super::{UDP_GRO, UDP_SEGMENT, kernel_version};
use crate::sys::{self, Arrival, Departure, MESSAGES};

/// The kernel from which on `UDP_GRO` can be trusted: older ones hand out super-datagrams whose segment size cannot be
/// read back in every case.
const GRO_SINCE: (u32, u32) = (5, 12);
const SEGMENT: usize = 100;
const SENT: usize = 3 * SEGMENT + 50;

/// The UDP offloads of a kernel or a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpOffloads {
    /// Many datagrams in one send.
    pub gso: bool,
    /// Many datagrams in one receive.
    pub gro: bool,
}

/// Sends one batch of four datagrams to itself over loopback and looks at what arrives: GSO is proven by four datagrams
/// with the right bytes, GRO by one super-datagram that states its segment size. Where loopback is down or filtered the
/// kernel's word counts, and what it refuses later is sent one by one. GRO also needs Linux 5.12.
///
/// A device's own segmentation is not proven by this: it is learnt per destination, when batches are sent.
pub fn probe() -> UdpOffloads {
    let gro_allowed = kernel_version() >= GRO_SINCE;
    match over_loopback(gro_allowed) {
        Ok(proven) => proven,
        Err(_) => believed(gro_allowed).unwrap_or_default(),
    }
}

/// What the kernel claims.
fn believed(gro_allowed: bool) -> io::Result<UdpOffloads> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    let has = |name| sys::set_option(socket.as_fd(), libc::SOL_UDP, name, 1).is_ok();
    Ok(UdpOffloads { gso: has(UDP_SEGMENT), gro: gro_allowed && has(UDP_GRO) })
}

/// What the kernel does; an error if nothing passes over loopback.
fn over_loopback(gro_allowed: bool) -> io::Result<UdpOffloads> {
    let (from, to) = (loopback()?, loopback()?);
    let name: SocketAddr = to.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    to.set_read_timeout(Some(Duration::from_millis(20)))?;
    let gro = gro_allowed && sys::set_option(to.as_fd(), libc::SOL_UDP, UDP_GRO, 1).is_ok();
    let bytes: [u8; SENT] = std::array::from_fn(|at| at as u8);
    let send = |segment: Option<u16>| {
        let control = ControlBuffer::for_sending(true, segment, None, TrafficClass::default());
        let departure = Departure { name: SocketName::from(name), control, bytes: &bytes };
        sys::send_many(from.as_fd(), &[departure])
    };
    if send(Some(SEGMENT as u16)).is_err() {
        // A plain datagram tells a kernel without GSO from a namespace without loopback.
        return send(None).map(|_| UdpOffloads::default());
    }
    let arrived = collect(&to, &bytes)?;
    Ok(UdpOffloads {
        gso: arrived.whole,
        gro: gro && arrived.whole && arrived.messages == 1 && arrived.segment == Some(SEGMENT),
    })
}

struct Arrived {
    /// All bytes came, in order, in pieces of the right size.
    whole: bool,
    messages: usize,
    segment: Option<usize>,
}

fn collect(socket: &Socket, sent: &[u8]) -> io::Result<Arrived> {
    // The first message is waited for; loopback delivers the others of a send before the send returns.
    socket.peek(&mut [std::mem::MaybeUninit::uninit()])?;
    let mut bytes = vec![0; MESSAGES * SENT];
    let mut arrivals = [Arrival::default(); MESSAGES];
    let messages = sys::receive_many(socket.as_fd(), &mut bytes, SENT, &mut arrivals)?;
    let mut joined = Vec::with_capacity(SENT);
    let mut sizes_fit = true;
    for (arrival, place) in arrivals.iter().zip(bytes.chunks_exact(SENT)).take(messages) {
        let left = SENT - joined.len().min(SENT);
        let single = arrival.length == left.min(SEGMENT);
        sizes_fit &= single || (messages == 1 && arrival.length == SENT);
        joined.extend_from_slice(&place[..arrival.length]);
    }
    let segment = control::parse(arrivals[0].control.bytes()).segment;
    Ok(Arrived { whole: sizes_fit && joined == sent, messages, segment })
}

fn loopback() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket)
}
