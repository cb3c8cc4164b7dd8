//! The seam to whatever does the cryptography.
//!
//! An [`Engine`] is one peer's handshakes and sessions under one preshared key. It keeps no timers: those are the
//! [peer's](crate::peer). There are two: [`noise`] holds sessions of our own, [`boringtun`] those of boringtun, by which
//! ours are checked. Which one a device uses is chosen when it is made, and nothing outside this module tells them apart.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use wireloom_model::{PresharedKey, PrivateKey, PublicKey};

use crate::drops::DropReason;
use crate::message::INITIATION_BYTES;
use crate::moment::Moment;

pub(crate) use session::Receiver;

mod boringtun;
mod counter;
mod handshake;
mod noise;
mod session;
mod stamp;
mod window;

/// What is swapped for a checker's own when counters are checked (`tests/interleavings.rs`).
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// The smallest buffer for everything but data: an initiation is the longest.
pub(crate) const HANDSHAKE_ROOM: usize = INITIATION_BYTES;

/// Which implementation of handshakes and sessions a device uses. On the wire they can't be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EngineKind {
    /// boringtun's, by which ours is checked.
    Boringtun,
    /// Our own: the handshake by snow, the cipher by ring. Faster, since one peer's packets are sealed and opened by
    /// several threads at once.
    #[default]
    Noise,
}

/// A text that names no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no engine {0:?}: use boringtun or noise")]
pub struct UnknownEngine(String);

impl EngineKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Boringtun, Self::Noise];

    /// The name by which it is chosen and shown.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Boringtun => "boringtun",
            Self::Noise => "noise",
        }
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let found = Self::ALL.into_iter().find(|kind| kind.label() == text);
        found.ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// How many messages a session may carry (WireGuard paper, section 6.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The keys are renewed after this many.
    pub(crate) rekey_after: u64,
    /// No message with this number or a higher one is sealed or opened.
    pub(crate) reject_after: u64,
}

impl Limits {
    pub(crate) const WIREGUARD: Self =
        Self { rekey_after: 1 << 60, reject_after: u64::MAX - (1 << 13) };
}

/// Tells the time since the Unix epoch, for the timestamps of initiations. boringtun reads its own.
pub(crate) type Wall = fn(Moment) -> Duration;

/// Who we are: the private key and what follows from it.
pub(crate) enum Identity {
    Boringtun(boringtun::Identity),
    Noise(noise::Identity),
}

/// The sender of an initiation by its own word, which its first message has still to prove.
pub(crate) struct Introduction {
    pub(crate) key: PublicKey,
    /// The handshake as far as it was read.
    heard: Option<Box<handshake::Heard>>,
}

/// One peer's handshakes and sessions.
pub(crate) enum Engine {
    Boringtun(Box<boringtun::Engine>),
    Noise(Box<noise::Engine>),
}

/// A data message that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The packet's length at the start of the buffer, and its source. `None` for a keepalive.
    pub(crate) packet: Option<(usize, IpAddr)>,
    /// Whether it is the first of its session, by which the other end proves that it holds the keys.
    pub(crate) confirms: bool,
    /// Whether no message sent later has been received.
    pub(crate) is_newest: bool,
}

/// Why a message brought nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: DropReason,
    /// Whether it came from the peer all the same.
    pub(crate) opened: Option<Opened>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, opened: None }
    }
}

/// A session that needs no lock of the peer's.
pub(crate) struct Session(Arc<session::Session>);

/// A session, and the numbers of the messages that are sealed on it next.
pub(crate) struct Lane {
    session: Arc<session::Session>,
    numbers: counter::Numbers,
}

/// The age and use of the session that is sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) began: Moment,
    pub(crate) initiator: bool,
    /// Whether it has carried so many messages that it must be renewed.
    pub(crate) is_worn: bool,
}

impl Identity {
    pub(crate) fn new(kind: EngineKind, key: &PrivateKey) -> Self {
        match kind {
            EngineKind::Boringtun => Self::Boringtun(boringtun::Identity::new(key)),
            EngineKind::Noise => Self::Noise(noise::Identity::new(key)),
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        match self {
            Self::Boringtun(identity) => identity.public_key(),
            Self::Noise(identity) => identity.public_key(),
        }
    }

    /// Who an initiation claims to come from. Costs one or two Diffie-Hellman.
    pub(crate) fn initiator(&self, initiation: &[u8]) -> Option<Introduction> {
        match self {
            Self::Boringtun(identity) => {
                Some(Introduction { key: identity.initiator(initiation)?, heard: None })
            }
            Self::Noise(identity) => {
                let heard = identity.hear(initiation)?;
                Some(Introduction { key: heard.peer, heard: Some(Box::new(heard)) })
            }
        }
    }
}

impl Session {
    /// The right to open its messages.
    pub(crate) fn receiver(&self) -> Receiver<'_> {
        self.0.receiver()
    }
}

impl Lane {
    /// As [`Engine::seal`]. `None` once more messages were sealed than the lane was taken for.
    pub(crate) fn seal(&mut self, length: usize, buffer: &mut [u8]) -> Option<usize> {
        let number = self.numbers.next()?;
        Some(self.session.seal(number, length, buffer))
    }
}

/// The same of whichever engine it is.
macro_rules! either {
    ($engine:expr, $which:ident => $result:expr) => {
        match $engine {
            Engine::Boringtun($which) => $result,
            Engine::Noise($which) => $result,
        }
    };
}

impl Engine {
    /// An engine without sessions. `index` has 24 bits and is this engine's alone: they are the upper bits of every
    /// index by which the other end addresses us.
    pub(crate) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        index: u32,
        limits: Limits,
        wall: Wall,
    ) -> Self {
        match identity {
            Identity::Boringtun(own) => {
                let engine = boringtun::Engine::new(own, peer, preshared_key, index, limits);
                Self::Boringtun(Box::new(engine))
            }
            Identity::Noise(own) => {
                let engine = noise::Engine::new(own, peer, preshared_key, index, limits, wall);
                Self::Noise(Box::new(engine))
            }
        }
    }

    /// Takes over from an engine of the same peer what has to outlive it: the timestamps.
    pub(crate) fn succeed(&mut self, former: &Self) {
        if let (Self::Noise(engine), Self::Noise(former)) = (self, former) {
            engine.succeed(former);
        }
    }

    /// The upper 24 bits of its indexes.
    pub(crate) fn index(&self) -> u32 {
        either!(self, engine => engine.index())
    }

    /// The session that is sent on, while it may be.
    pub(crate) fn sending(&self, now: Moment) -> Option<Sending> {
        either!(self, engine => engine.sending(now))
    }

    /// Until when the other end is expected to confirm a session that it initiated.
    pub(crate) fn confirmation_due(&self, now: Moment) -> Option<Moment> {
        either!(self, engine => engine.confirmation_due(now))
    }

    /// Whether any session may still be used to receive.
    pub(crate) fn is_alive(&self, now: Moment) -> bool {
        either!(self, engine => engine.is_alive(now))
    }

    /// Writes an initiation and returns its length. The buffer must have [`HANDSHAKE_ROOM`].
    pub(crate) fn initiate(&mut self, now: Moment, buffer: &mut [u8]) -> Option<usize> {
        either!(self, engine => engine.initiate(now, buffer))
    }

    /// Answers an initiation: writes the response and returns its length.
    pub(crate) fn answer(
        &mut self,
        now: Moment,
        introduction: Introduction,
        initiation: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, DropReason> {
        match self {
            Self::Boringtun(engine) => engine.answer(now, initiation, buffer),
            Self::Noise(engine) => {
                let heard = introduction.heard.ok_or(DropReason::BadHandshake)?;
                engine.answer(now, *heard, buffer)
            }
        }
    }

    /// Takes a response: writes the keepalive that confirms the session and returns its length.
    pub(crate) fn complete(
        &mut self,
        now: Moment,
        receiver: u32,
        response: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, DropReason> {
        either!(self, engine => engine.complete(now, receiver, response, buffer))
    }

    /// Whether the initiation that was sent last carries this index of ours.
    pub(crate) fn initiated_last(&self, index: u32) -> bool {
        either!(self, engine => engine.initiated_last(index))
    }

    /// Takes a cookie, to be shown in the next handshake message.
    pub(crate) fn take_cookie(&mut self, now: Moment, reply: &[u8]) -> Result<(), DropReason> {
        either!(self, engine => engine.take_cookie(now, reply))
    }

    /// Seals the packet of this length, none for a keepalive, that stands 16 bytes into the buffer, and returns the
    /// message's length. `None` if no session may be sent on; the packet is as it was then. The buffer must be 16
    /// bytes longer than what stands in it.
    pub(crate) fn seal(&mut self, now: Moment, length: usize, buffer: &mut [u8]) -> Option<usize> {
        either!(self, engine => engine.seal(now, length, buffer))
    }

    /// Opens a data message into the buffer, which must be as long as the message without its header.
    pub(crate) fn open(
        &mut self,
        now: Moment,
        receiver: u32,
        counter: u64,
        message: &[u8],
        buffer: &mut [u8],
    ) -> Result<Opened, Refused> {
        either!(self, engine => engine.open(now, receiver, counter, message, buffer))
    }

    /// The session that is sent on, with numbers for so many messages: all of them or nothing. `None` too from an engine
    /// whose sessions need the peer's lock.
    pub(crate) fn lane(&self, now: Moment, messages: u64) -> Option<Lane> {
        match self {
            Self::Boringtun(_) => None,
            Self::Noise(engine) => engine.lane(now, messages),
        }
    }

    /// The session with this index of ours, while it may be used and if it needs no lock.
    pub(crate) fn session(&self, now: Moment, index: u32) -> Option<Session> {
        match self {
            Self::Boringtun(_) => None,
            Self::Noise(engine) => Some(Session(Arc::clone(engine.session(now, index).ok()?))),
        }
    }

    /// Learns that a message has come in on the session with this index, if it was the first.
    pub(crate) fn confirmed(&mut self, index: u32) {
        if let Self::Noise(engine) = self {
            engine.confirmed(index);
        }
    }

    /// Forgets sessions that are too old to use.
    pub(crate) fn forget(&mut self, now: Moment) {
        either!(self, engine => engine.forget(now));
    }
}

#[cfg(test)]
mod tests;
