//! What a peer does with messages that are addressed to it.

use wireloom_packet::{Arena, Ecn, Outbox, Path, Received, TrafficClass};

use super::Turn;
use super::run::Heard;
use crate::allowed_ips::Routes;
use crate::drops::{DropCounts, DropReason};
use crate::engine::{Engine, HANDSHAKE_ROOM, Introduction, Refused};
use crate::message::Message;

/// Where the results of a batch go.
pub(crate) struct Sinks<'a> {
    pub(crate) arena: &'a mut Arena,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) drops: &'a mut DropCounts,
}

impl Turn<'_> {
    /// Takes a message for this peer. Its form, and a handshake message's first MAC, are checked already; an initiation
    /// comes with its introduction.
    pub(crate) fn take(
        &mut self,
        message: Message,
        introduction: Option<Introduction>,
        datagram: &[u8],
        from: &Received<'_>,
        routes: &Routes,
        sinks: &mut Sinks<'_>,
    ) {
        let taken = match message {
            Message::Initiation { .. } => {
                self.answer(introduction, datagram, &from.path, sinks.outbox)
            }
            Message::Response { receiver, .. } => {
                self.complete(receiver, datagram, &from.path, sinks.outbox)
            }
            Message::CookieReply { receiver } => self.take_cookie(receiver, datagram),
            Message::Data { receiver, counter } => {
                self.open(receiver, counter, datagram, from, routes, sinks)
            }
        };
        if let Err(reason) = taken {
            sinks.drops.add(reason);
        }
    }

    /// An initiation is answered where it came from. It does not move the endpoint: it may be an old one, repeated by
    /// somebody else, and the first message of the new session follows at once if it is not.
    ///
    /// One that looks old may also come from a peer whose clock was set back: until that has caught up, it can't make
    /// itself heard. Then we begin a handshake of our own, where we know the peer to be, and the new session is made from
    /// this end. The kernel's WireGuard leaves such a peer to its clock. Whoever repeats old messages makes us send
    /// the peer no more than it would hear without a session: one initiation each five seconds.
    fn answer(
        &mut self,
        introduction: Option<Introduction>,
        initiation: &[u8],
        path: &Path,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let now = self.now;
        let introduction = introduction.ok_or(DropReason::BadHandshake)?;
        let engine = self.state.engine.as_mut().ok_or(DropReason::UnknownPeer)?;
        let room = outbox.slot(HANDSHAKE_ROOM);
        let length = match engine.answer(now, introduction, initiation, room) {
            Err(DropReason::Replay) => {
                self.state.doubt_order(now);
                return Err(DropReason::Replay);
            }
            answered => answered?,
        };
        outbox.commit(length, path, TrafficClass::HANDSHAKE);
        self.state.path.get_or_insert(*path);
        self.state.timers.session_began(now);
        self.count(initiation.len(), length);
        Ok(())
    }

    fn complete(
        &mut self,
        receiver: u32,
        response: &[u8],
        path: &Path,
        outbox: &mut Outbox,
    ) -> Result<(), DropReason> {
        let now = self.now;
        let engine = self.state.engine.as_mut().filter(|engine| engine.index() == receiver >> 8);
        let engine = engine.ok_or(DropReason::UnknownSession)?;
        let length = engine.complete(now, receiver, response, outbox.slot(HANDSHAKE_ROOM))?;
        // A late response to an earlier initiation leaves the last one open; it is then repeated.
        let is_last = engine.initiated_last(receiver);
        outbox.commit(length, path, Ecn::NotEct);
        self.state.path = Some(*path);
        self.state.timers.session_began(now);
        self.count(response.len(), length);
        self.state.established(now, is_last);
        Ok(())
    }

    /// A cookie says nothing of where the peer is, since whoever sees our messages can make one.
    fn take_cookie(&mut self, receiver: u32, reply: &[u8]) -> Result<(), DropReason> {
        let engine = self.state.engine.as_mut().filter(|engine| engine.index() == receiver >> 8);
        engine.ok_or(DropReason::UnknownSession)?.take_cookie(self.now, reply)?;
        self.state.rx_bytes += reply.len() as u64;
        Ok(())
    }

    fn open(
        &mut self,
        receiver: u32,
        counter: u64,
        datagram: &[u8],
        from: &Received<'_>,
        routes: &Routes,
        sinks: &mut Sinks<'_>,
    ) -> Result<(), DropReason> {
        let now = self.now;
        let state = &mut *self.state;
        let mut engines = state.engine.iter_mut().chain(&mut state.retired);
        let engine = engines.find(|engine: &&mut Engine| engine.index() == receiver >> 8);
        let engine = engine.ok_or(DropReason::UnknownSession)?;
        // Everything but the header: the packet and its tag.
        let buffer = sinks.arena.slot(datagram.len() - 16);
        let opened = engine.open(now, receiver, counter, datagram, buffer);
        if let Ok(opened) | Err(Refused { opened: Some(opened), .. }) = &opened {
            let mut heard = Heard::default();
            heard.note(opened, datagram.len(), &from.path);
            self.arrived(receiver, &heard);
        }
        let opened = opened.map_err(|refused| refused.reason)?;
        let Some((length, source)) = opened.packet else { return Ok(()) };
        self.received.data = true;
        sinks.let_in(length, routes.lookup(source) == Some(self.peer.slot), from)
    }

    /// A handshake message of these lengths came in and was answered.
    fn count(&mut self, received: usize, sent: usize) {
        self.state.rx_bytes += received as u64;
        self.state.tx_bytes += sent as u64;
        self.received.any = true;
        self.sent.any = true;
    }
}
