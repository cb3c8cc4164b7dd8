//! The limit that no tunnel on this machine can pass.

use std::time::{Duration, Instant};

use crate::hot_path::Case;

/// How long each half is measured.
const SPAN: Duration = Duration::from_millis(200);

/// The bits of TCP payload in a batch of [`hot_path`](crate::hot_path)'s packets of 1420 bytes: 52 bytes of each are
/// headers.
const BITS: f64 = 64.0 * (1420.0 - 52.0) * 8.0;

/// The Gbit/s of TCP payload that could pass if all processors did nothing but seal each packet of 1420 bytes once and
/// open it once: the ciphers, padding, lookup and replay window of our own device, and no IO.
pub fn of_ciphers(processors: usize) -> f64 {
    let batch: f64 =
        ["seal_64x1420", "open_64x1420"].map(|name| mean(Case::named(name))).iter().sum();
    BITS * processors as f64 / batch / 1e9
}

/// The mean seconds of one turn.
fn mean(case: Case) -> f64 {
    let mut work = case.warm();
    let (mut sum, mut turns) = (Duration::ZERO, 0.0);
    while sum < SPAN {
        let start = Instant::now();
        work.run();
        sum += start.elapsed();
        turns += 1.0;
        work.prepare();
    }
    sum.as_secs_f64() / turns
}
