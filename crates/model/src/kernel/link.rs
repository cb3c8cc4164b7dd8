//! Links, and what belongs to one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

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
    /// Ethernet frames in UDP (RFC 7348). It learns nothing: [neighbours](super::KernelState::neighbours) and
    /// [forwarding](super::KernelState::forwarding) say where frames go.
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

impl Link {
    /// A link that is up, made by somebody else.
    pub const fn held(mtu: u32) -> Self {
        Self { mtu, up: true, kind: LinkKind::Held }
    }
}

impl LinkKind {
    /// What the kernel calls it (ip-link(8)). `None` for one that somebody else makes.
    pub const fn name(&self) -> Option<&'static str> {
        match self {
            Self::Held => None,
            Self::Ipip { .. } => Some("ipip"),
            Self::Vxlan { .. } => Some("vxlan"),
            Self::WireGuard => Some("wireguard"),
        }
    }
}

impl LinkSetting {
    /// All of them, in order.
    pub const ALL: [Self; 4] =
        [Self::AcceptRa, Self::DisablePolicy, Self::DisableXfrm, Self::RpFilter];

    /// Its name under `/proc/sys/net/ipv4/conf/LINK` or `/proc/sys/net/ipv6/conf/LINK`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AcceptRa => "accept_ra",
            Self::DisablePolicy => "disable_policy",
            Self::DisableXfrm => "disable_xfrm",
            Self::RpFilter => "rp_filter",
        }
    }
}

impl fmt::Display for LinkSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
