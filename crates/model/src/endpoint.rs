//! Where a node or peer is reached: an address or a DNS name, and a UDP port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::name::{DnsName, InterfaceName};
use crate::text::serde_as_text;

/// A UDP endpoint as people write it: `203.0.113.1:51820`, `[2001:db8::1]:51820`, `[fe80::1%eth0]:51820` or
/// `gw.example.com:51820`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The host's address or name.
    pub host: Host,
    /// The UDP port.
    pub port: NonZeroU16,
}

/// The host part of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address of either family that needs no scope.
    Address(IpAddr),
    /// A name, to be resolved where it is used and again when it stops answering.
    Name(DnsName),
    /// A link-local IPv6 address with its scope, a link's name or index (RFC 4007, section 11).
    Scoped(Ipv6Addr, InterfaceName),
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// An IPv6 address stands without brackets, so that its port can't be told from its last group.
    #[error("{value:?}: write an IPv6 endpoint with brackets, as in [2001:db8::1]:51820")]
    Brackets {
        /// The whole text.
        value: String,
    },
    /// The host is neither an address nor a DNS name.
    #[error("{value:?}: the host {host:?} is no IP address and no lower-case DNS name")]
    Host {
        /// The whole text.
        value: String,
        /// The part that stands for the host.
        host: String,
    },
    /// The port is missing, no number, 0 or above 65535.
    #[error("{value:?} needs a port from 1 to 65535 after the last colon")]
    Port {
        /// The whole text.
        value: String,
    },
    /// A link-local address has no scope, or another one has.
    #[error(
        "{value:?}: a link-local IPv6 address, and no other, needs its link after a %, as in [fe80::1%eth0]:51820"
    )]
    Scope {
        /// The whole text.
        value: String,
    },
    /// The address can't be sent to: unspecified, multicast or broadcast.
    #[error("{value:?}: {address} is no address of one host")]
    Unicast {
        /// The whole text.
        value: String,
        /// The address.
        address: IpAddr,
    },
}

impl Endpoint {
    /// The endpoint at this address.
    pub const fn at(address: IpAddr, port: NonZeroU16) -> Self {
        Self { host: Host::Address(address), port }
    }

    /// The address, unless the host is a name that nobody has resolved yet.
    pub const fn address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Address(address) => Some(*address),
            Host::Name(_) => None,
            Host::Scoped(address, _) => Some(IpAddr::V6(*address)),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let value = || text.to_owned();
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| EndpointError::Port { value: value() })?;
        let plain = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse::<NonZeroU16>() {
            Ok(port) if plain => port,
            _ => return Err(EndpointError::Port { value: value() }),
        };
        let no_host = || EndpointError::Host { value: value(), host: host.to_owned() };
        let host = if let Some(inside) = host.strip_prefix('[') {
            bracketed(text, inside.strip_suffix(']').ok_or_else(no_host)?)?
        } else if host.contains(':') {
            return Err(EndpointError::Brackets { value: value() });
        } else if let Ok(address) = host.parse::<IpAddr>() {
            Host::Address(address)
        } else {
            Host::Name(host.parse().map_err(|_| no_host())?)
        };
        let endpoint = Self { host, port };
        match endpoint.address() {
            Some(address) if !is_one_host(address) => {
                Err(EndpointError::Unicast { value: value(), address })
            }
            _ => Ok(endpoint),
        }
    }
}

fn bracketed(text: &str, inside: &str) -> Result<Host, EndpointError> {
    let (address, scope) = match inside.split_once('%') {
        Some((address, scope)) => (address, Some(scope)),
        None => (inside, None),
    };
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| EndpointError::Host { value: text.to_owned(), host: inside.to_owned() })?;
    let no_scope = || EndpointError::Scope { value: text.to_owned() };
    match (address.is_unicast_link_local(), scope) {
        (false, None) => Ok(Host::Address(address.into())),
        (true, Some(scope)) => Ok(Host::Scoped(address, scope.parse().map_err(|_| no_scope())?)),
        _ => Err(no_scope()),
    }
}

fn is_one_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Scoped(address, scope) => write!(f, "[{address}%{scope}]:{}", self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

serde_as_text!(Endpoint);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_goes_there_and_back() {
        for text in [
            "203.0.113.1:51820",
            "[2001:db8::1]:1",
            "[fe80::1%eth0]:65535",
            "[fe80::1%2]:51820",
            "gw.example.com:51820",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for bad in [
            "",
            "203.0.113.1",
            "203.0.113.1:",
            "gw:0",
            "gw:70000",
            "gw:+1",
            "gw: 1",
            "[2001:db8::1]",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        assert!(matches!("203.0.113.1:70000".parse::<Endpoint>(), Err(EndpointError::Port { .. })));
        assert!(matches!(
            "2001:db8::1:51820".parse::<Endpoint>(),
            Err(EndpointError::Brackets { .. })
        ));
        assert!(matches!("GW:1".parse::<Endpoint>(), Err(EndpointError::Host { .. })));
        assert!(matches!(":1".parse::<Endpoint>(), Err(EndpointError::Host { .. })));
        assert!(matches!("300.0.0.1:1".parse::<Endpoint>(), Err(EndpointError::Host { .. })));
        assert!(matches!("[fe80::1]:1".parse::<Endpoint>(), Err(EndpointError::Scope { .. })));
        assert!(matches!(
            "[2001:db8::1%eth0]:1".parse::<Endpoint>(),
            Err(EndpointError::Scope { .. })
        ));
        for bad in ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
            assert!(matches!(bad.parse::<Endpoint>(), Err(EndpointError::Unicast { .. })), "{bad}");
        }
    }
}
