//! The outside of WireGuard's four messages: what can be read before anything is decrypted (WireGuard paper, section
//! 5.4; all numbers are little-endian).

/// The length of an initiation.
pub(crate) const INITIATION_BYTES: usize = 148;
/// The length of a response.
pub(crate) const RESPONSE_BYTES: usize = 92;
/// The length of a cookie reply.
pub(crate) const COOKIE_REPLY_BYTES: usize = 64;
/// What a data message adds to its packet: 16 bytes of header, 16 of tag.
pub(crate) const DATA_OVERHEAD: usize = 32;
/// The length of each of the two MACs that end a handshake message.
pub(crate) const MAC_BYTES: usize = 16;

const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE_REPLY: u32 = 3;
const DATA: u32 = 4;

/// The type that a cookie reply starts with.
pub(crate) const COOKIE_REPLY_TYPE: [u8; 4] = COOKIE_REPLY.to_le_bytes();

/// A datagram that has the type and length of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// The first message of a handshake.
    Initiation {
        /// The initiator's index.
        sender: u32,
    },
    /// The second one.
    Response {
        /// The responder's index.
        sender: u32,
        /// The initiator's.
        receiver: u32,
    },
    /// The answer of a host under load.
    CookieReply {
        /// The sender's index of the message that is answered.
        receiver: u32,
    },
    /// An encrypted packet.
    Data {
        /// The receiver's index.
        receiver: u32,
        /// The message's number in its session.
        counter: u64,
    },
}

impl Message {
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(*datagram.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_le_bytes(*datagram.get(at..)?.first_chunk()?));
        Some(match (word(0)?, datagram.len()) {
            (INITIATION, INITIATION_BYTES) => Self::Initiation { sender: word(4)? },
            (RESPONSE, RESPONSE_BYTES) => Self::Response { sender: word(4)?, receiver: word(8)? },
            (COOKIE_REPLY, COOKIE_REPLY_BYTES) => Self::CookieReply { receiver: word(4)? },
            (DATA, DATA_OVERHEAD..) => Self::Data { receiver: word(4)?, counter: long(8)? },
            _ => return None,
        })
    }
}

/// The sender's index of a handshake message of ours.
pub(crate) fn sender_index(message: &[u8]) -> Option<u32> {
    match Message::parse(message)? {
        Message::Initiation { sender } | Message::Response { sender, .. } => Some(sender),
        _ => None,
    }
}

/// Writes an initiation's head: its type, and our index.
pub(crate) fn write_initiation(message: &mut [u8], sender: u32) {
    write_words(message, [INITIATION, sender]);
}

/// Writes a response's head: its type, our index and the other end's.
pub(crate) fn write_response(message: &mut [u8], sender: u32, receiver: u32) {
    write_words(message, [RESPONSE, sender, receiver]);
}

/// Writes a data message's header, of 16 bytes.
pub(crate) fn write_data_header(header: &mut [u8], receiver: u32, counter: u64) {
    write_words(header, [DATA, receiver]);
    header[8..16].copy_from_slice(&counter.to_le_bytes());
}

fn write_words<const N: usize>(message: &mut [u8], words: [u32; N]) {
    for (place, word) in message.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_length_belong_together() {
        for (kind, length) in [(1u8, 148), (2, 92), (3, 64), (4, 32), (4, 1452)] {
            let mut datagram = vec![0; length];
            datagram[0] = kind;
            assert!(Message::parse(&datagram).is_some(), "{kind} {length}");
            // The three bytes behind the type are reserved and zero.
            datagram[2] = 1;
            assert_eq!(Message::parse(&datagram), None);
            datagram[2] = 0;
            datagram.pop();
            assert_eq!(Message::parse(&datagram).is_some(), kind == 4 && length > 32);
        }
        assert_eq!(Message::parse(&[]), None);
        assert_eq!(Message::parse(&[4, 0, 0]), None);
    }

    #[test]
    fn numbers_are_little_endian() {
        let mut datagram = vec![4, 0, 0, 0, 1, 2, 3, 4, 9, 0, 0, 0, 0, 0, 0, 1];
        datagram.resize(32, 0);
        let data = Message::Data { receiver: 0x0403_0201, counter: (1 << 56) + 9 };
        assert_eq!(Message::parse(&datagram), Some(data));
    }
}
