//! What changes on the host, told by the kernel's multicast groups (rtnetlink(7)).

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt};
use netlink_packet_core::{NLM_F_REPLACE, NetlinkDeserializable, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_proto::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket};
use netlink_proto::{NetlinkCodec, NetlinkFramed};
use wireloom_model::kernel::{RouteKey, Rule};
use wireloom_model::{Cidr, InterfaceAddress, InterfaceName};

use crate::error::HostError;
use crate::host::Host;
use crate::links::HostLink;
use crate::message;
use crate::nft::{self, NftMessage};

/// Something that happened on the host. All but [`RouteSet`](Self::RouteSet) are reasons to observe anew and to repair;
/// none is the whole truth: the kernel says nothing of the IPv4 routes that go with a link or an address.
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
    /// Somebody changed a chain of his that packets pass which this host passes on, and rules of ours are wanted there.
    ForwardChanged,
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
    /// Somebody changed our nftables table.
    NftChanged,
    /// A route of somebody else, in any table, was made, changed or removed.
    OthersRoute {
        /// Where it leads.
        destination: Cidr,
    },
    /// A route of ours was removed by somebody else, or a foreign one was put in the place of another, which may have
    /// been ours.
    RouteLost {
        /// The route's place.
        key: RouteKey,
    },
    /// A route of ours was made or changed by this host's own doing.
    RouteSet {
        /// The route's place.
        key: RouteKey,
        /// The link that it leads out of.
        link: InterfaceName,
    },
    /// A rule of ours was removed by somebody else.
    RuleLost {
        /// The rule.
        rule: Rule,
    },
}

type Socket<M> = NetlinkFramed<M, TokioSocket, NetlinkCodec>;

/// The stream of a host's events, until dropped.
pub struct Watch {
    host: Host,
    socket: Socket<RouteNetlinkMessage>,
    /// `None` where the kernel has no netfilter.
    nft_socket: Option<Socket<NftMessage>>,
    /// Whether the transaction that is being told of touches our table, and chains of others that matter.
    touches: Touches,
    links: Links,
    /// Whether events are lost that nobody was told of yet.
    is_overrun: bool,
}

impl Host {
    /// Begins to watch links, addresses, routes, rules and the nftables table of the calling thread's network namespace, which must be the one
    /// that the host was opened in. The socket's buffer is enlarged; events that nobody collects are bounded by it.
    pub async fn watch(&self) -> Result<Watch, HostError> {
        let socket = subscribe(NETLINK_ROUTE, &GROUPS).map_err(HostError::Socket)?;
        let nft_socket = self.nftables().map(|_| subscribe(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]));
        let nft_socket = nft_socket.transpose().map_err(HostError::Socket)?;
        let mut watch = Watch {
            host: self.clone(),
            socket,
            nft_socket,
            touches: Touches::default(),
            links: Links { port: self.netlink().port(), ..Links::default() },
            is_overrun: false,
        };
        watch.refresh().await?;
        Ok(watch)
    }
}

impl Watch {
    /// Waits for the next event. `None` means that the watch has failed, and that a new one is needed. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.is_overrun {
            let event = tokio::select! {
                message = self.socket.next() => self.links.event(message?.0),
                message = next(self.nft_socket.as_mut()) => self.nft_event(message?.0),
            };
            match event {
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

    /// Throws away what the sockets hold, some of it if it is much, and returns how many messages that was.
    fn drain(&mut self) -> Option<usize> {
        self.touches = Touches::default();
        let nft = self.nft_socket.as_mut().map_or(Some(0), drain)?;
        Some(drain(&mut self.socket)?.max(nft))
    }

    /// The kernel tells what a transaction changed, then the number that it gave the rule set.
    fn nft_event(&mut self, message: NetlinkMessage<NftMessage>) -> Option<Event> {
        let inner = match message.payload {
            NetlinkPayload::Overrun(_) => return Some(Event::Overrun),
            NetlinkPayload::InnerMessage(inner) => inner,
            _ => return None,
        };
        let nftables = self.host.nftables()?;
        self.touches.table |= nft::is_of_our_table(&inner);
        self.touches.forward |= nftables.concerns_forward(&inner);
        let generation = nft::generation(&inner)?;
        let touches = std::mem::take(&mut self.touches);
        // Whoever brings the table in line looks at the chains too.
        if touches.table && nftables.is_news(generation) {
            return Some(Event::NftChanged);
        }
        (touches.forward && nftables.is_forward_news(generation)).then_some(Event::ForwardChanged)
    }

    async fn refresh(&mut self) -> Result<(), HostError> {
        let links = self.host.links().await?;
        self.links.known = links.into_iter().map(|link| (link.index, link)).collect();
        Ok(())
    }
}

/// What a transaction of nftables touches.
#[derive(Debug, Default)]
struct Touches {
    table: bool,
    forward: bool,
}

/// The next message of a socket, if there is a socket.
async fn next<M>(socket: Option<&mut Socket<M>>) -> Option<(NetlinkMessage<M>, SocketAddr)>
where
    M: NetlinkDeserializable + std::fmt::Debug,
{
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}

fn drain<M>(socket: &mut Socket<M>) -> Option<usize>
where
    M: NetlinkDeserializable + std::fmt::Debug,
{
    for count in 0..DRAINED_AT_ONCE {
        // Unconstrained: tokio's budget would end the loop before the socket is empty.
        match tokio::task::unconstrained(socket.next()).now_or_never() {
            None => return Some(count),
            Some(None) => return None,
            Some(Some(_)) => {}
        }
    }
    Some(DRAINED_AT_ONCE)
}

/// What is known of rtnetlink's side.
#[derive(Debug, Default)]
struct Links {
    /// The links as last told, by index: addresses name theirs by it, and most news of links changes nothing here.
    known: BTreeMap<u32, HostLink>,
    /// The number of the socket that our own changes come from, which the kernel tells with them.
    port: u32,
}

impl Links {
    fn event(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
        let replaces = message.header.flags & NLM_F_REPLACE != 0;
        let is_our_doing = self.port != 0 && message.header.port_number == self.port;
        let inner = match message.payload {
            NetlinkPayload::Overrun(_) => return Some(Event::Overrun),
            NetlinkPayload::InnerMessage(inner) => inner,
            _ => return None,
        };
        match inner {
            RouteNetlinkMessage::NewLink(link) => self.link_event(message::link(&link)?.link),
            RouteNetlinkMessage::DelLink(link) => {
                let known = self.known.remove(&message::link(&link)?.link.index)?;
                Some(Event::LinkGone { link: known.name })
            }
            RouteNetlinkMessage::NewAddress(address) => self.address_event(&address, true),
            RouteNetlinkMessage::DelAddress(address) => self.address_event(&address, false),
            RouteNetlinkMessage::DelRule(rule) if !is_our_doing => {
                let heard = message::rule(&rule)?;
                heard.is_ours.then_some(Event::RuleLost { rule: heard.rule })
            }
            RouteNetlinkMessage::DelRoute(route) => {
                let route = message::route(&route).filter(|route| !route.is_cached)?;
                match route.is_ours() {
                    true => (!is_our_doing).then_some(Event::RouteLost { key: route.key }),
                    false => Some(Event::OthersRoute { destination: route.key.destination }),
                }
            }
            RouteNetlinkMessage::NewRoute(route) => {
                let route = message::route(&route).filter(|route| !route.is_cached)?;
                match route.is_ours() {
                    true => {
                        let link = self.known.get(&route.link?)?.name.clone();
                        is_our_doing.then_some(Event::RouteSet { key: route.key, link })
                    }
                    // Of a replaced route the kernel tells its successor alone.
                    false if replaces => Some(Event::RouteLost { key: route.key }),
                    false => Some(Event::OthersRoute { destination: route.key.destination }),
                }
            }
            _ => None,
        }
    }

    fn link_event(&mut self, link: HostLink) -> Option<Event> {
        let known = self.known.insert(link.index, link.clone());
        match known {
            Some(known) if known == link => None,
            Some(known) if known.name != link.name => Some(Event::LinkGone { link: known.name }),
            _ => Some(Event::LinkChanged { link }),
        }
    }

    fn address_event(&self, address: &AddressMessage, present: bool) -> Option<Event> {
        let heard = message::address(address)?;
        let link = self.known.get(&heard.link)?.name.clone();
        Some(Event::AddressChanged { link, address: heard.address, present })
    }
}

fn subscribe<M>(protocol: isize, groups: &[u32]) -> std::io::Result<Socket<M>> {
    let mut socket = TokioSocket::new(protocol)?;
    // Beyond the system's limit if we may (CAP_NET_ADMIN), else up to it.
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(
        socket.socket_ref(),
        BUFFER as usize,
    );
    if forced.is_err() {
        socket.socket_ref().set_rx_buf_sz(BUFFER)?;
    }
    let groups = groups.iter().fold(0, |groups, group| groups | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(NetlinkFramed::new(socket))
}

/// Bytes of the receive buffer, which hold some thousands of events.
const BUFFER: u32 = 4 << 20;

/// Messages thrown away between two turns of the other tasks.
const DRAINED_AT_ONCE: usize = 1000;

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE` and `_IPV6_RULE`
/// (`linux/rtnetlink.h`).
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// Of `linux/netfilter/nfnetlink.h`.
const NFNLGRP_NFTABLES: u32 = 7;

#[cfg(test)]
mod tests;
