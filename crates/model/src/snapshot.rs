//! What a registry delivers: the whole mesh at one moment.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cidr::{Cidr, Family};
use crate::encapsulation::Encapsulation;
use crate::node::{Node, Peer};
use crate::problem::Problem;
use crate::text::serde_as_text;

/// The mesh as one registry knows it at one moment. Every node that plans from an equal snapshot plans the same mesh;
/// the order of nodes and peers means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    /// What holds for the whole mesh.
    pub mesh: Mesh,
    /// The machines in it.
    pub nodes: Vec<Node>,
    /// What joins it from outside.
    pub peers: Vec<Peer>,
    /// What the registry skipped on the way, and why. Not part of its serialised form: they are of their moment.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

/// The settings that all nodes of a mesh share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mesh {
    /// The ranges that overlay addresses come from.
    pub overlay: Overlay,
    /// How many gateways each location has.
    pub gateways: GatewayCount,
    /// The UDP port of a node whose endpoint names none.
    pub port: NonZeroU16,
    /// The MTU of the tunnel devices in bytes; `None` leaves it to each node.
    pub mtu: Option<NonZeroU16>,
    /// Whether nodes reach each other's internal addresses across locations.
    pub carry_internal_addresses: bool,
    /// How the nodes of a location reach what lies behind each other.
    pub encapsulation: Encapsulation,
    /// What nodes do to packets that they pass on, beside passing them on.
    pub filter: Filter,
}

/// What nodes do to packets that they pass on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Filter {
    /// Whether TCP connections through links of the mesh are told the segments that fit.
    pub clamp_mss: bool,
    /// Whether packets of pods and peers that leave the mesh do so with an address of the node, and packets from the
    /// mesh to a network behind a node with one of that node.
    pub masquerade: bool,
    /// The prefixes of the cluster's services, to which no source address is changed.
    pub services: Vec<Cidr>,
    /// Whether packets between prefixes of the mesh are accepted where somebody else's chain drops what a node passes
    /// on.
    pub forward_accept: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self { clamp_mss: true, masquerade: false, services: Vec::new(), forward_accept: false }
    }
}

/// The ranges that overlay addresses come from: one of at least one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Cidr>", into = "Vec<Cidr>")]
pub struct Overlay {
    v4: Option<Cidr>,
    v6: Option<Cidr>,
}

/// Why ranges make no overlay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// No range at all.
    #[error("the overlay needs a range of at least one family, such as 10.4.0.0/16")]
    Empty,
    /// Two ranges of one family.
    #[error("the overlay has two {family} ranges, {first} and {second}; it takes one")]
    Twice {
        /// The family of both.
        family: Family,
        /// The one that came first.
        first: Cidr,
        /// The one too many.
        second: Cidr,
    },
    /// Too few addresses to give out.
    #[error("the overlay range {range} is too small: /{most} is the longest prefix that it takes")]
    Small {
        /// The range.
        range: Cidr,
        /// The longest prefix of its family.
        most: u8,
    },
}

/// How many gateways a location has. Text: a number from 1, or `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayCount {
    /// Every node is one: a full mesh.
    All,
    /// At most this many.
    AtMost(NonZeroU32),
}

/// A text that is neither a count nor `all`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no number of gateways: write a number from 1, or all")]
pub struct GatewayCountError {
    /// The text that was given.
    pub value: String,
}

impl Overlay {
    /// An overlay of these ranges, at most one per family.
    pub fn new(ranges: impl IntoIterator<Item = Cidr>) -> Result<Self, OverlayError> {
        let mut overlay = Self { v4: None, v6: None };
        for range in ranges {
            let family = range.family();
            let most = family.bits() - 2;
            if range.length() > most {
                return Err(OverlayError::Small { range, most });
            }
            let slot = match family {
                Family::V4 => &mut overlay.v4,
                Family::V6 => &mut overlay.v6,
            };
            if let Some(first) = slot.replace(range) {
                return Err(OverlayError::Twice { family, first, second: range });
            }
        }
        if overlay.ranges().next().is_none() {
            return Err(OverlayError::Empty);
        }
        Ok(overlay)
    }

    /// The range of a family.
    pub const fn range(&self, family: Family) -> Option<Cidr> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The ranges, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = Cidr> + use<> {
        self.v4.into_iter().chain(self.v6)
    }

    /// Whether the address lies in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.range(Family::of(address)).is_some_and(|range| range.contains(address))
    }
}

impl TryFrom<Vec<Cidr>> for Overlay {
    type Error = OverlayError;

    fn try_from(ranges: Vec<Cidr>) -> Result<Self, OverlayError> {
        Self::new(ranges)
    }
}

impl From<Overlay> for Vec<Cidr> {
    fn from(overlay: Overlay) -> Self {
        overlay.ranges().collect()
    }
}

impl GatewayCount {
    /// The number of gateways among this many candidates.
    pub fn of(self, candidates: usize) -> usize {
        match self {
            Self::All => candidates,
            Self::AtMost(count) => {
                candidates.min(usize::try_from(count.get()).unwrap_or(usize::MAX))
            }
        }
    }
}

impl FromStr for GatewayCount {
    type Err = GatewayCountError;

    fn from_str(text: &str) -> Result<Self, GatewayCountError> {
        if text == "all" {
            return Ok(Self::All);
        }
        text.parse().map(Self::AtMost).map_err(|_| GatewayCountError { value: text.to_owned() })
    }
}

impl fmt::Display for GatewayCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::AtMost(count) => count.fmt(f),
        }
    }
}

serde_as_text!(GatewayCount);

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn an_overlay_has_one_range_per_family() {
        assert_eq!(Overlay::new([]), Err(OverlayError::Empty));
        let both = Overlay::new([cidr("fd00::/64"), cidr("10.4.0.0/16")]).unwrap();
        assert_eq!(both.ranges().collect::<Vec<_>>(), [cidr("10.4.0.0/16"), cidr("fd00::/64")]);
        assert!(both.contains("10.4.9.9".parse().unwrap()));
        assert!(!both.contains("10.5.0.0".parse().unwrap()));
        assert!(matches!(
            Overlay::new([cidr("10.4.0.0/16"), cidr("10.5.0.0/16")]),
            Err(OverlayError::Twice { .. })
        ));
        assert!(matches!(
            Overlay::new([cidr("10.4.0.0/31")]),
            Err(OverlayError::Small { most: 30, .. })
        ));
    }

    #[test]
    fn gateway_counts_are_a_number_or_all() {
        assert_eq!("all".parse(), Ok(GatewayCount::All));
        assert_eq!("3".parse::<GatewayCount>().unwrap().of(2), 2);
        assert_eq!("3".parse::<GatewayCount>().unwrap().of(9), 3);
        for bad in ["", "0", "-1", "ALL", "1.5"] {
            assert!(bad.parse::<GatewayCount>().is_err(), "{bad}");
        }
    }
}
