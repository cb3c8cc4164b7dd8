//! Prefixes and addresses with a prefix length, of both families.
//!
//! [`Cidr`] is canonical: no host bit is set, so two equal networks are equal values. [`InterfaceAddress`] keeps the
//! host bits, as an address on a link needs. Text is read and written by `ipnetwork`; the rules on top are here.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::text::serde_as_text;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A network prefix without host bits.
///
/// Ordered by family, address and length, so a prefix comes right before the prefixes inside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// A host's address together with the prefix length of its network, such as `10.0.0.5/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrError {
    /// The address part does not parse.
    #[error("{value:?}: {address:?} is no IPv4 or IPv6 address")]
    Address {
        /// The whole text.
        value: String,
        /// The part before the slash.
        address: String,
    },
    /// Bits are set behind the prefix length.
    #[error("{value:?} has bits set behind its prefix length; the network is {network}")]
    HostBits {
        /// The whole text.
        value: String,
        /// The same prefix without host bits.
        network: Cidr,
    },
    /// The prefix length is missing, no plain number, or larger than the family has bits.
    #[error("{value:?} needs a prefix length from 0 to {most} after a slash")]
    Length {
        /// The whole text.
        value: String,
        /// The largest length of the family.
        most: u8,
    },
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The bits of an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Cidr {
    /// A prefix of the address's own network bits, or an error if host bits are set or the length is too large.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, CidrError> {
        let value = || format!("{address}/{length}");
        let network = Self::truncated(address, length).ok_or_else(|| CidrError::Length {
            value: value(),
            most: Family::of(address).bits(),
        })?;
        if network.address != address {
            return Err(CidrError::HostBits { value: value(), network });
        }
        Ok(network)
    }

    /// The prefix of this length that holds the address. `None` if the length is larger than the family has bits.
    pub fn truncated(address: IpAddr, length: u8) -> Option<Self> {
        let network = IpNetwork::new(address, length).ok()?;
        Some(Self { address: network.network(), length })
    }

    /// The prefix that holds this address alone: a /32 or /128.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: Family::of(address).bits() }
    }

    /// The first address, which is the prefix's name.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The address family.
    pub const fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Whether the prefix is one address.
    pub const fn is_host(&self) -> bool {
        self.length == self.family().bits()
    }

    /// Whether the address lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && Self::truncated(address, self.length) == Some(*self)
    }

    /// Whether the other prefix is this one or lies inside it.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl InterfaceAddress {
    /// An address in a network of this prefix length. `None` if the length is larger than the family has bits.
    pub const fn new(address: IpAddr, length: u8) -> Option<Self> {
        if length > Family::of(address).bits() { None } else { Some(Self { address, length }) }
    }

    /// The address alone, as a /32 or /128.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: Family::of(address).bits() }
    }

    /// The host's address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length of its network in bits.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The address family.
    pub const fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// The network that the address lies in.
    pub fn network(&self) -> Cidr {
        // A length above the family's bits is refused by every constructor, and a host prefix is the same address.
        Cidr::truncated(self.address, self.length).unwrap_or_else(|| Cidr::host(self.address))
    }
}

fn split(text: &str) -> Result<(IpAddr, Option<u8>), CidrError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| CidrError::Address { value: text.to_owned(), address: address.to_owned() })?;
    let most = Family::of(address).bits();
    let Some(length) = length else { return Ok((address, None)) };
    let plain =
        !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
    match length.parse::<u8>() {
        Ok(length) if plain && length <= most => Ok((address, Some(length))),
        _ => Err(CidrError::Length { value: text.to_owned(), most }),
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `address/length`; both parts are needed.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = split(text)?;
        let most = Family::of(address).bits();
        let length = length.ok_or_else(|| CidrError::Length { value: text.to_owned(), most })?;
        Self::new(address, length)
    }
}

impl FromStr for InterfaceAddress {
    type Err = CidrError;

    /// Reads `address/length`; an address alone is a /32 or /128.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = split(text)?;
        Ok(length.map_or_else(|| Self::host(address), |length| Self { address, length }))
    }
}

serde_as_text!(Cidr, InterfaceAddress);

impl From<Cidr> for IpNetwork {
    fn from(cidr: Cidr) -> Self {
        // A Cidr's length is never above the family's bits, which is all that `IpNetwork::new` refuses.
        Self::new(cidr.address, cidr.length).unwrap_or_else(|_| cidr.address.into())
    }
}

impl From<IpNetwork> for Cidr {
    /// Drops the host bits.
    fn from(network: IpNetwork) -> Self {
        Self { address: network.network(), length: network.prefix() }
    }
}

macro_rules! show_with_length {
    ($($type:ident),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.address, self.length)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }
    )+};
}

show_with_length!(Cidr, InterfaceAddress);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_refused_and_the_network_is_named() {
        let error = "10.0.0.5/24".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/24"), "{error}");
        assert!("fd00::1/64".parse::<Cidr>().is_err());
    }

    #[test]
    fn lengths_are_plain_numbers() {
        for bad in [
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "::/129",
            "::/ 1",
        ] {
            assert!(matches!(bad.parse::<Cidr>(), Err(CidrError::Length { .. })), "{bad}");
        }
        for bad in ["", "/8", "10.0.0/8", "010.0.0.0/8", "fe80::1%eth0/64"] {
            assert!(matches!(bad.parse::<Cidr>(), Err(CidrError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn an_interface_address_keeps_host_bits() {
        let address: InterfaceAddress = "10.0.0.5/24".parse().unwrap();
        assert_eq!(address.network(), cidr("10.0.0.0/24"));
        assert_eq!("fd00::5".parse::<InterfaceAddress>().unwrap().to_string(), "fd00::5/128");
    }

    #[test]
    fn families_do_not_mix() {
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(!cidr("::/0").covers(&cidr("10.0.0.0/8")));
        assert!(cidr("10.0.0.0/8").covers(&cidr("10.1.0.0/16")));
        assert!(cidr("10.1.0.0/16").overlaps(&cidr("10.0.0.0/8")));
    }

    proptest! {
        #[test]
        fn text_goes_there_and_back(bits: u128, length in 0u8..=128) {
            let v6 = Cidr::truncated(IpAddr::V6(bits.into()), length).unwrap();
            prop_assert_eq!(v6.to_string().parse::<Cidr>().unwrap(), v6);
            let v4 = Cidr::truncated(IpAddr::V4((bits as u32).into()), length.min(32)).unwrap();
            prop_assert_eq!(v4.to_string().parse::<Cidr>().unwrap(), v4);
            prop_assert!(v4.contains(IpAddr::V4((bits as u32).into())));
            prop_assert_eq!(Cidr::from(IpNetwork::from(v6)), v6);
        }
    }
}
