//! Batches that have come in: whom a message is for, and runs of data messages.

use std::iter::Peekable;
use std::sync::PoisonError;

use wireloom_packet::{Arena, Ecn, Outbox, Received};

use super::{Device, Table};
use crate::allowed_ips::{Routes, Slot};
use crate::drops::{DropCounts, DropReason};
use crate::engine::Introduction;
use crate::gate::Admission;
use crate::message::Message;
use crate::moment::Moment;
use crate::peer::{Arrival, Peer, Sinks, Turn};

/// A datagram, what it is, and what it came with.
struct Incoming<'a> {
    from: &'a Received<'a>,
    bytes: &'a [u8],
    message: Option<Message>,
}

impl Incoming<'_> {
    /// The number of a data message on the session with this index.
    fn counter_on(&self, index: u32) -> Option<u64> {
        match self.message? {
            Message::Data { receiver, counter } => (receiver == index).then_some(counter),
            _ => None,
        }
    }
}

/// The peers whose packets waited for a session that is there now, for [`Device::release`]. Holds no memory while there
/// are none.
#[derive(Debug, Default)]
#[must_use = "packets wait until they are released"]
pub struct Ready(Vec<Slot>);

impl Ready {
    /// Whether nobody's packets waited.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Device {
    /// Opens datagrams: packets go to the arena, answers of any kind to the outbox. Packets that waited for a session which
    /// these datagrams complete leave by [`release`](Self::release).
    ///
    /// A packet is let in only if the longest match of its source over all peers is the peer that sent it. A peer's
    /// endpoint moves to where its newest authentic data message, or a response, came from.
    pub fn open(
        &self,
        now: Moment,
        received: &[Received<'_>],
        arena: &mut Arena,
        outbox: &mut Outbox,
    ) -> Ready {
        let table = self.table.load();
        let mut drops = DropCounts::default();
        let mut sinks = Sinks { arena, outbox, drops: &mut drops };
        let mut ready = Ready::default();
        let mut turn: Option<Turn<'_>> = None;
        let datagrams = received.iter().flat_map(|from| {
            let incoming = move |bytes| Incoming { from, bytes, message: Message::parse(bytes) };
            from.datagrams().map(incoming)
        });
        let mut datagrams = datagrams.peekable();
        while let Some(incoming) = datagrams.next() {
            let Incoming { from, bytes, message: Some(message) } = incoming else {
                sinks.drops.add(DropReason::BadMessage);
                continue;
            };
            if matches!(message, Message::Initiation { .. } | Message::Response { .. }) {
                // Nobody waits for a lock while the gate thinks.
                self.finish(turn.take(), &mut ready, sinks.outbox);
            }
            let recipient = self.recipient(now, &table, message, bytes, from, sinks.outbox);
            let (peer, introduction) = match recipient {
                Ok(recipient) => recipient,
                Err(reason) => {
                    sinks.drops.add(reason);
                    continue;
                }
            };
            if turn.as_ref().is_some_and(|turn| !turn.is_of(peer)) {
                self.finish(turn.take(), &mut ready, sinks.outbox);
            }
            let arrival = match (message, &turn) {
                (Message::Data { receiver, .. }, Some(turn)) => turn.arrival(receiver),
                (Message::Data { receiver, .. }, None) => peer.arrival(now, receiver),
                _ => None,
            };
            if let Some(arrival) = arrival {
                self.finish(turn.take(), &mut ready, sinks.outbox);
                let after = open_run(&arrival, incoming, &mut datagrams, &table.routes, &mut sinks);
                turn = Some(after);
                continue;
            }
            let turn = turn.get_or_insert_with(|| peer.turn(now));
            turn.take(message, introduction, bytes, from, &table.routes, &mut sinks);
        }
        self.finish(turn, &mut ready, sinks.outbox);
        self.drops.add(&drops);
        ready
    }

    /// Seals packets that waited for a session. Until then those that come after them wait as well: so nothing is
    /// overtaken if nobody seals or sends for these peers between this and the sending of the outbox.
    pub fn release(&self, now: Moment, ready: &Ready, outbox: &mut Outbox) {
        let table = self.table.load();
        for peer in ready.0.iter().filter_map(|slot| table.peer(*slot)) {
            let mut turn = peer.turn(now);
            turn.release(outbox);
            self.arm(turn.end(outbox));
        }
    }

    fn finish(&self, turn: Option<Turn<'_>>, ready: &mut Ready, outbox: &mut Outbox) {
        if let Some(turn) = turn {
            if turn.is_ready() {
                ready.0.push(turn.slot());
            }
            self.arm(turn.end(outbox));
        }
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
}

/// Opens a data message, and those that follow it on the same session, without the peer's lock. Returns a turn of the
/// peer that knows of them.
fn open_run<'peer, 'data>(
    arrival: &Arrival<'peer>,
    first: Incoming<'data>,
    more: &mut Peekable<impl Iterator<Item = Incoming<'data>>>,
    routes: &Routes,
    sinks: &mut Sinks<'_>,
) -> Turn<'peer> {
    let mut opening = arrival.open();
    let mut next = Some(first);
    while let Some(incoming) = next {
        if let Some(counter) = incoming.counter_on(arrival.index) {
            opening.take(counter, incoming.bytes, incoming.from, routes, sinks);
        }
        next = more.next_if(|incoming| incoming.counter_on(arrival.index).is_some());
    }
    let heard = opening.end();
    arrival.end(&heard)
}
