//! rtnetlink, asked and answered while one waits (rtnetlink(7)): a plugin lives for milliseconds and has no runtime.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
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

/// A link of a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) index: u32,
    /// Bytes.
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    pub(crate) is_bridge: bool,
    /// The number of the bridge that it hangs on.
    pub(crate) bridge: Option<u32>,
    /// The number of the link that this one is an end of or stands on, in whatever namespace that is.
    pub(crate) other: Option<u32>,
}

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

impl Link {
    fn read(answer: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = answer else { return None };
        let mut link = Self {
            index: message.header.index,
            mtu: 0,
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_bridge: false,
            bridge: None,
            other: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(bytes) => link.mtu = *bytes,
                LinkAttribute::Controller(index) => link.bridge = Some(*index),
                LinkAttribute::Link(index) => link.other = Some(*index),
                LinkAttribute::LinkInfo(info) => {
                    link.is_bridge = info.contains(&LinkInfo::Kind(InfoKind::Bridge));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

impl Netlink {
    /// Opens one in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        // Without a protocol it is NETLINK_ROUTE.
        let socket =
            socket_with(SocketFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, asked: 0 })
    }

    /// A link, by its name. [`io::ErrorKind::NotFound`] if there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let found = self.find_link(message)?;
        found.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no link {name}"))
        })
    }

    /// The link of this number, if there is one.
    pub(crate) fn link_numbered(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.find_link(message)
    }

    fn find_link(&mut self, question: LinkMessage) -> io::Result<Option<Link>> {
        match self.exchange(RouteNetlinkMessage::GetLink(question), 0) {
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            answers => Ok(answers?.into_iter().find_map(Link::read)),
        }
    }

    /// All links.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(Link::read).collect())
    }

    /// All routes of a family.
    pub(crate) fn routes(&mut self, family: Family) -> io::Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let route = |answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        };
        let answers = self.list(&RouteNetlinkMessage::GetRoute(message))?;
        Ok(answers.into_iter().filter_map(route).collect())
    }

    /// All that a question for a list brings; nothing of what the kernel does not know, such as IPv6.
    pub(crate) fn list(
        &mut self,
        question: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..ATTEMPTS {
            match self.exchange(question.clone(), NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
                answers => return answers,
            }
        }
        Err(io::Error::other("the list changes faster than it can be read"))
    }

    /// Makes a route, in the place of the one to the same prefix.
    pub(crate) fn put_route(&mut self, route: RouteMessage) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(RouteNetlinkMessage::NewRoute(route), flags).map(drop)
    }

    /// Sends a request and reads all that answers it. [`io::ErrorKind::Interrupted`] if a list changed meanwhile.
    pub(crate) fn exchange(
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
                    // The list ends before its time.
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_abs()));
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use netlink_packet_core::NLMSG_DONE;

    use super::*;

    /// What a question for a list brings that ends with this code (netlink(7)).
    fn list_that_ends_with(code: i32) -> io::Result<Vec<RouteNetlinkMessage>> {
        let (ours, kernel) = UnixDatagram::pair().unwrap();
        let mut end = 20_u32.to_ne_bytes().to_vec();
        end.extend(NLMSG_DONE.to_ne_bytes());
        // No flags, the number of the first question, and no port.
        end.extend([0_u8; 2]);
        end.extend(1_u32.to_ne_bytes());
        end.extend([0_u8; 4]);
        end.extend(code.to_ne_bytes());
        kernel.send(&end).unwrap();
        let mut netlink = Netlink { socket: ours.into(), asked: 0 };
        netlink.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
    }

    #[test]
    fn a_list_that_ends_with_an_error_is_none() {
        assert!(list_that_ends_with(0).unwrap().is_empty());
        let refused = list_that_ends_with(-Errno::NOMEM.raw_os_error()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
        let unsupported = list_that_ends_with(-Errno::AFNOSUPPORT.raw_os_error());
        assert!(unsupported.unwrap().is_empty());
    }
}
