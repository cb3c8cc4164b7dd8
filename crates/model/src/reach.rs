//! From where an address can be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::Endpoint;

/// How well the world reaches an endpoint, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// There is none: the node can only dial out.
    Outbound,
    /// By an address of some private network.
    Private,
    /// By a public address, or by a name: what it resolves to differs from node to node, so that it can't count.
    Public,
}

impl Reach {
    /// How well an endpoint is reached.
    pub fn of(endpoint: Option<&Endpoint>) -> Self {
        match endpoint.map(Endpoint::address) {
            None => Self::Outbound,
            Some(Some(address)) if !is_public(address) => Self::Private,
            Some(_) => Self::Public,
        }
    }
}

/// Whether an address is one that packets from elsewhere can be sent to.
pub fn is_of_one_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}

/// Whether an address is one of a private network (RFC 1918, RFC 4193).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Whether other networks can reach an address: not private, not shared among a provider's customers (RFC 6598), not
/// for benchmarks (RFC 2544), not reserved (RFC 1112, section 4).
pub fn is_public(address: IpAddr) -> bool {
    let within = |v4: Ipv4Addr, network: [u8; 2], mask: u8| {
        let [a, b, ..] = v4.octets();
        a == network[0] && b & mask == network[1]
    };
    let nowhere = match address.to_canonical() {
        IpAddr::V4(v4) => {
            within(v4, [100, 64], 0xc0) || within(v4, [198, 18], 0xfe) || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => !is_global_unicast(v6),
    };
    is_of_one_host(address) && !is_private(address) && !nowhere
}

/// Whether an address lies in 2000::/3 (RFC 4291, section 2.4), where all that are routed today are.
const fn is_global_unicast(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xe0 == 0x20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_ones_are_known_by_the_edges_of_the_others() {
        for text in [
            "10.0.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "198.18.0.1",
            "198.19.0.1",
            "240.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "198.20.0.1",
            "203.0.113.1",
            "::ffff:203.0.113.1",
            "2001:db8::1",
            "2a00::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_name_may_be_reached_by_everybody() {
        let reach = |text: &str| Reach::of(Some(&text.parse().unwrap()));
        assert_eq!(reach("gw.example.com:51820"), Reach::Public);
        assert_eq!(reach("203.0.113.1:51820"), Reach::Public);
        assert_eq!(reach("[fd12::1]:51820"), Reach::Private);
        assert!(Reach::of(None) < Reach::Private);
    }
}
