//! One step from a kernel state to another, in data and in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use wireloom_model::kernel::{
    Address, KernelState, Link, LinkSetting, MAIN_TABLE, MacAddress, Nft, NftSet, Route, RouteKey,
    Rule,
};
use wireloom_model::{Cidr, InterfaceName};

use crate::diff::canonical;
use crate::nft::disjoint;

/// One step from the observed state towards the desired one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// What carries [these bits](Nft::accept) of the mark is accepted by every chain of others that drops what the host
    /// passes on, by one rule of ours at its head. With 0 there are no such rules.
    AcceptPassed(u32),
    /// An address is put on a link.
    AddAddress(Address),
    /// A link that we make ourselves is made. It never takes over a foreign link of the same name.
    AddLink(InterfaceName, Link),
    /// A route is made where there is none of ours. It never displaces a foreign route with the same key. A gateway
    /// given with a link is taken to be on that link, whatever the link's addresses (`onlink`, ip-route(8)).
    AddRoute(RouteKey, Route),
    /// A policy rule is made.
    AddRule(Rule),
    /// Prefixes leave sets of the nftables table and others come, in one transaction.
    ChangeNftSets {
        /// Those that leave.
        deleted: BTreeMap<NftSet, BTreeSet<Cidr>>,
        /// Those that come.
        added: BTreeMap<NftSet, BTreeSet<Cidr>>,
    },
    /// An address is taken off a link. With a link's last IPv4 address the kernel drops all IPv4 routes out of it.
    DeleteAddress(Address),
    /// A VXLAN link forgets where an Ethernet address is.
    DeleteForwarding(InterfaceName, MacAddress),
    /// A link that we made is taken away, and everything on it with it.
    DeleteLink(InterfaceName),
    /// A VXLAN link forgets whose an address is.
    DeleteNeighbour(InterfaceName, IpAddr),
    /// The nftables table is taken away.
    DeleteNft,
    /// A route of ours is taken away.
    DeleteRoute(RouteKey),
    /// A policy rule of ours is taken away.
    DeleteRule(Rule),
    /// A route of ours gets another next hop, link or source, in one step and without a gap.
    ReplaceRoute(RouteKey, Route),
    /// A VXLAN link sends frames for an Ethernet address to this address of a host.
    SetForwarding(InterfaceName, MacAddress, IpAddr),
    /// A link gets its MTU and is set up or down.
    SetLink(InterfaceName, Link),
    /// A VXLAN link takes an address for that of this Ethernet address.
    SetNeighbour(InterfaceName, IpAddr, MacAddress),
    /// The nftables table is made in the place of the one that may be there, in one transaction.
    SetNft(Nft),
    /// A link gets a setting.
    SetSetting(InterfaceName, LinkSetting, u8),
}

impl Change {
    /// The link that it is about, or that the route leads out of, if it is about one.
    pub(crate) fn link(&self) -> Option<&InterfaceName> {
        match self {
            Self::AddAddress(Address { link, .. })
            | Self::DeleteAddress(Address { link, .. })
            | Self::AddLink(link, _)
            | Self::DeleteForwarding(link, _)
            | Self::DeleteLink(link)
            | Self::DeleteNeighbour(link, _)
            | Self::SetForwarding(link, ..)
            | Self::SetLink(link, _)
            | Self::SetNeighbour(link, ..)
            | Self::SetSetting(link, ..) => Some(link),
            Self::AddRoute(_, route) | Self::ReplaceRoute(_, route) => route.link.as_ref(),
            Self::AcceptPassed(_)
            | Self::AddRule(_)
            | Self::ChangeNftSets { .. }
            | Self::DeleteNft
            | Self::DeleteRoute(_)
            | Self::DeleteRule(_)
            | Self::SetNft(_) => None,
        }
    }

    /// Makes the change on plain data.
    pub fn apply_to(&self, state: &mut KernelState) {
        match self {
            // Which chains others have is no part of the state.
            Self::AcceptPassed(_) => {}
            Self::AddAddress(address) => {
                state.addresses.insert(address.clone());
            }
            Self::AddLink(name, link) | Self::SetLink(name, link) => {
                state.links.insert(name.clone(), link.clone());
            }
            Self::AddRoute(key, route) | Self::ReplaceRoute(key, route) => {
                state.routes.insert(canonical(key), route.clone());
            }
            Self::AddRule(rule) => {
                state.rules.insert(rule.clone());
            }
            Self::ChangeNftSets { .. } | Self::DeleteNft | Self::SetNft(_) => {
                self.apply_to_nft(&mut state.nft);
            }
            Self::DeleteAddress(address) => {
                state.addresses.remove(address);
            }
            Self::DeleteForwarding(link, mac) => {
                state.forwarding.remove(&(link.clone(), *mac));
            }
            Self::DeleteLink(name) => without_link(state, name),
            Self::DeleteNeighbour(link, address) => {
                state.neighbours.remove(&(link.clone(), *address));
            }
            Self::DeleteRoute(key) => {
                state.routes.remove(&canonical(key));
            }
            Self::DeleteRule(rule) => {
                state.rules.remove(rule);
            }
            Self::SetForwarding(link, mac, host) => {
                state.forwarding.insert((link.clone(), *mac), *host);
            }
            Self::SetNeighbour(link, address, mac) => {
                state.neighbours.insert((link.clone(), *address), *mac);
            }
            Self::SetSetting(link, setting, value) => {
                state.settings.insert((link.clone(), *setting), *value);
            }
        }
    }

    /// Makes the change on the nftables table, if it is one of that.
    pub(crate) fn apply_to_nft(&self, nft: &mut Option<Nft>) {
        match (self, nft) {
            (Self::SetNft(made), nft) => {
                let sets = made
                    .sets
                    .iter()
                    .map(|(set, prefixes)| (*set, disjoint(prefixes).collect::<BTreeSet<_>>()));
                let sets = sets.filter(|(_, prefixes)| !prefixes.is_empty()).collect();
                *nft = Some(Nft { sets, ..made.clone() });
            }
            (Self::DeleteNft, nft) => *nft = None,
            (Self::ChangeNftSets { deleted, added }, Some(nft)) => {
                for (set, prefixes) in deleted {
                    let held = nft.sets.entry(*set).or_default();
                    for prefix in prefixes {
                        held.remove(prefix);
                    }
                }
                for (set, prefixes) in added {
                    nft.sets.entry(*set).or_default().extend(prefixes);
                }
                nft.sets.retain(|_, prefixes| !prefixes.is_empty());
            }
            _ => {}
        }
    }
}

/// Everything on a link goes with it.
fn without_link(state: &mut KernelState, name: &InterfaceName) {
    state.links.remove(name);
    state.addresses.retain(|address| address.link != *name);
    state.routes.retain(|_, route| route.link.as_ref() != Some(name));
    state.neighbours.retain(|(link, _), _| link != name);
    state.forwarding.retain(|(link, _), _| link != name);
    state.settings.retain(|(link, _), _| link != name);
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up_or_down = |up: bool| if up { "up" } else { "down" };
        match self {
            Self::AcceptPassed(0) => f.write_str("delete our rules in others' chains"),
            Self::AcceptPassed(bits) => {
                write!(f, "accept what is marked {bits:#x} in others' chains")
            }
            Self::AddAddress(a) => write!(f, "put {} on {}", a.address, a.link),
            Self::AddLink(name, Link { mtu, up, kind }) => {
                let kind = kind.name().unwrap_or("given");
                write!(f, "make the {kind} link {name}, {} with MTU {mtu}", up_or_down(*up))
            }
            Self::AddRoute(key, route) => write!(f, "add {}", ShownRoute(key, Some(route))),
            Self::AddRule(rule) => write!(f, "add the rule {rule}"),
            Self::ChangeNftSets { deleted, added } => {
                let count = |sets: &BTreeMap<_, BTreeSet<_>>| -> usize {
                    sets.values().map(BTreeSet::len).sum()
                };
                let (deleted, added) = (count(deleted), count(added));
                write!(
                    f,
                    "take prefixes out of the nftables sets ({deleted}) and put others in ({added})"
                )
            }
            Self::DeleteAddress(a) => write!(f, "take {} off {}", a.address, a.link),
            Self::DeleteForwarding(link, mac) => write!(f, "forget on {link} where {mac} is"),
            Self::DeleteLink(name) => write!(f, "delete the link {name}"),
            Self::DeleteNeighbour(link, address) => write!(f, "forget on {link} who has {address}"),
            Self::DeleteNft => f.write_str("delete the nftables table"),
            Self::DeleteRoute(key) => write!(f, "delete {}", ShownRoute(key, None)),
            Self::DeleteRule(rule) => write!(f, "delete the rule {rule}"),
            Self::ReplaceRoute(key, route) => write!(f, "replace {}", ShownRoute(key, Some(route))),
            Self::SetForwarding(link, mac, host) => {
                write!(f, "send frames for {mac} on {link} to {host}")
            }
            Self::SetLink(name, Link { mtu, up, .. }) => {
                write!(f, "set {name} {} with MTU {mtu}", up_or_down(*up))
            }
            Self::SetNeighbour(link, address, mac) => {
                write!(f, "know {address} on {link} to be {mac}")
            }
            Self::SetNft(_) => f.write_str("make the nftables table"),
            Self::SetSetting(link, setting, value) => {
                write!(f, "set {setting} of {link} to {value}")
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
        if let Some(Route { gateway, link, source, mtu }) = route {
            if let Some(gateway) = gateway {
                write!(f, " via {gateway}")?;
            }
            if let Some(link) = link {
                write!(f, " dev {link}")?;
            }
            if let Some(source) = source {
                write!(f, " src {source}")?;
            }
            if let Some(mtu) = mtu {
                write!(f, " mtu {mtu}")?;
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
