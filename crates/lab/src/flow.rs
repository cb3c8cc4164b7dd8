//! A connection that is watched while something happens to what carries it.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::child::Child;
use crate::error::Error;
use crate::host::Host;
use crate::program::Program;

/// How long a flow goes on after what it is watched for: what came last has its consequences.
const AFTER: Duration = Duration::from_secs(3);

/// How long its ends may take to begin.
const BEGINS: Duration = Duration::from_secs(15);

/// How long its ends may take to end.
const ENDS: Duration = Duration::from_secs(60);

/// A TCP stream of iperf3 from one host to another, little enough for a machine that has other things to do.
#[derive(Debug)]
pub struct Flow {
    from: String,
    to: IpAddr,
    server: Child,
    client: Child,
}

impl Flow {
    /// Begins to send to an address of the second host.
    ///
    /// # Errors
    ///
    /// `iperf3` or `ss` is missing, or [`Error::Unmeasured`] if no connection comes about.
    pub fn start(from: &Host, to: &Host, address: IpAddr) -> Result<Self, Error> {
        let program = Program::Iperf3.path().ok_or(Error::Missing(Program::Iperf3))?;
        let text = address.to_string();
        let unmeasured = |reason: &str| Error::Unmeasured {
            host: from.name().to_owned(),
            address,
            reason: reason.to_owned(),
        };
        let server = to.spawn(&program, ["-s", "-1", "-J", "-i", "0.1", "-B", &text])?;
        if !has_socket(to, &["-Hltn", "sport = :5201"], &text)? {
            return Err(unmeasured("the server does not listen"));
        }
        let client = from.spawn(&program, ["-c", &text, "-t", "3600", "-b", "20M", "-l", "8K"])?;
        if !has_socket(from, &["-Htn", "state", "established", "dport = :5201"], &text)? {
            return Err(unmeasured("no connection comes about"));
        }
        Ok(Self { from: from.name().to_owned(), to: address, server, client })
    }

    /// Ends it, a moment later, and returns the longest time for which nothing arrived.
    ///
    /// # Errors
    ///
    /// [`Error::Unmeasured`] if the connection did not last.
    pub fn stop(self) -> Result<Duration, Error> {
        thread::sleep(AFTER);
        let client = self.client.stop(ENDS)?;
        let report = self.server.wait(ENDS)?.stdout;
        let report: Value = serde_json::from_str(&report).unwrap_or_default();
        // The server says so too, or that what it would ask of the connection is closed.
        let is_ended_here = client.stderr.contains("the client has terminated");
        let intervals = report["intervals"].as_array().filter(|intervals| intervals.len() > 10);
        match intervals {
            Some(intervals) if is_ended_here => Ok(longest_silence(intervals)),
            _ => Err(Error::Unmeasured {
                host: self.from,
                address: self.to,
                reason: format!("{}: {}", report["error"], client.stderr),
            }),
        }
    }
}

/// Waits until `ss` shows a socket with this address.
fn has_socket(host: &Host, arguments: &[&str], address: &str) -> Result<bool, Error> {
    let program = Program::Ss.path().ok_or(Error::Missing(Program::Ss))?;
    let deadline = Instant::now() + BEGINS;
    loop {
        if host.exec(&program, arguments, BEGINS)?.stdout.contains(address) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The longest run of intervals in which no byte came.
fn longest_silence(intervals: &[Value]) -> Duration {
    let (mut now, mut longest) = (0.0_f64, 0.0_f64);
    for interval in intervals {
        let sum = &interval["sum"];
        let is_silent = sum["bytes"].as_u64() == Some(0);
        now = if is_silent { now + sum["seconds"].as_f64().unwrap_or_default() } else { 0.0 };
        longest = longest.max(now);
    }
    Duration::from_secs_f64(longest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_times_in_a_row_without_a_byte_add_up() {
        let intervals =
            [7, 0, 0, 1, 0].map(|bytes| json!({ "sum": { "bytes": bytes, "seconds": 0.1 } }));
        assert_eq!(longest_silence(&intervals), Duration::from_millis(200));
        assert_eq!(longest_silence(&intervals[..1]), Duration::ZERO);
    }
}
