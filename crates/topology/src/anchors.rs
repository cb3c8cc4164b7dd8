//! Which gateway of a segment serves a peer from outside, and which owns a network behind the segment.
//!
//! Both stay with whoever holds them, as homes do. Gateways of weight 0 serve only where there are no others.

use wireloom_model::{Mesh, Problem, ProblemKind, Subject};

use crate::homes::usable;
use crate::rendezvous::{Purpose, Score};
use crate::resolve::{Extra, Member, Outsider, Resolved};
use crate::topology::Place;

/// Each segment's anchor for each outsider, by segment, then by outsider.
pub(crate) fn choose(resolved: &mut Resolved<'_>, gateways: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let Resolved { members, outsiders, areas, problems, .. } = resolved;
    let mut anchors = Vec::with_capacity(areas.len());
    for (area, gateways) in areas.iter().zip(gateways) {
        let usable = usable(members, gateways);
        let of_area = outsiders.iter().map(|outsider| {
            let anchor = anchor(members, outsider, &usable);
            if !can_meet(&members[anchor], outsider) {
                problems.push(Problem::error(
                    Subject::Peer(outsider.peer.name.clone()),
                    ProblemKind::NoPath,
                    format!(
                        "neither it nor any gateway of {} has an endpoint, so neither can dial the other; give one to a gateway",
                        area.name
                    ),
                ));
            }
            anchor
        });
        anchors.push(of_area.collect());
    }
    anchors
}

fn anchor(members: &[Member<'_>], outsider: &Outsider<'_>, gateways: &[usize]) -> usize {
    let peer = &outsider.peer.name;
    best(gateways, |at| {
        let node = members[at].node;
        let parts = [peer.as_str().as_bytes(), node.name.as_str().as_bytes()];
        let score = Score::new(node.gateway.weight, Purpose::Anchor, &parts);
        (can_meet(&members[at], outsider), node.held.anchors.contains(peer), score)
    })
}

/// Whether one of the two can dial the other.
fn can_meet(member: &Member<'_>, outsider: &Outsider<'_>) -> bool {
    member.endpoint.is_some() || outsider.endpoint.is_some()
}

/// Who brings a network behind a segment into the mesh.
pub(crate) struct Duty {
    /// The gateway that has the prefix among its allowed IPs on all others.
    pub(crate) owner: usize,
    /// The node that the prefix lies behind as its segment routes it: the owner, if it reaches the network itself.
    pub(crate) carrier: usize,
}

/// The owner and the carrier of each extra prefix.
///
/// Gateways that list the prefix come first. If only other nodes do, the owner is the home of one of them, if possible
/// one that it has a next hop to: what comes back from the network enters the mesh at that node, and must leave the
/// segment by the owner.
pub(crate) fn duties(mesh: &Mesh, resolved: &Resolved<'_>, place: &Place) -> Vec<Duty> {
    resolved.extras.iter().map(|extra| duty(mesh, &resolved.members, extra, place)).collect()
}

fn duty(mesh: &Mesh, members: &[Member<'_>], extra: &Extra, place: &Place) -> Duty {
    let prefix = extra.prefix.to_string();
    let score = |at: usize, purpose| {
        let node = members[at].node;
        let parts = [prefix.as_bytes(), node.name.as_str().as_bytes()];
        Score::new(node.gateway.weight, purpose, &parts)
    };
    let lists = |at: &usize| extra.listers.contains(at);
    let mut owners = usable(members, &place.gateways[extra.segment]);
    owners.retain(lists);
    let mut carriers = Vec::new();
    if owners.is_empty() {
        carriers = reachable(mesh, members, extra, place);
        owners = carriers.iter().map(|&at| place.homes[at]).collect();
    }
    let owner = best(&owners, |at| {
        let node = members[at].node;
        (members[at].works, node.held.owns.contains(&extra.prefix), score(at, Purpose::Owner))
    });
    if lists(&owner) {
        return Duty { owner, carrier: owner };
    }
    carriers.retain(|&at| place.homes[at] == owner);
    let carrier = best(&carriers, |at| (members[at].node.healthy, score(at, Purpose::Carrier)));
    Duty { owner, carrier }
}

/// Those who list a prefix and whom their home reaches in its family; all of them if nobody is.
fn reachable(mesh: &Mesh, members: &[Member<'_>], extra: &Extra, place: &Place) -> Vec<usize> {
    let family = extra.prefix.family();
    let hops =
        |at: &usize| members[place.homes[*at]].meets(&members[*at], family, mesh.encapsulation);
    let some: Vec<usize> = extra.listers.iter().copied().filter(hops).collect();
    if some.is_empty() { extra.listers.clone() } else { some }
}

/// The candidate with the greatest key; of equal ones the first. There is always a candidate: every segment has a
/// gateway, and every extra prefix somebody who lists it.
fn best<K: Ord>(candidates: &[usize], key: impl Fn(usize) -> K) -> usize {
    candidates.iter().rev().copied().max_by_key(|&at| key(at)).unwrap_or_default()
}
