//! What changes on the host, told by the kernel's multicast groups (rtnetlink(7)).

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt};
use netlink_packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_proto::sys::protocols::NETLINK_ROUTE;
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket};
use netlink_proto::{NetlinkCodec, NetlinkFramed};
use wireloom_model::kernel::RouteKey;
use wireloom_model::{InterfaceAddress, InterfaceName};

use crate::error::HostError;
use crate::host::Host;
use crate::links::HostLink;
use crate::message;

/// Something that happened on the host. Each is a reason to observe anew and to repair; none is the whole truth: the
/// kernel says nothing of the IPv4 routes that go with a link or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An address came to a link, changed or left it.
    AddressChanged {
        /// The link.
        link: InterfaceName,
        /// The address.
        address: InterfaceAddress,
        /// Whether it is there now.
        present: bool,
    },
    /// A link is new, or changed its MTU or state.
    LinkChanged {
        /// The link as it is now.
        link: HostLink,
    },
    /// A link is no longer there, or has another name.
    LinkGone {
        /// The name that it had.
        link: InterfaceName,
    },
    /// The kernel had more to tell than the buffer holds, and events are lost (`ENOBUFS`, netlink(7)).
    Overrun,
    /// A route of ours was removed, or a foreign one was put in the place of another, which may have been ours.
    RouteLost {
        /// The route's place.
        key: RouteKey,
    },
}

/// The stream of a host's events, until dropped.
pub struct Watch {
    host: Host,
    socket: NetlinkFramed<RouteNetlinkMessage, TokioSocket, NetlinkCodec>,
    links: Links,
    /// Whether events are lost that nobody was told of yet.
    is_overrun: bool,
}

impl Host {
    /// Begins to watch links, addresses and routes of the calling thread's network namespace, which must be the one
    /// that the host was opened in. The socket's buffer is enlarged; events that nobody collects are bounded by it.
    pub async fn watch(&self) -> Result<Watch, HostError> {
        let socket = NetlinkFramed::new(subscribe().map_err(HostError::Socket)?);
        let mut watch =
            Watch { host: self.clone(), socket, links: Links::default(), is_overrun: false };
        watch.refresh().await?;
        Ok(watch)
    }
}

impl Watch {
    /// Waits for the next event. `None` means that the watch has failed, and that a new one is needed. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.is_overrun {
            let (message, _) = self.socket.next().await?;
            match self.links.event(message) {
                Some(Event::Overrun) => self.is_overrun = true,
                Some(event) => return Some(event),
                None => {}
            }
        }
        // The kernel says so ahead of what it still holds, and until that is read it loses everything new without
        // another word (`NETLINK_S_CONGESTED`, net/netlink/af_netlink.c). Who observes anew must do so after.
        while self.drain()? == DRAINED_AT_ONCE {
            tokio::task::yield_now().await;
        }
        while let Err(error) = self.refresh().await {
            match error {
                HostError::Interrupted { .. } => tokio::task::yield_now().await,
                _ => return None,
            }
        }
        self.is_overrun = false;
        Some(Event::Overrun)
    }

    /// Throws away what the socket holds, some of it if it is much, and returns how many messages that was.
    fn drain(&mut self) -> Option<usize> {
        for count in 0..DRAINED_AT_ONCE {
            // Unconstrained: tokio's budget would end the loop before the socket is empty.
            match tokio::task::unconstrained(self.socket.next()).now_or_never() {
                None => return Some(count),
                Some(None) => return None,
                Some(Some(_)) => {}
            }
        }
        Some(DRAINED_AT_ONCE)
    }

    async fn refresh(&mut self) -> Result<(), HostError> {
        let links = self.host.links().await?;
        self.links.0 = links.into_iter().map(|link| (link.index, link)).collect();
        Ok(())
    }
}

/// The links as last told, by index: addresses name theirs by it, and most news of links changes nothing here.
#[derive(Debug, Default)]
struct Links(BTreeMap<u32, HostLink>);

impl Links {
    fn event(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
        let replaces = message.header.flags & NLM_F_REPLACE != 0;
        let inner = match message.payload {
            NetlinkPayload::Overrun(_) => return Some(Event::Overrun),
            NetlinkPayload::InnerMessage(inner) => inner,
            _ => return None,
        };
        match inner {
            RouteNetlinkMessage::NewLink(link) => self.link_event(message::link(&link)?),
            RouteNetlinkMessage::DelLink(link) => {
                let known = self.0.remove(&message::link(&link)?.index)?;
                Some(Event::LinkGone { link: known.name })
            }
            RouteNetlinkMessage::NewAddress(address) => self.address_event(&address, true),
            RouteNetlinkMessage::DelAddress(address) => self.address_event(&address, false),
            RouteNetlinkMessage::DelRoute(route) => {
                let route = message::route(&route)?;
                (route.is_ours() && !route.is_cached).then_some(Event::RouteLost { key: route.key })
            }
            // Of a replaced route the kernel tells its successor alone.
            RouteNetlinkMessage::NewRoute(route) if replaces => {
                let route = message::route(&route)?;
                (!route.is_ours()).then_some(Event::RouteLost { key: route.key })
            }
            _ => None,
        }
    }

    fn link_event(&mut self, link: HostLink) -> Option<Event> {
        let known = self.0.insert(link.index, link.clone());
        match known {
            Some(known) if known == link => None,
            Some(known) if known.name != link.name => Some(Event::LinkGone { link: known.name }),
            _ => Some(Event::LinkChanged { link }),
        }
    }

    fn address_event(&self, address: &AddressMessage, present: bool) -> Option<Event> {
        let heard = message::address(address)?;
        let link = self.0.get(&heard.link)?.name.clone();
        Some(Event::AddressChanged { link, address: heard.address, present })
    }
}

fn subscribe() -> std::io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    // Beyond the system's limit if we may (CAP_NET_ADMIN), else up to it.
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(
        socket.socket_ref(),
        BUFFER as usize,
    );
    if forced.is_err() {
        socket.socket_ref().set_rx_buf_sz(BUFFER)?;
    }
    let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// Bytes of the receive buffer, which hold some thousands of events.
const BUFFER: u32 = 4 << 20;

/// Messages thrown away between two turns of the other tasks.
const DRAINED_AT_ONCE: usize = 1000;

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR` and `_IPV6_ROUTE` (`linux/rtnetlink.h`).
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

#[cfg(test)]
mod tests;
