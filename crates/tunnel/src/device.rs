//! The device: peers, the table that finds them, and the batches that pass through.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand_chacha::{ChaCha8Rng, ChaCha20Rng};
use rand_core::{RngCore as _, SeedableRng as _};
use wireloom_model::PublicKey;
use wireloom_packet::ip::Ends;
use wireloom_packet::{Arena, Ecn, Frame, Outbox, Received, Segments};

use crate::allowed_ips::{Routes, Slot};
use crate::cookie::Macs;
use crate::drops::{DropCounts, DropReason, Drops};
use crate::engine::{EngineKind, Identity, Introduction, Limits, Wall};
use crate::gate::{Admission, Gate};
use crate::message::Message;
use crate::moment::{Moment, wall_clock};
use crate::peer::{Peer, Sinks, Turn, packet_slot};
use crate::uapi::{DeviceStatus, PeerStatus};

use configure::Control;
pub use configure::Effects;

mod configure;

/// The largest packet that is padded: the tunnel's MTU unless [`Device::set_mtu`] says otherwise (1,500 bytes less
/// 80 for the outer IPv6 and UDP headers and the message's own).
const DEFAULT_MTU: u16 = 1_420;
/// Packets are padded to a multiple of this many bytes (WireGuard paper, section 5.4.6).
const PADDING: usize = 16;

/// A WireGuard device: any number of threads may seal, open, tick and configure it at the same time.
///
/// It holds no socket and no clock. Whoever drives it passes the time as `now`, sends what an [`Outbox`] holds after
/// each call, and calls [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says so.
pub struct Device {
    table: ArcSwap<Table>,
    control: Mutex<Control>,
    gate: Mutex<Gate>,
    drops: Drops,
    mtu: AtomicU16,
    /// When the first peer's timers are due, or earlier; in nanoseconds since boot, `u64::MAX` for never.
    next: AtomicU64,
    kind: EngineKind,
    limits: Limits,
    wall: Wall,
}

/// What the hot path looks things up in. It is replaced as a whole.
#[derive(Clone, Default)]
struct Table {
    own: Option<Arc<Own>>,
    peers: Vec<Option<Arc<Peer>>>,
    by_key: HashMap<PublicKey, Slot>,
    /// By the upper 24 bits of the receiver's index.
    by_index: HashMap<u32, Slot>,
    routes: Arc<Routes>,
}

/// Who we are, and the MACs that go with it.
struct Own {
    identity: Identity,
    macs: Macs,
}

/// The memory that a sending thread keeps between batches, and the frames of the last batch that went nowhere.
#[derive(Default)]
pub struct Sealer {
    /// The peer of each frame that has one.
    order: Vec<(Slot, usize)>,
    refused: Vec<Refusal>,
    drops: DropCounts,
}

/// A frame that could not be sent, for its sender to be told so by ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which one of the batch.
    pub frame: usize,
    /// Why: [`NoPeer`](DropReason::NoPeer), [`NoEndpoint`](DropReason::NoEndpoint), [`NoKey`](DropReason::NoKey) or
    /// [`BadPacket`](DropReason::BadPacket).
    pub reason: DropReason,
}

impl Sealer {
    /// The frames of the last batch that went nowhere.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    fn refuse(&mut self, frame: usize, reason: DropReason) {
        self.refused.push(Refusal { frame, reason });
        self.drops.add(reason);
    }
}

impl Table {
    fn peer(&self, slot: Slot) -> Option<&Peer> {
        self.peers.get(slot as usize)?.as_deref()
    }
}

impl Device {
    /// A device without a key and without peers, with the engine that is chosen by default. All its randomness but the
    /// ephemeral keys' comes from the seed, which must be secret.
    pub fn new(seed: [u8; 32]) -> Self {
        Self::with_engine(seed, EngineKind::default())
    }

    /// The same with this engine.
    pub fn with_engine(seed: [u8; 32], kind: EngineKind) -> Self {
        Self::with_limits(seed, kind, Limits::WIREGUARD, wall_clock)
    }

    fn with_limits(seed: [u8; 32], kind: EngineKind, limits: Limits, wall: Wall) -> Self {
        let mut random = ChaCha20Rng::from_seed(seed);
        let gate = Gate::new(fork(&mut random));
        Self {
            table: ArcSwap::default(),
            control: Mutex::new(Control::new(random)),
            gate: Mutex::new(gate),
            drops: Drops::default(),
            mtu: AtomicU16::new(DEFAULT_MTU),
            next: AtomicU64::new(u64::MAX),
            kind,
            limits,
            wall,
        }
    }

    /// Which engine the device uses.
    pub const fn engine(&self) -> EngineKind {
        self.kind
    }

    /// Tells the MTU of the tunnel interface in bytes: no packet is padded beyond it.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Seals frames for the peers that their destinations belong to. The packets of a peer keep their order; packets
    /// for a peer without a session wait in the device while a handshake is made, 256 at most.
    ///
    /// Frames that could not be sent are in [`Sealer::refused`] afterwards. The timer may be due earlier than before:
    /// see [`poll_timeout`](Self::poll_timeout).
    pub fn seal(
        &self,
        now: Moment,
        frames: &[Frame<'_>],
        sealer: &mut Sealer,
        outbox: &mut Outbox,
    ) {
        let table = self.table.load();
        sealer.refused.clear();
        sealer.drops = DropCounts::default();
        let mut order = std::mem::take(&mut sealer.order);
        order.clear();
        let mut last: Option<(IpAddr, Slot)> = None;
        for (place, frame) in frames.iter().enumerate() {
            let Ok(Ends { destination, .. }) = Ends::of(frame.packet) else {
                sealer.refuse(place, DropReason::BadPacket);
                continue;
            };
            let known = last.filter(|(address, _)| *address == destination);
            match known.map(|(_, slot)| slot).or_else(|| table.routes.lookup(destination)) {
                Some(slot) => {
                    last = Some((destination, slot));
                    order.push((slot, place));
                }
                None => sealer.refuse(place, DropReason::NoPeer),
            }
        }
        // Places differ, so the frames of a peer stay in order.
        order.sort_unstable();
        for run in order.chunk_by(|one, other| one.0 == other.0) {
            let Some(peer) = run.first().and_then(|(slot, _)| table.peer(*slot)) else { continue };
            let mut turn = peer.turn(now);
            for &(_, place) in run {
                // Every place is one of a frame.
                self.seal_frame(&mut turn, place, &frames[place], sealer, outbox);
            }
            self.arm(turn.end(outbox));
        }
        sealer.order = order;
        self.drops.add(&sealer.drops);
    }

    fn seal_frame(
        &self,
        turn: &mut Turn<'_>,
        place: usize,
        frame: &Frame<'_>,
        sealer: &mut Sealer,
        outbox: &mut Outbox,
    ) {
        if let Some(reason) = turn.refusal() {
            return sealer.refuse(place, reason);
        }
        let Ok(mut segments) = Segments::new(frame) else {
            return sealer.refuse(place, DropReason::BadPacket);
        };
        let mtu = usize::from(self.mtu.load(Ordering::Relaxed));
        let room = segments.largest() + PADDING;
        while let Some(length) = segments.next_into(packet_slot(outbox, room)) {
            let padded = padded(length, mtu);
            packet_slot(outbox, padded)[length..].fill(0);
            turn.send(padded, outbox, &mut sealer.drops);
        }
    }

    /// Opens datagrams: packets go to the arena, answers of any kind to the outbox.
    ///
    /// A packet is let in only if the longest match of its source over all peers is the peer that sent it. A peer's
    /// endpoint moves to where its newest authentic data message, or a response, came from.
    pub fn open(
        &self,
        now: Moment,
        received: &[Received<'_>],
        arena: &mut Arena,
        outbox: &mut Outbox,
    ) {
        let table = self.table.load();
        let mut drops = DropCounts::default();
        let mut sinks = Sinks { arena, outbox, drops: &mut drops };
        let mut turn: Option<Turn<'_>> = None;
        for from in received {
            for datagram in from.datagrams() {
                let Some(message) = Message::parse(datagram) else {
                    sinks.drops.add(DropReason::BadMessage);
                    continue;
                };
                if matches!(message, Message::Initiation { .. } | Message::Response { .. }) {
                    // Nobody waits for a lock while the gate thinks.
                    self.finish(turn.take(), sinks.outbox);
                }
                let recipient = self.recipient(now, &table, message, datagram, from, sinks.outbox);
                let (peer, introduction) = match recipient {
                    Ok(recipient) => recipient,
                    Err(reason) => {
                        sinks.drops.add(reason);
                        continue;
                    }
                };
                if turn.as_ref().is_some_and(|turn| !turn.is_of(peer)) {
                    self.finish(turn.take(), sinks.outbox);
                }
                let turn = turn.get_or_insert_with(|| peer.turn(now));
                turn.take(message, introduction, datagram, from, &table.routes, &mut sinks);
            }
        }
        self.finish(turn, sinks.outbox);
        self.drops.add(&drops);
    }

    /// The peer that a message is for, and an initiation's introduction. Handshake messages pass the gate on the way.
    fn recipient<'a>(
        &self,
        now: Moment,
        table: &'a Table,
        message: Message,
        datagram: &[u8],
        from: &Received<'_>,
        outbox: &mut Outbox,
    ) -> Result<(&'a Peer, Option<Introduction>), DropReason> {
        let own = table.own.as_ref().ok_or(DropReason::NoKey)?;
        let known = match message {
            Message::Initiation { .. } => None,
            Message::Response { receiver, .. }
            | Message::CookieReply { receiver }
            | Message::Data { receiver, .. } => {
                Some(table.by_index.get(&(receiver >> 8)).ok_or(DropReason::UnknownSession)?)
            }
        };
        if let Message::Initiation { sender } | Message::Response { sender, .. } = message {
            if !own.macs.is_for_us(datagram) {
                return Err(DropReason::BadMac);
            }
            let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            match gate.admit(now, from.path.remote, datagram, sender, &own.macs) {
                Admission::Pass => {}
                Admission::Cookie(reply) => {
                    outbox.push(&reply, &from.path, Ecn::NotEct);
                    return Err(DropReason::UnderLoad);
                }
                Admission::Drop => return Err(DropReason::UnderLoad),
            }
        }
        let (slot, introduction) = match known {
            Some(slot) => (slot, None),
            None => {
                let introduction = own.identity.initiator(datagram);
                let introduction = introduction.ok_or(DropReason::BadHandshake)?;
                let slot = table.by_key.get(&introduction.key).ok_or(DropReason::UnknownPeer)?;
                (slot, Some(introduction))
            }
        };
        let peer = table.peer(*slot).ok_or(DropReason::UnknownPeer)?;
        Ok((peer, introduction))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; `None` while nothing is pending. It may be early,
    /// never late. Costs one atomic load: a thread that has sealed, opened or configured compares it with what the
    /// timer's thread waits for, and wakes that one if it has moved earlier.
    pub fn poll_timeout(&self) -> Option<Moment> {
        match self.next.load(Ordering::SeqCst) {
            u64::MAX => None,
            nanos => Some(Moment::from_nanos(nanos)),
        }
    }

    /// Does what is due: handshakes, repeated or renewed, keepalives, and forgetting.
    pub fn handle_timeout(&self, now: Moment, outbox: &mut Outbox) {
        let table = self.table.load();
        let mut drops = DropCounts::default();
        // What others arm from here on stays; what they armed before is found at the peers.
        self.next.store(u64::MAX, Ordering::SeqCst);
        for peer in table.peers.iter().flatten() {
            if peer.deadline() <= now.nanos() {
                let mut turn = peer.turn(now);
                turn.tick(outbox, &mut drops);
                turn.end(outbox);
            }
            self.next.fetch_min(peer.deadline(), Ordering::SeqCst);
        }
        self.drops.add(&drops);
    }

    /// Tells that the host was suspended: what lies between us and the peers may have forgotten us. Peers that are kept
    /// alive, or that packets wait for, are called at once, the others on their first packet.
    pub fn resumed(&self, now: Moment) {
        let table = self.table.load();
        for peer in table.peers.iter().flatten() {
            let mut turn = peer.turn(now);
            turn.state.doubt(now);
            self.arm(turn.park());
        }
    }

    /// The device's state as `get=1` shows it. `wall` is the time since the Unix epoch. The listen port and the mark
    /// are the socket's owner's to fill in.
    pub fn status(&self, now: Moment, wall: Duration) -> DeviceStatus {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.table.load();
        let peers = control.peers().filter_map(|(key, entry)| {
            let state = table.peer(entry.slot)?.state();
            Some(PeerStatus {
                key: *key,
                preshared_key: entry.preshared_key.clone(),
                endpoint: state.path.map(|path| path.remote),
                last_handshake: state.last_handshake.map(|at| wall.saturating_sub(now.since(at))),
                tx_bytes: state.tx_bytes,
                rx_bytes: state.rx_bytes,
                persistent_keepalive: entry.persistent_keepalive,
                allowed_ips: control.allowed_ips().of(entry.slot),
            })
        });
        DeviceStatus {
            private_key: control.private_key().cloned(),
            listen_port: 0,
            fwmark: 0,
            peers: peers.collect(),
        }
    }

    /// What was dropped since the device was made.
    pub fn drops(&self) -> DropCounts {
        self.drops.read()
    }

    fn finish(&self, turn: Option<Turn<'_>>, outbox: &mut Outbox) {
        if let Some(turn) = turn {
            self.arm(turn.end(outbox));
        }
    }

    fn arm(&self, deadline: Option<Moment>) {
        if let Some(deadline) = deadline {
            self.next.fetch_min(deadline.nanos(), Ordering::SeqCst);
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("drops", &self.drops()).finish_non_exhaustive()
    }
}

/// The length to which a packet is padded with zeroes; the receiver cuts them off by the IP header.
fn padded(length: usize, mtu: usize) -> usize {
    if length >= mtu { length } else { length.next_multiple_of(PADDING).min(mtu) }
}

/// A generator of its own for a part of the device.
fn fork(random: &mut ChaCha20Rng) -> ChaCha8Rng {
    let mut seed = [0; 32];
    random.fill_bytes(&mut seed);
    ChaCha8Rng::from_seed(seed)
}

#[cfg(test)]
mod tests;
