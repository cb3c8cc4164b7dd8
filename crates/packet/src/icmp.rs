//! ICMP errors about inner packets: what the tunnel tells a sender whose packet it cannot carry (RFC 792, RFC 1812
//! section 4.3.2, RFC 4443).
//!
//! Both RFCs also ask for a limit on the rate. That takes a clock, so it is the caller's.

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::ip::{
    ICMP, ICMPV6, IPV4_HEADER_BYTES, IPV6_FRAGMENT, IPV6_HEADER_BYTES, IpPacket, IpVersion,
    put_word,
};

/// The most bytes of an error: what a buffer must hold. An IPv6 error fills the least MTU of the Internet (RFC 4443
/// section 2.4(c)).
pub const ERROR_BYTES: usize = 1280;
/// The most bytes of an IPv4 error (RFC 1812 section 4.3.2.3).
const IPV4_ERROR_BYTES: usize = 576;
const ICMP_HEADER_BYTES: usize = 8;
/// The lifetime of a packet of our own.
const HOPS: u8 = 64;

/// Why a packet is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// No route leads to the destination: network unreachable, or no route (RFC 4443 section 3.1, code 0).
    NoRoute,
    /// A rule forbids it: administratively prohibited.
    Prohibited,
    /// The packet does not fit: fragmentation needed (RFC 1191), or packet too big (RFC 8201).
    TooBig {
        /// The largest packet that would fit, in bytes.
        mtu: u32,
    },
    /// The destination is known and does not answer: host unreachable, or address unreachable.
    Unreachable,
}

/// Writes the error about `inner` that a router with the address `from` sends to `inner`'s source, and returns its length.
/// `None` if no error may be sent: about an ICMP error, about a fragment other than the first, about a multicast or
/// broadcast (but for IPv6's packet too big), to a source that is not one host's, or about bytes that are no IP packet;
/// also if `from` is not of `inner`'s family or the buffer holds fewer than [`ERROR_BYTES`].
///
/// No error is sent about an IPv6 packet with extension headers other than a fragment's: they are not walked, so it might
/// hold an ICMP error.
pub fn error(inner: &[u8], trouble: Trouble, from: IpAddr, buffer: &mut [u8]) -> Option<usize> {
    let inner = IpPacket::parse(inner).ok()?;
    let buffer = buffer.get_mut(..ERROR_BYTES)?;
    if !may_be_answered(&inner, trouble) {
        return None;
    }
    match (from, inner.source()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (kind, code, rest) = match trouble {
                Trouble::NoRoute => (3, 0, 0),
                Trouble::Prohibited => (3, 13, 0),
                Trouble::TooBig { mtu } => (3, 4, mtu.min(0xffff)),
                Trouble::Unreachable => (3, 1, 0),
            };
            let (header, message) = buffer[..IPV4_ERROR_BYTES].split_at_mut(IPV4_HEADER_BYTES);
            let length = IPV4_HEADER_BYTES + quote(message, kind, code, rest, &inner);
            // Precedence 6, as RFC 1812 section 4.3.2.5 asks. DF, so that the id has no meaning (RFC 6864).
            header[..12].copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0x40, 0, HOPS, ICMP, 0, 0]);
            put_word(header, 2, length as u16);
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let checksum = Sum::of(header).checksum();
            put_word(header, 10, checksum);
            let checksum = Sum::of(&message[..length - IPV4_HEADER_BYTES]).checksum();
            put_word(message, 2, checksum);
            Some(length)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (kind, code, rest) = match trouble {
                Trouble::NoRoute => (1, 0, 0),
                Trouble::Prohibited => (1, 1, 0),
                Trouble::TooBig { mtu } => (2, 0, mtu),
                Trouble::Unreachable => (1, 3, 0),
            };
            let (header, message) = buffer.split_at_mut(IPV6_HEADER_BYTES);
            let length = quote(message, kind, code, rest, &inner);
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, ICMPV6, HOPS]);
            put_word(header, 4, length as u16);
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
            let sum = Sum::of_pseudo_header(&header[8..40], ICMPV6, length);
            let checksum = sum.and(Sum::of(&message[..length])).checksum();
            put_word(message, 2, checksum);
            Some(IPV6_HEADER_BYTES + length)
        }
        _ => None,
    }
}

/// Writes an ICMP message without its checksum, with as much of the inner packet as fits, and returns its length.
fn quote(message: &mut [u8], kind: u8, code: u8, rest: u32, inner: &IpPacket<'_>) -> usize {
    let (header, quoted) = message.split_at_mut(ICMP_HEADER_BYTES);
    header[..4].copy_from_slice(&[kind, code, 0, 0]);
    header[4..].copy_from_slice(&rest.to_be_bytes());
    let length = inner.bytes().len().min(quoted.len());
    quoted[..length].copy_from_slice(&inner.bytes()[..length]);
    ICMP_HEADER_BYTES + length
}

/// Whether an error about a packet may be sent (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4(e)).
fn may_be_answered(inner: &IpPacket<'_>, trouble: Trouble) -> bool {
    if inner.is_later_fragment() || !is_one_host(inner.source()) || holds_error(inner) {
        return false;
    }
    match inner.destination() {
        IpAddr::V4(to) => !to.is_multicast() && !to.is_broadcast(),
        IpAddr::V6(to) => !to.is_multicast() || matches!(trouble, Trouble::TooBig { .. }),
    }
}

/// Whether an address can be that of one host that a message can be sent to.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        // "This network", loopback, multicast, reserved and broadcast are not.
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => {
            !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
        }
    }
}

/// Whether a packet holds an ICMP error, or may hold one out of sight.
fn holds_error(inner: &IpPacket<'_>) -> bool {
    match inner.version() {
        // All but queries and their replies; of a type that nobody knows, the worst is assumed.
        IpVersion::V4 => {
            inner.protocol() == ICMP
                && !matches!(inner.payload().first(), Some(0 | 8 | 9 | 10 | 13..=18))
        }
        IpVersion::V6 => {
            let (protocol, payload) = match inner.protocol() {
                IPV6_FRAGMENT => match inner.payload().split_at_checked(8) {
                    Some((fragment, payload)) => (fragment[0], payload),
                    None => return true,
                },
                protocol => (protocol, inner.payload()),
            };
            match protocol {
                // Informational messages start at 128; a redirect (137) is answered like an error.
                ICMPV6 => !matches!(payload.first(), Some(128..=136 | 138..)),
                // The extension headers (IANA's list of them), which may hide anything.
                0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => true,
                _ => false,
            }
        }
    }
}

#[cfg(test)]
mod tests;
