//! Kernel state as plain data: what a plan asks of the host, and what is observed there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::cidr::{Cidr, Family, InterfaceAddress};
use crate::name::InterfaceName;

mod nft;

pub use nft::{Nft, NftSet};

/// The word that marks what has a name as ours: the alias of a link that we make, the nftables table.
pub const MARK: &str = "wireloom";

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
    /// Policy rules.
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

/// A link that we look after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// What it is, and so who makes it.
    pub kind: LinkKind,
}

/// What a link is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkKind {
    /// One that somebody else makes and takes away: a TUN device goes with its descriptor.
    #[default]
    Held,
    /// IPv4 in IPv4 (RFC 2003), to whatever gateway a route names.
    Ipip {
        /// The source address of outer packets.
        local: Ipv4Addr,
    },
    /// Ethernet frames in UDP (RFC 7348). It learns nothing: [neighbours](KernelState::neighbours) and
    /// [forwarding](KernelState::forwarding) say where frames go.
    Vxlan {
        /// The network's identifier, 24 bits.
        id: u32,
        /// The UDP port, here and at the other ends.
        port: u16,
        /// The source address of outer packets, whose family is that of all outer packets.
        local: IpAddr,
        /// The Ethernet address by which the other ends know this one.
        mac: MacAddress,
    },
    /// A WireGuard device of the kernel's own, configured over generic netlink.
    WireGuard,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// A setting that the kernel has for each link (`Documentation/networking/ip-sysctl.rst` in Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkSetting {
    /// Whether router advertisements are believed: 0 never, 1 unless it forwards, 2 always.
    AcceptRa,
    /// Whether IPsec policies are left aside for what comes in: 1 does so.
    DisablePolicy,
    /// Whether IPsec policies are left aside for what goes out: 1 does so.
    DisableXfrm,
    /// Whether a packet must come by the link that an answer would leave by: 0 no, 1 yes, 2 by any link. The greater
    /// of this and the setting of `all` counts.
    RpFilter,
}

/// A policy rule: which packets look up which table (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rule {
    /// The family whose packets it is for.
    pub family: Family,
    /// Its place among the rules; the lowest is tried first. `main` is looked up at 32766.
    pub priority: u32,
    /// Packets from here alone.
    pub from: Option<Cidr>,
    /// Packets to here alone.
    pub to: Option<Cidr>,
    /// Packets that came in by this link alone. It may be a link that is not there yet.
    pub input: Option<InterfaceName>,
    /// Packets with this mark alone.
    pub mark: Option<Mark>,
    /// The table to look up.
    pub table: u32,
}

/// Bits of a packet's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mark {
    /// What they must be.
    pub value: u32,
    /// Which bits count.
    pub mask: u32,
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

impl Link {
    /// A link that is up, made by somebody else.
    pub const fn held(mtu: u32) -> Self {
        Self { mtu, up: true, kind: LinkKind::Held }
    }
}

impl Rule {
    /// A rule for all packets of a family, to be narrowed by setting its fields.
    pub const fn all(family: Family, priority: u32, table: u32) -> Self {
        Self { family, priority, from: None, to: None, input: None, mark: None, table }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
