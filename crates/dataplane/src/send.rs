//! The threads that carry packets from the TUN device to the network, one a queue.

use std::time::Duration;

use wireloom_io::{FrameBuffer, TunRead, Wake};
use wireloom_packet::Outbox;
use wireloom_tunnel::Sealer;

use crate::counters::{Counter, Counters};
use crate::refusal::Refuser;
use crate::shared::{Queue, Shared, lock};

/// The outbox's first room: a turn's packets with what sealing adds to each.
const OUTBOX_BYTES: usize = 256 * 1024;
/// How often MTUs are looked at while packets flow: the device's may be changed under us, and packets are padded up to it
/// at most; those of paths become known by and by.
const MTU_EVERY: Duration = Duration::from_secs(1);

/// Reads, seals and sends what comes by one queue until told to stop.
pub(crate) fn run(shared: &Shared, queue: usize, mut tun: Box<dyn TunRead>) {
    let Queue { order, sent, .. } = &shared.queues[queue];
    let mut frames = FrameBuffer::new();
    let mut sealer = Sealer::default();
    let mut outbox = Outbox::with_capacity(OUTBOX_BYTES);
    let mut refuser = Refuser::default();
    loop {
        match tun.read(&mut frames, &shared.stop) {
            Ok(Wake::Stopped) => return,
            Ok(_) => {}
            Err(error) => return shared.end_by_tun("reading the TUN device", &error),
        }
        let now = shared.now();
        if shared.is_time_to_look(now, MTU_EVERY) {
            look_at_mtus(shared);
        }
        let mut counts = Counters::default();
        counts.add(Counter::FramesRead, frames.len() as u64);
        counts.add(Counter::DroppedUnreadable, frames.unreadable());
        let order = lock(order);
        frames.with(|frames| {
            shared.device.seal(now, frames, &mut sealer, &mut outbox);
            refuser.answer(now, frames, sealer.refused(), (&*shared.tun, queue), &mut counts);
        });
        shared.flush(queue, now, &mut outbox, &mut counts);
        drop(order);
        sent.add(&counts);
        shared.arm();
    }
}

/// A device that is gone is noticed by the next read.
fn look_at_mtus(shared: &Shared) {
    if let Ok(mtu) = shared.tun.mtu() {
        shared.device.set_mtu(u16::try_from(mtu).unwrap_or(u16::MAX));
    }
    let outlet = shared.outlet.load();
    shared.device.look_at_paths(|remote| outlet.sender.path_mtu(remote));
}
