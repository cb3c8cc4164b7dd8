//! Kernel state as plain data: what a plan asks of the host, and what is observed there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::cidr::{Cidr, InterfaceAddress};
use crate::name::InterfaceName;

/// The number in `rtm_protocol` that marks a route as ours (see `/etc/iproute2/rt_protos`; 1 to 4 are the kernel's,
/// and no routing daemon known to us uses this one).
pub const ROUTE_PROTOCOL: u8 = 107;

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
}

/// The settings of a link that we look after. The link itself is made by whoever holds its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
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

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The next hop's address. `None` for a route straight out of a link.
    pub gateway: Option<IpAddr>,
    /// The link's name. `None` leaves it to the kernel, which looks up the gateway.
    pub link: Option<InterfaceName>,
    /// The source address that local traffic takes on it.
    pub source: Option<IpAddr>,
}

impl RouteKey {
    /// A route of the main table with the kernel's default metric.
    pub const fn main(destination: Cidr) -> Self {
        Self { table: MAIN_TABLE, destination, metric: 0 }
    }
}
