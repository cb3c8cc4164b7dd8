//! Which prefix belongs to whom.
//!
//! No prefix may lie in the overlay's ranges, none may hold the endpoint of a tunnel (its packets would be routed into
//! the tunnel), and of two that overlap the older stands. What is dropped here is dropped from every route and every
//! allowed IP on every node, so both ends of each tunnel agree.
//!
//! An endpoint that is not public stands in the way of less: not of a network behind its own location, not of the
//! internal address that it is if no other location dials it there, and not of [older pods](crate::endpoints).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::reach::is_public;
use wireloom_model::{Cidr, Endpoint, Mesh, Problem, ProblemKind, Subject};

use crate::elsewhere::Elsewhere;
use crate::resolve::{Area, Extra, Member, Outsider, Resolved};

/// What a prefix is to its claimant. The order settles between claims of one claimant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Internal,
    Pod,
    Extra,
    Peer,
}

/// A prefix that somebody wants.
#[derive(Debug, Clone, Copy)]
struct Claim {
    prefix: Cidr,
    since: u64,
    kind: Kind,
    /// The index of the member or, for [`Kind::Peer`], of the outsider.
    owner: usize,
    /// The member's segment. For a peer there is none.
    segment: Option<usize>,
}

impl Claim {
    /// The order in which claims are served.
    fn seniority(&self) -> impl Ord + use<> {
        (self.since, self.kind == Kind::Peer, self.owner, self.kind, self.prefix)
    }

    /// Whether both may stand though they overlap.
    fn tolerates(&self, other: &Self, carry_internal: bool) -> bool {
        let near = self.segment == other.segment;
        match (self.kind, other.kind) {
            (Kind::Peer, Kind::Peer) | (Kind::Pod, Kind::Pod) => self.owner == other.owner,
            (Kind::Peer, _) | (_, Kind::Peer) => false,
            (Kind::Internal, Kind::Internal) => !carry_internal || self.owner == other.owner,
            (Kind::Internal, Kind::Pod) | (Kind::Pod, Kind::Internal) => false,
            (Kind::Extra, Kind::Extra) => near,
            // A network behind a location holds its nodes; the longer prefix wins on every node alike.
            (Kind::Extra, kind) | (kind, Kind::Extra) => {
                let bare = kind == Kind::Internal && !carry_internal;
                near && (self.prefix != other.prefix || bare)
            }
        }
    }
}

/// Gives each claimant the prefixes that it keeps, and leaves out peers that keep none.
pub(crate) fn assign(
    mesh: &Mesh,
    resolved: &mut Resolved<'_>,
    gateways: &[Vec<usize>],
    elsewhere: &Elsewhere,
) {
    let Resolved { members, outsiders, areas, problems, .. } = resolved;
    let endpoints = Endpoints::of(members, outsiders, gateways, elsewhere);
    let claims = gather(mesh, members, outsiders, &endpoints, problems);
    let (kept, lost) = settle(claims, mesh.carry_internal_addresses);

    let mut extras: BTreeMap<Cidr, Extra> = BTreeMap::new();
    for claim in kept {
        match claim.kind {
            Kind::Internal if mesh.carry_internal_addresses => {
                members[claim.owner].carried.push(claim.prefix.address());
            }
            Kind::Internal => {}
            Kind::Pod => members[claim.owner].pods.push(claim.prefix),
            Kind::Extra => {
                let segment = members[claim.owner].segment;
                let new = || Extra { prefix: claim.prefix, segment, listers: Vec::new() };
                extras.entry(claim.prefix).or_insert_with(new).listers.push(claim.owner);
            }
            Kind::Peer => outsiders[claim.owner].prefixes.push(claim.prefix),
        }
    }
    for (loser, holder) in lost {
        report(&loser, &holder, members, outsiders, areas, problems);
    }
    outsiders.retain(|outsider| {
        if outsider.prefixes.is_empty() {
            problems.push(Problem::error(
                Subject::Peer(outsider.peer.name.clone()),
                ProblemKind::Invalid,
                "none of its allowed IPs is left, so it is not configured".to_owned(),
            ));
        }
        !outsider.prefixes.is_empty()
    });
    resolved.extras = extras.into_values().collect();
}

/// All claims but those that nobody may make.
fn gather(
    mesh: &Mesh,
    members: &[Member<'_>],
    outsiders: &[Outsider<'_>],
    endpoints: &Endpoints,
    problems: &mut Vec<Problem>,
) -> Vec<Claim> {
    let mut claims = Vec::with_capacity(4 * members.len());
    let mut allow = |claim: Claim| {
        if let Some(range) = mesh.overlay.ranges().find(|range| range.overlaps(&claim.prefix)) {
            problems.push(Problem::error(
                subject(&claim, members, outsiders),
                ProblemKind::OverlayRange,
                format!(
                    "its {} {} overlaps the overlay range {range} and is left out; choose another range",
                    describe(claim.kind),
                    claim.prefix
                ),
            ));
        } else if let Some(endpoint) = endpoints.against(&claim) {
            // An internal address that others dial is reached without the mesh: nothing is wrong.
            if claim.kind != Kind::Internal {
                refuse(&claim, endpoint, members, outsiders, problems);
            }
        } else {
            claims.push(claim);
        }
    };
    for (owner, member) in members.iter().enumerate() {
        let (since, segment) = (member.node.since, Some(member.segment));
        let mut each = |kind, prefix| allow(Claim { prefix, since, kind, owner, segment });
        member.internal.iter().for_each(|a| each(Kind::Internal, Cidr::host(a.address())));
        distinct(&member.node.pod_prefixes).for_each(|prefix| each(Kind::Pod, prefix));
        let addresses = member.node.held.pod_addresses.iter().copied();
        addresses.map(Cidr::host).for_each(|address| each(Kind::Pod, address));
        distinct(&member.node.extra_prefixes).for_each(|prefix| each(Kind::Extra, prefix));
    }
    for (owner, outsider) in outsiders.iter().enumerate() {
        let since = outsider.peer.since;
        for prefix in distinct(&outsider.peer.allowed_ips) {
            allow(Claim { prefix, since, kind: Kind::Peer, owner, segment: None });
        }
    }
    claims
}

/// Tells the claimant of a prefix that holds an endpoint, and whose endpoint that is if the world can't dial it: that one
/// may well be the mistake.
fn refuse(
    claim: &Claim,
    endpoint: IpAddr,
    members: &[Member<'_>],
    outsiders: &[Outsider<'_>],
    problems: &mut Vec<Problem>,
) {
    let (claimant, kind) = (subject(claim, members, outsiders), describe(claim.kind));
    let is_this = |one: Option<&Endpoint>| one.and_then(Endpoint::address) == Some(endpoint);
    let nodes = members.iter().filter(|member| is_this(member.endpoint));
    let peers = outsiders.iter().filter(|outsider| is_this(outsider.endpoint));
    let owners = nodes
        .map(|member| Subject::Node(member.node.name.clone()))
        .chain(peers.map(|outsider| Subject::Peer(outsider.peer.name.clone())));
    for owner in owners.filter(|owner| !is_public(endpoint) && *owner != claimant) {
        problems.push(Problem::warning(
            owner,
            ProblemKind::EndpointInsideMesh,
            format!(
                "its endpoint {endpoint} lies in {claimant}'s {kind} {}, which is left out for it; see which of the two is meant",
                claim.prefix
            ),
        ));
    }
    problems.push(Problem::error(
        claimant,
        ProblemKind::EndpointInsideMesh,
        format!(
            "its {kind} {} holds the tunnel endpoint {endpoint} and is left out; name prefixes without it",
            claim.prefix
        ),
    ));
}

/// The prefixes without repetition; the lists are short.
fn distinct(prefixes: &[Cidr]) -> impl Iterator<Item = Cidr> {
    let new = |(at, prefix): &(usize, &Cidr)| !prefixes[..*at].contains(prefix);
    prefixes.iter().enumerate().filter(new).map(|(_, prefix)| *prefix)
}

/// Serves the claims by age. Returns those that stand, in the order of prefixes, and each that does not with the one
/// that it met first.
fn settle(mut claims: Vec<Claim>, carry_internal: bool) -> (Vec<Claim>, Vec<(Claim, Claim)>) {
    claims.sort_by_key(|claim| claim.prefix);
    let (mut kept, mut lost) = (Vec::with_capacity(claims.len()), Vec::new());
    let mut rest = claims.as_slice();
    while let [first, ..] = rest {
        // Prefixes overlap only by nesting, and the wider sorts first: all that overlaps this one follows it directly.
        // It is rarely more than this one, so looking at each is quickest.
        let inside = rest.iter().take_while(|claim| first.prefix.covers(&claim.prefix)).count();
        let (cluster, after) = rest.split_at(inside);
        match cluster {
            [alone] => kept.push(*alone),
            _ => contest(cluster, carry_internal, &mut kept, &mut lost),
        }
        rest = after;
    }
    (kept, lost)
}

/// Serves the claims of one cluster, oldest first.
fn contest(
    cluster: &[Claim],
    carry_internal: bool,
    kept: &mut Vec<Claim>,
    lost: &mut Vec<(Claim, Claim)>,
) {
    let mut by_age = cluster.to_vec();
    by_age.sort_by_key(Claim::seniority);
    let lengths: BTreeSet<u8> = cluster.iter().map(|claim| claim.prefix.length()).collect();
    let mut standing: BTreeMap<Cidr, Vec<Claim>> = BTreeMap::new();
    for claim in by_age {
        let holder = {
            let wider = lengths
                .range(..claim.prefix.length())
                .filter_map(|&length| Cidr::truncated(claim.prefix.address(), length))
                .filter_map(|prefix| standing.get(&prefix));
            let narrower = standing
                .range(claim.prefix..)
                .take_while(|(prefix, _)| claim.prefix.covers(prefix))
                .map(|(_, claims)| claims);
            let mut overlapping = wider.chain(narrower).flatten();
            overlapping.find(|other| !claim.tolerates(other, carry_internal)).copied()
        };
        match holder {
            Some(holder) => lost.push((claim, holder)),
            None => standing.entry(claim.prefix).or_default().push(claim),
        }
    }
    kept.extend(standing.into_values().flatten());
}

/// Tells both sides of a lost claim.
fn report(
    loser: &Claim,
    holder: &Claim,
    members: &[Member<'_>],
    outsiders: &[Outsider<'_>],
    areas: &[Area],
    problems: &mut Vec<Problem>,
) {
    let kind = match (loser.kind, holder.kind) {
        (Kind::Internal, Kind::Internal) => ProblemKind::DuplicateAddress,
        _ => ProblemKind::DuplicatePrefix,
    };
    let [ours, theirs] = [loser, holder].map(|claim| subject(claim, members, outsiders));
    let [our_place, their_place] = [loser, holder].map(|claim| {
        claim.segment.map_or_else(String::new, |segment| format!(" ({})", areas[segment].name))
    });
    let outcome = match loser.kind {
        Kind::Internal => "other locations reach only the older one",
        _ => "it is left out; remove one of the two",
    };
    problems.push(Problem::error(
        ours.clone(),
        kind,
        format!(
            "its {} {} overlaps {theirs}'s{their_place} {} {}, which is older: {outcome}",
            describe(loser.kind),
            loser.prefix,
            describe(holder.kind),
            holder.prefix,
        ),
    ));
    problems.push(Problem::warning(
        theirs,
        kind,
        format!(
            "its {} {} stands against {ours}'s{our_place} {} {}",
            describe(holder.kind),
            holder.prefix,
            describe(loser.kind),
            loser.prefix,
        ),
    ));
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Internal => "internal address",
        Kind::Pod => "pod prefix",
        Kind::Extra => "extra prefix",
        Kind::Peer => "allowed IP",
    }
}

fn subject(claim: &Claim, members: &[Member<'_>], outsiders: &[Outsider<'_>]) -> Subject {
    match claim.kind {
        Kind::Peer => Subject::Peer(outsiders[claim.owner].peer.name.clone()),
        _ => Subject::Node(members[claim.owner].node.name.clone()),
    }
}

/// The known addresses of tunnel endpoints. A name's address is nobody's to know here: it differs from resolver to
/// resolver, and plans must not.
struct Endpoints {
    /// Each with its segment, if it is not public and no other segment's too.
    all: BTreeMap<IpAddr, Option<usize>>,
    /// Those by which segments reach each other: of gateways and peers. Who is heard elsewhere is behind NAT, and only its
    /// own location reaches it there.
    dialled: BTreeSet<IpAddr>,
}

impl Endpoints {
    fn of(
        members: &[Member<'_>],
        outsiders: &[Outsider<'_>],
        gateways: &[Vec<usize>],
        elsewhere: &Elsewhere,
    ) -> Self {
        let address = |endpoint: Option<&Endpoint>| endpoint.and_then(Endpoint::address);
        let of_peers = || outsiders.iter().filter_map(|outsider| address(outsider.endpoint));
        let of_member = |member: &Member<'_>| {
            let near = |address: &IpAddr| (!is_public(*address)).then_some(member.segment);
            address(member.endpoint).map(|address| (address, near(&address)))
        };
        let mut all: BTreeMap<IpAddr, Option<usize>> = BTreeMap::new();
        for (address, near) in
            members.iter().filter_map(of_member).chain(of_peers().map(|address| (address, None)))
        {
            all.entry(address)
                .and_modify(|other| *other = other.filter(|other| Some(*other) == near))
                .or_insert(near);
        }
        let of_gateways = gateways.iter().flatten().map(|&at| &members[at]);
        let of_gateways = of_gateways
            .filter(|member| !elsewhere.has_heard(member))
            .filter_map(|member| address(member.endpoint));
        Self { all, dialled: of_gateways.chain(of_peers()).collect() }
    }

    /// An endpoint for which the claim can't stand.
    fn against(&self, claim: &Claim) -> Option<IpAddr> {
        let inside = self.all.range(claim.prefix.address()..);
        let mut inside = inside.take_while(|(address, _)| claim.prefix.contains(**address));
        let stands_against = |(address, near): &(&IpAddr, &Option<usize>)| match claim.kind {
            Kind::Internal => is_public(**address) || self.dialled.contains(*address),
            // A network behind a location holds its nodes.
            Kind::Extra => near.is_none() || **near != claim.segment,
            Kind::Pod | Kind::Peer => true,
        };
        inside.find(stands_against).map(|(address, _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(prefix: &str, since: u64, kind: Kind, owner: usize, segment: usize) -> Claim {
        let segment = (kind != Kind::Peer).then_some(segment);
        Claim { prefix: prefix.parse().unwrap(), since, kind, owner, segment }
    }

    fn standing(claims: &[Claim]) -> Vec<(String, usize)> {
        let (kept, lost) = settle(claims.to_vec(), true);
        assert_eq!(kept.len() + lost.len(), claims.len());
        kept.iter().map(|claim| (claim.prefix.to_string(), claim.owner)).collect()
    }

    #[test]
    fn the_older_of_two_overlapping_prefixes_stands() {
        let wide = |since| claim("10.0.0.0/16", since, Kind::Pod, 0, 0);
        let narrow = claim("10.0.7.0/24", 5, Kind::Pod, 1, 1);
        let beside = claim("10.1.0.0/24", 9, Kind::Pod, 2, 1);
        let names = |kept: &[(&str, usize)]| -> Vec<(String, usize)> {
            kept.iter().map(|(prefix, owner)| ((*prefix).to_owned(), *owner)).collect()
        };
        assert_eq!(
            standing(&[wide(1), narrow, beside]),
            names(&[("10.0.0.0/16", 0), ("10.1.0.0/24", 2)])
        );
        assert_eq!(
            standing(&[wide(6), narrow, beside]),
            names(&[("10.0.7.0/24", 1), ("10.1.0.0/24", 2)])
        );
    }

    #[test]
    fn a_network_behind_a_location_holds_its_nodes() {
        let lan = claim("192.168.1.0/24", 9, Kind::Extra, 0, 0);
        let node = claim("192.168.1.7/32", 1, Kind::Internal, 1, 0);
        let stranger = claim("192.168.1.8/32", 10, Kind::Internal, 2, 1);
        assert_eq!(standing(&[lan, node]).len(), 2);
        assert_eq!(standing(&[lan, node, stranger]).len(), 2);
        assert_eq!(standing(&[lan, Claim { owner: 3, ..lan }, node]).len(), 3);
    }

    #[test]
    fn pods_and_internal_addresses_are_settled_by_age_even_on_one_node() {
        let pods = |since, owner| claim("10.42.1.0/24", since, Kind::Pod, owner, 0);
        let internal = |since| claim("10.42.1.7/32", since, Kind::Internal, 1, 0);
        assert_eq!(standing(&[pods(1, 0), internal(2)]), [("10.42.1.0/24".to_owned(), 0)]);
        assert_eq!(standing(&[pods(2, 0), internal(1)]), [("10.42.1.7/32".to_owned(), 1)]);
        // A next hop inside the prefix that it leads to would be no next hop.
        assert_eq!(standing(&[pods(1, 1), internal(1)]), [("10.42.1.7/32".to_owned(), 1)]);
    }

    #[test]
    fn one_loser_does_not_shield_another() {
        // The widest loses to the oldest, so the one in the middle has nobody against it.
        let kept = standing(&[
            claim("10.0.0.0/8", 2, Kind::Pod, 0, 0),
            claim("10.1.0.0/16", 3, Kind::Peer, 0, 0),
            claim("10.2.0.0/16", 1, Kind::Pod, 1, 0),
        ]);
        assert_eq!(kept, [("10.1.0.0/16".to_owned(), 0), ("10.2.0.0/16".to_owned(), 1)]);
    }
}
