//! The thread that waits for the device's timers.

use wireloom_io::Wake;
use wireloom_packet::Outbox;

use crate::counters::Counters;
use crate::shared::{Ended, Shared};

/// Waits for the alarm and does what is due, until told to stop.
pub(crate) fn run(shared: &Shared) {
    let mut outbox = Outbox::default();
    loop {
        match shared.stop.or_readable(&shared.alarm, None) {
            Ok(Wake::Stopped) => return,
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                return shared.end(Ended::Failed { deed: "waiting for the timers", error });
            }
        }
        let now = shared.now();
        shared.disarm();
        shared.device.handle_timeout(now, &mut outbox);
        let mut counts = Counters::default();
        shared.flush(0, now, &mut outbox, &mut counts);
        shared.queues[0].sent.add(&counts);
        shared.arm();
    }
}
