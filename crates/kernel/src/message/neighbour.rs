//! The far ends of VXLAN links (`linux/neighbour.h`): whose an address is, and where an Ethernet address is.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wireloom_model::Family;
use wireloom_model::kernel::{MacAddress, ROUTE_PROTOCOL};

use super::number;
use crate::netlink::Request;

/// Something lasting that a link knows of far ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeardEnd {
    Forwarding { link: u32, mac: MacAddress, host: IpAddr },
    Neighbour { link: u32, address: IpAddr, mac: MacAddress },
}

/// Asks for the neighbours of a family, or for the forwarding of bridges and VXLAN links.
pub(crate) fn all_ends(family: Option<Family>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family.map_or(AddressFamily::Bridge, number);
    RouteNetlinkMessage::GetNeighbour(message)
}

pub(crate) fn set_neighbour(link: u32, address: IpAddr, mac: MacAddress) -> Request {
    let mut message = neighbour(link, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes.push(NeighbourAttribute::Protocol(protocol));
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

pub(crate) fn delete_neighbour(link: u32, address: IpAddr) -> Request {
    (RouteNetlinkMessage::DelNeighbour(neighbour(link, address)), 0)
}

pub(crate) fn set_forwarding(link: u32, mac: MacAddress, host: IpAddr) -> Request {
    let mut message = forwarding(link, mac);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(host.into()));
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

pub(crate) fn delete_forwarding(link: u32, mac: MacAddress) -> Request {
    (RouteNetlinkMessage::DelNeighbour(forwarding(link, mac)), 0)
}

fn neighbour(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = number(Family::of(address));
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn forwarding(link: u32, mac: MacAddress) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link;
    // Of the link itself rather than of a bridge that it may be a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

/// `None` for what passes by itself.
pub(crate) fn end(message: &NeighbourMessage) -> Option<HeardEnd> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let link = message.header.ifindex;
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(told) => address = ip(told),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddress);
            }
            _ => {}
        }
    }
    let (address, mac) = (address?, mac?);
    Some(match message.header.family {
        AddressFamily::Bridge => HeardEnd::Forwarding { link, mac, host: address },
        _ => HeardEnd::Neighbour { link, address, mac },
    })
}

/// A bridge's message does not say which family an address is of, so its length does.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}
