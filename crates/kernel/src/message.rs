//! Between our words and rtnetlink's messages (rtnetlink(7), `linux/rtnetlink.h`, `linux/if_addr.h`).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wireloom_model::kernel::{ROUTE_PROTOCOL, Route, RouteKey};
use wireloom_model::{Cidr, Family, InterfaceAddress};

use crate::diff::{DEFAULT_METRIC_V6, canonical};
use crate::netlink::Request;

mod link;
mod neighbour;
mod rule;

pub(crate) use link::{
    HeardLink, add_link, all_links, delete_link, link, link_of, probe_kind, set_link,
};
pub(crate) use neighbour::{
    HeardEnd, all_ends, delete_forwarding, delete_neighbour, end, set_forwarding, set_neighbour,
};
pub(crate) use rule::{HeardRule, add_rule, all_rules, delete_rule, rule};

/// An address as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeardAddress {
    pub(crate) link: u32,
    pub(crate) address: InterfaceAddress,
    /// Whether other hosts may use it: of global scope, checked, and not about to expire or for privacy only.
    pub(crate) is_lasting: bool,
}

/// A route as the kernel tells it, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeardRoute {
    pub(crate) key: RouteKey,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: Option<u32>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) protocol: u8,
    pub(crate) kind: RouteType,
    /// Whether it is no route but the outcome of a lookup.
    pub(crate) is_cached: bool,
    /// The packet size set on the route, or learnt on the path.
    pub(crate) mtu: Option<u32>,
}

impl HeardAddress {
    /// Whether it is of fe80::/10, which the kernel gives a link by itself (RFC 4291, section 2.5.6).
    pub(crate) const fn is_link_local_v6(&self) -> bool {
        match self.address.address() {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }
}

impl HeardRoute {
    pub(crate) const fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}

pub(crate) fn all_addresses(family: Family) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = number(family);
    RouteNetlinkMessage::GetAddress(message)
}

/// Asks for all tables' routes: those of one protocol, where the kernel filters, or everybody's.
pub(crate) fn all_routes(family: Family, protocol: Option<u8>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = number(family);
    message.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks how packets with a mark leave to an address.
pub(crate) fn route_to(address: IpAddr, mark: u32) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    let family = Family::of(address);
    message.header.address_family = number(family);
    message.header.destination_prefix_length = family.bits();
    message.attributes.push(RouteAttribute::Destination(address.into()));
    if mark != 0 {
        message.attributes.push(RouteAttribute::Mark(mark));
    }
    RouteNetlinkMessage::GetRoute(message)
}

pub(crate) fn add_address(link: u32, address: InterfaceAddress) -> Request {
    let mut message = address_message(link, address);
    if address.family() == Family::V6 {
        // Nobody else can have it, so it is usable at once rather than after duplicate address detection (RFC 4862, 5.4).
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

pub(crate) fn delete_address(link: u32, address: InterfaceAddress) -> Request {
    (RouteNetlinkMessage::DelAddress(address_message(link, address)), 0)
}

fn address_message(link: u32, address: InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = number(address.family());
    message.header.prefix_len = address.length();
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(address.address()));
    message
}

/// Makes a route where there is none: fails with `EEXIST` if there is one, whoever made it.
pub(crate) fn add_route(key: &RouteKey, route: &Route, link: Option<u32>) -> Request {
    (RouteNetlinkMessage::NewRoute(route_message(key, route, link)), NLM_F_CREATE | NLM_F_EXCL)
}

pub(crate) fn replace_route(key: &RouteKey, route: &Route, link: Option<u32>) -> Request {
    (RouteNetlinkMessage::NewRoute(route_message(key, route, link)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Deletes a route of our protocol and no other.
pub(crate) fn delete_route(key: &RouteKey) -> Request {
    let mut message = keyed_message(key);
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message), 0)
}

fn route_message(key: &RouteKey, route: &Route, link: Option<u32>) -> RouteMessage {
    let mut message = keyed_message(key);
    if route.is_unreachable() {
        message.header.kind = RouteType::Unreachable;
        return message;
    }
    message.header.kind = RouteType::Unicast;
    if route.gateway.is_none() && key.destination.family() == Family::V4 {
        message.header.scope = RouteScope::Link;
    }
    if route.gateway.is_some() && link.is_some() {
        // Who names both means a gateway on that link, even if no address of the link says so: an overlay address is
        // a network of its own.
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.extend(route.gateway.map(|a| RouteAttribute::Gateway(a.into())));
    message.attributes.extend(link.map(RouteAttribute::Oif));
    message.attributes.extend(route.source.map(|a| RouteAttribute::PrefSource(a.into())));
    let metrics = |mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
    message.attributes.extend(route.mtu.map(metrics));
    message
}

fn keyed_message(key: &RouteKey) -> RouteMessage {
    let destination = key.destination;
    let mut message = RouteMessage::default();
    message.header.address_family = number(destination.family());
    message.header.destination_prefix_length = destination.length();
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes.push(RouteAttribute::Destination(destination.address().into()));
    message.attributes.push(RouteAttribute::Table(key.table));
    message.attributes.push(RouteAttribute::Priority(spelled_out(key)));
    message
}

/// The metric as the kernel keeps it.
fn spelled_out(key: &RouteKey) -> u32 {
    match (key.destination.family(), key.metric) {
        (Family::V6, 0) => DEFAULT_METRIC_V6,
        (_, metric) => metric,
    }
}

/// `None` for what is no unicast IPv4 or IPv6 address.
pub(crate) fn address(message: &AddressMessage) -> Option<HeardAddress> {
    let mut own = None;
    let mut far = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            // The other end's on a point-to-point link, else the link's own.
            AddressAttribute::Address(address) => far = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let passing = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    // One bit, which IPv6 reads `IFA_F_TEMPORARY`.
    let temporary =
        message.header.family == AddressFamily::Inet6 && flags.contains(AddressFlags::Secondary);
    Some(HeardAddress {
        link: message.header.index,
        address: InterfaceAddress::new(own.or(far)?, message.header.prefix_len)?,
        is_lasting: message.header.scope == AddressScope::Universe
            && !flags.intersects(passing)
            && !temporary,
    })
}

/// `None` for a route of another family.
pub(crate) fn route(message: &RouteMessage) -> Option<HeardRoute> {
    let family = match message.header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let mut heard = heard_route(message, family)?;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let length = message.header.destination_prefix_length;
                heard.key.destination = Cidr::truncated(ip(address)?, length)?;
            }
            RouteAttribute::Gateway(address) => heard.gateway = ip(address),
            RouteAttribute::Oif(index) => heard.link = Some(*index),
            RouteAttribute::PrefSource(address) => heard.source = ip(address),
            RouteAttribute::Priority(metric) => heard.key.metric = *metric,
            RouteAttribute::Table(table) => heard.key.table = *table,
            RouteAttribute::Metrics(metrics) => {
                heard.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if heard.kind == RouteType::Unreachable {
        // IPv6 names the loopback link for those.
        heard.link = None;
    }
    heard.key = canonical(&heard.key);
    Some(heard)
}

/// What the header says; a default route has no destination beside it.
fn heard_route(message: &RouteMessage, family: Family) -> Option<HeardRoute> {
    let any = match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    Some(HeardRoute {
        key: RouteKey {
            table: message.header.table.into(),
            destination: Cidr::truncated(any, message.header.destination_prefix_length)?,
            metric: 0,
        },
        gateway: None,
        link: None,
        source: None,
        protocol: message.header.protocol.into(),
        kind: message.header.kind,
        is_cached: message.header.flags.contains(RouteFlags::Cloned),
        mtu: None,
    })
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

const fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests;
