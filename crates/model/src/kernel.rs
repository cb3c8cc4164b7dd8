//! Kernel state as plain data: what a plan asks of the host, and what is observed there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::cidr::{Cidr, InterfaceAddress};
use crate::name::InterfaceName;

mod link;
mod nft;
mod rule;

pub use link::{Link, LinkKind, LinkSetting, MacAddress};
pub use nft::{Nft, NftSet, Outer};
pub use rule::{Mark, Rule};

/// The name of the nftables table that is ours.
pub const NFT_TABLE: &str = "wireloom";

/// The number that marks a route as ours in `rtm_protocol` and a rule in `FRA_PROTOCOL` (see `/etc/iproute2/rt_protos`;
/// 1 to 4 are the kernel's, and no routing daemon known to us uses this one).
pub const ROUTE_PROTOCOL: u8 = 107;

/// The group of links (ip-link(8)) that marks a link as made by us. It has it from the moment it is there, unlike an
/// alias.
pub const LINK_GROUP: u32 = 107;

/// The routing table that programs and people look at: `main` (`linux/rtnetlink.h`, `RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// Everything of ours in one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Links by name.
    pub links: BTreeMap<InterfaceName, Link>,
    /// Addresses on our links.
    pub addresses: BTreeSet<Address>,
    /// Routes, one for each key that the kernel tells them apart by.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Policy rules. The kernel takes a prefix of length 0 and a mask of 0 for none.
    pub rules: BTreeSet<Rule>,
    /// The Ethernet address that answers for an address on a VXLAN link.
    pub neighbours: BTreeMap<(InterfaceName, IpAddr), MacAddress>,
    /// The host's address that a VXLAN link sends frames for an Ethernet address to.
    pub forwarding: BTreeMap<(InterfaceName, MacAddress), IpAddr>,
    /// Settings of our links. One that is left out stays as it is.
    pub settings: BTreeMap<(InterfaceName, LinkSetting), u8>,
    /// The nftables table. `None` for no table.
    pub nft: Option<Nft>,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Address {
    /// The link's name.
    pub link: InterfaceName,
    /// The address with its prefix length.
    pub address: InterfaceAddress,
}

/// What the kernel tells routes of one family apart by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RouteKey {
    /// The routing table.
    pub table: u32,
    /// The prefix that it leads to.
    pub destination: Cidr,
    /// Its metric; the lower wins. 0 is the kernel's default for IPv4, which reads 1024 for IPv6.
    pub metric: u32,
}

/// Where a route leads. One without a gateway and a link leads nowhere: whoever sends by it is told that there is no way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The next hop's address. `None` for a route straight out of a link.
    pub gateway: Option<IpAddr>,
    /// The link's name. `None` beside a gateway leaves it to the kernel, which looks that up.
    pub link: Option<InterfaceName>,
    /// The source address that local traffic takes on it.
    pub source: Option<IpAddr>,
    /// The largest packet in bytes that takes it. `None` leaves that to the link.
    pub mtu: Option<u32>,
}

impl Route {
    /// Whether it leads nowhere.
    pub const fn is_unreachable(&self) -> bool {
        self.gateway.is_none() && self.link.is_none()
    }
}

impl RouteKey {
    /// A route of the main table with the kernel's default metric.
    pub const fn main(destination: Cidr) -> Self {
        Self { table: MAIN_TABLE, destination, metric: 0 }
    }
}
