//! rtnetlink, asked and answered while one waits (rtnetlink(7)): a plugin lives for milliseconds and has no runtime.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_timeout;
use rustix::net::{
    AddressFamily as SocketFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with,
};
use wireloom_model::Family;

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// A socket of a network namespace.
pub(crate) struct Netlink {
    socket: OwnedFd,
    asked: u32,
}

/// Bytes, of which the kernel fills 32 KiB at most (`netlink_recvmsg`, `net/netlink/af_netlink.c`).
const PART: usize = 64 << 10;

/// How often a list that changed while it was read is begun.
const ATTEMPTS: u32 = 10;

/// How long the kernel may take. It answers in microseconds.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

impl Netlink {
    /// Opens one in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        // Without a protocol it is NETLINK_ROUTE.
        let socket =
            socket_with(SocketFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, asked: 0 })
    }

    /// A link's number and its MTU, by its name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<(u32, u32)> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.exchange(RouteNetlinkMessage::GetLink(message), 0)?;
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => {
                let mtu = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
                Some((link.header.index, mtu?))
            }
            _ => None,
        });
        found.ok_or_else(|| io::Error::other(format!("the kernel tells nothing of {name}")))
    }

    /// All routes of a family.
    pub(crate) fn routes(&mut self, family: Family) -> io::Result<Vec<RouteMessage>> {
        for _ in 0..ATTEMPTS {
            let mut message = RouteMessage::default();
            message.header.address_family = match family {
                Family::V4 => AddressFamily::Inet,
                Family::V6 => AddressFamily::Inet6,
            };
            match self.exchange(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP) {
                Ok(answers) => {
                    let route = |answer| match answer {
                        RouteNetlinkMessage::NewRoute(route) => Some(route),
                        _ => None,
                    };
                    return Ok(answers.into_iter().filter_map(route).collect());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A kernel without IPv6 has no such routes.
                Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the list of routes changes faster than it can be read"))
    }

    /// Makes a route, in the place of the one to the same prefix.
    pub(crate) fn put_route(&mut self, route: RouteMessage) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(RouteNetlinkMessage::NewRoute(route), flags).map(drop)
    }

    /// Sends a request and reads all that answers it. [`io::ErrorKind::Interrupted`] if a list changed meanwhile.
    fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.asked += 1;
        let mut message = Message::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = self.asked;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let (mut answers, mut is_interrupted) = (Vec::new(), false);
        let mut buffer = vec![0; PART];
        loop {
            let (filled, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut datagram = buffer.get(..filled).unwrap_or_default();
            while let Ok(answer) = Message::deserialize(datagram) {
                let length = answer.header.length as usize;
                datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != self.asked {
                    continue;
                }
                is_interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) => {
                        // Error numbers come negated; none is an acknowledgement (netlink(7)).
                        return match error.code {
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                            None => Ok(answers),
                        };
                    }
                    NetlinkPayload::Done(_) if is_interrupted => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    [Errno::OPNOTSUPP, Errno::AFNOSUPPORT]
        .into_iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
