//! What a kernel may lack.

use std::fmt;

use rustix::io::Errno;
use serde::Serialize;
use wireloom_model::kernel::LinkKind;

use crate::error::HostError;
use crate::host::Host;
use crate::message;

/// A part of the kernel that not every kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Feature {
    /// Links that carry IPv4 in IPv4.
    Ipip,
    /// Packet filters and address translation.
    Nftables,
    /// Links that carry Ethernet frames in UDP.
    Vxlan,
    /// WireGuard devices of the kernel's own.
    WireGuard,
}

impl Feature {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Ipip, Self::Nftables, Self::Vxlan, Self::WireGuard];

    /// What a link of this kind takes. `None` for one that we don't make.
    pub const fn of(kind: &LinkKind) -> Option<Self> {
        match kind {
            LinkKind::Ipip { .. } => Some(Self::Ipip),
            LinkKind::Vxlan { .. } => Some(Self::Vxlan),
            LinkKind::WireGuard => Some(Self::WireGuard),
            _ => None,
        }
    }

    /// What to do where it is missing.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Ipip => {
                "load the module ipip (CONFIG_NET_IPIP), or encapsulate by VXLAN or WireGuard"
            }
            Self::Nftables => {
                "load the module nf_tables (CONFIG_NF_TABLES_INET and CONFIG_NFT_MASQ), or switch off masquerading \
                 and clamping"
            }
            Self::Vxlan => {
                "load the module vxlan (CONFIG_VXLAN), or encapsulate by IPIP or WireGuard"
            }
            Self::WireGuard => {
                "load the module wireguard (CONFIG_WIREGUARD), or use the device in user space"
            }
        }
    }

    /// The kind of link that it is for, as the kernel calls it.
    const fn link_kind(self) -> Option<&'static str> {
        match self {
            Self::Ipip => Some("ipip"),
            Self::Nftables => None,
            Self::Vxlan => Some("vxlan"),
            Self::WireGuard => Some("wireguard"),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipip => "IPIP links",
            Self::Nftables => "nftables",
            Self::Vxlan => "VXLAN links",
            Self::WireGuard => "WireGuard devices",
        })
    }
}

impl Host {
    /// Whether the kernel has it, or a module that it loads when asked. Makes nothing. It takes CAP_NET_ADMIN.
    pub async fn has(&self, feature: Feature) -> Result<bool, HostError> {
        let Some(kind) = feature.link_kind() else {
            return self.nftables().map_or(Ok(false), |nftables| nftables.is_there());
        };
        let outcomes =
            self.netlink().carry_out("kinds of links", vec![message::probe_kind(kind)]).await?;
        match outcomes.into_iter().next() {
            Some(Err(refusal)) if refusal.is(Errno::OPNOTSUPP) => Ok(false),
            Some(Err(refusal)) if refusal.is(Errno::INVAL) => Ok(true),
            Some(Err(refusal)) => Err(HostError::Refused { what: "kinds of links", refusal }),
            Some(Ok(())) | None => Err(HostError::Closed),
        }
    }
}
