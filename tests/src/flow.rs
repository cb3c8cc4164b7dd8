//! A connection that is watched while something happens to what carries it.

use std::time::Duration;

use serde_json::Value;
use wireloom_lab::{Child, Host};

/// How long a flow goes on after what it is watched for.
const AFTER: Duration = Duration::from_secs(3);

/// A TCP stream from one host to another, little enough for a machine that has other things to do.
pub struct Flow {
    server: Child,
    client: Child,
}

impl Flow {
    /// Begins to send to an address of the second host.
    ///
    /// # Panics
    ///
    /// If there is no iperf3.
    pub fn start(from: &Host, to: &Host, address: &str) -> Self {
        let server = to.spawn("iperf3", ["-s", "-1", "-J", "-i", "0.1", "-B", address]).unwrap();
        crate::eventually("the server listens", || {
            crate::ok(to, "ss -Hltn sport = :5201").contains(address)
        });
        let stream = ["-c", address, "-t", "3600", "-b", "20M", "-l", "8K"];
        let client = from.spawn("iperf3", stream).unwrap();
        crate::eventually("the stream runs", || {
            crate::ok(from, "ss -Htn state established dport = :5201").contains(address)
        });
        Self { server, client }
    }

    /// Ends it and returns the longest time for which nothing arrived.
    ///
    /// # Panics
    ///
    /// If the connection did not last.
    pub fn stop(self) -> Duration {
        // What came last has its consequences.
        std::thread::sleep(AFTER);
        let client = self.client.stop(Duration::from_secs(60)).unwrap();
        let report = self.server.wait(Duration::from_secs(60)).unwrap().stdout;
        let report: Value = serde_json::from_str(&report).unwrap();
        // The server says so too, or that what it would ask of the connection is closed.
        let is_ended_here = client.stderr.contains("the client has terminated");
        assert!(is_ended_here, "{}: {}", report["error"], client.stderr);
        let mut stood = 0.0_f64;
        let mut longest = stood;
        for interval in report["intervals"].as_array().unwrap() {
            let sum = &interval["sum"];
            let is_still = sum["bytes"].as_u64().unwrap() == 0;
            stood = if is_still { stood + sum["seconds"].as_f64().unwrap() } else { 0.0 };
            longest = longest.max(stood);
        }
        assert!(report["intervals"].as_array().unwrap().len() > 10);
        Duration::from_secs_f64(longest)
    }
}
