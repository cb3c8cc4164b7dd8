//! What the host has besides ours: links, addresses, the way to an address, and routes that are in our way.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteType;
use serde::Serialize;
use wireloom_model::kernel::{Address, LinkKind};
use wireloom_model::{Cidr, Family, InterfaceName};

use crate::error::HostError;
use crate::host::Host;
use crate::message::{self, HeardAddress, HeardEnd, HeardLink, HeardRoute, HeardRule};

/// A link of the host, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostLink {
    /// The kernel's number for it, which a link made anew under the same name does not keep.
    pub index: u32,
    /// Its name.
    pub name: InterfaceName,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// What the kernel calls its kind (`tun`, `veth`, `wireguard` ...). Hardware has none.
    pub kind: Option<String>,
}

/// How packets to an address leave this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The link that they leave by.
    pub link: HostLink,
    /// The link's MTU in bytes, or less if the kernel knows of a narrower place on the way (RFC 1191, RFC 8201).
    pub mtu: u32,
}

/// A route of somebody else that shares addresses with a range of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Conflict {
    /// The range of ours.
    pub range: Cidr,
    /// Where the other route leads.
    pub destination: Cidr,
    /// The link that it leads out of. `None` for one that drops packets or has several next hops.
    pub link: Option<InterfaceName>,
    /// The routing table that it stands in.
    pub table: u32,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, destination, link, table } = self;
        write!(f, "{range} overlaps this host's route to {destination}")?;
        if let Some(link) = link {
            write!(f, " on {link}")?;
        }
        write!(f, " (table {table})")
    }
}

impl Host {
    /// All links, by index.
    pub async fn links(&self) -> Result<Vec<HostLink>, HostError> {
        Ok(self.heard_links().await?.into_iter().map(|heard| heard.link).collect())
    }

    /// The link of this name, if there is one.
    pub async fn link(&self, name: &InterfaceName) -> Result<Option<HostLink>, HostError> {
        Ok(self.links().await?.into_iter().find(|link| link.name == *name))
    }

    /// The addresses by which other hosts may reach this one: of global scope, lasting, and proven to be unique.
    pub async fn addresses(&self) -> Result<BTreeSet<Address>, HostError> {
        let links = self.links().await?;
        let heard = self.heard_addresses().await?;
        Ok(heard
            .into_iter()
            .filter(|heard| heard.is_lasting)
            .filter_map(|HeardAddress { link, address, .. }| {
                Some(Address { link: named(Some(link), &links)?, address })
            })
            .collect())
    }

    /// How packets to each of these addresses leave that bear a mark, or none if it is 0; in the addresses' order.
    /// `None` if there is no way: no route, one that drops packets, or no such family in the kernel.
    pub async fn ways_to(
        &self,
        addresses: &[IpAddr],
        mark: u32,
    ) -> Result<Vec<Option<Way>>, HostError> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let requests = addresses.iter().map(|address| message::route_to(*address, mark)).collect();
        let links = self.links().await?;
        let mut ways = Vec::with_capacity(addresses.len());
        let answers = self.netlink().ask("route to an address", requests).await?;
        for (address, answer) in addresses.iter().zip(answers) {
            let route = match answer {
                Ok(RouteNetlinkMessage::NewRoute(route)) => {
                    message::route(&route).filter(|route| !drops(route.kind))
                }
                Ok(_) => None,
                // Whatever the kernel has against it, it says nothing of the other addresses.
                Err(refusal) => {
                    tracing::debug!(%address, %refusal, "no way to an address");
                    None
                }
            };
            let way = route.and_then(|route| {
                let link = links.iter().find(|link| Some(link.index) == route.link)?.clone();
                Some(Way { mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)), link })
            });
            ways.push(way);
        }
        Ok(ways)
    }

    /// The routes of others that share addresses with these ranges, except those out of `ours` and of links that we make.
    /// Default routes do not count, and of this host's own addresses only those that no other such route covers.
    pub async fn route_conflicts(
        &self,
        ranges: &[Cidr],
        ours: &[InterfaceName],
    ) -> Result<Vec<Conflict>, HostError> {
        let heard = self.heard_links().await?;
        let made = heard.iter().filter(|heard| heard.made != LinkKind::Held);
        let made = made.map(|heard| heard.link.name.clone());
        let ours: Vec<InterfaceName> = ours.iter().cloned().chain(made).collect();
        let links: Vec<HostLink> = heard.into_iter().map(|heard| heard.link).collect();
        let routes = self.heard_routes(None).await?;
        Ok(conflicts(ranges, &routes, |index| named(index, &links), &ours))
    }

    pub(crate) async fn heard_links(&self) -> Result<Vec<HeardLink>, HostError> {
        let list = self.netlink().dump("links", message::all_links()).await?;
        let mut links: Vec<HeardLink> = list
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => message::link(link),
                _ => None,
            })
            .collect();
        links.sort_by_key(|heard| heard.link.index);
        Ok(links)
    }

    pub(crate) async fn heard_addresses(&self) -> Result<Vec<HeardAddress>, HostError> {
        let mut heard = Vec::new();
        for family in Family::BOTH {
            let list = self.netlink().dump("addresses", message::all_addresses(family)).await?;
            heard.extend(list.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => message::address(address),
                _ => None,
            }));
        }
        Ok(heard)
    }

    /// The routes of all tables: those of one protocol, or everybody's.
    pub(crate) async fn heard_routes(
        &self,
        protocol: Option<u8>,
    ) -> Result<Vec<HeardRoute>, HostError> {
        let routes = self.routes();
        let list = tokio::task::spawn_blocking(move || routes.list(protocol));
        list.await.unwrap_or(Err(HostError::Closed))
    }

    /// The rules that look up a table.
    pub(crate) async fn heard_rules(&self) -> Result<Vec<HeardRule>, HostError> {
        let mut heard = Vec::new();
        for family in Family::BOTH {
            let list = self.netlink().dump("rules", message::all_rules(family)).await?;
            heard.extend(list.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => message::rule(rule),
                _ => None,
            }));
        }
        Ok(heard)
    }

    /// What lasts of neighbours and forwarding.
    pub(crate) async fn heard_ends(&self) -> Result<Vec<HeardEnd>, HostError> {
        let mut heard = Vec::new();
        for family in [Some(Family::V4), Some(Family::V6), None] {
            let list = self.netlink().dump("neighbours", message::all_ends(family)).await?;
            heard.extend(list.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => message::end(neighbour),
                _ => None,
            }));
        }
        Ok(heard)
    }
}

/// Whether routes of this kind drop packets. Those of IPv6 are told like any other; for those of IPv4 the kernel refuses
/// to tell a way.
const fn drops(kind: RouteType) -> bool {
    matches!(kind, RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit)
}

fn conflicts(
    ranges: &[Cidr],
    routes: &[HeardRoute],
    name_of: impl Fn(Option<u32>) -> Option<InterfaceName>,
    ours: &[InterfaceName],
) -> Vec<Conflict> {
    let (mut networks, mut own_addresses) = (BTreeSet::new(), BTreeSet::new());
    for route in routes {
        let found = match route.kind {
            RouteType::Local => &mut own_addresses,
            RouteType::Unicast
            | RouteType::BlackHole
            | RouteType::Unreachable
            | RouteType::Prohibit => &mut networks,
            _ => continue,
        };
        let destination = route.key.destination;
        let link = name_of(route.link);
        let is_ours = route.is_ours() || link.as_ref().is_some_and(|link| ours.contains(link));
        if is_ours || destination.length() == 0 {
            continue;
        }
        found.extend(ranges.iter().filter(|range| range.overlaps(&destination)).map(|range| {
            Conflict { range: *range, destination, link: link.clone(), table: route.key.table }
        }));
    }
    let is_covered = |own: &Conflict| {
        networks
            .iter()
            .any(|net: &Conflict| net.link == own.link && net.destination.covers(&own.destination))
    };
    own_addresses.retain(|own| !is_covered(own));
    networks.into_iter().chain(own_addresses).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The name of the link with this index.
pub(crate) fn named(index: Option<u32>, links: &[HostLink]) -> Option<InterfaceName> {
    links.iter().find(|link| Some(link.index) == index).map(|link| link.name.clone())
}
