//! Echo requests of exact sizes (RFC 792, RFC 4443 section 4), in one piece or not at all.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::net::{SendFlags, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use wireloom_model::{Family, InterfaceName};

/// Sockets for echoes inside a tunnel and beside it. It takes root.
#[derive(Debug)]
pub(crate) struct EchoSockets {
    /// Of each family that this host has, bound to the tunnel device.
    inside: Vec<(Family, UdpSocket)>,
    /// Of each family, marked as the tunnel's own packets are. They hear nothing.
    outside: Vec<(Family, Socket)>,
}

/// A socket for echoes from one address of this host. It takes root.
#[derive(Debug)]
pub(crate) struct EchoSocket(Family, UdpSocket);

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) from: IpAddr,
    pub(crate) identifier: u16,
    pub(crate) number: u16,
}

impl EchoSocket {
    pub(crate) fn open(from: IpAddr) -> io::Result<Self> {
        let family = Family::of(from);
        let socket = open(family)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        Ok(Self(family, UdpSocket::from_std(socket.into())?))
    }

    /// Sends a request that makes an IP packet of this size.
    pub(crate) fn send(&self, to: IpAddr, number: u16, size: u16) -> io::Result<()> {
        send(Some(&self.1), to, &request(self.0, 0, number, size))
    }

    /// Waits for the next answer. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> io::Result<Answer> {
        answer(self.0, &self.1).await
    }
}

impl EchoSockets {
    pub(crate) fn open(interface: &InterfaceName, mark: u32) -> io::Result<Self> {
        let mut sockets = Self { inside: Vec::new(), outside: Vec::new() };
        for family in Family::BOTH {
            let inside = match open(family) {
                // A host may do without IPv6.
                Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
                    continue;
                }
                socket => socket?,
            };
            inside.bind_device(Some(interface.as_str().as_bytes()))?;
            // All that tokio knows of it is that datagrams come and go.
            sockets.inside.push((family, UdpSocket::from_std(inside.into())?));
            let outside = open(family)?;
            outside.set_mark(mark)?;
            outside.attach_filter(&[SockFilter::new(DROP, 0, 0, 0)])?;
            sockets.outside.push((family, outside));
        }
        Ok(sockets)
    }

    /// Sends a request through the tunnel that makes an IP packet of this size.
    pub(crate) fn send_inside(
        &self,
        to: IpAddr,
        identifier: u16,
        number: u16,
        size: u16,
    ) -> io::Result<()> {
        let family = Family::of(to);
        let socket = self.inside.iter().find(|(of, _)| *of == family).map(|(_, socket)| socket);
        send(socket, to, &request(family, identifier, number, size))
    }

    /// Sends a request beside the tunnel, as its own packets go, that makes an IP packet of this size. A router for which
    /// it is too large says so to the kernel, which tells it with the way to that address (RFC 1191, RFC 8201).
    pub(crate) fn send_outside(&self, to: IpAddr, size: u16) -> io::Result<()> {
        let family = Family::of(to);
        let socket = self.outside.iter().find(|(of, _)| *of == family).map(|(_, socket)| socket);
        send(socket, to, &request(family, 0, 0, size))
    }

    /// Waits for the next answer from inside the tunnel. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> io::Result<Answer> {
        match self.inside.as_slice() {
            [(of, one)] => answer(*of, one).await,
            [(of, one), (of_other, other)] => tokio::select! {
                heard = answer(*of, one) => heard,
                heard = answer(*of_other, other) => heard,
            },
            _ => std::future::pending().await,
        }
    }
}

fn open(family: Family) -> io::Result<Socket> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    // Neither in pieces nor held back by what the kernel knows of paths: to find out is what it is for.
    match family {
        Family::V4 => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
        Family::V6 => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    Ok(socket)
}

fn send(socket: Option<&impl AsFd>, to: IpAddr, request: &[u8]) -> io::Result<()> {
    let socket = socket.ok_or(Errno::AFNOSUPPORT)?;
    sendto(socket, request, SendFlags::empty(), &SocketAddr::new(to, 0))?;
    Ok(())
}

async fn answer(family: Family, socket: &UdpSocket) -> io::Result<Answer> {
    // Headers are all that is looked at.
    let mut buffer = [0; 128];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        if let Some((identifier, number)) = reply(family, &buffer[..length]) {
            return Ok(Answer { from: from.ip(), identifier, number });
        }
    }
}

/// The ICMP message that makes an IP packet of this size.
fn request(family: Family, identifier: u16, number: u16, size: u16) -> Vec<u8> {
    let (kind, header) = match family {
        Family::V4 => (ECHO_REQUEST, 20),
        Family::V6 => (ECHO_REQUEST_V6, 40),
    };
    let mut message = vec![0; usize::from(size.saturating_sub(header)).max(HEADER_BYTES)];
    message[0] = kind;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&number.to_be_bytes());
    if family == Family::V4 {
        // All else is zero. In IPv6 the kernel does it.
        let words = [u16::from(kind) << 8, identifier, number];
        let sum: u32 = words.into_iter().map(u32::from).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded + (folded >> 16)) as u16);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// The identifier and number of an echo reply, as a raw socket tells it: in IPv4 behind the IP header.
fn reply(family: Family, bytes: &[u8]) -> Option<(u16, u16)> {
    let (kind, message) = match family {
        Family::V4 => (ECHO_REPLY, bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)?),
        Family::V6 => (ECHO_REPLY_V6, bytes),
    };
    let [found, _, _, _, a, b, c, d] = *message.first_chunk::<HEADER_BYTES>()?;
    (found == kind).then(|| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

const HEADER_BYTES: usize = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// `BPF_RET | BPF_K` (`linux/bpf_common.h`): takes nothing, with 0 behind it.
const DROP: u16 = 0x06;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_size_and_a_checksum_that_adds_up() {
        for size in [28, 576, 1240, 1441, u16::MAX] {
            let message = request(Family::V4, 0xfffe, 0xff03, size);
            assert_eq!(message.len() + 20, usize::from(size));
            let words = message
                .chunks(2)
                .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
            let sum: u32 = words.sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            assert_eq!((folded + (folded >> 16)) as u16, 0xffff);
            assert_eq!(
                request(Family::V6, 1, 2, size.max(48)).len() + 40,
                usize::from(size.max(48))
            );
        }
    }

    #[test]
    fn replies_are_told_from_all_else() {
        let mut v4 = vec![0x46; 24];
        v4.extend([ECHO_REPLY, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(reply(Family::V4, &v4), Some((0x0102, 0x0304)));
        v4[24] = 3;
        assert_eq!(reply(Family::V4, &v4), None);
        assert_eq!(reply(Family::V4, &v4[..30]), None);
        assert_eq!(
            reply(Family::V6, &[ECHO_REPLY_V6, 0, 0, 0, 1, 2, 3, 4]),
            Some((0x0102, 0x0304))
        );
        for bytes in [&[][..], &[ECHO_REPLY_V6], &request(Family::V6, 1, 2, 60)] {
            assert_eq!(reply(Family::V6, bytes), None);
        }
    }
}
