//! iperf3 between two hosts, and what its reports say.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wireloom_lab::{Child, Host};

/// How long iperf3 may take beyond its time: under a flood its own control connection waits as well.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a server may take to listen.
const LISTEN: Duration = Duration::from_secs(5);

/// The first server's port; another one at the same time has the next.
const PORT: u16 = 5201;

/// The way that a load takes.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// Where it comes from.
    pub from: &'a Host,
    /// Where it goes to.
    pub to: &'a Host,
    /// The address there.
    pub address: &'a str,
}

/// What arrived of TCP streams.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tcp {
    /// Payload, in Gbit/s.
    pub gbit: f64,
    /// Payload, in bytes.
    pub bytes: f64,
    /// The segments that the senders sent again.
    pub retransmits: f64,
}

/// What became of datagrams, in thousands a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Udp {
    /// Those that left.
    pub sent: f64,
    /// Those that arrived.
    pub received: f64,
    /// The part of them that was lost, from 0 to 1.
    pub loss: f64,
}

impl Tcp {
    /// Retransmitted segments per 10⁹ bytes that arrived.
    pub fn retransmits_per_gb(&self) -> f64 {
        self.retransmits / self.bytes.max(1.0) * 1e9
    }
}

/// Sends TCP for so many seconds, with more of iperf3's options.
///
/// # Errors
///
/// What iperf3 says.
pub fn tcp(way: Way<'_>, seconds: u32, options: &[&str]) -> Result<Tcp> {
    tcp_in(&run(way, seconds, options)?)
}

/// Sends datagrams of `length` bytes for so many seconds: so many thousands a second, or as fast as it can.
///
/// # Errors
///
/// What iperf3 says.
pub fn udp(way: Way<'_>, seconds: u32, length: u32, kpps: Option<f64>) -> Result<Udp> {
    let bits = kpps.map_or(0.0, |kpps| kpps * 1000.0 * f64::from(length) * 8.0);
    let (length, bits) = (length.to_string(), format!("{bits:.0}"));
    udp_in(&run(way, seconds, &["--udp", "--bitrate", &bits, "--length", &length])?)
}

/// Sends one TCP stream on every way at once, all to one host, and returns the sum.
///
/// # Errors
///
/// What any iperf3 says.
pub fn tcp_together(ways: &[Way<'_>], seconds: u32) -> Result<Tcp> {
    let servers: Vec<_> =
        (PORT..).zip(ways).map(|(port, way)| listen(*way, port)).collect::<Result<_>>()?;
    let clients: Vec<_> = (PORT..)
        .zip(ways)
        .map(|(port, way)| call(*way, port, seconds, &[]))
        .collect::<Result<_>>()?;
    let mut sum = Tcp::default();
    for client in clients {
        let Tcp { gbit, bytes, retransmits } = tcp_in(&report(client, seconds)?)?;
        sum.gbit += gbit;
        sum.bytes += bytes;
        sum.retransmits += retransmits;
    }
    drop(servers);
    Ok(sum)
}

fn run(way: Way<'_>, seconds: u32, options: &[&str]) -> Result<Value> {
    let server = listen(way, PORT)?;
    let report = report(call(way, PORT, seconds, options)?, seconds);
    drop(server);
    report
}

/// Starts a server for one load and waits until it listens: a fresh one, so that no load meets what the last one left.
fn listen(way: Way<'_>, port: u16) -> Result<Child> {
    let port_text = port.to_string();
    let args = ["--server", "--one-off", "--bind", way.address, "--port", &port_text];
    let mut server = way.to.spawn("iperf3", args)?;
    let deadline = Instant::now() + LISTEN;
    while !way.to.run(move || listens(port))? {
        if server.has_ended()? || Instant::now() > deadline {
            let (out, err) = server.written()?;
            bail!("iperf3 does not listen on {}: {out}{err}", way.address);
        }
        // It says nothing that could be awaited.
        thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}

/// Whether somebody in this thread's network listens on the TCP port.
fn listens(port: u16) -> bool {
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/thread-self/net/{table}"));
    tables.iter().filter_map(|table| fs::read_to_string(table).ok()).any(|t| listens_in(&t, port))
}

/// Reads a table of sockets (proc_pid_net(5)): the local address ends in the port, and state 0A is LISTEN.
fn listens_in(table: &str, port: u16) -> bool {
    let local = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|word| word.ends_with(&local)) && words.nth(1) == Some("0A")
    })
}

fn call(way: Way<'_>, port: u16, seconds: u32, options: &[&str]) -> Result<Child> {
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let mut args = vec!["--json", "--client", way.address, "--port", &port, "--time", &seconds];
    args.extend(["--connect-timeout", "2000"]);
    args.extend(options);
    Ok(way.from.spawn("iperf3", args)?)
}

fn report(client: Child, seconds: u32) -> Result<Value> {
    let output = client.wait(Duration::from_secs(seconds.into()) + PATIENCE)?;
    let report: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("iperf3 printed no JSON: {}", output.stderr))?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    Ok(report)
}

/// Sums both directions if there are two.
fn tcp_in(report: &Value) -> Result<Tcp> {
    let mut sum = Tcp::default();
    for way in ["", "_bidir_reverse"] {
        let [sent, received] = ["sent", "received"].map(|side| format!("/end/sum_{side}{way}"));
        if way.is_empty() || report.pointer(&received).is_some() {
            sum.gbit += number(report, &format!("{received}/bits_per_second"))? / 1e9;
            sum.bytes += number(report, &format!("{received}/bytes"))?;
            sum.retransmits += number(report, &format!("{sent}/retransmits"))?;
        }
    }
    ensure!(sum.bytes > 0.0, "nothing arrived");
    Ok(sum)
}

fn udp_in(report: &Value) -> Result<Udp> {
    // Before 3.10 there is one sum, which counts what the sender sent after the receiver's last datagram as well.
    let sum = report.pointer("/end/sum_received").map_or("/end/sum", |_| "/end/sum_received");
    let [packets, lost, seconds] =
        ["packets", "lost_packets", "seconds"].map(|name| number(report, &format!("{sum}/{name}")));
    let (packets, lost, seconds) = (packets?, lost?, seconds?);
    ensure!(seconds > 0.0 && packets > 0.0, "no datagram arrived");
    Ok(Udp {
        sent: number(report, "/end/sum/packets")? / number(report, "/end/sum/seconds")? / 1000.0,
        received: (packets - lost) / seconds / 1000.0,
        loss: lost / packets,
    })
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.with_context(|| format!("iperf3's report has no number at {pointer}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_lost_did_not_arrive() {
        let old = json!({"packets": 50_000, "lost_packets": 10_000, "seconds": 2.0});
        let udp = udp_in(&json!({"end": {"sum": old}})).unwrap();
        assert_eq!(udp, Udp { sent: 25.0, received: 20.0, loss: 0.2 });
        let new = json!({"packets": 40_000, "lost_packets": 10_000, "seconds": 2.0});
        let udp = udp_in(&json!({"end": {"sum": old, "sum_received": new}})).unwrap();
        assert_eq!(udp, Udp { sent: 25.0, received: 15.0, loss: 0.25 });
    }

    #[test]
    fn both_ways_are_summed() {
        let received = json!({"bits_per_second": 2e9, "bytes": 5e8});
        let sent = json!({"retransmits": 3});
        let mut end = json!({"sum_received": received, "sum_sent": sent});
        assert_eq!(
            tcp_in(&json!({ "end": end })).unwrap(),
            Tcp { gbit: 2.0, bytes: 5e8, retransmits: 3.0 }
        );
        end["sum_received_bidir_reverse"] = received;
        end["sum_sent_bidir_reverse"] = sent;
        let both = tcp_in(&json!({ "end": end })).unwrap();
        assert_eq!(both, Tcp { gbit: 4.0, bytes: 1e9, retransmits: 6.0 });
        assert_eq!(both.retransmits_per_gb(), 6.0);
    }

    #[test]
    fn a_missing_number_is_named() {
        let error = tcp_in(&json!({"end": {}})).unwrap_err();
        assert!(error.to_string().contains("/end/sum_received/bits_per_second"));
    }

    #[test]
    fn a_silent_load_is_an_error() {
        let none = json!({"packets": 0, "lost_packets": 0, "seconds": 1.0});
        assert!(udp_in(&json!({"end": {"sum": none}})).is_err());
    }

    #[test]
    fn only_a_listening_socket_listens() {
        let table = "  sl  local_address rem_address   st\n\
                     0: 0100000A:1451 00000000:0000 0A 00000000:00000000\n\
                     1: 0100000A:1452 0200000A:9C40 01 00000000:00000000\n";
        assert!(listens_in(table, 5201));
        assert!(!listens_in(table, 5202), "that one is connected");
        assert!(!listens_in(table, 5203));
    }
}
