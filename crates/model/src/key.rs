//! WireGuard's three kinds of keys.
//!
//! The text form is WireGuard's own: standard base64 of 32 bytes, 44 characters with one `=`, and the unused low bits
//! of the last digit zero (`wireguard-tools`, `src/encoding.c`). Private and preshared keys are zeroised when dropped
//! and never appear in `Debug`, `Display` or an error.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::text::serde_as_text;

/// The length of every key, in bytes.
pub const KEY_BYTES: usize = 32;
/// The length of a key's base64 text, in characters.
pub const KEY_TEXT: usize = 44;

/// A Curve25519 public key: the identity of a node or peer (WireGuard paper, section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

/// A Curve25519 private key, clamped (RFC 7748, section 5).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_BYTES]);

/// The optional symmetric key that two ends mix into their handshake (WireGuard paper, section 5.2).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_BYTES]);

/// Why a text is no key. The text itself is left out, since it may be a secret with a typing error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text does not have 44 characters.
    #[error("a key has 44 base64 characters, this text has {found}")]
    Length {
        /// The characters found.
        found: usize,
    },
    /// The text is not canonical base64 of 32 bytes.
    #[error(
        "a key is canonical base64 of 32 bytes: only A-Z a-z 0-9 + / and one final =, made by `wireloom keygen`"
    )]
    Encoding,
}

impl PublicKey {
    /// Wraps the 32 bytes as they travel on the wire.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes as they travel on the wire.
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl PrivateKey {
    /// Makes a private key of 32 random bytes, clamping them.
    pub fn from_random(random: [u8; KEY_BYTES]) -> Self {
        let mut key = Self(random);
        key.0[0] &= 0b1111_1000;
        key.0[31] &= 0b0111_1111;
        key.0[31] |= 0b0100_0000;
        key
    }

    /// Wraps key material that exists already, as it is: `wg` prints it back unchanged.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The base64 text, for a file that only its owner can read.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }
}

impl PresharedKey {
    /// Wraps 32 bytes. All zero means "none" on WireGuard's wire; callers use `Option` for that.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The base64 text, for a file that only its owner can read.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }
}

fn decode(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    let found = text.chars().count();
    if found != KEY_TEXT {
        return Err(KeyError::Length { found });
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
    match STANDARD.decode_slice(text, bytes.as_mut()) {
        Ok(KEY_BYTES) => {
            let mut key = [0; KEY_BYTES];
            key.copy_from_slice(&bytes[..KEY_BYTES]);
            Ok(key)
        }
        _ => Err(KeyError::Encoding),
    }
}

macro_rules! parse_key {
    ($($type:ident),+) => {$(
        impl FromStr for $type {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                decode(text).map($type)
            }
        }
    )+};
}

parse_key!(PublicKey, PrivateKey, PresharedKey);
serde_as_text!(PublicKey);

/// A preshared key as text, for what is written where its owner alone can read it. Not an implementation on the key
/// itself, so that no secret is serialised by the way.
pub(crate) mod preshared_text {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use zeroize::Zeroizing;

    use super::PresharedKey;

    pub(crate) fn serialize<S: Serializer>(
        key: &Option<PresharedKey>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        key.as_ref().map(PresharedKey::to_text).as_deref().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PresharedKey>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new);
        text.map(|text| text.parse()).transpose().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1.
    const ALICE_PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn the_public_key_is_rfc_7748s() {
        let private: PrivateKey = ALICE_PRIVATE.parse().unwrap();
        assert_eq!(private.public_key().to_string(), ALICE_PUBLIC);
        assert_eq!(private.to_text().as_str(), ALICE_PRIVATE);
    }

    #[test]
    fn random_bytes_are_clamped() {
        let key = PrivateKey::from_random([0xff; 32]);
        assert_eq!(key.as_bytes()[0] & 7, 0);
        assert_eq!(key.as_bytes()[31] & 0xc0, 0x40);
    }

    #[test]
    fn wrong_texts_are_refused_without_showing_them() {
        let short = &ALICE_PRIVATE[..43];
        assert_eq!(short.parse::<PrivateKey>().unwrap_err(), KeyError::Length { found: 43 });
        // 'p' instead of 'o' sets a bit that no byte holds: `wg` refuses it too.
        let loose = ALICE_PRIVATE.replace("Co=", "Cp=");
        assert_eq!(loose.parse::<PublicKey>().unwrap_err(), KeyError::Encoding);
        assert_eq!("é".repeat(44).parse::<PublicKey>().unwrap_err(), KeyError::Encoding);
        let no_padding = format!("{}AA", &ALICE_PRIVATE[..42]);
        assert_eq!(no_padding.parse::<PublicKey>().unwrap_err(), KeyError::Encoding);
    }

    #[test]
    fn secrets_are_not_in_debug() {
        let private: PrivateKey = ALICE_PRIVATE.parse().unwrap();
        assert_eq!(format!("{private:?}"), "PrivateKey(..)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([7; 32])), "PresharedKey(..)");
    }
}
