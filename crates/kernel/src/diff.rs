//! What separates two kernel states, as steps in an order that never takes away what both of them hold.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use wireloom_model::kernel::{
    Address, KernelState, Link, LinkKind, Mark, Nft, NftSet, Route, RouteKey, Rule,
};
use wireloom_model::{Cidr, Family, InterfaceName};

use crate::change::Change;
use crate::nft::disjoint;

/// The metric that the kernel gives an IPv6 route which asks for none (`IP6_RT_PRIO_USER`, `net/ip6_route.h`).
pub(crate) const DEFAULT_METRIC_V6: u32 = 1024;

/// The steps from `observed` to `desired`, in the order in which to take them.
///
/// 1. Links of ours that are to be of another kind go; links are made, and those that others hold come up, so that
///    addresses and routes can stand on them; then their settings.
/// 2. IPv6 addresses whose prefix length changes go: the kernel holds an IPv6 address once a link, whatever its length.
/// 3. Addresses come, before the routes that take them as source. Links of ours come up only now: from then on one for
///    IPIP takes packets that another such link took before, and without settings and addresses it would drop them. Then
///    the far ends of VXLAN links come, before the routes through them.
/// 4. The nftables table, in one transaction: what routes bring is excepted from masquerading when it comes.
/// 5. Routes come or change: those that lead nowhere first, so that who is kept out is so before there is a way in; then
///    those out of a link, then those through a gateway, which the kernel refuses unless it reaches the gateway by a
///    route out of a link.
/// 6. Rules come, whose tables are full by now, then rules go.
/// 7. Routes go, in the opposite order; then far ends, the nftables table and addresses; then links are set
///    down, and those that we made are deleted.
///
/// So a route or rule that both states hold stays in every state between, and a route whose key both hold is never
/// missing, unless its link is made anew. A desired route without a link matches an observed one out of any link, which
/// the kernel chose. Links that are [held](LinkKind::Held) by others, observed and not desired, stay as they are, and
/// so do settings that are not desired.
pub fn diff(desired: &KernelState, observed: &KernelState) -> Vec<Change> {
    let mut changes: Vec<Change> =
        links_in_the_way(desired, observed).map(Change::DeleteLink).collect();
    let mut remains = Cow::Borrowed(observed);
    for change in &changes {
        change.apply_to(remains.to_mut());
    }
    let observed: &KernelState = &remains;

    let links = Links::between(desired, observed);
    let added: BTreeSet<&Address> = desired.addresses.difference(&observed.addresses).collect();
    let (resized, deleted): (Vec<&Address>, Vec<&Address>) = observed
        .addresses
        .difference(&desired.addresses)
        .partition(|old| added.iter().any(|new| replaces(new, old)));
    let ends = FarEnds::between(desired, observed);
    let routes = RouteChanges::between(desired, observed, &resized);
    let rules = RuleChanges::between(desired, observed);
    let deletion = |address: &Address| Change::DeleteAddress(address.clone());

    changes.extend(links.set);
    changes.extend(settings(desired, observed));
    changes.extend(resized.into_iter().map(deletion));
    changes.extend(added.into_iter().cloned().map(Change::AddAddress));
    changes.extend(links.raised);
    changes.extend(ends.set);
    changes.extend(desired.nft.as_ref().and_then(|nft| nft_change(nft, observed.nft.as_ref())));
    changes.extend(routes.set);
    changes.extend(rules.added);
    changes.extend(rules.deleted);
    changes.extend(routes.deleted);
    changes.extend(ends.deleted);
    changes.extend((desired.nft.is_none() && observed.nft.is_some()).then_some(Change::DeleteNft));
    changes.extend(deleted.into_iter().map(deletion));
    changes.extend(links.down);
    changes
}

/// Links that we made and that are desired to be something else: the kernel changes no link's kind.
fn links_in_the_way(
    desired: &KernelState,
    observed: &KernelState,
) -> impl Iterator<Item = InterfaceName> {
    observed.links.iter().filter_map(|(name, link)| {
        let is_in_the_way = link.kind != LinkKind::Held
            && desired.links.get(name).is_some_and(|desired| desired.kind != link.kind);
        is_in_the_way.then(|| name.clone())
    })
}

#[derive(Default)]
struct Links {
    set: Vec<Change>,
    /// Those that we made come up.
    raised: Vec<Change>,
    down: Vec<Change>,
}

impl Links {
    fn between(desired: &KernelState, observed: &KernelState) -> Self {
        let mut changes = Self::default();
        for (name, link) in &desired.links {
            let held = observed.links.get(name);
            if held == Some(link) {
                continue;
            }
            let is_ours = link.kind != LinkKind::Held;
            let is_made = !is_ours || held.is_some_and(|held| held.kind == link.kind);
            if !is_made {
                // If somebody else's link has the name, making ours says so.
                let down = Link { up: false, ..link.clone() };
                changes.set.push(Change::AddLink(name.clone(), down));
            }
            let set = Change::SetLink(name.clone(), link.clone());
            let is_up = is_made && held.is_some_and(|held| held.up);
            match (link.up, is_up) {
                (true, false) if is_ours => changes.raised.push(set),
                (true, _) => changes.set.push(set),
                (false, _) => changes.down.extend(is_made.then_some(set)),
            }
        }
        let ours = observed.links.iter().filter(|(_, link)| link.kind != LinkKind::Held);
        let gone = ours.filter(|(name, _)| !desired.links.contains_key(*name));
        changes.down.extend(gone.map(|(name, _)| Change::DeleteLink(name.clone())));
        changes
    }
}

fn settings(desired: &KernelState, observed: &KernelState) -> impl Iterator<Item = Change> {
    let differing =
        desired.settings.iter().filter(|(key, value)| observed.settings.get(key) != Some(value));
    differing.map(|((link, setting), value)| Change::SetSetting(link.clone(), *setting, *value))
}

/// Whether the kernel takes the new address for the old one with another prefix length.
fn replaces(new: &Address, old: &Address) -> bool {
    new.link == old.link
        && new.address.address() == old.address.address()
        && new.address.family() == Family::V6
}

/// What changes of the neighbours and the forwarding of VXLAN links.
#[derive(Default)]
struct FarEnds {
    set: Vec<Change>,
    deleted: Vec<Change>,
}

impl FarEnds {
    fn between(desired: &KernelState, observed: &KernelState) -> Self {
        let mut changes = Self::default();
        join(
            &desired.neighbours,
            &observed.neighbours,
            |(link, address), wanted, held| match wanted {
                Some(mac) if held == Some(mac) => {}
                Some(mac) => changes.set.push(Change::SetNeighbour(link.clone(), *address, *mac)),
                None => changes.deleted.push(Change::DeleteNeighbour(link.clone(), *address)),
            },
        );
        join(&desired.forwarding, &observed.forwarding, |(link, mac), wanted, held| match wanted {
            Some(host) if held == Some(host) => {}
            Some(host) => changes.set.push(Change::SetForwarding(link.clone(), *mac, *host)),
            None => changes.deleted.push(Change::DeleteForwarding(link.clone(), *mac)),
        });
        changes
    }
}

/// The change of a desired table: of its sets where that is enough.
fn nft_change(desired: &Nft, observed: Option<&Nft>) -> Option<Change> {
    let Some(observed) = observed.filter(|observed| {
        let rules = |nft: &Nft| (nft.masquerade, nft.clamp.clone(), nft.guard.clone(), nft.accept);
        rules(observed) == rules(desired)
    }) else {
        return Some(Change::SetNft(desired.clone()));
    };
    let (mut deleted, mut added) = (BTreeMap::new(), BTreeMap::new());
    let none = BTreeSet::new();
    for set in NftSet::ALL {
        let [wanted, held] = [desired, observed].map(|nft| nft.sets.get(&set).unwrap_or(&none));
        if wanted == held {
            continue;
        }
        let [wanted, held] = [wanted, held].map(|set| disjoint(set).map(|prefix| (prefix, ())));
        join(wanted, held, |prefix, wanted, held| {
            let changes = match (wanted, held) {
                (Some(()), None) => &mut added,
                (None, Some(())) => &mut deleted,
                _ => return,
            };
            changes.entry(set).or_insert_with(BTreeSet::new).insert(prefix);
        });
    }
    let differs = !(deleted.is_empty() && added.is_empty());
    differs.then_some(Change::ChangeNftSets { deleted, added })
}

struct RouteChanges {
    set: Vec<Change>,
    deleted: Vec<Change>,
}

impl RouteChanges {
    /// `resized` addresses are gone for a moment, and the kernel drops them as source from the routes that name them.
    fn between(desired: &KernelState, observed: &KernelState, resized: &[&Address]) -> Self {
        let loses_source =
            |route: &Route| resized.iter().any(|a| Some(a.address.address()) == route.source);
        // The kernel chose a link for it that is about to go.
        let loses_link = |route: &Route| {
            route.link.as_ref().is_some_and(|link| {
                let held = observed.links.get(link).filter(|held| held.kind != LinkKind::Held);
                held.is_some() && !desired.links.contains_key(link)
            })
        };
        let mut set: Vec<(Way, Change)> = Vec::new();
        let mut deleted: Vec<(Reverse<Way>, Change)> = Vec::new();
        let (wanted, held) = (with_canonical_keys(desired), with_canonical_keys(observed));
        join(wanted.iter(), held.iter(), |key, wanted, held| match (wanted, held) {
            (Some(route), Some(held))
                if matches(route, held) && !loses_source(held) && !loses_link(held) => {}
            (Some(route), Some(_)) => {
                set.push((Way::of(route), Change::ReplaceRoute(key.clone(), route.clone())));
            }
            (Some(route), None) => {
                set.push((Way::of(route), Change::AddRoute(key.clone(), route.clone())));
            }
            (None, Some(held)) => {
                deleted.push((Reverse(Way::of(held)), Change::DeleteRoute(key.clone())));
            }
            (None, None) => {}
        });
        // Stable sorts: within a rank the keys' order stays.
        set.sort_by_key(|(way, _)| *way);
        deleted.sort_by_key(|(way, _)| *way);
        Self {
            set: set.into_iter().map(|(_, change)| change).collect(),
            deleted: deleted.into_iter().map(|(_, change)| change).collect(),
        }
    }
}

/// The way that a route leads, in the order in which routes come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Nowhere,
    OutOfALink,
    ThroughAGateway,
}

impl Way {
    const fn of(route: &Route) -> Self {
        match route.gateway {
            Some(_) => Self::ThroughAGateway,
            None if route.is_unreachable() => Self::Nowhere,
            None => Self::OutOfALink,
        }
    }
}

struct RuleChanges {
    added: Vec<Change>,
    deleted: Vec<Change>,
}

impl RuleChanges {
    fn between(desired: &KernelState, observed: &KernelState) -> Self {
        let [desired, observed] = [desired, observed]
            .map(|state| state.rules.iter().map(canonical_rule).collect::<BTreeSet<_>>());
        Self {
            added: desired.difference(&observed).cloned().map(Change::AddRule).collect(),
            deleted: observed.difference(&desired).cloned().map(Change::DeleteRule).collect(),
        }
    }
}

/// Goes through the keys of both in order, with what each has for it.
fn join<K: Ord, V>(
    desired: impl IntoIterator<Item = (K, V)>,
    observed: impl IntoIterator<Item = (K, V)>,
    mut each: impl FnMut(K, Option<V>, Option<V>),
) {
    let (mut desired, mut observed) =
        (desired.into_iter().peekable(), observed.into_iter().peekable());
    loop {
        let order = match (desired.peek(), observed.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((wanted, _)), Some((held, _))) => wanted.cmp(held),
        };
        let wanted = if order.is_le() { desired.next() } else { None };
        let held = if order.is_ge() { observed.next() } else { None };
        match (wanted, held) {
            (Some((key, wanted)), held) => each(key, Some(wanted), held.map(|(_, held)| held)),
            (None, Some((key, held))) => each(key, None, Some(held)),
            (None, None) => return,
        }
    }
}

/// The routes by the keys that stand for all spellings of them.
fn with_canonical_keys(state: &KernelState) -> Cow<'_, BTreeMap<RouteKey, Route>> {
    if state.routes.keys().any(is_spelled_out) {
        Cow::Owned(
            state.routes.iter().map(|(key, route)| (canonical(key), route.clone())).collect(),
        )
    } else {
        Cow::Borrowed(&state.routes)
    }
}

fn is_spelled_out(key: &RouteKey) -> bool {
    key.metric == DEFAULT_METRIC_V6 && key.destination.family() == Family::V6
}

/// The key with the kernel's default metric written as 0 in both families.
pub(crate) fn canonical(key: &RouteKey) -> RouteKey {
    RouteKey { metric: if is_spelled_out(key) { 0 } else { key.metric }, ..key.clone() }
}

/// The rule without conditions that every packet meets.
pub(crate) fn canonical_rule(rule: &Rule) -> Rule {
    let narrow = |prefix: &Cidr| prefix.length() > 0;
    Rule {
        from: rule.from.filter(narrow),
        to: rule.to.filter(narrow),
        mark: rule.mark.filter(|Mark { mask, .. }| *mask != 0),
        ..rule.clone()
    }
}

fn matches(desired: &Route, observed: &Route) -> bool {
    desired.gateway == observed.gateway
        && desired.source == observed.source
        && desired.mtu == observed.mtu
        && (desired.link.is_none() || desired.link == observed.link)
}

#[cfg(test)]
mod tests;
