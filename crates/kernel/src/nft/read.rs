//! From what the kernel tells of the table back to what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wireloom_model::kernel::{Nft, NftSet};
use wireloom_model::{Cidr, Family};

use super::kinds::*;
use super::render::{chains, key_type, set_name};
use super::rule::{CLAMP_OUT_OF, MASQUERADE, dropped, marked};
use super::wire::{NftMessage, attributes, number, text};

/// Everything in the table, as the kernel tells it.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) chains: Vec<NftMessage>,
    pub(super) rules: Vec<NftMessage>,
    pub(super) sets: Vec<NftMessage>,
    pub(super) elements: BTreeMap<(NftSet, Family), Vec<NftMessage>>,
}

impl Told {
    /// Those of our sets that are there.
    pub(super) fn our_sets(&self) -> Vec<(NftSet, Family)> {
        let all = NftSet::ALL.into_iter().flat_map(|set| Family::BOTH.map(|family| (set, family)));
        let is_there = |&(set, family): &(NftSet, Family)| {
            let name = set_name(set, family);
            self.sets.iter().any(|told| is_named(told, NFTA_SET_NAME, &name))
        };
        all.filter(is_there).collect()
    }

    /// `None` if it is not as we made it.
    pub(super) fn nft(&self) -> Option<Nft> {
        if !self.has_our_sets() {
            return None;
        }
        let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for rule in &self.rules {
            let chain = text(rule.attribute(NFTA_RULE_CHAIN)?);
            rules.entry(chain).or_default().push(comment(rule)?);
        }
        let mut nft = Nft::default();
        for comment in rules.values().flatten() {
            nft.masquerade |= comment.starts_with(MASQUERADE);
            if let Some(link) = comment.strip_prefix(CLAMP_OUT_OF) {
                nft.clamp.insert(link.parse().ok()?);
            }
            nft.guard.extend(dropped(comment));
            nft.accept = marked(comment).unwrap_or(nft.accept);
        }
        let expected = chains(&nft);
        let has_our_chains = expected.len() == self.chains.len()
            && expected.iter().all(|chain| {
                let hook =
                    (chain.kind.to_owned(), chain.hook, chain.priority.cast_unsigned(), NF_ACCEPT);
                let told =
                    self.chains.iter().find(|told| is_named(told, NFTA_CHAIN_NAME, chain.name));
                let comments = rules.get(chain.name).into_iter().flatten();
                told.and_then(self::hook) == Some(hook)
                    && comments.eq(chain.rules.iter().map(|rule| &rule.comment))
            });
        for ((set, family), messages) in &self.elements {
            let mut prefixes = prefixes(messages, *family)?;
            if !prefixes.is_empty() {
                nft.sets.entry(*set).or_default().append(&mut prefixes);
            }
        }
        has_our_chains.then_some(nft)
    }

    fn has_our_sets(&self) -> bool {
        let expected = NftSet::ALL.into_iter().flat_map(|set| Family::BOTH.map(|f| (set, f)));
        self.sets.len() == expected.clone().count()
            && expected.into_iter().all(|(set, family)| {
                let (kind, _) = key_type(family);
                self.sets.iter().any(|told| {
                    let value = |attribute| told.attribute(attribute).and_then(number);
                    is_named(told, NFTA_SET_NAME, &set_name(set, family))
                        && value(NFTA_SET_FLAGS) == Some(NFT_SET_INTERVAL)
                        && value(NFTA_SET_KEY_TYPE) == Some(kind)
                })
            })
    }
}

fn is_named(told: &NftMessage, attribute: u16, name: &str) -> bool {
    told.attribute(attribute).is_some_and(|value| text(value) == name)
}

/// The chain's type, hook, priority and policy.
pub(super) fn hook(chain: &NftMessage) -> Option<(String, u32, u32, u32)> {
    let hook = chain.attribute(NFTA_CHAIN_HOOK)?;
    let of_hook = |kind| {
        attributes(hook).find(|(found, _)| *found == kind).and_then(|(_, value)| number(value))
    };
    Some((
        text(chain.attribute(NFTA_CHAIN_TYPE)?),
        of_hook(NFTA_HOOK_HOOKNUM)?,
        of_hook(NFTA_HOOK_PRIORITY)?,
        number(chain.attribute(NFTA_CHAIN_POLICY)?)?,
    ))
}

/// What stands behind the type and the length of the user data, if that is a comment.
pub(super) fn comment(rule: &NftMessage) -> Option<String> {
    match rule.attribute(NFTA_RULE_USERDATA)? {
        [0, _length, comment @ ..] => Some(text(comment)),
        _ => None,
    }
}

/// The prefixes that a set's elements stand for. `None` if one stands for something else.
pub(super) fn prefixes(messages: &[NftMessage], family: Family) -> Option<BTreeSet<Cidr>> {
    let mut edges: Vec<(u128, bool)> = Vec::new();
    for message in messages {
        let Some(list) = message.attribute(NFTA_SET_ELEM_LIST_ELEMENTS) else { continue };
        for (_, element) in attributes(list) {
            let mut key = None;
            let mut begins = true;
            for (kind, value) in attributes(element) {
                match kind {
                    NFTA_SET_ELEM_KEY => key = address(value),
                    NFTA_SET_ELEM_FLAGS => begins = number(value)? & NFT_SET_ELEM_INTERVAL_END == 0,
                    _ => {}
                }
            }
            edges.push((key?, begins));
        }
    }
    // Where one interval ends another may begin.
    edges.sort_unstable();
    let mut prefixes = Vec::with_capacity(edges.len() / 2 + 1);
    let mut begun: Option<u128> = None;
    for (edge, begins) in edges {
        match (begun, begins) {
            (None, true) => begun = Some(edge),
            (Some(first), false) => {
                prefixes.push(prefix(first, edge.checked_sub(1)?, family)?);
                begun = None;
            }
            // An end before every beginning, which `nft` puts there.
            (None, false) if edge == 0 => {}
            _ => return None,
        }
    }
    if let Some(first) = begun {
        let last = u128::MAX >> (u128::BITS - u32::from(family.bits()));
        prefixes.push(prefix(first, last, family)?);
    }
    Some(prefixes.into_iter().collect())
}

fn address(key: &[u8]) -> Option<u128> {
    let (_, value) = attributes(key).find(|(kind, _)| *kind == NFTA_DATA_VALUE)?;
    match value.len() {
        4 => value.try_into().ok().map(u32::from_be_bytes).map(u128::from),
        16 => value.try_into().ok().map(u128::from_be_bytes),
        _ => None,
    }
}

/// The prefix from the first address to the last, if that is what lies between them.
fn prefix(first: u128, last: u128, family: Family) -> Option<Cidr> {
    let hosts = last.checked_sub(first)?;
    if hosts & hosts.wrapping_add(1) != 0 || first & hosts != 0 {
        return None;
    }
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(first).ok()?).into(),
        Family::V6 => Ipv6Addr::from_bits(first).into(),
    };
    let length = family.bits().checked_sub(u8::try_from(hosts.count_ones()).ok()?)?;
    Cidr::new(address, length).ok()
}
