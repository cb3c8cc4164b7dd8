//! From what the table is for to the commands that make it so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use wireloom_model::kernel::{NFT_TABLE, Nft, NftSet};
use wireloom_model::{Cidr, Family};

use super::kinds::*;
use super::rule::{
    Rule, clamp_into, clamp_out_of, drop_from_strangers, keep_source, mark_passed, masquerade_from,
    masquerade_to,
};
use super::wire::{Attributes, Command, NftMessage};

/// A chain that the kernel calls by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// `NF_INET_` (`linux/netfilter.h`).
    pub(super) hook: u32,
    /// The lower, the earlier.
    pub(super) priority: i32,
    pub(super) rules: Vec<Rule>,
}

/// The table's chains with their rules, in order.
pub(super) fn chains(nft: &Nft) -> Vec<Chain> {
    let mut chains = Vec::new();
    if nft.masquerade {
        let each = |set: NftSet| Family::BOTH.map(|family| (set, family));
        let kept = [NftSet::Mesh, NftSet::Services, NftSet::Peers].into_iter().flat_map(each);
        let from = [NftSet::Pods, NftSet::Peers].into_iter().flat_map(each);
        let to = [NftSet::Site].into_iter().flat_map(each);
        chains.push(Chain {
            name: "postrouting",
            kind: "nat",
            hook: NF_INET_POST_ROUTING,
            priority: NF_IP_PRI_NAT_SRC,
            rules: kept
                .map(|(set, family)| keep_source(set, family))
                .chain(from.map(|(set, family)| masquerade_from(set, family)))
                .chain(to.map(|(set, family)| masquerade_to(set, family)))
                .collect(),
        });
    }
    let marks = Family::BOTH.map(|family| mark_passed(family, nft.accept));
    let marks = marks.into_iter().filter(|_| nft.accept != 0);
    let both_ways = nft.clamp.iter().flat_map(|link| [clamp_out_of(link), clamp_into(link)]);
    let forward: Vec<Rule> = marks.chain(both_ways).collect();
    if !forward.is_empty() {
        chains.push(Chain {
            name: "forward",
            kind: "filter",
            hook: NF_INET_FORWARD,
            priority: NF_IP_PRI_MANGLE,
            rules: forward,
        });
    }
    if !nft.guard.is_empty() {
        chains.push(Chain {
            name: "input",
            kind: "filter",
            hook: NF_INET_LOCAL_IN,
            priority: NF_IP_PRI_MANGLE,
            rules: nft.guard.iter().map(drop_from_strangers).collect(),
        });
    }
    chains
}

/// Makes the table from nothing, in the place of one that is there.
pub(super) fn make(nft: &Nft) -> Vec<Command> {
    // Made first so that there is one to delete.
    let mut commands = vec![
        (NftMessage::inet(NFT_MSG_NEWTABLE, table()), NLM_F_CREATE),
        (NftMessage::inet(NFT_MSG_DELTABLE, table()), 0),
        (NftMessage::inet(NFT_MSG_NEWTABLE, table()), NLM_F_CREATE),
    ];
    let sets = NftSet::ALL.into_iter().flat_map(|set| Family::BOTH.map(|family| (set, family)));
    commands.extend((1..).zip(sets).map(|(id, (set, family))| make_set(id, set, family)));
    commands.extend(elements(NFT_MSG_NEWSETELEM, &nft.sets));
    for chain in chains(nft) {
        commands.push(make_chain(&chain));
        commands.extend(chain.rules.iter().map(|rule| make_rule(chain.name, rule)));
    }
    commands
}

/// Takes prefixes out of the table's sets, then puts others in.
pub(super) fn change_sets(
    deleted: &BTreeMap<NftSet, BTreeSet<Cidr>>,
    added: &BTreeMap<NftSet, BTreeSet<Cidr>>,
) -> Vec<Command> {
    let mut commands = elements(NFT_MSG_DELSETELEM, deleted);
    commands.extend(elements(NFT_MSG_NEWSETELEM, added));
    commands
}

pub(super) fn delete() -> Vec<Command> {
    vec![(NftMessage::inet(NFT_MSG_DELTABLE, table()), 0)]
}

/// Attribute 1 of every message names the table.
pub(super) fn table() -> Attributes {
    Attributes::default().text(NFTA_TABLE, NFT_TABLE)
}

pub(super) fn set_name(set: NftSet, family: Family) -> String {
    let number = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    format!("{}{number}", set.as_str())
}

/// The number that `nft` knows addresses of this family by (`enum datatypes` there), and their length.
pub(super) const fn key_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (7, 4),
        Family::V6 => (8, 16),
    }
}

fn make_set(id: u32, set: NftSet, family: Family) -> Command {
    let (kind, length) = key_type(family);
    let attributes = table()
        .text(NFTA_SET_NAME, &set_name(set, family))
        .number(NFTA_SET_FLAGS, NFT_SET_INTERVAL)
        .number(NFTA_SET_KEY_TYPE, kind)
        .number(NFTA_SET_KEY_LEN, length)
        .number(NFTA_SET_ID, id)
        .bytes(NFTA_SET_USERDATA, &KEYS_ARE_BIG_ENDIAN);
    (NftMessage::inet(NFT_MSG_NEWSET, attributes), NLM_F_CREATE)
}

fn make_chain(chain: &Chain) -> Command {
    let hook = Attributes::default()
        .number(NFTA_HOOK_HOOKNUM, chain.hook)
        .number(NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
    let attributes = table()
        .text(NFTA_CHAIN_NAME, chain.name)
        .text(NFTA_CHAIN_TYPE, chain.kind)
        .number(NFTA_CHAIN_POLICY, NF_ACCEPT)
        .nested(NFTA_CHAIN_HOOK, &hook);
    (NftMessage::inet(NFT_MSG_NEWCHAIN, attributes), NLM_F_CREATE)
}

fn make_rule(chain: &str, rule: &Rule) -> Command {
    let attributes = table()
        .text(NFTA_RULE_CHAIN, chain)
        .nested(NFTA_RULE_EXPRESSIONS, &rule.expressions)
        .bytes(NFTA_RULE_USERDATA, &rule.user_data());
    (NftMessage::inet(NFT_MSG_NEWRULE, attributes), NLM_F_CREATE | NLM_F_APPEND)
}

/// The elements of all sets, in as many messages as it takes.
fn elements(kind: u8, sets: &BTreeMap<NftSet, BTreeSet<Cidr>>) -> Vec<Command> {
    let mut commands = Vec::new();
    for (set, prefixes) in sets {
        for family in Family::BOTH {
            let mut list = Attributes::default();
            let name = set_name(*set, family);
            let mut flush = |list: &mut Attributes| {
                let attributes = table()
                    .text(NFTA_SET_ELEM_LIST_SET, &name)
                    .nested(NFTA_SET_ELEM_LIST_ELEMENTS, &std::mem::take(list));
                commands.push((NftMessage::inet(kind, attributes), NLM_F_CREATE));
            };
            for prefix in disjoint(prefixes).filter(|prefix| prefix.family() == family) {
                list = element(list, &prefix);
                if list.len() > Attributes::LONGEST {
                    flush(&mut list);
                }
            }
            if !list.is_empty() {
                flush(&mut list);
            }
        }
    }
    commands
}

/// A prefix as a half-open interval: an element for its first address and one for the first behind it.
fn element(list: Attributes, prefix: &Cidr) -> Attributes {
    let key = |value: &[u8]| {
        let data = Attributes::default().bytes(NFTA_DATA_VALUE, value);
        Attributes::default().nested(NFTA_SET_ELEM_KEY, &data)
    };
    let host_bits = u32::from(prefix.family().bits() - prefix.length());
    let (begin, end) = match prefix.address() {
        IpAddr::V4(address) => {
            let end =
                1u32.checked_shl(host_bits).and_then(|size| address.to_bits().checked_add(size));
            (address.octets().to_vec(), end.map(|end| end.to_be_bytes().to_vec()))
        }
        IpAddr::V6(address) => {
            let end =
                1u128.checked_shl(host_bits).and_then(|size| address.to_bits().checked_add(size));
            (address.octets().to_vec(), end.map(|end| end.to_be_bytes().to_vec()))
        }
    };
    match end {
        Some(end) => {
            let end = key(&end).number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            list.nested(NFTA_LIST_ELEM, &key(&begin)).nested(NFTA_LIST_ELEM, &end)
        }
        None => list
            .nested(NFTA_LIST_ELEM, &key(&begin).bytes(NFTA_SET_ELEM_USERDATA, &INTERVAL_IS_OPEN)),
    }
}

/// The prefixes without those that another covers: an interval set of the kernel refuses overlaps.
pub(crate) fn disjoint(prefixes: &BTreeSet<Cidr>) -> impl Iterator<Item = Cidr> {
    let mut last: Option<Cidr> = None;
    // In order, a prefix comes before all that it covers.
    prefixes.iter().copied().filter(move |prefix| {
        let is_covered = last.is_some_and(|last| last.covers(prefix));
        if !is_covered {
            last = Some(*prefix);
        }
        !is_covered
    })
}

/// `NFTNL_UDATA_SET_KEYBYTEORDER` with `BYTEORDER_BIG_ENDIAN`, by which `nft` prints the keys.
const KEYS_ARE_BIG_ENDIAN: [u8; 6] = [0, 4, 2, 0, 0, 0];

/// `NFTNL_UDATA_SET_ELEM_FLAGS` with `NFTNL_SET_ELEM_F_INTERVAL_OPEN`: it goes on to the last address.
const INTERVAL_IS_OPEN: [u8; 6] = [1, 4, 1, 0, 0, 0];
