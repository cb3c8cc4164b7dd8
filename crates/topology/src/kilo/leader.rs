//! Who leads a segment (`findLeader` in Kilo).

use std::net::IpAddr;

use wireloom_model::Node;

use super::{Seen, address_of};

/// The first in the order: declared with a public endpoint, declared, with a public endpoint, any. The nodes are in the
/// order of names.
pub(super) fn find(nodes: &[&Node], seen: &Seen) -> usize {
    let rank = |node: &Node| {
        let address = node.endpoint.as_ref().and_then(|endpoint| address_of(endpoint, seen));
        (node.gateway.declared, address.is_some_and(is_public))
    };
    // Of equal ones `max_by_key` returns the last, and the first counts here.
    let best = nodes.iter().enumerate().rev().max_by_key(|(_, node)| rank(node));
    best.map_or(0, |(at, _)| at)
}

/// What Kilo takes for a public address (`isPublic`, `pkg/mesh/ip.go`): all but the private ranges of IPv4 (RFC 1918)
/// and, of IPv6's, `fd00::/16` alone.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !v4.is_private(),
        IpAddr::V6(v6) => v6.segments()[0] != 0xfd00,
    }
}
