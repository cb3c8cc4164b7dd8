//! What is measured on a rig.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wireloom_lab::Child;

use crate::report::Figures;
use crate::rig::Rig;

/// How long iperf3 may take beyond its time: under a flood its own control connection waits as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the server may take to listen.
const LISTEN: Duration = Duration::from_secs(5);

/// Clock ticks of `/proc/stat` in a second: USER_HZ, 100 on every architecture that we build for.
const TICKS: f64 = 100.0;

/// Measures everything on a rig, each load for `seconds`, and tells `progress` what comes next.
///
/// # Errors
///
/// What iperf3 or ping says, named by the load.
pub fn measure(rig: &Rig, seconds: u32, progress: impl Fn(&str)) -> Result<Figures> {
    let mut figures = Figures::new();
    let server =
        rig.receiver.host.spawn("iperf3", ["--server", "--bind", &rig.receiver.address])?;

    progress("ping, idle");
    figures.insert("ping.avg_us", average_of(ping(rig, 50, "0.01")?)?);

    progress("TCP, 1 stream, and ping under it");
    let pinging = ping(rig, seconds * 10, "0.1")?;
    let before = busy()?;
    let report = iperf(rig, seconds, &[])?;
    let busy = busy()? - before;
    figures.insert("loadping.avg_us", average_of(pinging)?);
    figures.insert("tcp1.gbit", gbit(&report, "sum_received")?);
    figures.insert("tcp1.retransmits", number(&report, "/end/sum_sent/retransmits")?);
    let gigabytes = number(&report, "/end/sum_received/bytes")? / 1e9;
    figures.insert("tcp1.cpu_s_per_gb", busy / gigabytes);

    progress("TCP, 8 streams");
    let report = iperf(rig, seconds, &["--parallel", "8"])?;
    figures.insert("tcp8.gbit", gbit(&report, "sum_received")?);

    progress("TCP, both ways");
    let report = iperf(rig, seconds, &["--bidir"])?;
    let both = gbit(&report, "sum_received")? + gbit(&report, "sum_received_bidir_reverse")?;
    figures.insert("tcpboth.gbit", both);

    for (name, length) in [("udp1372.kpps", "1372"), ("udp64.kpps", "64")] {
        progress(&format!("UDP flood, {length} B"));
        let report = iperf(rig, seconds, &["--udp", "--bitrate", "0", "--length", length])?;
        figures.insert(name, received(&report)?);
    }
    if let Some(megabytes) = rig.peak_memory() {
        figures.insert("peak_rss_mb", megabytes);
    }
    drop(server);
    Ok(figures)
}

/// Runs one load from the sender and returns iperf3's report.
fn iperf(rig: &Rig, seconds: u32, load: &[&str]) -> Result<Value> {
    let seconds_text = seconds.to_string();
    let mut args = vec!["--json", "--client", &rig.receiver.address, "--time", &seconds_text];
    args.extend(["--connect-timeout", "2000"]);
    args.extend(load);
    let limit = Duration::from_secs(seconds.into()) + PATIENCE;
    let deadline = Instant::now() + LISTEN;
    loop {
        let output = rig.sender.host.exec("iperf3", &args, limit)?;
        let report: Value = serde_json::from_str(&output.stdout)
            .with_context(|| format!("iperf3 {load:?} printed no JSON: {}", output.stderr))?;
        let Some(error) = report["error"].as_str() else { return Ok(report) };
        if Instant::now() > deadline {
            bail!("iperf3 {load:?}: {error}");
        }
        // The server may not listen yet, or still close the load before; it says nothing that could be awaited.
        thread::sleep(Duration::from_millis(100));
    }
}

fn ping(rig: &Rig, count: u32, interval: &str) -> Result<Child> {
    let count = count.to_string();
    let args = ["-q", "-n", "-c", &count, "-i", interval, &rig.receiver.address];
    Ok(rig.sender.host.spawn("ping", args)?)
}

/// Waits for a ping and returns its mean round trip in microseconds.
fn average_of(ping: Child) -> Result<f64> {
    let output = ping.wait(PATIENCE)?;
    average(&output.stdout).with_context(|| format!("no answer to any ping: {}", output.stdout))
}

/// Reads the mean of `rtt min/avg/max/mdev = 0.014/0.025/0.034/0.003 ms`, in microseconds.
fn average(printed: &str) -> Option<f64> {
    let (_, numbers) = printed.split_once("min/avg/max/mdev = ")?;
    let millis: f64 = numbers.split('/').nth(1)?.parse().ok()?;
    Some(millis * 1000.0)
}

fn gbit(report: &Value, sum: &str) -> Result<f64> {
    Ok(number(report, &format!("/end/{sum}/bits_per_second"))? / 1e9)
}

/// The datagrams that arrived, in thousands a second.
fn received(report: &Value) -> Result<f64> {
    // Before 3.10 there is one sum, which counts what the sender sent after the receiver's last datagram as well.
    let sum = report.pointer("/end/sum_received").map_or("/end/sum", |_| "/end/sum_received");
    let [sent, lost, seconds] =
        ["packets", "lost_packets", "seconds"].map(|name| number(report, &format!("{sum}/{name}")));
    let (sent, lost, seconds) = (sent?, lost?, seconds?);
    ensure!(seconds > 0.0, "iperf3 ran for no time");
    Ok((sent - lost) / seconds / 1000.0)
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.with_context(|| format!("iperf3's report has no number at {pointer}"))
}

/// The seconds that all processors of the machine were busy since it started (proc_stat(5)).
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_in(&stat).context("/proc/stat has no line for all processors")
}

fn busy_in(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq; guests are part of user, and steal is nobody's work here.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq) / TICKS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_mean_round_trip_is_read() {
        let printed = "rtt min/avg/max/mdev = 0.014/0.250/0.034/0.003 ms, pipe 2\n";
        assert_eq!(average(printed), Some(250.0));
        assert_eq!(average("50 packets transmitted, 0 received, 100% packet loss"), None);
    }

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  100 50 200 9000 80 10 40 7 30 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(busy_in(stat), Some(4.0));
        assert_eq!(busy_in("intr 5\n"), None);
    }

    #[test]
    fn what_was_lost_did_not_arrive() {
        let old = json!({"packets": 50_000, "lost_packets": 10_000, "seconds": 2.0});
        assert_eq!(received(&json!({"end": {"sum": old}})).unwrap(), 20.0);
        let new = json!({"packets": 40_000, "lost_packets": 10_000, "seconds": 2.0});
        let end = json!({"sum": old, "sum_received": new});
        assert_eq!(received(&json!({ "end": end })).unwrap(), 15.0);
    }

    #[test]
    fn a_missing_number_is_named() {
        let error = gbit(&json!({"end": {}}), "sum_received").unwrap_err();
        assert!(error.to_string().contains("/end/sum_received/bits_per_second"));
    }
}
