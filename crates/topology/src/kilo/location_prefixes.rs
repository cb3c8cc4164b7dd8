//! Which networks behind a segment others reach (`filterAllowedLocationIPs` in Kilo).

use std::collections::BTreeSet;

use wireloom_model::{Cidr, Node, Problem, ProblemKind, Subject};

use super::{Outsider, Part};

/// All that the nodes of a segment list, once each, in the order of their texts.
pub(super) fn listed(nodes: &[&Node]) -> Vec<Cidr> {
    let all: BTreeSet<Cidr> = nodes.iter().flat_map(|node| &node.extra_prefixes).copied().collect();
    let mut all: Vec<Cidr> = all.into_iter().collect();
    all.sort_by_cached_key(ToString::to_string);
    all
}

/// Leaves out what would clash, segment by segment: so of two that list one network, the later has it. A network is
/// compared with what other segments list, with where the allowed IPs of all begin and end around its first address,
/// and with the peers'.
pub(super) fn choose(parts: &mut [Part<'_>], peers: &[Outsider<'_>], problems: &mut Vec<Problem>) {
    let allowed: Vec<Vec<Cidr>> = parts.iter().map(Part::allowed_ips).collect();
    for at in 0..parts.len() {
        // Kilo gives a segment its address only when it comes to it.
        let known = |other: usize, prefix: &Cidr| {
            other <= at || parts[other].address.map(Cidr::host) != Some(*prefix)
        };
        let in_the_way = |prefix: &Cidr| {
            let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
            let listed = others.flat_map(|(_, part)| &part.location_prefixes);
            let reached = allowed.iter().enumerate().flat_map(|(other, allowed)| {
                allowed.iter().filter(move |allowed| known(other, allowed))
            });
            let of_peers = peers.iter().flat_map(|outsider| &outsider.allowed_ips);
            let mut clashes = listed
                .filter(|other| other.overlaps(prefix))
                .chain(reached.filter(|allowed| allowed.contains(prefix.address())))
                .chain(of_peers.filter(|other| other.overlaps(prefix)));
            clashes.next().copied()
        };
        let part = &parts[at];
        let (lost, kept): (Vec<_>, Vec<_>) = part
            .location_prefixes
            .iter()
            .map(|prefix| (*prefix, in_the_way(prefix)))
            .partition(|(_, clash)| clash.is_some());
        for (prefix, clash) in lost {
            let Some(clash) = clash else { continue };
            let listers = part.nodes.iter().filter(|node| node.extra_prefixes.contains(&prefix));
            problems.extend(listers.map(|node| {
                Problem::error(
                    Subject::Node(node.name.clone()),
                    ProblemKind::DuplicatePrefix,
                    format!("its location's network {prefix} clashes with {clash} elsewhere and is left out; remove one of the two"),
                )
            }));
        }
        parts[at].location_prefixes = kept.into_iter().map(|(prefix, _)| prefix).collect();
    }
}
