//! Batches on their way out: frames become packets, packets become messages.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use wireloom_packet::ip::Ends;
use wireloom_packet::{Frame, GsoKind, IpPacket, IpVersion, Outbox, Segments};

use super::Device;
use crate::allowed_ips::Slot;
use crate::drops::{DropCounts, DropReason};
use crate::moment::Moment;
use crate::peer::{Peer, Turn, packet_slot};

/// Packets are padded to a multiple of this many bytes (WireGuard paper, section 5.4.6).
const PADDING: usize = 16;
/// What every link has to carry in IPv6.
const IPV6_LEAST_MTU: u16 = 1280;

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
    /// Why: [`NoPeer`](DropReason::NoPeer), [`NoEndpoint`](DropReason::NoEndpoint), [`NoKey`](DropReason::NoKey),
    /// [`Looped`](DropReason::Looped), [`TooBig`](DropReason::TooBig) or [`BadPacket`](DropReason::BadPacket).
    pub reason: DropReason,
    /// The longest packet that would have been sent, in bytes, if this one was too big.
    pub most: Option<u16>,
}

impl Sealer {
    /// The frames of the last batch that went nowhere.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    fn refuse(&mut self, frame: usize, reason: DropReason) {
        self.refused.push(Refusal { frame, reason, most: None });
        self.drops.add(reason);
    }

    fn refuse_above(&mut self, frame: usize, most: u16) {
        self.refused.push(Refusal { frame, reason: DropReason::TooBig, most: Some(most) });
        self.drops.add(DropReason::TooBig);
    }
}

impl Device {
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
            // Every place is one of a frame.
            let frames = run.iter().map(|&(_, place)| (place, &frames[place]));
            let turn = self.seal_run(peer, now, frames, sealer, outbox);
            self.arm(turn.end(outbox));
        }
        sealer.order = order;
        self.drops.add(&sealer.drops);
    }

    /// Seals the frames of one peer: without its lock if all of them can be sealed so, or else with it.
    fn seal_run<'peer, 'frame>(
        &self,
        peer: &'peer Peer,
        now: Moment,
        frames: impl Iterator<Item = (usize, &'frame Frame<'frame>)> + Clone,
        sealer: &mut Sealer,
        outbox: &mut Outbox,
    ) -> Turn<'peer> {
        let packets = frames.clone().map(|(_, frame)| packets(frame)).sum();
        if let Some(mut departure) = peer.depart(now, packets) {
            let room = departure.room();
            for (place, frame) in frames {
                if departure.has_sent(frame.packet) {
                    sealer.refuse(place, DropReason::Looped);
                    continue;
                }
                self.cut(place, frame, room, sealer, outbox, |length, outbox, drops| {
                    departure.send(length, outbox, drops);
                });
            }
            let mut turn = peer.turn(now);
            turn.departed(&departure);
            return turn;
        }
        let mut turn = peer.turn(now);
        let room = turn.room();
        for (place, frame) in frames {
            match turn.refusal(frame.packet) {
                Some(reason) => sealer.refuse(place, reason),
                None => self.cut(place, frame, room, sealer, outbox, |length, outbox, drops| {
                    turn.send(length, outbox, drops);
                }),
            }
        }
        turn
    }

    /// Cuts a frame into packets, each padded and in the outbox's [slot](packet_slot). `room` is the longest packet that
    /// the way to the peer carries whole.
    fn cut(
        &self,
        place: usize,
        frame: &Frame<'_>,
        room: u16,
        sealer: &mut Sealer,
        outbox: &mut Outbox,
        mut send: impl FnMut(usize, &mut Outbox, &mut DropCounts),
    ) {
        let Ok(mut segments) = Segments::new(frame) else {
            return sealer.refuse(place, DropReason::BadPacket);
        };
        if let Some(most) = most_instead(frame, segments.largest(), room) {
            return sealer.refuse_above(place, most);
        }
        let mtu = usize::from(self.mtu.load(Ordering::Relaxed).min(room));
        let padded_most = segments.largest() + PADDING;
        while let Some(length) = segments.next_into(packet_slot(outbox, padded_most)) {
            let padded = padded(length, mtu);
            packet_slot(outbox, padded)[length..].fill(0);
            send(padded, outbox, &mut sealer.drops);
        }
    }
}

/// How many packets a frame is cut into; one for what is no packet.
fn packets(frame: &Frame<'_>) -> u64 {
    match frame.header.gso {
        GsoKind::None => 1,
        _ => Segments::new(frame).map_or(1, |segments| segments.remaining() as u64),
    }
}

/// The longest packet that may take a frame's place if the frame's own, of this length at most, are too long for the way
/// and may not be fragmented. IPv6 has to carry 1,280 bytes (RFC 8200 section 5): those go out in outer fragments.
#[inline]
fn most_instead(frame: &Frame<'_>, length: usize, room: u16) -> Option<u16> {
    if length <= usize::from(room) {
        return None;
    }
    let packet = IpPacket::parse(frame.packet).ok().filter(IpPacket::stays_whole)?;
    let most = match packet.version() {
        IpVersion::V4 => room,
        IpVersion::V6 => room.max(IPV6_LEAST_MTU),
    };
    (length > usize::from(most)).then_some(most)
}

/// The length to which a packet is padded with zeroes; the receiver cuts them off by the IP header.
fn padded(length: usize, mtu: usize) -> usize {
    if length >= mtu { length } else { length.next_multiple_of(PADDING).min(mtu) }
}
