//! The threads that carry packets from the network to the TUN device, one a socket.
//!
//! What a peer sends arrives at one queue and is written to the TUN device by the same, so that it stays in order.

use std::io;

use wireloom_io::{ReceiveBuffer, Signal, UdpReceive, Wake, tun};
use wireloom_packet::{Arena, Merger, Outbox, Received};

use crate::counters::{Counter, Counters};
use crate::shared::{Ended, Shared};

/// The bytes that are opened before they are written to the TUN device: about one super-packet, so that what was opened
/// is still in the cache when it is merged and written.
const CHUNK_BYTES: usize = 64 * 1024;

/// Receives, opens and writes what comes by a queue's socket until it is given up or everything stops.
pub(crate) fn run(shared: &Shared, queue: usize, mut socket: Box<dyn UdpReceive>, stop: &Signal) {
    let mut buffer = ReceiveBuffer::new();
    let mut opener = Opener {
        shared,
        queue,
        arena: Arena::with_capacity(2 * CHUNK_BYTES),
        outbox: Outbox::default(),
        merger: Merger::default(),
    };
    loop {
        match socket.receive(&mut buffer, stop) {
            Ok(Wake::Stopped) => return,
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                return shared.end(Ended::Failed { deed: "receiving from the network", error });
            }
        }
        let mut counts = Counters::default();
        counts.add(Counter::DroppedTruncated, buffer.truncated());
        let written = buffer.with(|received| {
            chunks(received).try_for_each(|chunk| opener.pass_on(chunk, &mut counts))
        });
        shared.queues[queue].received.add(&counts);
        shared.arm();
        if let Err(error) = written {
            return shared.end_by_tun("writing to the TUN device", &error);
        }
    }
}

struct Opener<'a> {
    shared: &'a Shared,
    queue: usize,
    arena: Arena,
    outbox: Outbox,
    merger: Merger,
}

impl Opener<'_> {
    /// Opens a chunk, sends the answers and writes its packets. An error only if the TUN device is gone.
    fn pass_on(&mut self, chunk: &[Received<'_>], counts: &mut Counters) -> io::Result<()> {
        let Self { shared, queue, arena, outbox, merger } = self;
        for received in chunk {
            counts.add(Counter::BatchesReceived, 1);
            counts.add(Counter::DatagramsReceived, received.datagrams().count() as u64);
            counts.add(Counter::BytesReceived, received.bytes.len() as u64);
        }
        let now = shared.now();
        let ready = shared.device.open(now, chunk, arena, outbox);
        shared.flush(*queue, now, outbox, counts);
        if !ready.is_empty() {
            let order = shared.order();
            shared.device.release(now, &ready, outbox);
            shared.flush(*queue, now, outbox, counts);
            drop(order);
        }
        merger.merge(arena, shared.tun.writes());
        let mut result = Ok(());
        for run in merger.runs() {
            match shared.tun.write(*queue, &run.header, run.parts, arena.bytes()) {
                Ok(()) => counts.add(Counter::FramesWritten, 1),
                Err(error) if tun::is_gone(&error) => {
                    result = Err(error);
                    break;
                }
                Err(_) => counts.add(Counter::DroppedWriting, run.parts.len() as u64),
            }
        }
        arena.clear();
        result
    }
}

/// Neighbours that are no more than a chunk together, or alone.
fn chunks<'a, 'b>(mut received: &'a [Received<'b>]) -> impl Iterator<Item = &'a [Received<'b>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fit = received.iter().take_while(|one| {
            bytes += one.bytes.len();
            bytes <= CHUNK_BYTES
        });
        let count = fit.count().max(1).min(received.len());
        let (chunk, rest) = received.split_at(count);
        received = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use wireloom_packet::{Ecn, Path};

    use super::*;

    #[test]
    fn chunks_hold_everything_once_and_in_order() {
        let path = Path { remote: ([192, 0, 2, 1], 1).into(), local: None };
        let bytes = vec![0; CHUNK_BYTES + 1];
        let one = |length| Received { path, ecn: Ecn::NotEct, segment: 9, bytes: &bytes[..length] };
        let sizes = [30_000, 30_000, 30_000, CHUNK_BYTES + 1, 1, CHUNK_BYTES - 1, 5];
        let received = sizes.map(one);
        let chunked: Vec<Vec<usize>> = chunks(&received)
            .map(|chunk| chunk.iter().map(|one| one.bytes.len()).collect())
            .collect();
        assert_eq!(chunked.concat(), sizes);
        assert_eq!(chunked.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2, 1]);
        assert_eq!(chunks(&[]).count(), 0);
    }
}
