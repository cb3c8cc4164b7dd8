//! The handshake: Noise's IK pattern with a preshared key, by snow, over primitives of our choice (WireGuard paper,
//! section 5.4).
//!
//! Ephemeral keys come from the operating system: a generator of ours in memory would hand past keys to whoever reads
//! that memory later, and the same keys to two copies of one machine. snow itself does not zeroise its chaining key;
//! what the primitives here hold is zeroised, and a handshake lives for seconds.

use blake2::{Blake2s256, Digest as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use wireloom_model::{PresharedKey, PrivateKey, PublicKey};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::stamp::{STAMP_BYTES, Stamp};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the preshared key is mixed in: with the second message.
const PSK: u8 = 2;
const TAG_BYTES: usize = 16;

/// The length of the first message: ephemeral key, sealed static key, sealed timestamp.
pub(super) const FIRST_BYTES: usize = 32 + (32 + TAG_BYTES) + (STAMP_BYTES + TAG_BYTES);
/// The length of the second message: ephemeral key and sealed nothing.
pub(super) const SECOND_BYTES: usize = 32 + TAG_BYTES;

/// A symmetric key.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// The keys of a session, as one end uses them.
pub(super) struct Keys {
    pub(super) sealing: Key,
    pub(super) opening: Key,
}

/// A first message that we have sent.
pub(super) struct Begun(HandshakeState);

/// A first message that we have received.
pub(super) struct Heard {
    state: HandshakeState,
    /// The sender's index.
    pub(super) sender: u32,
    /// The sender by its own word: whoever recorded the message may have sent it again.
    pub(super) peer: PublicKey,
    pub(super) stamp: Stamp,
}

impl Begun {
    /// Writes the first message, of [`FIRST_BYTES`]. `None` if the peer's key is none that a key can be agreed on with.
    pub(super) fn write(
        own: &PrivateKey,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        stamp: Stamp,
        message: &mut [u8],
    ) -> Option<Self> {
        let psk = preshared_key.map_or(&[0; 32], PresharedKey::as_bytes);
        let state = builder(own)?.remote_public_key(peer.as_bytes()).ok()?.psk(PSK, psk).ok()?;
        let mut state = state.build_initiator().ok()?;
        state.write_message(&stamp.to_bytes(), message).ok()?;
        Some(Self(state))
    }

    /// Reads the second message. One that is not the answer changes nothing.
    pub(super) fn read(&mut self, message: &[u8]) -> Option<Keys> {
        self.0.read_message(message, &mut []).ok()?;
        let (sealing, opening) = self.0.dangerously_get_raw_split();
        Some(Keys { sealing: Zeroizing::new(sealing), opening: Zeroizing::new(opening) })
    }
}

impl Heard {
    /// Reads the first message.
    pub(super) fn read(own: &PrivateKey, sender: u32, message: &[u8]) -> Option<Self> {
        let mut state = builder(own)?.build_responder().ok()?;
        let mut stamp = [0; STAMP_BYTES];
        state.read_message(message, &mut stamp).ok()?;
        let peer = PublicKey::from_bytes(*state.get_remote_static()?.first_chunk()?);
        Some(Self { state, sender, peer, stamp: Stamp::from_bytes(stamp) })
    }

    /// Writes the second message, of [`SECOND_BYTES`].
    pub(super) fn write(
        mut self,
        preshared_key: Option<&PresharedKey>,
        message: &mut [u8],
    ) -> Option<Keys> {
        let psk = preshared_key.map_or(&[0; 32], PresharedKey::as_bytes);
        self.state.set_psk(PSK.into(), psk).ok()?;
        self.state.write_message(&[], message).ok()?;
        let (opening, sealing) = self.state.dangerously_get_raw_split();
        Some(Keys { sealing: Zeroizing::new(sealing), opening: Zeroizing::new(opening) })
    }
}

fn builder(own: &PrivateKey) -> Option<Builder<'_>> {
    let params: NoiseParams = PATTERN.parse().ok()?;
    let builder = Builder::with_resolver(params, Box::new(Primitives));
    builder.local_private_key(own.as_bytes()).ok()?.prologue(PROLOGUE).ok()
}

/// A key for the cipher of handshakes and of data.
pub(super) fn cipher(key: &[u8; 32]) -> LessSafeKey {
    #[expect(clippy::expect_used, reason = "the cipher's keys have 32 bytes, as this one")]
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of 32 bytes"))
}

/// The nonce of a message: 32 bits of zero and its number.
pub(super) fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What snow takes its primitives from.
struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(System(SystemRandom::new())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<Curve25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        let hash = || Box::<Blake2s>::default() as Box<dyn Hash>;
        matches!(choice, HashChoice::Blake2s).then(hash)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let cipher = || Box::<ChaChaPoly>::default() as Box<dyn Cipher>;
        matches!(choice, CipherChoice::ChaChaPoly).then(cipher)
    }
}

struct System(SystemRandom);

impl Random for System {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.0.fill(bytes).map_err(|_| Error::Rng)
    }
}

#[derive(Default)]
struct Curve25519 {
    secret: Key,
    public: [u8; 32],
}

impl Dh for Curve25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        let secret = StaticSecret::from(*self.secret);
        self.public = x25519_dalek::PublicKey::from(&secret).to_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Key::default();
        random.try_fill_bytes(secret.as_mut())?;
        self.set(secret.as_ref());
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_ref()
    }

    fn dh(&self, public: &[u8], shared: &mut [u8]) -> Result<(), Error> {
        let public = x25519_dalek::PublicKey::from(*public.first_chunk().ok_or(Error::Dh)?);
        let secret = StaticSecret::from(*self.secret).diffie_hellman(&public);
        // A public key of low order makes a secret that everybody knows.
        if !secret.was_contributory() {
            return Err(Error::Dh);
        }
        shared[..32].copy_from_slice(secret.as_bytes());
        Ok(())
    }
}

#[derive(Default)]
struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, hash: &mut [u8]) {
        hash[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

#[derive(Default)]
struct ChaChaPoly(Key);

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0.copy_from_slice(key);
    }

    fn encrypt(&self, number: u64, data: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, rest) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        let tag =
            cipher(&self.0).seal_in_place_separate_tag(nonce(number), Aad::from(data), sealed);
        #[expect(clippy::expect_used, reason = "only 256 GiB and more are too long to seal")]
        rest[..TAG_BYTES].copy_from_slice(tag.expect("a handshake's length").as_ref());
        plaintext.len() + TAG_BYTES
    }

    fn decrypt(
        &self,
        number: u64,
        data: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let (sealed, tag) = ciphertext.split_last_chunk::<TAG_BYTES>().ok_or(Error::Decrypt)?;
        let plaintext = out.get_mut(..sealed.len()).ok_or(Error::Decrypt)?;
        plaintext.copy_from_slice(sealed);
        cipher(&self.0)
            .open_in_place_separate_tag(
                nonce(number),
                Aad::from(data),
                (*tag).into(),
                plaintext,
                0..,
            )
            .map_err(|_| Error::Decrypt)?;
        Ok(sealed.len())
    }
}
