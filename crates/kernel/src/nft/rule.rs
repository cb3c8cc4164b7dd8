//! The rules that we make, as the expressions that the kernel runs one after another.
//!
//! Each carries a comment that says what it does. By it the rule is known again: how the kernel and the `nft` program
//! write the same expressions differs from version to version.

use wireloom_model::kernel::{NftSet, Outer};
use wireloom_model::{Family, InterfaceName};

use super::kinds::*;
use super::render::{key_type, set_name};
use super::wire::Attributes;

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) comment: String,
    pub(super) expressions: Attributes,
}

impl Rule {
    /// The comment where `nft` keeps it (`NFTNL_UDATA_RULE_COMMENT`).
    pub(super) fn user_data(&self) -> Vec<u8> {
        // A comment of ours names a set or a link, so it is short.
        let length = u8::try_from(self.comment.len() + 1).unwrap_or(u8::MAX);
        let mut data = vec![NFTNL_UDATA_RULE_COMMENT, length];
        data.extend(self.comment.as_bytes());
        data.push(0);
        data
    }
}

/// What the comments of rules begin with that say what the table is for.
pub(super) const CLAMP_OUT_OF: &str = "clamp MSS out of ";
pub(super) const DROP_FROM_STRANGERS: &str = "drop from others than the location: ";
pub(super) const MASQUERADE: &str = "masquerade ";
pub(super) const MARK: &str = "mark ";

/// What the comments of our rules in others' chains begin with.
pub(super) const ACCEPT: &str = "wireloom passes on what is marked ";

/// Packets to the set keep their source.
pub(super) fn keep_source(set: NftSet, family: Family) -> Rule {
    Rule {
        comment: format!("keep the source towards {}", set_name(set, family)),
        expressions: r#return(is_in(set, family, Field::Destination)),
    }
}

pub(super) fn masquerade_from(set: NftSet, family: Family) -> Rule {
    Rule {
        comment: format!("{MASQUERADE}what comes from {}", set_name(set, family)),
        expressions: masquerade(is_in(set, family, Field::Source)),
    }
}

pub(super) fn masquerade_to(set: NftSet, family: Family) -> Rule {
    Rule {
        comment: format!("{MASQUERADE}what goes to {}", set_name(set, family)),
        expressions: masquerade(is_in(set, family, Field::Destination)),
    }
}

pub(super) fn clamp_out_of(link: &InterfaceName) -> Rule {
    Rule { comment: format!("{CLAMP_OUT_OF}{link}"), expressions: clamp(NFT_META_OIFNAME, link) }
}

pub(super) fn clamp_into(link: &InterfaceName) -> Rule {
    Rule { comment: format!("clamp MSS into {link}"), expressions: clamp(NFT_META_IIFNAME, link) }
}

/// Packets with others in them are dropped unless they come from the location.
pub(super) fn drop_from_strangers(outer: &Outer) -> Rule {
    let (family, what) = match outer {
        Outer::Ipip(local) => (Family::V4, format!("IPIP to {local}")),
        Outer::Vxlan(family, port) => (*family, format!("{family} VXLAN to port {port}")),
    };
    let list = is_of(family);
    let list = match outer {
        Outer::Ipip(local) => {
            let list = equals(meta(list, NFT_META_L4PROTO), &[IPPROTO_IPIP]);
            equals(address(list, family, Field::Destination), &local.octets())
        }
        Outer::Vxlan(_, port) => {
            let list = equals(meta(list, NFT_META_L4PROTO), &[IPPROTO_UDP]);
            let list = payload(list, NFT_PAYLOAD_TRANSPORT_HEADER, UDP_DESTINATION, 2);
            equals(list, &port.to_be_bytes())
        }
    };
    let list = address(list, family, Field::Source);
    let list = look_up(list, NftSet::Location, family, NFT_LOOKUP_F_INV);
    Rule { comment: format!("{DROP_FROM_STRANGERS}{what}"), expressions: verdict(list, NF_DROP) }
}

/// What a rule of this comment drops.
pub(super) fn dropped(comment: &str) -> Option<Outer> {
    let what = comment.strip_prefix(DROP_FROM_STRANGERS)?;
    if let Some(local) = what.strip_prefix("IPIP to ") {
        return local.parse().ok().map(Outer::Ipip);
    }
    let vxlan = |family: Family| {
        let port = what.strip_prefix(&format!("{family} VXLAN to port "))?.parse().ok()?;
        Some(Outer::Vxlan(family, port))
    };
    Family::BOTH.into_iter().find_map(vxlan)
}

#[derive(Clone, Copy)]
enum Field {
    Source,
    Destination,
}

/// Goes on for packets of the family whose address is in the set.
fn is_in(set: NftSet, family: Family, field: Field) -> Attributes {
    look_up(address(is_of(family), family, field), set, family, 0)
}

/// Goes on for packets of the family.
fn is_of(family: Family) -> Attributes {
    let protocol = match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    };
    equals(meta(Attributes::default(), NFT_META_NFPROTO), &[protocol])
}

/// Takes an address from the header of a packet of the family.
fn address(list: Attributes, family: Family, field: Field) -> Attributes {
    let offset = match (family, field) {
        (Family::V4, Field::Source) => 12,
        (Family::V4, Field::Destination) => 16,
        (Family::V6, Field::Source) => 8,
        (Family::V6, Field::Destination) => 24,
    };
    let (_, length) = key_type(family);
    payload(list, NFT_PAYLOAD_NETWORK_HEADER, offset, length)
}

/// Goes on if the set has the value, or with `NFT_LOOKUP_F_INV` if it has not.
fn look_up(list: Attributes, set: NftSet, family: Family, flags: u32) -> Attributes {
    let lookup = Attributes::default()
        .text(NFTA_LOOKUP_SET, &set_name(set, family))
        .number(NFTA_LOOKUP_SREG, REGISTER)
        .number(NFTA_LOOKUP_FLAGS, flags);
    then(list, "lookup", &lookup)
}

fn r#return(list: Attributes) -> Attributes {
    verdict(list, NFT_RETURN.cast_unsigned())
}

fn verdict(list: Attributes, code: u32) -> Attributes {
    let verdict = Attributes::default().number(NFTA_VERDICT_CODE, code);
    let data = Attributes::default().nested(NFTA_DATA_VERDICT, &verdict);
    let immediate = Attributes::default()
        .number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
        .nested(NFTA_IMMEDIATE_DATA, &data);
    then(list, "immediate", &immediate)
}

fn masquerade(list: Attributes) -> Attributes {
    then(list, "masq", &Attributes::default())
}

/// For TCP packets with SYN and without RST by the link, writes the MSS that fits the route (`rt mtu`; it is never
/// raised).
fn clamp(direction: u32, link: &InterfaceName) -> Attributes {
    let mut name = [0; IFNAMSIZ];
    // An interface name is shorter by its grammar.
    for (to, from) in name.iter_mut().zip(link.as_str().bytes()) {
        *to = from;
    }
    let list = equals(meta(Attributes::default(), direction), &name);
    let list = equals(meta(list, NFT_META_L4PROTO), &[IPPROTO_TCP]);
    let list = payload(list, NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS, 1);
    let list = equals(bitwise(list, [TCP_SYN | TCP_RST], [0]), &[TCP_SYN]);
    let route =
        Attributes::default().number(NFTA_RT_KEY, NFT_RT_TCPMSS).number(NFTA_RT_DREG, REGISTER);
    let to_network_order = Attributes::default()
        .number(NFTA_BYTEORDER_SREG, REGISTER)
        .number(NFTA_BYTEORDER_DREG, REGISTER)
        .number(NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON)
        .number(NFTA_BYTEORDER_LEN, 2)
        .number(NFTA_BYTEORDER_SIZE, 2);
    let option = Attributes::default()
        .number(NFTA_EXTHDR_SREG, REGISTER)
        .bytes(NFTA_EXTHDR_TYPE, &[TCPOPT_MSS])
        .number(NFTA_EXTHDR_OFFSET, 2)
        .number(NFTA_EXTHDR_LEN, 2)
        .number(NFTA_EXTHDR_OP, NFT_EXTHDR_OP_TCPOPT);
    let list = then(then(list, "rt", &route), "byteorder", &to_network_order);
    then(list, "exthdr", &option)
}

/// Packets between prefixes of the set get these bits of the mark.
pub(super) fn mark_passed(family: Family, bits: u32) -> Rule {
    let list = is_in(NftSet::Passed, family, Field::Source);
    let list = address(list, family, Field::Destination);
    let list = meta(look_up(list, NftSet::Passed, family, 0), NFT_META_MARK);
    // A mark is a number of the host's own byte order.
    let list = bitwise(list, (!bits).to_ne_bytes(), bits.to_ne_bytes());
    let set =
        Attributes::default().number(NFTA_META_KEY, NFT_META_MARK).number(NFTA_META_SREG, REGISTER);
    let set_name = set_name(NftSet::Passed, family);
    Rule {
        comment: format!("{MARK}{bits:#x} between prefixes of {set_name}"),
        expressions: then(list, "meta", &set),
    }
}

/// The bits that a rule of this comment sets.
pub(super) fn marked(comment: &str) -> Option<u32> {
    let (bits, _) = comment.strip_prefix(MARK)?.split_once(' ')?;
    u32::from_str_radix(bits.strip_prefix("0x")?, 16).ok()
}

/// What carries these bits is accepted, in a chain of somebody else. Without sets or anything else that iptables can't
/// tell in its own words: one rule that it does not know, and it lists nothing of the table.
pub(super) fn accept_marked(bits: u32) -> Rule {
    let list = meta(Attributes::default(), NFT_META_MARK);
    let list = equals(bitwise(list, bits.to_ne_bytes(), [0; 4]), &bits.to_ne_bytes());
    Rule { comment: format!("{ACCEPT}{bits:#x}"), expressions: verdict(list, NF_ACCEPT) }
}

/// The register's bits under the mask, flipped where `xor` says so.
fn bitwise<const N: usize>(list: Attributes, mask: [u8; N], xor: [u8; N]) -> Attributes {
    let value = |bytes: [u8; N]| Attributes::default().bytes(NFTA_DATA_VALUE, &bytes);
    let bitwise = Attributes::default()
        .number(NFTA_BITWISE_SREG, REGISTER)
        .number(NFTA_BITWISE_DREG, REGISTER)
        .number(NFTA_BITWISE_LEN, u32::try_from(N).unwrap_or(u32::MAX))
        .nested(NFTA_BITWISE_MASK, &value(mask))
        .nested(NFTA_BITWISE_XOR, &value(xor));
    then(list, "bitwise", &bitwise)
}

fn meta(list: Attributes, key: u32) -> Attributes {
    let meta = Attributes::default().number(NFTA_META_KEY, key).number(NFTA_META_DREG, REGISTER);
    then(list, "meta", &meta)
}

fn payload(list: Attributes, base: u32, offset: u32, length: u32) -> Attributes {
    let payload = Attributes::default()
        .number(NFTA_PAYLOAD_DREG, REGISTER)
        .number(NFTA_PAYLOAD_BASE, base)
        .number(NFTA_PAYLOAD_OFFSET, offset)
        .number(NFTA_PAYLOAD_LEN, length);
    then(list, "payload", &payload)
}

fn equals(list: Attributes, value: &[u8]) -> Attributes {
    let data = Attributes::default().bytes(NFTA_DATA_VALUE, value);
    let compare = Attributes::default()
        .number(NFTA_CMP_SREG, REGISTER)
        .number(NFTA_CMP_OP, NFT_CMP_EQ)
        .nested(NFTA_CMP_DATA, &data);
    then(list, "cmp", &compare)
}

fn then(list: Attributes, name: &str, data: &Attributes) -> Attributes {
    let expression = Attributes::default().text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data);
    list.nested(NFTA_LIST_ELEM, &expression)
}

/// `NFT_REG_1`, which every expression hands its value on in.
const REGISTER: u32 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_RETURN: i32 = -5;

const NFTNL_UDATA_RULE_COMMENT: u8 = 0;

const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
const NFT_META_MARK: u32 = 3;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_RT_DREG: u16 = 1;
const NFTA_RT_KEY: u16 = 2;
const NFT_RT_TCPMSS: u32 = 3;
const NFTA_BYTEORDER_SREG: u16 = 1;
const NFTA_BYTEORDER_DREG: u16 = 2;
const NFTA_BYTEORDER_OP: u16 = 3;
const NFTA_BYTEORDER_LEN: u16 = 4;
const NFTA_BYTEORDER_SIZE: u16 = 5;
const NFT_BYTEORDER_HTON: u32 = 1;
const NFTA_EXTHDR_TYPE: u16 = 2;
const NFTA_EXTHDR_OFFSET: u16 = 3;
const NFTA_EXTHDR_LEN: u16 = 4;
const NFTA_EXTHDR_OP: u16 = 6;
const NFTA_EXTHDR_SREG: u16 = 7;
const NFT_EXTHDR_OP_TCPOPT: u32 = 1;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_IPIP: u8 = 4;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// The offset of the destination port in a UDP header (RFC 768).
const UDP_DESTINATION: u32 = 2;
/// The offset of the flags in a TCP header (RFC 9293, section 3.1).
const TCP_FLAGS: u32 = 13;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCPOPT_MSS: u8 = 2;
const IFNAMSIZ: usize = 16;
