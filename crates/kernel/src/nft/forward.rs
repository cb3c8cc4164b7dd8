//! Chains of others that everything passes which this host passes on, and our rule in those that drop it.

use std::fmt;

use netlink_packet_core::NLM_F_CREATE;
use rustix::io::Errno;
use serde::Serialize;
use wireloom_model::kernel::NFT_TABLE;

use super::kinds::*;
use super::read::{comment, hook};
use super::rule::{ACCEPT, Rule, accept_marked};
use super::wire::{Attributes, Command, NftMessage, attributes, number, text};
use super::{Connection, Nftables, next_generation};
use crate::error::{HostError, Refusal};

/// A chain that drops what a host passes on and none of its rules takes: by its policy (`policy drop`, nft(8)), or by a
/// last rule that refuses everything. A table of ours can't take that back: to accept a packet ends one chain alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ForwardDrop {
    /// The family of its table in the words of nft(8): `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

/// In the words of nft(8).
impl fmt::Display for ForwardDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain } = self;
        write!(f, "{family} {table} {chain}")
    }
}

/// Others' chains at the forward hook as they were looked at last.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) generation: u32,
    /// The bits that our rules accept.
    bits: u32,
    chains: Vec<Place>,
}

/// A chain: its table's family by number, the table and the name.
type Place = (u8, String, String);

/// A chain with what matters of it.
struct Chain {
    place: Place,
    drops: bool,
    /// Our rules in it: the kernel's number of each, and its comment.
    ours: Vec<(Vec<u8>, String)>,
}

impl Nftables {
    /// The chains of all tables that drop what is passed on and have no rule of ours.
    pub(crate) fn forward_drops(&self) -> Result<Vec<ForwardDrop>, HostError> {
        let chains = self.connection().forward_chains()?;
        let drops = chains.into_iter().filter(|chain| chain.drops && chain.ours.is_empty());
        Ok(drops.filter_map(|chain| told(chain.place)).collect())
    }

    /// The chains of all tables that have a rule of ours.
    pub(crate) fn forward_accepts(&self) -> Result<Vec<ForwardDrop>, HostError> {
        let chains = self.connection().forward_chains()?;
        let accepting = chains.into_iter().filter(|chain| !chain.ours.is_empty());
        Ok(accepting.filter_map(|chain| told(chain.place)).collect())
    }

    /// Whether somebody may have changed something since our rules were brought in line with these bits.
    pub(crate) fn is_accept_due(&self, bits: u32) -> Result<bool, HostError> {
        let mut connection = self.connection();
        match connection.looked.as_ref().map(|looked| (looked.generation, looked.bits)) {
            // Nobody but us makes such rules.
            Some((_, 0)) if bits == 0 => Ok(false),
            // `None` of a kernel without nftables.
            at => Ok(connection.generation_if_any()?.is_some_and(|now| at != Some((now, bits)))),
        }
    }

    /// Puts a rule at the head of every chain that drops what is passed on, which accepts what carries the bits; none
    /// for 0. Rules of ours that are not to be there go. Returns how many were written.
    pub(super) fn accept_passed(&self, bits: u32) -> Result<Result<usize, Refusal>, HostError> {
        let mut connection = self.connection();
        let before = connection.generation()?;
        let chains = connection.forward_chains()?;
        let rule = accept_marked(bits);
        let commands: Vec<Command> =
            chains.iter().flat_map(|chain| chain.to_accept(bits, &rule)).collect();
        let written = commands.len();
        let mut generation = before;
        if written > 0 {
            // A chain may have gone since it was read: a transaction is all or nothing, and the next look is due.
            if let Err(refusal) = connection.transact(commands)? {
                connection.looked = None;
                return Ok(if refusal.is(Errno::NOENT) { Ok(0) } else { Err(refusal) });
            }
            generation = next_generation(before);
            let known = connection.known.as_mut().filter(|known| known.generation == before);
            if let Some(known) = known {
                known.generation = generation;
            }
        }
        let chains = chains.into_iter().map(|chain| chain.place).collect();
        connection.looked = Some(Looked { generation, bits, chains });
        Ok(Ok(written))
    }

    /// Whether a message is about a chain of somebody else at the forward hook, where rules of ours are wanted.
    pub(crate) fn concerns_forward(&self, message: &NftMessage) -> bool {
        let connection = self.connection();
        let Some(looked) = connection.looked.as_ref().filter(|looked| looked.bits != 0) else {
            return false;
        };
        match message.nft_kind() {
            Some(NFT_MSG_NEWCHAIN) => is_forward(message),
            Some(NFT_MSG_NEWRULE | NFT_MSG_DELRULE) => {
                place(message, NFTA_RULE_CHAIN).is_some_and(|place| looked.chains.contains(&place))
            }
            _ => false,
        }
    }

    /// Whether the transaction that gave the rule set this number came after others' chains were last looked at.
    pub(crate) fn is_forward_news(&self, generation: u32) -> bool {
        let looked = self.connection().looked.as_ref().map(|looked| looked.generation);
        looked.is_none_or(|looked| super::is_after(generation, looked))
    }
}

impl Connection {
    /// The chains of others that packets pass which the host passes on.
    fn forward_chains(&mut self) -> Result<Vec<Chain>, HostError> {
        let all = self.list(NftMessage::any(NFT_MSG_GETCHAIN))?;
        let mut chains = Vec::new();
        for message in all.iter().filter(|message| is_forward(message)) {
            let Some(place) = place(message, NFTA_CHAIN_NAME) else { continue };
            let (family, table, name) = &place;
            let which = Attributes::default().text(NFTA_TABLE, table).text(NFTA_RULE_CHAIN, name);
            let rules = self.list(NftMessage::of(*family, NFT_MSG_GETRULE, which))?;
            let rules: Vec<&NftMessage> = rules
                .iter()
                .filter(|rule| self::place(rule, NFTA_RULE_CHAIN).as_ref() == Some(&place))
                .collect();
            let refuses = rules.last().is_some_and(|rule| refuses_all(rule));
            let ours = rules.iter().filter_map(|rule| {
                let comment = comment(rule).filter(|comment| comment.starts_with(ACCEPT))?;
                Some((rule.attribute(NFTA_RULE_HANDLE)?.to_vec(), comment))
            });
            let policy = hook(message).map(|(_, _, _, policy)| policy);
            chains.push(Chain {
                drops: refuses || policy == Some(NF_DROP),
                ours: ours.collect(),
                place,
            });
        }
        Ok(chains)
    }
}

impl Chain {
    /// What brings our rules in it in line.
    fn to_accept(&self, bits: u32, rule: &Rule) -> Vec<Command> {
        let wanted = self.drops && bits != 0;
        if wanted && matches!(self.ours.as_slice(), [(_, comment)] if *comment == rule.comment) {
            return Vec::new();
        }
        let (family, table, name) = &self.place;
        let of = || Attributes::default().text(NFTA_TABLE, table).text(NFTA_RULE_CHAIN, name);
        let removal = |(handle, _): &(Vec<u8>, String)| {
            let which = of().bytes(NFTA_RULE_HANDLE, handle);
            (NftMessage::of(*family, NFT_MSG_DELRULE, which), 0)
        };
        let mut commands: Vec<Command> = self.ours.iter().map(removal).collect();
        if wanted {
            let rule = of()
                .nested(NFTA_RULE_EXPRESSIONS, &rule.expressions)
                .bytes(NFTA_RULE_USERDATA, &rule.user_data());
            // Not appended: it goes first.
            commands.push((NftMessage::of(*family, NFT_MSG_NEWRULE, rule), NLM_F_CREATE));
        }
        commands
    }
}

/// Whether it is a chain of somebody else that filters what the host passes on.
fn is_forward(chain: &NftMessage) -> bool {
    let hooked =
        hook(chain).is_some_and(|(kind, at, ..)| kind == "filter" && at == NF_INET_FORWARD);
    let is_ours = || {
        chain.is_inet() && chain.attribute(NFTA_TABLE).is_some_and(|name| text(name) == NFT_TABLE)
    };
    hooked && place(chain, NFTA_CHAIN_NAME).is_some() && !is_ours()
}

/// Where a chain or rule is. `None` for families without the hooks of IP.
fn place(message: &NftMessage, chain: u16) -> Option<Place> {
    let family = *message.payload.first()?;
    IP_FAMILIES.iter().find(|(number, _)| *number == family)?;
    Some((family, text(message.attribute(NFTA_TABLE)?), text(message.attribute(chain)?)))
}

fn told((number, table, chain): Place) -> Option<ForwardDrop> {
    let (_, family) = IP_FAMILIES.into_iter().find(|(family, _)| *family == number)?;
    Some(ForwardDrop { family, table, chain })
}

/// Whether a rule drops or rejects every packet, in the words of nft or of iptables.
fn refuses_all(rule: &NftMessage) -> bool {
    let Some(list) = rule.attribute(NFTA_RULE_EXPRESSIONS) else { return false };
    let mut refuses = false;
    for (_, expression) in attributes(list) {
        let Some(name) = value(expression, NFTA_EXPR_NAME) else { return false };
        let data = value(expression, NFTA_EXPR_DATA).unwrap_or_default();
        match text(name).as_str() {
            "counter" | "log" => {}
            "reject" => refuses = true,
            "immediate" => refuses |= verdict(data) == Some(NF_DROP),
            "target" => {
                let target = value(data, NFTA_TARGET_NAME).map(text);
                refuses |= matches!(target.as_deref(), Some("DROP" | "REJECT"));
            }
            _ => return false,
        }
    }
    refuses
}

/// The verdict that an `immediate` expression gives, if it gives one.
fn verdict(immediate: &[u8]) -> Option<u32> {
    let verdict = value(value(immediate, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
    number(value(verdict, NFTA_VERDICT_CODE)?)
}

fn value(nest: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(nest).find(|(found, _)| *found == kind).map(|(_, value)| value)
}
