//! How packets between the nodes of one location are wrapped.

use std::fmt;
use std::str::FromStr;

use crate::cidr::Family;
use crate::text::serde_as_text;

/// Whether and how packets that nodes of one location pass on to each other are wrapped in packets between their
/// internal addresses, so that the location's network needs to know no other addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Encapsulation {
    /// Between which nodes.
    pub when: EncapsulateWhen,
    /// In what.
    pub by: EncapsulateBy,
}

/// Between which nodes of a location packets are wrapped. Kilo's `--encapsulate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EncapsulateWhen {
    /// None: the location's network carries packets from and to all addresses of the mesh.
    #[default]
    Never,
    /// Those that are in different subnets, as the prefix lengths of their internal addresses tell.
    CrossSubnet,
    /// All.
    Always,
}

/// What packets are wrapped in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EncapsulateBy {
    /// Ethernet in UDP (RFC 7348): both families, through every network that lets UDP pass.
    #[default]
    Vxlan,
    /// IPv4 in IPv4 (RFC 2003): the least overhead, and IPv4 alone. Some networks drop it.
    Ipip,
    /// WireGuard, by the tunnel device itself: encrypted inside the location too, and both families over either.
    WireGuard,
}

/// A text that names no [`EncapsulateWhen`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is no answer to when packets are encapsulated: write never, crosssubnet or always"
)]
pub struct EncapsulateWhenError {
    /// The text that was given.
    pub value: String,
}

/// A text that names no [`EncapsulateBy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no encapsulation: write vxlan, ipip or wireguard")]
pub struct EncapsulateByError {
    /// The text that was given.
    pub value: String,
}

impl Encapsulation {
    /// Whether nodes of one location are WireGuard peers of each other.
    pub fn encrypts(self) -> bool {
        self.by == EncapsulateBy::WireGuard && self.when != EncapsulateWhen::Never
    }
}

impl EncapsulateWhen {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Never, Self::CrossSubnet, Self::Always];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::CrossSubnet => "crosssubnet",
            Self::Always => "always",
        }
    }
}

impl EncapsulateBy {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Vxlan, Self::Ipip, Self::WireGuard];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
            Self::WireGuard => "wireguard",
        }
    }

    /// Whether it wraps packets of this family.
    pub const fn carries(self, family: Family) -> bool {
        matches!((self, family), (Self::Vxlan | Self::WireGuard, _) | (Self::Ipip, Family::V4))
    }

    /// What it adds to a packet in bytes, the outer header of this family included.
    pub const fn overhead(self, family: Family) -> u32 {
        let ip = match family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self {
            // UDP, VXLAN's own header, and the Ethernet header that it wraps.
            Self::Vxlan => ip + 8 + 8 + 14,
            Self::Ipip => ip,
            // UDP, and WireGuard's header and tag (WireGuard paper, section 5.4.6).
            Self::WireGuard => ip + 8 + 32,
        }
    }
}

impl FromStr for EncapsulateWhen {
    type Err = EncapsulateWhenError;

    fn from_str(text: &str) -> Result<Self, EncapsulateWhenError> {
        let named = Self::ALL.into_iter().find(|when| when.as_str() == text);
        named.ok_or_else(|| EncapsulateWhenError { value: text.to_owned() })
    }
}

impl FromStr for EncapsulateBy {
    type Err = EncapsulateByError;

    fn from_str(text: &str) -> Result<Self, EncapsulateByError> {
        let named = Self::ALL.into_iter().find(|by| by.as_str() == text);
        named.ok_or_else(|| EncapsulateByError { value: text.to_owned() })
    }
}

impl fmt::Display for EncapsulateWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for EncapsulateBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

serde_as_text!(EncapsulateWhen, EncapsulateBy);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_no_other_is_a_name() {
        for when in EncapsulateWhen::ALL {
            assert_eq!(when.to_string().parse(), Ok(when));
        }
        for by in EncapsulateBy::ALL {
            assert_eq!(by.to_string().parse(), Ok(by));
        }
        assert!("Always".parse::<EncapsulateWhen>().is_err());
        assert!("gre".parse::<EncapsulateBy>().is_err());
    }

    #[test]
    fn overheads_are_the_sum_of_headers() {
        assert_eq!(EncapsulateBy::Ipip.overhead(Family::V4), 20);
        assert_eq!(EncapsulateBy::Vxlan.overhead(Family::V4), 50);
        assert_eq!(EncapsulateBy::Vxlan.overhead(Family::V6), 70);
        assert_eq!(EncapsulateBy::WireGuard.overhead(Family::V6), 80);
        assert!(!EncapsulateBy::Ipip.carries(Family::V6));
    }
}
