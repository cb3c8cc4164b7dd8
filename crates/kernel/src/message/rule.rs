//! Policy rules (`linux/fib_rules.h`).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wireloom_model::kernel::{Mark, ROUTE_PROTOCOL, Rule};
use wireloom_model::{Cidr, Family};

use super::number;
use crate::diff::canonical_rule;
use crate::netlink::Request;

/// A rule as the kernel tells it, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeardRule {
    pub(crate) rule: Rule,
    pub(crate) is_ours: bool,
}

pub(crate) fn all_rules(family: Family) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = number(family);
    RouteNetlinkMessage::GetRule(message)
}

/// Makes a rule where there is none of ours like it: fails with `EEXIST` if there is one.
pub(crate) fn add_rule(rule: &Rule) -> Request {
    (RouteNetlinkMessage::NewRule(rule_message(rule)), NLM_F_CREATE | NLM_F_EXCL)
}

/// Deletes a rule of our protocol and no other. If another of ours has the same priority and table and more
/// conditions, the kernel may take that one; it is made again the next time.
pub(crate) fn delete_rule(rule: &Rule) -> Request {
    (RouteNetlinkMessage::DelRule(rule_message(rule)), 0)
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let rule = canonical_rule(rule);
    let mut message = RuleMessage::default();
    message.header.family = number(rule.family);
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)));
    if let Some(from) = rule.from {
        message.header.src_len = from.length();
        attributes.push(RuleAttribute::Source(from.address()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.length();
        attributes.push(RuleAttribute::Destination(to.address()));
    }
    attributes.extend(rule.input.map(|link| RuleAttribute::Iifname(link.as_str().to_owned())));
    if let Some(Mark { value, mask }) = rule.mark {
        attributes.push(RuleAttribute::FwMark(value));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    attributes.extend(rule.suppress.map(|length| RuleAttribute::SuppressPrefixLen(length.into())));
    message
}

/// `None` for a rule of another family, or one that does something else than look up a table.
pub(crate) fn rule(message: &RuleMessage) -> Option<HeardRule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    // A rule of priority 0 has no attribute for it.
    let mut rule = Rule::all(family, 0, message.header.table.into());
    let mut is_ours = false;
    let (mut value, mut mask) = (0, 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => is_ours = u8::from(*protocol) == ROUTE_PROTOCOL,
            RuleAttribute::Source(address) => {
                rule.from = Cidr::truncated(*address, message.header.src_len);
            }
            RuleAttribute::Destination(address) => {
                rule.to = Cidr::truncated(*address, message.header.dst_len);
            }
            RuleAttribute::Iifname(name) => rule.input = name.parse().ok(),
            RuleAttribute::FwMark(bits) => value = *bits,
            RuleAttribute::FwMask(bits) => mask = *bits,
            // The kernel says -1 for none.
            RuleAttribute::SuppressPrefixLen(length) => rule.suppress = (*length).try_into().ok(),
            _ => {}
        }
    }
    rule.mark = Some(Mark { value, mask });
    Some(HeardRule { rule: canonical_rule(&rule), is_ours })
}
