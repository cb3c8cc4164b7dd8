//! The keys of one handshake, and the messages sealed and opened with them.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::aead::{Aad, LessSafeKey};
use wireloom_packet::ip::Ends;

use super::counter::{Counter, Number, Numbers};
use super::handshake::{Keys, cipher, nonce};
use super::window::Window;
use super::{Opened, Refused};
use crate::drops::DropReason;
use crate::message::{DATA_OVERHEAD, write_data_header};
use crate::moment::Moment;
use crate::timers::REJECT_AFTER_TIME;

const HEADER_BYTES: usize = 16;
const TAG_BYTES: usize = 16;

/// One session. Any number of threads may seal at the same time; who opens takes its [receiver](Self::receiver).
pub(super) struct Session {
    /// Our index of it.
    pub(super) index: u32,
    /// The other end's.
    remote: u32,
    /// No message with this number or a higher one is sealed or opened.
    limit: u64,
    /// Whether we sent the initiation.
    pub(super) initiator: bool,
    pub(super) began: Moment,
    sealing: LessSafeKey,
    opening: LessSafeKey,
    /// Whether the other end has proven that it holds the keys.
    confirmed: AtomicBool,
    counter: Apart<Counter>,
    window: Apart<Mutex<Window>>,
}

/// What one direction writes, on cache lines that the other does not read.
#[repr(align(128))]
struct Apart<T>(T);

/// The right to open a session's messages: its packets come out in the order in which they are opened.
pub(crate) struct Receiver<'a> {
    session: &'a Session,
    window: MutexGuard<'a, Window>,
}

impl Session {
    /// A session by our index of it and the other end's.
    pub(super) fn new(
        [index, remote]: [u32; 2],
        initiator: bool,
        began: Moment,
        limit: u64,
        keys: &Keys,
    ) -> Self {
        Self {
            index,
            remote,
            limit,
            initiator,
            began,
            sealing: cipher(&keys.sealing),
            opening: cipher(&keys.opening),
            // A response proves it as well.
            confirmed: AtomicBool::new(initiator),
            counter: Apart(Counter::new()),
            window: Apart(Mutex::new(Window::new())),
        }
    }

    pub(super) fn is_fresh(&self, now: Moment) -> bool {
        now.since(self.began) < REJECT_AFTER_TIME
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// How many messages were sealed, or are about to be.
    pub(super) fn sealed(&self) -> u64 {
        self.counter.0.used()
    }

    /// Takes the numbers of so many messages for the caller alone. `None` if there are not so many left.
    pub(super) fn reserve(&self, messages: u64) -> Option<Numbers> {
        if self.limit.saturating_sub(self.sealed()) < messages {
            return None;
        }
        // Somebody else may have taken the last ones meanwhile.
        let numbers = self.counter.0.reserve(messages, self.limit);
        (numbers.left() == messages).then_some(numbers)
    }

    /// Seals the packet of this length that stands 16 bytes into the buffer, under a number that was
    /// [reserved](Self::reserve) for it, and returns the message's length.
    #[expect(clippy::needless_pass_by_value, reason = "a number is used up")]
    pub(super) fn seal(&self, number: Number, length: usize, buffer: &mut [u8]) -> usize {
        debug_assert!(buffer.len() >= length + DATA_OVERHEAD, "no room to seal");
        let number = number.value();
        let (header, body) = buffer.split_at_mut(HEADER_BYTES);
        let (packet, rest) = body.split_at_mut(length);
        write_data_header(header, self.remote, number);
        let tag = self.sealing.seal_in_place_separate_tag(nonce(number), Aad::empty(), packet);
        #[expect(clippy::expect_used, reason = "only 256 GiB and more are too long to seal")]
        rest[..TAG_BYTES].copy_from_slice(tag.expect("a packet's length").as_ref());
        length + DATA_OVERHEAD
    }

    pub(super) fn receiver(&self) -> Receiver<'_> {
        // A panic leaves the window whole: taking a number does not panic.
        let window = self.window.0.lock().unwrap_or_else(PoisonError::into_inner);
        Receiver { session: self, window }
    }
}

impl Receiver<'_> {
    /// Opens a message, whose number is given, into a buffer as long as the message without its header.
    pub(crate) fn open(
        &mut self,
        number: u64,
        message: &[u8],
        buffer: &mut [u8],
    ) -> Result<Opened, Refused> {
        if number >= self.session.limit {
            return Err(DropReason::Expired.into());
        }
        if !self.window.is_new(number) {
            return Err(DropReason::Replay.into());
        }
        buffer.copy_from_slice(&message[HEADER_BYTES..]);
        let opened = self.session.opening.open_in_place(nonce(number), Aad::empty(), buffer);
        let plaintext = opened.map_err(|_| DropReason::BadTag)?;
        let is_newest = number >= self.window.next();
        self.window.take(number);
        let confirms = !self.session.confirmed.load(Ordering::Relaxed);
        if confirms {
            self.session.confirmed.store(true, Ordering::Relaxed);
        }
        let opened = Opened { packet: None, confirms, is_newest };
        if plaintext.is_empty() {
            return Ok(opened);
        }
        match Ends::of(plaintext) {
            Ok(ends) => Ok(Opened { packet: Some((ends.length, ends.source)), ..opened }),
            Err(_) => Err(Refused { reason: DropReason::BadPacket, opened: Some(opened) }),
        }
    }
}

impl Drop for Session {
    /// ring does not zeroise its keys: others take their place in memory.
    fn drop(&mut self) {
        self.sealing = cipher(&[0; 32]);
        self.opening = cipher(&[0; 32]);
        // Or else the compiler sees that nobody reads them.
        black_box((&self.sealing, &self.opening));
    }
}

#[cfg(test)]
mod tests;
