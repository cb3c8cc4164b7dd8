//! Which nodes carry their segment's traffic.

use std::cmp::Reverse;
use std::net::IpAddr;

use wireloom_model::{Endpoint, Mesh, Problem, ProblemKind, Subject};

use crate::rendezvous::{Purpose, Score};
use crate::resolve::{Area, Member, Resolved};

/// How well the world reaches a node, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// It can only dial out.
    Outbound,
    /// By an address of some private network.
    Private,
    /// By a public address, or by a name: what it resolves to differs from node to node, so that it can't count.
    Public,
}

/// The gateways of each segment, as sorted indices.
///
/// The first k in the order: healthy, declared, holding the role, how well it is reached, hash. So a declared newcomer
/// takes the role from an undeclared holder, which is what declaring is for; any other newcomer takes it from nobody.
/// A node of weight 0 is passed over unless its segment has no other kind.
pub(crate) fn choose(mesh: &Mesh, resolved: &mut Resolved<'_>) -> Vec<Vec<usize>> {
    let Resolved { members, areas, problems, .. } = resolved;
    areas.iter().map(|area| of_area(mesh, members, area, problems)).collect()
}

fn of_area(
    mesh: &Mesh,
    members: &[Member<'_>],
    area: &Area,
    problems: &mut Vec<Problem>,
) -> Vec<usize> {
    let weighs = |at: &usize| members[*at].node.gateway.weight > 0;
    let mut candidates: Vec<usize> = area.members.iter().copied().filter(weighs).collect();
    if candidates.is_empty() {
        candidates.clone_from(&area.members);
    }
    let count = mesh.gateways.of(candidates.len());
    if count < candidates.len() {
        candidates.sort_by_cached_key(|&at| {
            let node = members[at].node;
            let parts = [area.name.as_str().as_bytes(), node.name.as_str().as_bytes()];
            Reverse((
                node.healthy,
                node.gateway.declared,
                node.held.gateway,
                reach(members[at].endpoint),
                Score::new(node.gateway.weight, Purpose::Gateway, &parts),
                Reverse(at),
            ))
        });
        candidates.truncate(count);
        candidates.sort_unstable();
    }
    if !candidates.iter().any(|&at| members[at].node.healthy) {
        for &at in &candidates {
            problems.push(Problem::error(
                Subject::Node(members[at].node.name.clone()),
                ProblemKind::NoGateway,
                format!(
                    "{} has no healthy gateway; this node stays its gateway all the same",
                    area.name
                ),
            ));
        }
    }
    candidates
}

fn reach(endpoint: Option<&Endpoint>) -> Reach {
    match endpoint {
        None => Reach::Outbound,
        Some(endpoint) => match endpoint.address() {
            Some(address) if !is_public(address) => Reach::Private,
            _ => Reach::Public,
        },
    }
}

/// Whether the address is for the whole Internet: not loopback, link-local, private (RFC 1918, RFC 4193) or shared by
/// a carrier's NAT (RFC 6598).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_ranges_are_known_by_their_edges() {
        for public in ["203.0.113.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2001:db8::1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "10.0.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "fd12::1",
            "fc00::1",
            "fe80::1",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }
}
