//! The engine by boringtun: the only module that knows it.
//!
//! boringtun's `Tunn` does the cryptography and nothing else: all timers are our own, and so is the record of its
//! sessions, which bounds their age and their message counts. What the engine asks of `Tunn`:
//!
//! - It keeps sessions in a ring of eight by the low bits of their index. The record here mirrors that ring.
//! - It sends on the session that was established last among those that are confirmed. So does the record.
//! - Its own clock moves only in `update_timers`, which would also send by its own timers: [`Engine::tick`] moves the
//!   clock and leaves no room to send.
//! - Its replay window is 1,024 messages wide.
//! - Its rate limiter is out of reach of any load: the gate of the device stands before it.
//!
//! Its ephemeral keys come from the operating system's random source, and its timestamps from the wall clock.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use wireloom_model::{PresharedKey, PrivateKey, PublicKey};

use super::{Limits, Opened, Refused, Sending};
use crate::drops::DropReason;
use crate::message::{DATA_OVERHEAD, Message, sender_index};
use crate::moment::Moment;
use crate::timers::{REJECT_AFTER_TIME, REKEY_TIMEOUT};

/// The sessions that a `Tunn` holds.
const RING: usize = 8;
/// Our private key, and what boringtun makes of it.
pub(crate) struct Identity {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
}

impl Identity {
    pub(super) fn new(key: &PrivateKey) -> Self {
        let secret = x25519::StaticSecret::from(*key.as_bytes());
        let public = x25519::PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self { secret, public, limiter }
    }

    pub(super) fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.public.to_bytes())
    }

    /// Who an initiation claims to come from. Costs one Diffie-Hellman.
    pub(super) fn initiator(&self, initiation: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(message)) = Tunn::parse_incoming_packet(initiation) else {
            return None;
        };
        let half = parse_handshake_anon(&self.secret, &self.public, &message).ok()?;
        Some(PublicKey::from_bytes(half.peer_static_public))
    }
}

/// What is known of a session in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    /// Our index of it.
    index: u32,
    began: Moment,
    /// Which of an engine's sessions it is. `Tunn` compares its own times, which grow in the same order.
    order: u64,
    /// Whether we sent the initiation.
    initiator: bool,
    /// Whether the other end has proven that it holds the keys.
    confirmed: bool,
    /// Messages sealed.
    sealed: u64,
    /// One above the highest message number received.
    newest: u64,
}

impl Session {
    fn is_fresh(&self, now: Moment) -> bool {
        now.since(self.began) < REJECT_AFTER_TIME
    }
}

/// One peer's `Tunn`, and the record of its sessions.
pub(crate) struct Engine {
    tunn: Tunn,
    index: u32,
    limits: Limits,
    sessions: [Option<Session>; RING],
    current: Option<usize>,
    established: u64,
    /// Our index in the initiation that was sent last.
    initiation: Option<u32>,
    /// The packet that is being sealed.
    packet: Vec<u8>,
}

impl Engine {
    pub(super) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        index: u32,
        limits: Limits,
    ) -> Self {
        let tunn = Tunn::new(
            identity.secret.clone(),
            x25519::PublicKey::from(*peer.as_bytes()),
            preshared_key.map(|key| *key.as_bytes()),
            None,
            index,
            Some(Arc::clone(&identity.limiter)),
        );
        Self {
            tunn,
            index,
            limits,
            sessions: [None; RING],
            current: None,
            established: 0,
            initiation: None,
            packet: Vec::new(),
        }
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn sending(&self, now: Moment) -> Option<Sending> {
        let session = self.sessions[self.current?].as_ref()?;
        let usable = session.is_fresh(now) && session.sealed < self.limits.reject_after;
        usable.then_some(Sending {
            began: session.began,
            initiator: session.initiator,
            is_worn: session.sealed >= self.limits.rekey_after,
        })
    }

    pub(super) fn confirmation_due(&self, now: Moment) -> Option<Moment> {
        let waiting = self.sessions.iter().flatten().filter(|session| !session.confirmed);
        let due = waiting.map(|session| session.began + REKEY_TIMEOUT).max()?;
        (now < due).then_some(due)
    }

    pub(super) fn is_alive(&self, now: Moment) -> bool {
        self.sessions.iter().flatten().any(|session| session.is_fresh(now))
    }

    pub(super) fn initiate(&mut self, _: Moment, buffer: &mut [u8]) -> Option<usize> {
        self.tick();
        let TunnResult::WriteToNetwork(message) =
            self.tunn.format_handshake_initiation(buffer, true)
        else {
            return None;
        };
        self.initiation = sender_index(message);
        Some(message.len())
    }

    pub(super) fn answer(
        &mut self,
        now: Moment,
        initiation: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, DropReason> {
        let response = self.shake_hands(initiation, buffer)?;
        let length = response.len();
        let index = sender_index(response).ok_or(DropReason::BadHandshake)?;
        self.record(now, index, false);
        Ok(length)
    }

    pub(super) fn complete(
        &mut self,
        now: Moment,
        receiver: u32,
        response: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, DropReason> {
        let length = self.shake_hands(response, buffer)?.len();
        self.record(now, receiver, true);
        Ok(length)
    }

    pub(super) fn initiated_last(&self, index: u32) -> bool {
        self.initiation == Some(index)
    }

    pub(super) fn take_cookie(&mut self, _: Moment, reply: &[u8]) -> Result<(), DropReason> {
        match self.tunn.decapsulate(None, reply, &mut []) {
            TunnResult::Done => Ok(()),
            _ => Err(DropReason::BadHandshake),
        }
    }

    pub(super) fn seal(&mut self, now: Moment, length: usize, buffer: &mut [u8]) -> Option<usize> {
        self.sending(now)?;
        debug_assert!(buffer.len() >= length + DATA_OVERHEAD, "no room to seal");
        let session = self.sessions[self.current?].as_mut()?;
        // `Tunn` does not seal in place.
        self.packet.clear();
        self.packet.extend_from_slice(&buffer[16..16 + length]);
        let TunnResult::WriteToNetwork(message) = self.tunn.encapsulate(&self.packet, buffer)
        else {
            return None;
        };
        let Some(Message::Data { counter, .. }) = Message::parse(message) else { return None };
        session.sealed = counter + 1;
        Some(message.len())
    }

    pub(super) fn open(
        &mut self,
        now: Moment,
        receiver: u32,
        counter: u64,
        message: &[u8],
        buffer: &mut [u8],
    ) -> Result<Opened, Refused> {
        let place = receiver as usize % RING;
        let current = self.current.and_then(|current| self.sessions[current]);
        let session = self.sessions[place].as_mut().filter(|session| session.index == receiver);
        let session = session.ok_or(DropReason::UnknownSession)?;
        if !session.is_fresh(now) || counter >= self.limits.reject_after {
            return Err(DropReason::Expired.into());
        }
        let (packet, malformed) = match self.tunn.decapsulate(None, message, buffer) {
            TunnResult::Done => (None, false),
            TunnResult::WriteToTunnelV4(packet, source) => {
                (Some((packet.len(), IpAddr::V4(source))), packet.len() < 20)
            }
            TunnResult::WriteToTunnelV6(packet, source) => {
                (Some((packet.len(), IpAddr::V6(source))), false)
            }
            // It authenticated, but what came out is no IP packet: the message's own form was checked before.
            TunnResult::Err(WireGuardError::InvalidPacket) => (None, true),
            TunnResult::Err(error) => return Err(reason(&error, DropReason::BadTag).into()),
            TunnResult::WriteToNetwork(_) => return Err(DropReason::BadTag.into()),
        };
        let opened = Opened {
            packet: packet.filter(|_| !malformed),
            confirms: !session.confirmed,
            is_newest: counter >= session.newest,
        };
        session.confirmed = true;
        session.newest = session.newest.max(counter + 1);
        if current.is_none_or(|current| session.order >= current.order) {
            self.current = Some(place);
        }
        if malformed {
            return Err(Refused { reason: DropReason::BadPacket, opened: Some(opened) });
        }
        Ok(opened)
    }

    pub(super) fn forget(&mut self, now: Moment) {
        self.tick();
        for session in &mut self.sessions {
            session.take_if(|session| !session.is_fresh(now));
        }
    }

    /// Takes a handshake message, and returns the one that follows it.
    fn shake_hands<'a>(
        &mut self,
        message: &[u8],
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8], DropReason> {
        self.tick();
        match self.tunn.decapsulate(None, message, buffer) {
            TunnResult::WriteToNetwork(next) => Ok(next),
            TunnResult::Err(error) => Err(reason(&error, DropReason::BadHandshake)),
            _ => Err(DropReason::BadHandshake),
        }
    }

    fn record(&mut self, now: Moment, index: u32, initiator: bool) {
        self.established += 1;
        let place = index as usize % RING;
        let session = Session {
            index,
            began: now,
            order: self.established,
            initiator,
            confirmed: initiator,
            // The keepalive that confirms a session to its responder is its first message.
            sealed: u64::from(initiator),
            newest: 0,
        };
        self.sessions[place] = Some(session);
        if initiator {
            self.current = Some(place);
        } else if self.current == Some(place) {
            // Its place in the ring went to the new one, which is not confirmed yet.
            self.current = None;
        }
    }

    /// Moves `Tunn`'s clock, by which it orders and expires sessions and cookies.
    fn tick(&mut self) {
        // Room for a keepalive, which is not sent, and none for an initiation, which is then not begun.
        let mut room = [0; DATA_OVERHEAD];
        let _ = self.tunn.update_timers(&mut room);
        if self.tunn.time_since_last_handshake().is_none() {
            self.current = None;
        }
    }
}

/// The reason to count for an error of boringtun's.
fn reason(error: &WireGuardError, otherwise: DropReason) -> DropReason {
    match error {
        WireGuardError::DuplicateCounter
        | WireGuardError::InvalidCounter
        | WireGuardError::WrongTai64nTimestamp => DropReason::Replay,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => DropReason::UnknownSession,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests;
