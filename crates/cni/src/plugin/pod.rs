//! A pod's routes.
//!
//! What a pod sends may go anywhere: by its default route to other locations, to services that lead there, to the
//! world. So all routes by a next hop take what the mesh carries, and what is near gets routes of its own, which take
//! what the pod's link does. A location that comes later is thus served by the routes that are there, and nobody has to
//! go back to pods that run; what comes near later takes smaller packets than it could, until the pod starts anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use wireloom_model::kernel::{MAIN_TABLE, ROUTE_PROTOCOL};
use wireloom_model::{Cidr, Family};

use crate::attachment::Attachment;
use crate::guidance::Guidance;
use crate::netlink::{Link, Netlink};

/// A pod, seen through a socket that was opened in its network.
pub(super) struct PodNetwork(Netlink);

/// Opens the network namespace at this path.
pub(super) fn open(namespace: &Path) -> io::Result<PodNetwork> {
    let enter = || {
        let file = File::open(namespace)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Netlink::open()
    };
    // The socket stays where it was opened, so that this thread need not go there.
    let entered = thread::scope(|scope| scope.spawn(enter).join());
    entered
        .unwrap_or_else(|_| Err(io::Error::other("the thread that went there has panicked")))
        .map(PodNetwork)
}

/// What became of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Routed {
    /// The prefixes whose routes take less than the pod's link does, and how much.
    pub(super) limited: BTreeMap<Cidr, u32>,
    /// The number of the other end of its link, if the calling thread's network has it.
    pub(super) host_end: Option<u32>,
}

impl PodNetwork {
    /// Makes the routes that guidance asks for.
    pub(super) fn follow(
        &mut self,
        interface: &str,
        guidance: &Guidance,
        off_mesh: bool,
    ) -> io::Result<Routed> {
        let link = self.0.link(interface)?;
        let mut limited_to = BTreeMap::new();
        for family in Family::BOTH {
            let routes = self.routes(link.index, family)?;
            if guidance.mtu < link.mtu {
                for route in limited(&routes, guidance) {
                    self.0.put_route(route.with_mtu(Some(guidance.mtu)))?;
                    limited_to.insert(route.destination, guidance.mtu);
                }
                for route in near(&routes, guidance) {
                    self.0.put_route(route)?;
                }
            }
            let is_served = !routes.is_empty();
            let away = guidance.elsewhere.iter().filter(|prefix| prefix.family() == family);
            for prefix in away.filter(|_| off_mesh && is_served) {
                self.0.put_route(unreachable(*prefix))?;
            }
        }
        Ok(Routed { limited: limited_to, host_end: host_end(link)? })
    }

    /// Returns the first of an attachment's routes that is not as it was made.
    pub(super) fn compare(mut self, attachment: &Attachment) -> io::Result<Option<Cidr>> {
        let link = self.0.link(&attachment.interface)?.index;
        let mut routes = Vec::new();
        for family in Family::BOTH {
            routes.extend(self.routes(link, family)?);
        }
        let is_there = |(prefix, mtu): &(&Cidr, &u32)| {
            let mut same = routes.iter().filter(|route| route.destination == **prefix);
            same.any(|route| route.mtu() == Some(**mtu))
        };
        let gone = attachment.limited.iter().find(|limit| !is_there(limit));
        Ok(gone.map(|(prefix, _)| *prefix))
    }

    /// The unicast routes of the main table that leave by this link.
    fn routes(&mut self, link: u32, family: Family) -> io::Result<Vec<Standing>> {
        let routes = self.0.routes(family)?.into_iter().filter_map(Standing::read);
        Ok(routes.filter(|route| route.link() == Some(link)).collect())
    }
}

/// Where a pod's link leads to another of its own kind here, each is the other's end.
fn host_end(link: Link) -> io::Result<Option<u32>> {
    let Some(other) = link.other else { return Ok(None) };
    let end = Netlink::open()?.link_numbered(other)?;
    Ok(end.filter(|end| end.other == Some(link.index)).map(|end| end.index))
}

impl Guidance {
    fn is_near(&self, prefix: Cidr) -> bool {
        self.near.contains(&prefix) || self.pods.contains(&prefix)
    }
}

/// A route that a pod has.
#[derive(Debug, Clone, PartialEq)]
struct Standing {
    destination: Cidr,
    message: RouteMessage,
}

impl Standing {
    fn read(mut message: RouteMessage) -> Option<Self> {
        let family = match message.header.address_family {
            AddressFamily::Inet => Family::V4,
            AddressFamily::Inet6 => Family::V6,
            _ => return None,
        };
        let find = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                Some(IpAddr::from(*address))
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                Some(IpAddr::from(*address))
            }
            _ => None,
        };
        let address =
            message.attributes.iter().find_map(find).unwrap_or_else(|| unspecified(family));
        let table = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = table.unwrap_or_else(|| message.header.table.into());
        let is_ordinary = table == MAIN_TABLE && message.header.kind == RouteType::Unicast;
        // What the kernel tells and does not take back.
        message.header.flags &= RouteFlags::Onlink;
        message.attributes.retain(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Destination(_)
                    | RouteAttribute::Gateway(_)
                    | RouteAttribute::Metrics(_)
                    | RouteAttribute::Oif(_)
                    | RouteAttribute::PrefSource(_)
                    | RouteAttribute::Priority(_)
                    | RouteAttribute::Table(_)
                    | RouteAttribute::Via(_)
            )
        });
        let destination = Cidr::new(address, message.header.destination_prefix_length).ok()?;
        is_ordinary.then_some(Self { destination, message })
    }

    fn link(&self) -> Option<u32> {
        self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    }

    fn is_by_next_hop(&self) -> bool {
        let is_hop = |attribute: &RouteAttribute| {
            matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))
        };
        self.message.attributes.iter().any(is_hop)
    }

    fn mtu(&self) -> Option<u32> {
        self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(bytes) => Some(*bytes),
                _ => None,
            }),
            _ => None,
        })
    }

    /// The same with another MTU, or that of the link.
    fn with_mtu(&self, mtu: Option<u32>) -> RouteMessage {
        let mut message = self.message.clone();
        let mut metrics = Vec::new();
        message.attributes.retain(|attribute| match attribute {
            RouteAttribute::Metrics(all) => {
                metrics.extend(all.iter().filter(|m| !matches!(m, RouteMetric::Mtu(_))).cloned());
                false
            }
            _ => true,
        });
        metrics.extend(mtu.map(RouteMetric::Mtu));
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }
}

/// The routes by a next hop, except to what is near.
fn limited<'a>(
    routes: &'a [Standing],
    guidance: &'a Guidance,
) -> impl Iterator<Item = &'a Standing> + 'a {
    routes.iter().filter(|route| route.is_by_next_hop() && !guidance.is_near(route.destination))
}

/// Routes to what is near, each by the next hop of the route that leads there now.
fn near<'a>(
    routes: &'a [Standing],
    guidance: &'a Guidance,
) -> impl Iterator<Item = RouteMessage> + 'a {
    guidance.near.union(&guidance.pods).filter_map(|prefix| {
        let covers = routes.iter().filter(|route| {
            route.destination.family() == prefix.family() && route.destination.covers(prefix)
        });
        let route = covers.max_by_key(|route| route.destination.length())?;
        let is_wanted = route.is_by_next_hop() && route.destination != *prefix;
        is_wanted.then(|| {
            let mut message = route.with_mtu(None);
            message.header.destination_prefix_length = prefix.length();
            message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
            message.attributes.retain(|a| !matches!(a, RouteAttribute::Destination(_)));
            message.attributes.push(RouteAttribute::Destination(prefix.address().into()));
            message
        })
    })
}

/// A route by which nothing is reached.
fn unreachable(prefix: Cidr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match prefix.family() {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = prefix.length();
    message.header.kind = RouteType::Unreachable;
    message.header.scope = RouteScope::Universe;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes.push(RouteAttribute::Destination(prefix.address().into()));
    message.attributes.push(RouteAttribute::Table(MAIN_TABLE));
    message
}

const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
