//! The two MACs of handshake messages, and the cookie that a host under load asks for (WireGuard paper, sections 5.3,
//! 5.4.4 and 5.4.7).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, Mac as KeyedHash};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq as _;
use wireloom_model::PublicKey;

use crate::message::{COOKIE_REPLY_BYTES, COOKIE_REPLY_TYPE, MAC_BYTES};
use crate::moment::Moment;

/// How long a secret stands, and with it the cookies made from it.
const SECRET_LIFE: Duration = Duration::from_secs(120);
const NONCE_BYTES: usize = 24;

/// One of the MACs, or a cookie.
pub(crate) type Mac = [u8; MAC_BYTES];

/// Checks and makes what depends on the public key of whoever receives handshake messages.
pub(crate) struct Macs {
    mac1_key: [u8; 32],
    cookie: XChaCha20Poly1305,
}

impl Macs {
    pub(crate) fn new(receiver: &PublicKey) -> Self {
        let labelled = |label: &[u8]| -> [u8; 32] {
            Blake2s256::new()
                .chain_update(label)
                .chain_update(receiver.as_bytes())
                .finalize()
                .into()
        };
        Self {
            mac1_key: labelled(b"mac1----"),
            cookie: XChaCha20Poly1305::new(&labelled(b"cookie--").into()),
        }
    }

    /// Writes both MACs of a message to the receiver, the second one only with a cookie of its, and returns the first.
    pub(crate) fn sign(&self, message: &mut [u8], cookie: Option<&Mac>) -> Mac {
        let Some((rest, mac2)) = message.split_last_chunk_mut() else { return Mac::default() };
        let Some((body, mac1)) = rest.split_last_chunk_mut() else { return Mac::default() };
        *mac1 = mac(&self.mac1_key, &[body]);
        *mac2 = cookie.map_or_else(Mac::default, |cookie| mac(cookie, &[body, mac1]));
        *mac1
    }

    /// Whether the first MAC of a handshake message was made for the receiver.
    pub(crate) fn is_for_us(&self, message: &[u8]) -> bool {
        let Some((body, [mac1, _])) = split(message) else { return false };
        mac(&self.mac1_key, &[body]).ct_eq(mac1).into()
    }

    /// The reply that tells the sender of this message its cookie.
    pub(crate) fn reply(
        &self,
        message: &[u8],
        sender: u32,
        cookie: &Mac,
        nonce: [u8; NONCE_BYTES],
    ) -> Option<[u8; COOKIE_REPLY_BYTES]> {
        let (_, [mac1, _]) = split(message)?;
        let mut sealed = *cookie;
        let tag =
            self.cookie.encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1, &mut sealed);
        let mut reply = [0; COOKIE_REPLY_BYTES];
        reply[..4].copy_from_slice(&COOKIE_REPLY_TYPE);
        reply[4..8].copy_from_slice(&sender.to_le_bytes());
        reply[8..32].copy_from_slice(&nonce);
        reply[32..48].copy_from_slice(&sealed);
        reply[48..].copy_from_slice(&tag.ok()?);
        Some(reply)
    }

    /// The cookie in a reply of the receiver's to the message with this first MAC.
    pub(crate) fn open_cookie(&self, reply: &[u8], mac1: &Mac) -> Option<Mac> {
        let reply: &[u8; COOKIE_REPLY_BYTES] = reply.try_into().ok()?;
        let (nonce, sealed) = reply[8..].split_first_chunk::<NONCE_BYTES>()?;
        let (cookie, tag) = sealed.split_first_chunk::<MAC_BYTES>()?;
        let mut cookie = *cookie;
        let nonce = XNonce::from_slice(nonce);
        self.cookie.decrypt_in_place_detached(nonce, mac1, &mut cookie, tag.into()).ok()?;
        Some(cookie)
    }
}

/// What cookies are made from. The secret changes every two minutes; it is derived, so nothing has to be kept.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The cookie of a source: it proves that its owner receives what is sent there.
    pub(crate) fn cookie(&self, now: Moment, source: SocketAddr) -> Mac {
        let period = now.since_boot().as_secs() / SECRET_LIFE.as_secs();
        let port = source.port().to_le_bytes();
        match source.ip() {
            IpAddr::V4(ip) => mac(&self.0, &[&period.to_le_bytes(), &ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&self.0, &[&period.to_le_bytes(), &ip.octets(), &port]),
        }
    }
}

/// Whether the second MAC of a handshake message was made with this cookie.
pub(crate) fn proves(message: &[u8], cookie: &Mac) -> bool {
    let Some((body, [mac1, mac2])) = split(message) else { return false };
    mac(cookie, &[body, mac1]).ct_eq(mac2).into()
}

/// Writes the second MAC that a sender makes of its cookie.
#[cfg(test)]
pub(crate) fn prove(message: &mut [u8], cookie: &Mac) {
    let (body, mac2) = message.split_at_mut(message.len() - MAC_BYTES);
    mac2.copy_from_slice(&mac(cookie, &[body]));
}

/// A handshake message's body and its two MACs.
fn split(message: &[u8]) -> Option<(&[u8], [&Mac; 2])> {
    let (rest, mac2) = message.split_last_chunk()?;
    let (body, mac1) = rest.split_last_chunk()?;
    Some((body, [mac1, mac2]))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    #[expect(
        clippy::expect_used,
        reason = "BLAKE2s takes keys of up to 32 bytes; ours have 16 or 32"
    )]
    let mut mac =
        <Blake2sMac<U16> as KeyedHash>::new_from_slice(key).expect("a key of at most 32 bytes");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize_fixed().into()
}
