//! Reachability and throughput between hosts.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::Error;
use crate::host::Host;
use crate::program::Program;

/// The least time that one try of a ping has.
const ONE_TRY: Duration = Duration::from_secs(1);

/// The pause after a try that an ICMP error ended at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks an address for an echo until it answers, and gives the round trip of the answer. `None` if there is none until
/// the deadline; it is tried once in any case.
///
/// # Errors
///
/// `ping` is missing or does not start.
pub fn ping(from: &Host, to: IpAddr, deadline: Instant) -> Result<Option<Duration>, Error> {
    let program = Program::Ping.path().ok_or(Error::Missing(Program::Ping))?;
    let to = to.to_string();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(ONE_TRY);
        // It asks every 0.2 s until one answer, an ICMP error, or the end of the time.
        let seconds = left.as_secs().to_string();
        let args = ["-n", "-c", "1", "-i", "0.2", "-w", &seconds, &to];
        let output = from.exec(&program, args, left + ONE_TRY)?;
        if output.status.success() {
            return Ok(Some(round_trip(&output.stdout).unwrap_or_default()));
        }
        if deadline.saturating_duration_since(Instant::now()) < ONE_TRY {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

/// Sends one TCP stream to an address of another host for this many seconds and gives what arrived, in bits per second.
///
/// # Errors
///
/// `iperf3` is missing, or [`Error::Unmeasured`].
pub fn throughput(from: &Host, to: &Host, end: IpAddr, seconds: u32) -> Result<f64, Error> {
    let program = Program::Iperf3.path().ok_or(Error::Missing(Program::Iperf3))?;
    let limit = Duration::from_secs(seconds.into()) + Duration::from_secs(20);
    let address = end.to_string();
    let mut server = to.spawn(&program, ["-s", "-1", "-B", &address])?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let seconds = seconds.to_string();
        let args = ["-J", "-c", &address, "-t", &seconds, "--connect-timeout", "5000"];
        let output = from.exec(&program, args, limit)?;
        // With -J, it says in the report alone that it failed.
        if let Some(rate) = received(&output.stdout) {
            return Ok(rate);
        }
        // The server may not listen yet; it says nothing that could be awaited.
        if Instant::now() > deadline || server.has_ended()? {
            let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            let reason = report["error"].as_str().unwrap_or(&output.stderr).to_owned();
            return Err(Error::Unmeasured { host: from.name().to_owned(), address: end, reason });
        }
        thread::sleep(PAUSE);
    }
}

/// The time in a line of ping's, such as `64 bytes from ...: icmp_seq=1 ttl=64 time=0.042 ms`.
pub fn round_trip(printed: &str) -> Option<Duration> {
    let (_, after) = printed.split_once("time=")?;
    let millis: f64 = after.split_once(" ms")?.0.parse().ok()?;
    Duration::try_from_secs_f64(millis / 1000.0).ok()
}

fn received(report: &str) -> Option<f64> {
    let report: Value = serde_json::from_str(report).ok()?;
    report["end"]["sum_received"]["bits_per_second"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_read_from_pings_line() {
        let line = "64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.042 ms\n";
        assert_eq!(round_trip(line), Some(Duration::from_micros(42)));
        assert_eq!(round_trip("1 packets transmitted, 0 received"), None);
    }

    #[test]
    fn throughput_is_what_arrived() {
        let report = r#"{"end":{"sum_sent":{"bits_per_second":9e9},
            "sum_received":{"bits_per_second":8.5e9}}}"#;
        assert_eq!(received(report), Some(8.5e9));
        assert_eq!(received("iperf3: error"), None);
    }
}
