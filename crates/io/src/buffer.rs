//! The buffers that one turn of a thread fills. Their budgets bound a turn, so that one busy flow or one flood delays
//! the rest by one batch and no more.

use std::ops::Range;

use wireloom_packet::vnet::VNET_HEADER_BYTES;
use wireloom_packet::{Ecn, Frame, Path, Received, VnetHeader};

/// The bytes after which a turn stops gathering. One full super-packet ends a turn: gathering more would only keep it
/// waiting and push it out of the cache.
pub const TURN_BYTES: usize = 48 * 1024;
/// The frames after which a turn stops reading: four full sends of small packets.
pub const TURN_FRAMES: usize = 256;
/// The room for one read of a TUN device: its header and the largest super-packet (an IPv6 header and 65,535 bytes).
pub const FRAME_BYTES: usize = VNET_HEADER_BYTES + 40 + 65_535;
/// The room for one received super-datagram.
pub const DATAGRAM_BYTES: usize = 65_536;
/// The super-datagrams that one turn receives at most.
pub const TURN_DATAGRAMS: usize = 32;

/// What one turn read from a TUN device.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Box<[u8]>,
    used: usize,
    places: Vec<(VnetHeader, Range<usize>)>,
    unreadable: u64,
    frames: Vec<Frame<'static>>,
}

impl FrameBuffer {
    /// An empty buffer with all the memory that it will ever use.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; TURN_BYTES + FRAME_BYTES].into_boxed_slice(),
            used: 0,
            places: Vec::with_capacity(TURN_FRAMES),
            unreadable: 0,
            frames: Vec::with_capacity(TURN_FRAMES),
        }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.used = 0;
        self.places.clear();
        self.unreadable = 0;
    }

    /// The number of frames.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The frames that were left out because nobody can read their header.
    pub const fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The place for the next frame, its virtio-net header first; `None` when the turn's budget is used up.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        let open = self.used < TURN_BYTES && self.places.len() < TURN_FRAMES;
        open.then(|| &mut self.bytes[self.used..self.used + FRAME_BYTES])
    }

    /// Takes the first `length` bytes of the last [`slot`](Self::slot) as a frame.
    pub fn commit(&mut self, length: usize) {
        let end = (self.used + length).min(self.bytes.len());
        match VnetHeader::decode(&self.bytes[self.used..end]) {
            Some(header) => {
                self.places.push((header, self.used + VNET_HEADER_BYTES..end));
                self.used = end;
            }
            None => self.unreadable += 1,
        }
    }

    /// Hands the frames to `work`.
    pub fn with<R>(&mut self, work: impl FnOnce(&[Frame<'_>]) -> R) -> R {
        let mut frames = recycle(std::mem::take(&mut self.frames), bare_frame);
        frames.extend(
            self.places.iter().map(|(header, place)| Frame {
                header: *header,
                packet: &self.bytes[place.clone()],
            }),
        );
        let result = work(&frames);
        self.frames = recycle(frames, bare_frame);
        result
    }
}

fn bare_frame<'a>(frame: Frame<'_>) -> Frame<'a> {
    Frame { header: frame.header, packet: &[] }
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// What one turn received from a UDP socket: a fixed place for each super-datagram, and where each came from.
#[derive(Debug)]
pub struct ReceiveBuffer {
    pub(crate) bytes: Box<[u8]>,
    entries: Vec<Entry>,
    truncated: u64,
    received: Vec<Received<'static>>,
}

#[derive(Debug)]
struct Entry {
    path: Path,
    ecn: Ecn,
    segment: usize,
    place: Range<usize>,
}

impl ReceiveBuffer {
    /// An empty buffer with all the memory that it will ever use; the kernel gives it page by page.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; TURN_DATAGRAMS * DATAGRAM_BYTES].into_boxed_slice(),
            entries: Vec::with_capacity(TURN_DATAGRAMS),
            truncated: 0,
            received: Vec::with_capacity(TURN_DATAGRAMS),
        }
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.truncated = 0;
    }

    /// The number of super-datagrams.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no datagram.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The datagrams that were left out because they were cut off or came from no readable address.
    pub const fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The place of the datagram with this number, at most [`TURN_DATAGRAMS`] of them.
    pub fn slot(&mut self, number: usize) -> Option<&mut [u8]> {
        self.bytes.chunks_exact_mut(DATAGRAM_BYTES).nth(number)
    }

    /// Takes the first `length` bytes of a slot as a super-datagram. An empty one is left out.
    pub fn commit(&mut self, number: usize, length: usize, path: Path, ecn: Ecn, segment: usize) {
        let start = number * DATAGRAM_BYTES;
        if number < TURN_DATAGRAMS && length > 0 {
            let place = start..start + length.min(DATAGRAM_BYTES);
            self.entries.push(Entry { path, ecn, segment: segment.clamp(1, length), place });
        }
    }

    pub(crate) const fn leave_out(&mut self) {
        self.truncated += 1;
    }

    /// Hands the super-datagrams to `work`.
    pub fn with<R>(&mut self, work: impl FnOnce(&[Received<'_>]) -> R) -> R {
        let mut received = recycle(std::mem::take(&mut self.received), bare_received);
        received.extend(self.entries.iter().map(|entry| Received {
            path: entry.path,
            ecn: entry.ecn,
            segment: entry.segment,
            bytes: &self.bytes[entry.place.clone()],
        }));
        let result = work(&received);
        self.received = recycle(received, bare_received);
        result
    }
}

fn bare_received<'a>(received: Received<'_>) -> Received<'a> {
    Received { path: received.path, ecn: received.ecn, segment: received.segment, bytes: &[] }
}

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Empties a vector and gives its memory to one whose items borrow from elsewhere: the standard library collects into
/// the vector that it iterates over where the items' layouts agree, as they do for two lifetimes of one type.
fn recycle<A, B>(mut vector: Vec<A>, convert: impl FnMut(A) -> B) -> Vec<B> {
    vector.clear();
    vector.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_with_its_budget() {
        let mut buffer = FrameBuffer::new();
        buffer.slot().unwrap();
        buffer.commit(FRAME_BYTES);
        assert!(buffer.slot().is_none(), "a full super-packet is a turn");
        buffer.clear();
        let mut small = 0;
        while buffer.slot().is_some() {
            buffer.commit(VNET_HEADER_BYTES + 60);
            small += 1;
        }
        assert_eq!(small, TURN_FRAMES);
    }

    #[test]
    fn frames_are_lent_without_allocating() {
        let mut buffer = FrameBuffer::new();
        for _ in 0..3 {
            buffer.clear();
            buffer.slot().unwrap()[VNET_HEADER_BYTES] = 7;
            buffer.commit(VNET_HEADER_BYTES + 1);
            buffer.slot().unwrap();
            buffer.commit(4);
            buffer.with(|frames| {
                assert_eq!(frames.len(), 1);
                assert_eq!(frames[0].packet, [7]);
            });
            assert_eq!(buffer.unreadable(), 1);
            assert_eq!(buffer.frames.capacity(), TURN_FRAMES);
        }
    }

    #[test]
    fn datagrams_are_lent_without_allocating() {
        let path = Path { remote: ([192, 0, 2, 1], 1).into(), local: None };
        let mut buffer = ReceiveBuffer::new();
        for _ in 0..3 {
            buffer.clear();
            buffer.slot(1).unwrap()[..3].copy_from_slice(&[1, 2, 3]);
            buffer.commit(1, 3, path, Ecn::Ce, 0);
            buffer.commit(2, 0, path, Ecn::Ce, 0);
            buffer.commit(TURN_DATAGRAMS, 1, path, Ecn::Ce, 0);
            buffer.with(|received| {
                assert_eq!(received.len(), 1);
                assert_eq!((received[0].bytes, received[0].segment), (&[1, 2, 3][..], 1));
            });
            assert_eq!(buffer.received.capacity(), TURN_DATAGRAMS);
        }
        assert!(buffer.slot(TURN_DATAGRAMS).is_none());
    }
}
