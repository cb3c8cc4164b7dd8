//! nfnetlink's messages and attributes (`linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`).

use std::convert::Infallible;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};

/// A message with its header of four bytes, from or to the nftables part of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NftMessage {
    /// `NFT_MSG_`, with the number of the subsystem in the upper byte.
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// A message with its `NLM_F_` flags beyond request and acknowledgement.
pub(crate) type Command = (NftMessage, u16);

/// Attributes one after another (`struct nlattr`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl NftMessage {
    /// About objects of the family `inet`.
    pub(crate) fn inet(kind: u8, attributes: Attributes) -> Self {
        Self::of(NFPROTO_INET, kind, attributes)
    }

    /// About objects of the family of this number (`NFPROTO_`).
    pub(crate) fn of(family: u8, kind: u8, attributes: Attributes) -> Self {
        let mut payload = vec![family, 0, 0, 0];
        payload.extend(attributes.0);
        Self { kind: u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]), payload }
    }

    /// About objects of any family.
    pub(crate) fn any(kind: u8) -> Self {
        Self { kind: u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]), payload: vec![0; HEADER] }
    }

    /// `NFT_MSG_`, for a message of nftables.
    pub(crate) const fn nft_kind(&self) -> Option<u8> {
        let [subsystem, kind] = self.kind.to_be_bytes();
        if subsystem == NFNL_SUBSYS_NFTABLES { Some(kind) } else { None }
    }

    /// Whether it is about an object of the family `inet`.
    pub(crate) fn is_inet(&self) -> bool {
        self.payload.first() == Some(&NFPROTO_INET)
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.payload.get(HEADER..).unwrap_or_default())
    }

    /// The value of its first attribute of this kind.
    pub(crate) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }
}

impl NetlinkSerializable for NftMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for NftMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, payload: payload.to_vec() })
    }
}

impl Attributes {
    /// The longest that goes into one nested attribute, whose length is 16 bits, with some room.
    pub(crate) const LONGEST: usize = 60_000;

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // An attribute is one of ours and short, or a nest that is kept below `LONGEST`.
        let length = u16::try_from(NLA_HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(NLA_ALIGNMENT), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    /// nftables' numbers are big endian.
    pub(crate) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads attributes up to the first that is cut short.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([a, b, c, d], _) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let kind = u16::from_ne_bytes([*c, *d]) & NLA_TYPE_MASK;
        let value = bytes.get(NLA_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(NLA_ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A big-endian number.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A text up to its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// The bytes of messages that the kernel takes as a whole or not at all, numbered from `sequence` on.
pub(crate) fn transaction(commands: Vec<Command>, sequence: u32) -> Vec<u8> {
    let marker = |kind| NftMessage { kind, payload: vec![0, 0, 0, NFNL_SUBSYS_NFTABLES] };
    let commands = commands.into_iter().map(|(message, flags)| (message, flags | NLM_F_ACK));
    let all = std::iter::once((marker(NFNL_MSG_BATCH_BEGIN), 0))
        .chain(commands)
        .chain(std::iter::once((marker(NFNL_MSG_BATCH_END), 0)));
    let mut bytes = Vec::new();
    for ((message, flags), sequence) in all.zip(sequence..) {
        append(&mut bytes, message, flags, sequence);
    }
    bytes
}

/// One message after those that are there.
pub(crate) fn append(bytes: &mut Vec<u8>, message: NftMessage, flags: u16, sequence: u32) {
    let payload = NetlinkPayload::InnerMessage(message);
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let begin = bytes.len();
    bytes.resize(begin + message.buffer_len().next_multiple_of(NLA_ALIGNMENT), 0);
    if let Some(room) = bytes.get_mut(begin..) {
        message.serialize(room);
    }
}

const HEADER: usize = 4;
const NLA_HEADER: usize = 4;
const NLA_ALIGNMENT: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NFPROTO_INET: u8 = 1;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
