//! Handshakes and sessions of our own: the messages around the Noise handshake, and which of the keys are used for what
//! (WireGuard paper, section 6).

use std::sync::Arc;
use std::time::Duration;

use wireloom_model::{PresharedKey, PrivateKey, PublicKey};

use super::handshake::{Begun, FIRST_BYTES, Heard, Keys, SECOND_BYTES};
use super::session::Session;
use super::stamp::Stamp;
use super::{Lane, Limits, Opened, Refused, Sending, Wall};
use crate::cookie::{Mac, Macs};
use crate::drops::DropReason;
use crate::message::{INITIATION_BYTES, Message, RESPONSE_BYTES, write_initiation, write_response};
use crate::moment::Moment;
use crate::timers::{REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};

/// How long a cookie is shown.
const COOKIE_LIFE: Duration = Duration::from_secs(120);

/// Our private key.
pub(crate) struct Identity(PrivateKey);

/// An initiation of ours that may still be answered.
struct Pending {
    index: u32,
    sent: Moment,
    handshake: Box<Begun>,
}

/// One peer's handshakes and sessions.
pub(crate) struct Engine {
    own: PrivateKey,
    peer: PublicKey,
    preshared_key: Option<PresharedKey>,
    /// The MACs of messages to the peer.
    macs: Macs,
    index: u32,
    /// The lower 8 bits of the index that was given out last.
    serial: u8,
    limits: Limits,
    wall: Wall,
    /// The sessions: the one that is sent on, the one before, and one that the peer has initiated and not confirmed.
    current: Option<Arc<Session>>,
    previous: Option<Arc<Session>>,
    next: Option<Arc<Session>>,
    /// The last initiation, and the one before it, to which a late answer is as good.
    pending: [Option<Pending>; 2],
    /// The index in the initiation that was sent last.
    initiation: Option<u32>,
    /// The timestamp that we sent last.
    sent: Option<Stamp>,
    /// The highest timestamp received.
    received: Option<Stamp>,
    /// The first MAC of the handshake message that was sent last, until a cookie has come for it.
    shown: Option<Mac>,
    cookie: Option<(Mac, Moment)>,
}

impl Identity {
    pub(super) fn new(key: &PrivateKey) -> Self {
        Self(key.clone())
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    /// Reads an initiation. Costs two Diffie-Hellman.
    pub(super) fn hear(&self, initiation: &[u8]) -> Option<Heard> {
        let Message::Initiation { sender } = Message::parse(initiation)? else { return None };
        Heard::read(&self.0, sender, initiation.get(8..8 + FIRST_BYTES)?)
    }
}

impl Engine {
    pub(super) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        index: u32,
        limits: Limits,
        wall: Wall,
    ) -> Self {
        Self {
            own: identity.0.clone(),
            peer: *peer,
            preshared_key: preshared_key.cloned(),
            macs: Macs::new(peer),
            index,
            serial: 0,
            limits,
            wall,
            current: None,
            previous: None,
            next: None,
            pending: [None, None],
            initiation: None,
            sent: None,
            received: None,
            shown: None,
            cookie: None,
        }
    }

    pub(super) fn succeed(&mut self, former: &Self) {
        self.sent = former.sent;
        self.received = former.received;
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn sending(&self, now: Moment) -> Option<Sending> {
        let session = self.current.as_ref().filter(|session| session.is_fresh(now))?;
        let sealed = session.sealed();
        (sealed < self.limits.reject_after).then_some(Sending {
            began: session.began,
            initiator: session.initiator,
            is_worn: sealed >= self.limits.rekey_after,
        })
    }

    pub(super) fn confirmation_due(&self, now: Moment) -> Option<Moment> {
        let waiting = self.sessions().filter(|session| !session.is_confirmed());
        let due = waiting.map(|session| session.began + REKEY_TIMEOUT).max()?;
        (now < due).then_some(due)
    }

    pub(super) fn is_alive(&self, now: Moment) -> bool {
        self.sessions().any(|session| session.is_fresh(now))
    }

    pub(super) fn initiate(&mut self, now: Moment, buffer: &mut [u8]) -> Option<usize> {
        let stamp = Stamp::of((self.wall)(now));
        // The wall clock may have been set back, or stand still between two.
        let stamp = self.sent.map_or(stamp, |sent| stamp.max(sent.next()));
        let message = buffer.get_mut(..INITIATION_BYTES)?;
        let first = &mut message[8..8 + FIRST_BYTES];
        let psk = self.preshared_key.as_ref();
        let handshake = Box::new(Begun::write(&self.own, &self.peer, psk, stamp, first)?);
        let index = self.fresh_index();
        write_initiation(message, index);
        self.show(now, message);
        self.sent = Some(stamp);
        self.initiation = Some(index);
        let [last, before] = &mut self.pending;
        *before = last.replace(Pending { index, sent: now, handshake });
        Some(INITIATION_BYTES)
    }

    pub(super) fn answer(
        &mut self,
        now: Moment,
        heard: Heard,
        buffer: &mut [u8],
    ) -> Result<usize, DropReason> {
        if heard.peer != self.peer {
            return Err(DropReason::BadHandshake);
        }
        if self.received.is_some_and(|received| heard.stamp <= received) {
            return Err(DropReason::Replay);
        }
        let (stamp, sender) = (heard.stamp, heard.sender);
        let message = buffer.get_mut(..RESPONSE_BYTES).ok_or(DropReason::BadHandshake)?;
        let second = &mut message[12..12 + SECOND_BYTES];
        let keys = heard.write(self.preshared_key.as_ref(), second);
        let keys = keys.ok_or(DropReason::BadHandshake)?;
        self.received = Some(stamp);
        let index = self.fresh_index();
        write_response(message, index, sender);
        self.show(now, message);
        // What was sent before the peer begins to use the new keys comes in on the current ones.
        self.previous = None;
        let limit = self.limits.reject_after;
        self.next = Some(Arc::new(Session::new([index, sender], false, now, limit, &keys)));
        Ok(RESPONSE_BYTES)
    }

    pub(super) fn complete(
        &mut self,
        now: Moment,
        receiver: u32,
        response: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, DropReason> {
        let Some(Message::Response { sender, .. }) = Message::parse(response) else {
            return Err(DropReason::BadHandshake);
        };
        let is_it = |pending: &Pending| pending.index == receiver;
        let place = self.pending.iter().position(|pending| pending.as_ref().is_some_and(is_it));
        let place = place.ok_or(DropReason::BadHandshake)?;
        let keys = self.read_second(place, response).ok_or(DropReason::BadHandshake)?;
        // What is older than the one that was answered is over as well.
        self.pending[place..].fill_with(|| None);
        let limit = self.limits.reject_after;
        let session = Session::new([receiver, sender], true, now, limit, &keys);
        let former = self.current.replace(Arc::new(session));
        self.previous = self.next.take().or(former);
        self.seal(now, 0, buffer).ok_or(DropReason::BadHandshake)
    }

    pub(super) fn initiated_last(&self, index: u32) -> bool {
        self.initiation == Some(index)
    }

    pub(super) fn take_cookie(&mut self, now: Moment, reply: &[u8]) -> Result<(), DropReason> {
        let shown = self.shown.as_ref().ok_or(DropReason::BadHandshake)?;
        let cookie = self.macs.open_cookie(reply, shown).ok_or(DropReason::BadHandshake)?;
        self.cookie = Some((cookie, now));
        self.shown = None;
        Ok(())
    }

    pub(super) fn seal(&mut self, now: Moment, length: usize, buffer: &mut [u8]) -> Option<usize> {
        self.lane(now, 1)?.seal(length, buffer)
    }

    pub(super) fn lane(&self, now: Moment, messages: u64) -> Option<Lane> {
        let session = self.current.as_ref().filter(|session| session.is_fresh(now))?;
        let numbers = session.reserve(messages)?;
        Some(Lane { session: Arc::clone(session), numbers })
    }

    pub(super) fn session(&self, now: Moment, index: u32) -> Result<&Arc<Session>, DropReason> {
        let session = self.sessions().find(|session| session.index == index);
        let session = session.ok_or(DropReason::UnknownSession)?;
        if session.is_fresh(now) { Ok(session) } else { Err(DropReason::Expired) }
    }

    pub(super) fn open(
        &mut self,
        now: Moment,
        receiver: u32,
        counter: u64,
        message: &[u8],
        buffer: &mut [u8],
    ) -> Result<Opened, Refused> {
        let result = self.session(now, receiver)?.receiver().open(counter, message, buffer);
        self.confirmed(receiver);
        result
    }

    pub(super) fn confirmed(&mut self, index: u32) {
        let next = self.next.take_if(|next| next.index == index && next.is_confirmed());
        if next.is_some() {
            // The peer uses the new keys, and so do we.
            self.previous = std::mem::replace(&mut self.current, next);
        }
    }

    pub(super) fn forget(&mut self, now: Moment) {
        for session in [&mut self.current, &mut self.previous, &mut self.next] {
            session.take_if(|session| !session.is_fresh(now));
        }
        for pending in &mut self.pending {
            pending.take_if(|pending| now.since(pending.sent) >= REKEY_ATTEMPT_TIME);
        }
    }

    fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        [&self.current, &self.previous, &self.next].into_iter().flatten()
    }

    fn read_second(&mut self, place: usize, response: &[u8]) -> Option<Keys> {
        let pending = self.pending.get_mut(place)?.as_mut()?;
        pending.handshake.read(response.get(12..12 + SECOND_BYTES)?)
    }

    /// An index that no session and no handshake has. There are 256, and five in use at most.
    fn fresh_index(&mut self) -> u32 {
        loop {
            self.serial = self.serial.wrapping_add(1);
            let index = self.index << 8 | u32::from(self.serial);
            if !self.uses(index) {
                return index;
            }
        }
    }

    fn uses(&self, index: u32) -> bool {
        self.sessions().any(|session| session.index == index)
            || self.pending.iter().flatten().any(|pending| pending.index == index)
    }

    /// Writes the MACs of a handshake message.
    fn show(&mut self, now: Moment, message: &mut [u8]) {
        self.cookie.take_if(|(_, received)| now.since(*received) >= COOKIE_LIFE);
        let cookie = self.cookie.as_ref().map(|(cookie, _)| cookie);
        self.shown = Some(self.macs.sign(message, cookie));
    }
}

#[cfg(test)]
mod tests;
