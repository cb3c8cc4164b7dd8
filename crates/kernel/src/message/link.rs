//! Links (`linux/if_link.h`): those of the host, and those that we make.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wireloom_model::InterfaceName;
use wireloom_model::kernel::{LINK_GROUP, Link, LinkKind, MacAddress};

use crate::links::HostLink;
use crate::netlink::Request;

/// A link as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeardLink {
    pub(crate) link: HostLink,
    /// What it is as one of ours; [held](LinkKind::Held) if we did not make it.
    pub(crate) made: LinkKind,
}

pub(crate) fn all_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Asks for the link of this name.
pub(crate) fn link_of(name: &InterfaceName) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    RouteNetlinkMessage::GetLink(message)
}

pub(crate) fn set_link(index: u32, link: &Link) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    set(&mut message, link);
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// Makes a link, marked as ours from the start. `None` for one that is not for us to make.
pub(crate) fn add_link(name: &InterfaceName, link: &Link) -> Option<Request> {
    let mut message = LinkMessage::default();
    set(&mut message, link);
    message.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    message.attributes.push(LinkAttribute::Group(LINK_GROUP));
    let (kind, data) = match link.kind {
        LinkKind::Ipip { local } => {
            // No far end: a packet goes to the gateway that its route names.
            let tunnel = InfoIpTunnel::Local(local.into());
            (InfoKind::IpIp, Some(InfoData::IpTunnel(vec![tunnel])))
        }
        LinkKind::Vxlan { id, port, local, mac } => {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
            let local = match local {
                IpAddr::V4(local) => InfoVxlan::Local(local),
                IpAddr::V6(local) => InfoVxlan::Local6(local),
            };
            let learning = InfoVxlan::Learning(false);
            let data = vec![InfoVxlan::Id(id), local, InfoVxlan::Port(port), learning];
            (InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
        }
        LinkKind::WireGuard => (InfoKind::Wireguard, None),
        _ => return None,
    };
    let info = std::iter::once(LinkInfo::Kind(kind)).chain(data.map(LinkInfo::Data)).collect();
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Some((RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL))
}

pub(crate) fn delete_link(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    (RouteNetlinkMessage::DelLink(message), 0)
}

/// Asks for a link that cannot be, so that the kernel says what is wrong with it: that it knows no such kind, or, after
/// that, that a link needs a queue (`rtnl_create_link`, `net/core/rtnetlink.c`).
pub(crate) fn probe_kind(kind: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::NumTxQueues(0));
    let info = LinkInfo::Kind(InfoKind::Other(kind.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![info]));
    (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn set(message: &mut LinkMessage, link: &Link) {
    message.header.flags = if link.up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::Mtu(link.mtu));
}

/// `None` for what a bridge says of its ports.
pub(crate) fn link(message: &LinkMessage) -> Option<HeardLink> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut kind, mut data, mut mac) = (None, None, None, None);
    let (mut mtu, mut group) = (0, 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text.parse().ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Group(number) => group = *number,
            LinkAttribute::Address(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddress);
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(told) => kind = Some(told.to_string()),
                        LinkInfo::Data(told) => data = Some(told),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let made = (group == LINK_GROUP).then(|| made(kind.as_deref(), data, mac)).flatten();
    let flags = message.header.flags;
    Some(HeardLink {
        made: made.unwrap_or_default(),
        link: HostLink {
            index: message.header.index,
            name: name?,
            mtu,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            kind,
        },
    })
}

/// What a link of our group is. `None` for what we never make.
fn made(kind: Option<&str>, data: Option<&InfoData>, mac: Option<MacAddress>) -> Option<LinkKind> {
    match (kind?, data) {
        ("ipip", Some(InfoData::IpTunnel(data))) => data.iter().find_map(|info| match info {
            InfoIpTunnel::Local(IpAddr::V4(local)) => Some(LinkKind::Ipip { local: *local }),
            _ => None,
        }),
        ("vxlan", Some(InfoData::Vxlan(data))) => {
            let (mut id, mut port, mut local) = (None, None, None);
            for info in data {
                match info {
                    InfoVxlan::Id(number) => id = Some(*number),
                    InfoVxlan::Port(number) => port = Some(*number),
                    InfoVxlan::Local(address) => local = Some(IpAddr::V4(*address)),
                    InfoVxlan::Local6(address) => local = Some(IpAddr::V6(*address)),
                    _ => {}
                }
            }
            Some(LinkKind::Vxlan { id: id?, port: port?, local: local?, mac: mac? })
        }
        ("wireguard", _) => Some(LinkKind::WireGuard),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
