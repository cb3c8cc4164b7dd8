//! One peer: its sessions, path, timers and waiting packets, behind one lock.
//!
//! The hot path takes the lock as a [`Turn`]; what depends on a run of packets as a whole, such as timers, is done when
//! the turn [ends](Turn::end). Where the engine allows it the run is sealed or opened [before](run), without the lock.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore as _;
use wireloom_packet::{Ecn, IpPacket, Local, Outbox, Path, TrafficClass};

use crate::allowed_ips::Slot;
use crate::drops::{DropCounts, DropReason};
use crate::engine::{Engine, HANDSHAKE_ROOM, Sending};
use crate::message::DATA_OVERHEAD;
use crate::moment::Moment;
use crate::peer::looped::Beginnings;
use crate::timers::{Due, REKEY_AFTER_TIME, REKEY_JITTER, REKEY_ON_RECEIVE, REKEY_TIMEOUT, Timers};

pub(crate) use inbound::Sinks;
pub(crate) use run::Arrival;

mod inbound;
mod looped;
mod run;

/// The packets that wait for a session at most; the oldest make room.
const STAGED: usize = 256;
/// The IPv4 and UDP headers of an outer packet, in bytes.
const OUTER_HEADERS_4: u32 = 20 + 8;
/// The IPv6 and UDP headers of an outer packet, in bytes.
const OUTER_HEADERS_6: u32 = 40 + 8;
/// How long the end with the higher key waits before it renews a session that the other end may renew as well.
const STAGGER: Duration = Duration::from_secs(1);

/// A peer of the device.
pub(crate) struct Peer {
    /// Its place in the device's table.
    pub(crate) slot: Slot,
    /// When its timers are due, in nanoseconds since boot; `u64::MAX` is never.
    deadline: AtomicU64,
    state: Mutex<State>,
}

/// What the lock guards.
pub(crate) struct State {
    /// `None` while the device has no private key.
    pub(crate) engine: Option<Engine>,
    /// The engine before the last change of the preshared key: it is used until the new one has a session.
    pub(crate) retired: Option<Engine>,
    /// Where the peer was heard from last, or else where it was configured to be.
    pub(crate) path: Option<Path>,
    /// The longest packet that the path carries whole, as far as is known.
    room: u16,
    /// Whether packets came for the peer since its path was looked at.
    is_in_use: bool,
    pub(crate) timers: Timers,
    pub(crate) last_handshake: Option<Moment>,
    /// Payload bytes of outer datagrams.
    pub(crate) tx_bytes: u64,
    /// The same of those that authenticated.
    pub(crate) rx_bytes: u64,
    /// Whether our public key is higher than the peer's.
    pub(crate) is_higher: bool,
    /// Whether the session is in doubt: the next packet starts a handshake.
    is_doubtful: bool,
    beginnings: Beginnings,
    staged: VecDeque<Vec<u8>>,
    random: ChaCha8Rng,
}

/// A turn of the peer: its lock, and what happened since it was taken.
pub(crate) struct Turn<'a> {
    peer: &'a Peer,
    pub(crate) state: MutexGuard<'a, State>,
    now: Moment,
    sent: Traffic,
    received: Traffic,
    /// Whether a packet waits for a session since this turn.
    wants_session: bool,
}

#[derive(Default)]
struct Traffic {
    any: bool,
    data: bool,
}

impl Peer {
    pub(crate) fn new(slot: Slot, random: ChaCha8Rng) -> Self {
        let state = State {
            engine: None,
            retired: None,
            path: None,
            room: u16::MAX,
            is_in_use: false,
            timers: Timers::default(),
            last_handshake: None,
            tx_bytes: 0,
            rx_bytes: 0,
            is_higher: false,
            is_doubtful: false,
            beginnings: Beginnings::default(),
            staged: VecDeque::new(),
            random,
        };
        Self { slot, deadline: AtomicU64::new(u64::MAX), state: Mutex::new(state) }
    }

    /// Takes the peer's lock.
    pub(crate) fn turn(&self, now: Moment) -> Turn<'_> {
        Turn {
            peer: self,
            state: self.state(),
            now,
            sent: Traffic::default(),
            received: Traffic::default(),
            wants_session: false,
        }
    }

    /// The state, to read.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the state whole: every change of it is a few assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks how long an outer packet to the peer may be, its IP header included, if any packet came for the peer since this
    /// was done last.
    pub(crate) fn look_at_path(&self, ask: impl FnOnce(SocketAddr) -> Option<u32>) {
        let remote = {
            let mut state = self.state();
            let in_use = std::mem::take(&mut state.is_in_use);
            state.path.filter(|_| in_use).map(|path| path.remote)
        };
        // The lock is not held while the kernel thinks.
        let Some((remote, mtu)) = remote.and_then(|remote| Some((remote, ask(remote)?))) else {
            return;
        };
        let mut state = self.state();
        if state.path.is_some_and(|path| path.remote == remote) {
            let headers = if remote.is_ipv4() { OUTER_HEADERS_4 } else { OUTER_HEADERS_6 };
            let room = mtu.saturating_sub(headers + DATA_OVERHEAD as u32);
            state.room = u16::try_from(room).unwrap_or(u16::MAX);
        }
    }

    /// Gives the source address up that the peer is answered from, unless it stays.
    pub(crate) fn look_at_source(&self, stays: impl FnOnce(SocketAddr, Local) -> bool) {
        let path = self.state().path;
        let Some((path, local)) = path.and_then(|path| Some((path, path.local?))) else { return };
        // The lock is not held while the kernel thinks.
        if stays(path.remote, local) {
            return;
        }
        let mut state = self.state();
        if state.path == Some(path) {
            state.path = Some(Path { local: None, ..path });
        }
    }

    /// When the timers are due, in nanoseconds since boot; `u64::MAX` is never.
    pub(crate) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::SeqCst)
    }
}

impl State {
    /// The upper 24 bits of every index by which the peer may address us.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.engine.iter().chain(&self.retired).map(Engine::index)
    }

    /// Puts a new engine in place. While the one before can still send, it does until the new one has a session.
    pub(crate) fn replace_engine(&mut self, now: Moment, mut engine: Engine) {
        if let Some(former) = &self.engine {
            engine.succeed(former);
        }
        let former = self.engine.replace(engine);
        if let Some(former) = former.filter(|former| former.sending(now).is_some()) {
            self.retired = Some(former);
        }
    }

    /// Drops every session and starts over with this engine, or with none.
    pub(crate) fn reset_engine(&mut self, now: Moment, engine: Option<Engine>) {
        self.engine = engine;
        self.retired = None;
        self.timers.start_afresh();
        self.call(now);
    }

    /// Points the peer somewhere, or there anew: the address of ours that was learnt with the old path counts no longer.
    pub(crate) fn point_at(&mut self, now: Moment, remote: SocketAddr) {
        let before = self.path.replace(Path { remote, local: None });
        let is_elsewhere = before.is_none_or(|path| path.remote != remote);
        if is_elsewhere && self.sending(now).is_none() {
            self.timers.start_afresh();
            self.call(now);
        }
    }

    /// Doubts the session, as after a suspend: it is renewed at once if somebody waits for it, or else on the next packet.
    pub(crate) fn doubt(&mut self, now: Moment) {
        self.is_doubtful = true;
        self.timers.start_afresh();
        self.call(now);
    }

    /// The peer sent an initiation that is older than one before. Right after a session began, confirmed or not, that is
    /// one that was late, or came twice; later, its clock may have been set back, and a handshake is begun from here.
    fn doubt_order(&mut self, now: Moment) {
        let is_late = self.timers.has_session_younger_than(now, REKEY_TIMEOUT);
        if !is_late && self.path.is_some() && !self.timers.is_shaking_hands() {
            let soonest = self.timers.next_initiation(now);
            self.timers.handshake_at(soonest);
        }
    }

    /// A handshake is complete; if it is the last that we have begun, none is pending.
    fn established(&mut self, now: Moment, is_last: bool) {
        self.last_handshake = Some(now);
        self.is_doubtful = false;
        if is_last {
            self.timers.handshake_complete();
        }
    }

    /// Begins a handshake at once if somebody waits for a session.
    pub(crate) fn call(&mut self, now: Moment) {
        if self.path.is_some() && (self.timers.keeps_alive() || !self.staged.is_empty()) {
            self.timers.handshake_at(now);
        }
    }

    /// The session that is sent on.
    fn sending(&self, now: Moment) -> Option<Sending> {
        self.engine.iter().chain(&self.retired).find_map(|engine| engine.sending(now))
    }

    /// The engine whose session is sent on.
    fn sender(&mut self, now: Moment) -> Option<&mut Engine> {
        self.engine.iter_mut().chain(&mut self.retired).find(|engine| engine.sending(now).is_some())
    }

    fn random_below(&mut self, most: Duration) -> Duration {
        most.mul_f64(f64::from(self.random.next_u32()) / f64::from(u32::MAX))
    }
}

impl Turn<'_> {
    /// The peer's place.
    pub(crate) const fn slot(&self) -> Slot {
        self.peer.slot
    }

    /// Whether this is a turn of that peer.
    pub(crate) fn is_of(&self, peer: &Peer) -> bool {
        std::ptr::eq(self.peer, peer)
    }

    /// The longest packet that the way to the peer carries whole. Somebody has one to send.
    pub(crate) fn room(&mut self) -> u16 {
        self.state.is_in_use = true;
        self.state.room
    }

    /// Why this packet can't be sent to the peer, not even later.
    pub(crate) fn refusal(&self, packet: &[u8]) -> Option<DropReason> {
        match (&self.state.engine, &self.state.path) {
            (None, _) => Some(DropReason::NoKey),
            (_, None) => Some(DropReason::NoEndpoint),
            (_, Some(path)) => {
                self.state.beginnings.begin(packet, path).then_some(DropReason::Looped)
            }
        }
    }

    /// Seals a packet, padded already, or lets it wait for a session or behind others that still do. The packet of this
    /// length stands 16 bytes into the outbox's [slot](packet_slot).
    pub(crate) fn send(&mut self, length: usize, outbox: &mut Outbox, drops: &mut DropCounts) {
        if self.state.staged.is_empty() && self.seal(length, outbox) {
            self.sent.data = true;
            return;
        }
        self.wants_session |= self.state.sending(self.now).is_none();
        if self.state.staged.len() == STAGED {
            self.state.staged.pop_front();
            drops.add(DropReason::Unsent);
        }
        self.state.staged.push_back(packet_slot(outbox, length).to_vec());
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, outbox: &mut Outbox, drops: &mut DropCounts) {
        while let Some(due) = self.state.timers.take_due(self.now) {
            match due {
                Due::Forget => {
                    let now = self.now;
                    self.state.engine.iter_mut().for_each(|engine| engine.forget(now));
                    self.state.retired.take_if(|engine| !engine.is_alive(now));
                }
                Due::GiveUp => {
                    drops.add_many(DropReason::Unsent, self.state.staged.len() as u64);
                    self.state.staged.clear();
                }
                Due::Handshake | Due::Retry => {
                    // The way back may have changed with the way there.
                    if let Some(path) = &mut self.state.path {
                        path.local = None;
                    }
                    self.initiate(outbox);
                }
                Due::Keepalive => {
                    self.seal(0, outbox);
                }
                Due::PersistentKeepalive => self.keep_alive(outbox),
            }
        }
    }

    /// Ends the turn: sets the timers by what happened, renews keys that need it, and returns when the timers are due.
    pub(crate) fn end(mut self, outbox: &mut Outbox) -> Option<Moment> {
        let now = self.now;
        if self.received.any {
            self.state.timers.received(now);
        }
        if self.received.data {
            self.state.timers.data_received(now);
        }
        if self.sent.any {
            self.state.timers.sent(now);
        }
        if self.sent.data {
            let jitter = self.state.random_below(REKEY_JITTER);
            self.state.timers.data_sent(now, jitter);
        }
        if self.wants_session {
            self.state.timers.packet_waits(now);
            self.want_session(outbox);
        } else if self.must_renew() && !self.state.timers.is_shaking_hands() {
            self.initiate(outbox);
        }
        self.park()
    }

    /// Ends the turn without sending anything, and returns when the timers are due.
    pub(crate) fn park(self) -> Option<Moment> {
        let next = self.state.timers.next();
        self.peer.deadline.store(next.map_or(u64::MAX, Moment::nanos), Ordering::SeqCst);
        next
    }

    /// Whether the session that is sent on must be renewed by us.
    fn must_renew(&self) -> bool {
        let Some(sending) = self.state.sending(self.now) else { return false };
        let age = self.now.since(sending.began);
        let stagger = if self.state.is_higher { STAGGER } else { Duration::ZERO };
        (self.sent.any && (sending.is_worn || self.state.is_doubtful))
            || (self.sent.any && sending.initiator && age >= REKEY_AFTER_TIME + stagger)
            || (self.received.any && sending.initiator && age >= REKEY_ON_RECEIVE)
    }

    fn keep_alive(&mut self, outbox: &mut Outbox) {
        if self.seal(0, outbox) || self.state.timers.is_shaking_hands() {
            return;
        }
        // Both ends notice at the same time that a session is over: the one with the lower key goes first.
        if self.state.is_higher && self.state.last_handshake.is_some() {
            let wait = STAGGER + self.state.random_below(STAGGER);
            self.state.timers.handshake_at(self.now + wait);
        } else {
            self.initiate(outbox);
        }
    }

    fn want_session(&mut self, outbox: &mut Outbox) {
        if self.state.timers.is_shaking_hands() {
            return;
        }
        // The other end has begun a handshake that only its next message completes.
        let due = self.state.engine.as_ref().and_then(|engine| engine.confirmation_due(self.now));
        match due {
            Some(due) => self.state.timers.handshake_at(due),
            None => self.initiate(outbox),
        }
    }

    /// Sends an initiation, now or as soon as one may follow the last.
    fn initiate(&mut self, outbox: &mut Outbox) {
        let now = self.now;
        if !self.state.timers.may_initiate(now) {
            if !self.state.timers.is_shaking_hands() {
                self.state.timers.handshake_at(now + REKEY_TIMEOUT);
            }
            return;
        }
        let jitter = self.state.random_below(REKEY_JITTER);
        let state = &mut *self.state;
        let (Some(engine), Some(path)) = (&mut state.engine, &state.path) else { return };
        let slot = outbox.slot(HANDSHAKE_ROOM);
        // One that can't be made, for a peer's key that is none, is repeated no sooner than one that was lost.
        let length = engine.initiate(now, slot).unwrap_or_default();
        state.beginnings.initiated(&slot[..length]);
        outbox.commit(length, path, TrafficClass::HANDSHAKE);
        state.tx_bytes += length as u64;
        state.timers.initiated(now, jitter);
    }

    /// Seals the packet of this length in the outbox's [slot](packet_slot), none for a keepalive. `false` if there is no
    /// session or no path.
    fn seal(&mut self, length: usize, outbox: &mut Outbox) -> bool {
        let Some(path) = self.state.path else { return false };
        let Some(engine) = self.state.sender(self.now) else { return false };
        let ecn = outer_ecn(packet_slot(outbox, length));
        let slot = outbox.slot(length + DATA_OVERHEAD);
        let Some(length) = engine.seal(self.now, length, slot) else { return false };
        self.state.beginnings.sealed(slot);
        outbox.commit(length, &path, ecn);
        self.state.tx_bytes += length as u64;
        self.sent.any = true;
        true
    }

    /// Whether packets that waited for a session can leave.
    pub(crate) fn is_ready(&self) -> bool {
        !self.state.staged.is_empty() && self.state.sending(self.now).is_some()
    }

    /// Lets the packets leave that waited for a session, as far as there is one.
    pub(crate) fn release(&mut self, outbox: &mut Outbox) {
        while let Some(packet) = self.state.staged.pop_front() {
            packet_slot(outbox, packet.len()).copy_from_slice(&packet);
            if !self.seal(packet.len(), outbox) {
                self.state.staged.push_front(packet);
                return;
            }
            self.sent.data = true;
        }
    }
}

/// Where a packet of this length is sealed in place: the message's header and tag go around it.
pub(crate) fn packet_slot(outbox: &mut Outbox, length: usize) -> &mut [u8] {
    &mut outbox.slot(length + DATA_OVERHEAD)[16..16 + length]
}

/// The ECN bits of the outer header. A keepalive has none.
fn outer_ecn(packet: &[u8]) -> Ecn {
    IpPacket::parse(packet).map_or(Ecn::NotEct, |packet| Ecn::entering(packet.ecn()))
}
