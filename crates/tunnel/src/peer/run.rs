//! Runs of data messages of one peer: its lock is taken before and after, and not held while they are sealed or opened.

use std::net::IpAddr;

use wireloom_packet::{Outbox, Path, Received, ecn};

use super::looped::Beginnings;
use super::{Peer, Sinks, State, Traffic, Turn, outer_ecn, packet_slot};
use crate::allowed_ips::{Routes, Slot};
use crate::drops::{DropCounts, DropReason};
use crate::engine::{Lane, Opened, Receiver, Refused, Session};
use crate::message::DATA_OVERHEAD;
use crate::moment::Moment;

/// Packets on their way out.
pub(crate) struct Departure {
    lane: Lane,
    path: Path,
    room: u16,
    beginnings: Beginnings,
    bytes: u64,
}

/// The session of messages that have come in.
pub(crate) struct Arrival<'a> {
    peer: &'a Peer,
    now: Moment,
    /// Our index of it.
    pub(crate) index: u32,
    session: Session,
}

/// Messages of one session that are being opened.
pub(crate) struct Opening<'a> {
    slot: Slot,
    receiver: Receiver<'a>,
    heard: Heard,
    /// The source looked up last, and whether it is the peer's: packets of one flow follow each other.
    source: Option<(IpAddr, bool)>,
}

/// What a run of messages says of the peer.
#[derive(Default)]
pub(crate) struct Heard {
    /// What authenticated.
    traffic: Traffic,
    bytes: u64,
    /// Where the newest message came from.
    path: Option<Path>,
    /// Whether the first message of the session is among them.
    confirms: bool,
}

impl Peer {
    /// Takes what so many packets are sealed with, if they all can be, and none waits before them.
    pub(crate) fn depart(&self, now: Moment, packets: u64) -> Option<Departure> {
        let state = self.state();
        if !state.staged.is_empty() {
            return None;
        }
        let path = state.path?;
        let mut engines = state.engine.iter().chain(&state.retired);
        let lane = engines.find(|engine| engine.sending(now).is_some())?.lane(now, packets)?;
        let (room, beginnings) = (state.room, state.beginnings);
        Some(Departure { lane, path, room, beginnings, bytes: 0 })
    }

    /// Takes what messages to this index of ours are opened with, if it is a session that needs no lock.
    pub(crate) fn arrival(&self, now: Moment, index: u32) -> Option<Arrival<'_>> {
        let session = self.state().session(now, index)?;
        Some(Arrival { peer: self, now, index, session })
    }
}

impl Departure {
    /// The longest packet that the way to the peer carries whole.
    pub(crate) const fn room(&self) -> u16 {
        self.room
    }

    /// Whether a packet is a message of ours that came back.
    pub(crate) fn has_sent(&self, packet: &[u8]) -> bool {
        self.beginnings.begin(packet, &self.path)
    }

    /// Seals a packet, padded already, that stands in the outbox's [slot](packet_slot).
    pub(crate) fn send(&mut self, length: usize, outbox: &mut Outbox, drops: &mut DropCounts) {
        let ecn = outer_ecn(packet_slot(outbox, length));
        let slot = outbox.slot(length + DATA_OVERHEAD);
        match self.lane.seal(length, slot) {
            Some(length) => {
                self.beginnings.sealed(slot);
                outbox.commit(length, &self.path, ecn);
                self.bytes += length as u64;
            }
            None => drops.add(DropReason::Unsent),
        }
    }
}

impl<'a> Arrival<'a> {
    /// Begins to open messages. Ends before the run [does](Self::end).
    pub(crate) fn open(&self) -> Opening<'_> {
        let slot = self.peer.slot;
        Opening { slot, receiver: self.session.receiver(), heard: Heard::default(), source: None }
    }

    /// Tells the peer what the messages say of it.
    pub(crate) fn end(&self, heard: &Heard) -> Turn<'a> {
        let mut turn = self.peer.turn(self.now);
        turn.arrived(self.index, heard);
        turn
    }
}

impl State {
    /// The session with this index, if it needs no lock.
    fn session(&self, now: Moment, index: u32) -> Option<Session> {
        let mut engines = self.engine.iter().chain(&self.retired);
        engines.find_map(|engine| engine.session(now, index))
    }
}

impl Opening<'_> {
    /// Opens a message.
    pub(crate) fn take(
        &mut self,
        counter: u64,
        datagram: &[u8],
        from: &Received<'_>,
        routes: &Routes,
        sinks: &mut Sinks<'_>,
    ) {
        // Everything but the header: the packet and its tag.
        let buffer = sinks.arena.slot(datagram.len() - 16);
        let opened = self.receiver.open(counter, datagram, buffer);
        if let Ok(opened) | Err(Refused { opened: Some(opened), .. }) = &opened {
            self.heard.note(opened, datagram.len(), &from.path);
        }
        let let_in = match opened {
            Ok(Opened { packet: Some((length, source)), .. }) => {
                self.heard.traffic.data = true;
                let is_right = self.is_right(source, routes);
                sinks.let_in(length, is_right, from)
            }
            Ok(_) => Ok(()),
            Err(refused) => Err(refused.reason),
        };
        if let Err(reason) = let_in {
            sinks.drops.add(reason);
        }
    }

    /// Whether packets may come from this source.
    fn is_right(&mut self, source: IpAddr, routes: &Routes) -> bool {
        match self.source {
            Some((last, is_right)) if last == source => is_right,
            _ => self.source.insert((source, routes.lookup(source) == Some(self.slot))).1,
        }
    }

    /// Lets go of the session, and tells what the messages say of the peer.
    pub(crate) fn end(self) -> Heard {
        self.heard
    }
}

impl Heard {
    pub(super) fn note(&mut self, opened: &Opened, length: usize, path: &Path) {
        self.traffic.any = true;
        self.bytes += length as u64;
        self.confirms |= opened.confirms;
        if opened.is_newest {
            self.path = Some(*path);
        }
    }
}

impl Sinks<'_> {
    /// Lets the packet in the arena's slot in, if it comes from where it may.
    pub(super) fn let_in(
        &mut self,
        length: usize,
        is_right: bool,
        from: &Received<'_>,
    ) -> Result<(), DropReason> {
        if !is_right {
            return Err(DropReason::WrongSource);
        }
        if !ecn::leave(self.arena.slot(length), from.ecn) {
            return Err(DropReason::Congested);
        }
        self.arena.commit(length);
        Ok(())
    }
}

impl<'a> Turn<'a> {
    /// As [`Peer::arrival`].
    pub(crate) fn arrival(&self, index: u32) -> Option<Arrival<'a>> {
        let session = self.state.session(self.now, index)?;
        Some(Arrival { peer: self.peer, now: self.now, index, session })
    }

    /// A run of packets was sealed.
    pub(crate) fn departed(&mut self, departure: &Departure) {
        self.state.is_in_use = true;
        if departure.bytes > 0 {
            self.state.tx_bytes += departure.bytes;
            self.state.beginnings.sealed_as(&departure.beginnings);
            self.sent.any = true;
            self.sent.data = true;
        }
    }

    /// Authentic data messages came in on this index of ours.
    pub(crate) fn arrived(&mut self, index: u32, heard: &Heard) {
        self.received.any |= heard.traffic.any;
        self.received.data |= heard.traffic.data;
        self.state.rx_bytes += heard.bytes;
        if heard.path.is_some() {
            self.state.path = heard.path;
        }
        if heard.confirms {
            let state = &mut *self.state;
            let engines = state.engine.iter_mut().chain(&mut state.retired);
            engines.for_each(|engine| engine.confirmed(index));
            self.state.established(self.now, true);
        }
    }
}
