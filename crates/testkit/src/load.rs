//! How busy the machine is.

use std::fs;
use std::thread;
use std::time::Duration;

/// How long something may take on this machine that is promised within `time` on one with nothing else to do: as many
/// times longer as programs want to run for each half of a processor.
///
/// # Panics
///
/// If the kernel does not tell the load.
#[expect(clippy::expect_used, reason = "a test's helper: its failure is the test's failure")]
pub fn promised(time: Duration) -> Duration {
    // Programs that run or want to, on an average over the last minute (proc_loadavg(5)).
    let load = fs::read_to_string("/proc/loadavg").expect("the kernel tells its load");
    let load = load.split(' ').next().and_then(|average| average.parse::<f64>().ok());
    let processors = thread::available_parallelism().expect("the kernel tells its processors");
    let share = load.expect("a load is a number") / processors.get() as f64;
    time.mul_f64((2.0 * share).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_never_shorter_than_it_was() {
        let time = Duration::from_secs(3);
        assert!((time..time * 10_000).contains(&promised(time)));
    }
}
