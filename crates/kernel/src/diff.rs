//! What separates two kernel states, as steps in an order that never takes away what both of them hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use wireloom_model::kernel::{Address, KernelState, Link, MAIN_TABLE, Route, RouteKey};
use wireloom_model::{Family, InterfaceName};

/// The metric that the kernel gives an IPv6 route which asks for none (`IP6_RT_PRIO_USER`, `net/ip6_route.h`).
pub(crate) const DEFAULT_METRIC_V6: u32 = 1024;

/// One step from the observed state towards the desired one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An address is put on a link.
    AddAddress(Address),
    /// A route is made where there is none of ours. It never displaces a foreign route with the same key. A gateway
    /// given with a link is taken to be on that link, whatever the link's addresses (`onlink`, ip-route(8)).
    AddRoute(RouteKey, Route),
    /// An address is taken off a link. With a link's last IPv4 address the kernel drops all IPv4 routes out of it.
    DeleteAddress(Address),
    /// A route of ours is taken away.
    DeleteRoute(RouteKey),
    /// A route of ours gets another next hop, link or source, in one step and without a gap.
    ReplaceRoute(RouteKey, Route),
    /// A link gets its MTU and is set up or down.
    SetLink(InterfaceName, Link),
}

impl Change {
    /// Makes the change on plain data.
    pub fn apply_to(&self, state: &mut KernelState) {
        match self {
            Self::AddAddress(address) => {
                state.addresses.insert(address.clone());
            }
            Self::AddRoute(key, route) | Self::ReplaceRoute(key, route) => {
                state.routes.insert(canonical(key), route.clone());
            }
            Self::DeleteAddress(address) => {
                state.addresses.remove(address);
            }
            Self::DeleteRoute(key) => {
                state.routes.remove(&canonical(key));
            }
            Self::SetLink(name, link) => {
                state.links.insert(name.clone(), link.clone());
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddAddress(a) => write!(f, "put {} on {}", a.address, a.link),
            Self::AddRoute(key, route) => write!(f, "add {}", ShownRoute(key, Some(route))),
            Self::DeleteAddress(a) => write!(f, "take {} off {}", a.address, a.link),
            Self::DeleteRoute(key) => write!(f, "delete {}", ShownRoute(key, None)),
            Self::ReplaceRoute(key, route) => write!(f, "replace {}", ShownRoute(key, Some(route))),
            Self::SetLink(name, Link { mtu, up, .. }) => {
                write!(f, "set {name} {} with MTU {mtu}", if *up { "up" } else { "down" })
            }
        }
    }
}

/// A route in the words of `ip route`.
struct ShownRoute<'a>(&'a RouteKey, Option<&'a Route>);

impl fmt::Display for ShownRoute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(RouteKey { table, destination, metric }, route) = self;
        write!(f, "the route to {destination}")?;
        if let Some(Route { gateway, link, source }) = route {
            if let Some(gateway) = gateway {
                write!(f, " via {gateway}")?;
            }
            if let Some(link) = link {
                write!(f, " dev {link}")?;
            }
            if let Some(source) = source {
                write!(f, " src {source}")?;
            }
        }
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        if *table != MAIN_TABLE {
            write!(f, " table {table}")?;
        }
        Ok(())
    }
}

/// The steps from `observed` to `desired`, in the order in which to take them.
///
/// 1. Links come up, so that addresses and routes can stand on them.
/// 2. IPv6 addresses whose prefix length changes go: the kernel holds an IPv6 address once a link, whatever its length.
/// 3. Addresses come, before the routes that take them as source.
/// 4. Routes come or change: those out of a link first, then those through a gateway, which the kernel refuses unless
///    it reaches the gateway by a route out of a link.
/// 5. Routes go, those through a gateway first; then addresses; then links are set down.
///
/// So a route that both states hold stays in every state between, and one whose key both hold is never missing.
/// A desired route without a link matches an observed one out of any link, which the kernel chose. Links that are
/// observed and not desired stay as they are: whoever holds a link's descriptor takes it away.
pub fn diff(desired: &KernelState, observed: &KernelState) -> Vec<Change> {
    let (links_up, links_down): (Vec<_>, Vec<_>) = desired
        .links
        .iter()
        .filter(|(name, link)| observed.links.get(*name) != Some(*link))
        .map(|(name, link)| (link.up, Change::SetLink(name.clone(), link.clone())))
        .partition(|(up, _)| *up);
    let added: BTreeSet<&Address> = desired.addresses.difference(&observed.addresses).collect();
    let (resized, deleted): (Vec<&Address>, Vec<&Address>) = observed
        .addresses
        .difference(&desired.addresses)
        .partition(|old| added.iter().any(|new| replaces(new, old)));
    let routes = RouteChanges::between(desired, observed, &resized);

    let setting = |(_, change)| change;
    let deletion = |address: &Address| Change::DeleteAddress(address.clone());
    let mut changes = Vec::new();
    changes.extend(links_up.into_iter().map(setting));
    changes.extend(resized.into_iter().map(deletion));
    changes.extend(added.into_iter().cloned().map(Change::AddAddress));
    changes.extend(routes.set);
    changes.extend(routes.deleted);
    changes.extend(deleted.into_iter().map(deletion));
    changes.extend(links_down.into_iter().map(setting));
    changes
}

/// Whether the kernel takes the new address for the old one with another prefix length.
fn replaces(new: &Address, old: &Address) -> bool {
    new.link == old.link
        && new.address.address() == old.address.address()
        && new.address.family() == Family::V6
}

struct RouteChanges {
    set: Vec<Change>,
    deleted: Vec<Change>,
}

impl RouteChanges {
    /// `resized` addresses are gone for a moment, and the kernel drops them as source from the routes that name them.
    fn between(desired: &KernelState, observed: &KernelState, resized: &[&Address]) -> Self {
        let desired = by_canonical_key(desired);
        let observed = by_canonical_key(observed);
        let loses_source =
            |route: &Route| resized.iter().any(|a| Some(a.address.address()) == route.source);
        let mut set: Vec<(bool, Change)> = Vec::new();
        for (key, route) in &desired {
            let change = match observed.get(key) {
                None => Change::AddRoute(key.clone(), (*route).clone()),
                Some(old) if !matches(route, old) || loses_source(old) => {
                    Change::ReplaceRoute(key.clone(), (*route).clone())
                }
                Some(_) => continue,
            };
            set.push((route.gateway.is_some(), change));
        }
        let mut deleted: Vec<(bool, Change)> = observed
            .iter()
            .filter(|(key, _)| !desired.contains_key(key))
            .map(|(key, route)| (route.gateway.is_none(), Change::DeleteRoute(key.clone())))
            .collect();
        // Stable sorts: within a rank the keys' order stays.
        set.sort_by_key(|(rank, _)| *rank);
        deleted.sort_by_key(|(rank, _)| *rank);
        let change = |(_, change)| change;
        Self {
            set: set.into_iter().map(change).collect(),
            deleted: deleted.into_iter().map(change).collect(),
        }
    }
}

/// The routes by the key that stands for all spellings of it.
fn by_canonical_key(state: &KernelState) -> BTreeMap<RouteKey, &Route> {
    state.routes.iter().map(|(key, route)| (canonical(key), route)).collect()
}

/// The key with the kernel's default metric written as 0 in both families.
pub(crate) fn canonical(key: &RouteKey) -> RouteKey {
    let spelled_out = key.destination.family() == Family::V6 && key.metric == DEFAULT_METRIC_V6;
    RouteKey { metric: if spelled_out { 0 } else { key.metric }, ..key.clone() }
}

fn matches(desired: &Route, observed: &Route) -> bool {
    desired.gateway == observed.gateway
        && desired.source == observed.source
        && (desired.link.is_none() || desired.link == observed.link)
}

#[cfg(test)]
mod tests;
