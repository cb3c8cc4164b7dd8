//! What is measured of a subject in one round.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wireloom_lab::Child;

use crate::iperf::{self, Tcp, Way};
use crate::load::Load;
use crate::proc;
use crate::report::{Figures, Round};
use crate::rig::{Pods, Rig, Shape, Vxlan};
use crate::search::{Search, Try};
use crate::subject::Subject;

/// How long the last answers to pings may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pings sent in a second beside a load.
const PINGS: u32 = 20;

/// The rate at which the search for the highest one begins where no flood was measured, in thousands a second.
const GUESS: f64 = 50.0;

/// How long and how closely is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// The seconds of each load.
    pub seconds: u32,
    /// The rates that are tried at most, each for two seconds or as long as a load if that is less.
    pub rates: u32,
    /// The seconds that idle devices are watched.
    pub idle_seconds: u32,
}

/// Runs loads on rigs of a subject and tells `progress` each before it begins. What fails leaves its reason in place of
/// figures, and the rest goes on.
pub fn measure(
    subject: &Subject,
    loads: &[Load],
    effort: Effort,
    mut progress: impl FnMut(Load),
) -> Round {
    let mut round = Round::default();
    for loads in loads.chunk_by(|a, b| a.shape() == b.shape()) {
        let mut rig = Rig::start(subject, loads[0].shape());
        for load in loads {
            progress(*load);
            let done = match &mut rig {
                Ok(rig) => run(*load, rig, effort, &mut round.figures),
                Err(error) => Err(anyhow::anyhow!("the rig does not stand: {error:#}")),
            };
            if let Err(error) = done {
                round.missing.insert(load.name().to_owned(), format!("{error:#}"));
            }
        }
    }
    round
}

fn run(load: Load, rig: &mut Rig, effort: Effort, figures: &mut Figures) -> Result<()> {
    rig.check()?;
    let done = on(load, rig, effort, figures);
    // A device that ended says more than the load that failed by it.
    rig.check()?;
    done?;
    if load.shape() == Shape::PAIR
        && let Some(megabytes) = rig.peak_memory()?
    {
        figures.insert("peak_rss_mb".to_owned(), megabytes);
    }
    Ok(())
}

fn on(load: Load, rig: &Rig, effort: Effort, figures: &mut Figures) -> Result<()> {
    let Effort { seconds, .. } = effort;
    let ways = rig.ways();
    let way = ways[0];
    let mut put = |name: &str, value| _ = figures.insert(name.to_owned(), value);
    match load {
        Load::Ping => put("ping.avg_us", average_of(ping(way, 50, "0.01")?)?),
        Load::Tcp1 => {
            // It begins before the stream and ends before it.
            let pinging = ping(way, seconds * PINGS, "0.05")?;
            let before = proc::busy()?;
            let tcp = iperf::tcp(way, seconds, &[])?;
            let busy = proc::busy()? - before;
            put_tcp("tcp1", tcp, &mut put);
            put("tcp1.cpu_s_per_gb", busy / tcp.bytes * 1e9);
            put("loadping.avg_us", average_of(pinging)?);
        }
        Load::Tcp8 => put_tcp("tcp8", iperf::tcp(way, seconds, &["--parallel", "8"])?, &mut put),
        Load::TcpBoth => put_tcp("tcpboth", iperf::tcp(way, seconds, &["--bidir"])?, &mut put),
        Load::Udp1372 => put("udp1372.kpps", iperf::udp(way, seconds, 1372, None)?.received),
        Load::Udp64 => put("udp64.kpps", iperf::udp(way, seconds, 64, None)?.received),
        Load::UdpRate => {
            let guess = figures.get("udp1372.kpps").copied().unwrap_or(GUESS);
            figures.insert("udprate.kpps".to_owned(), highest_rate(way, effort, guess)?);
        }
        Load::Forwarded => {
            put_tcp("forwarded", iperf::tcp(Pods::start(rig)?.way(), seconds, &[])?, &mut put);
        }
        Load::Vxlan => {
            put_tcp("vxlan", iperf::tcp(Vxlan::start(rig)?.way(), seconds, &[])?, &mut put);
        }
        Load::Eight => put_tcp("eight", iperf::tcp_together(&ways, seconds)?, &mut put),
        Load::Idle => {
            if let Some(percent) = idle_share(rig, effort.idle_seconds)? {
                put("idle1000.cpu_percent", percent);
            }
            if let Some(megabytes) = rig.largest(proc::memory)? {
                put("idle1000.rss_mb", megabytes);
            }
            put_tcp("idle1000", iperf::tcp(way, seconds, &[])?, &mut put);
        }
    }
    Ok(())
}

fn put_tcp(load: &str, tcp: Tcp, put: &mut impl FnMut(&str, f64)) {
    put(&format!("{load}.gbit"), tcp.gbit);
    put(&format!("{load}.retransmits_per_gb"), tcp.retransmits_per_gb());
}

/// The highest rate of datagrams that loses next to nothing, in thousands a second.
fn highest_rate(way: Way<'_>, effort: Effort, guess: f64) -> Result<f64> {
    let mut search = Search::new(guess, effort.rates);
    let mut last = String::new();
    while let Some(kpps) = search.next() {
        let udp = iperf::udp(way, effort.seconds.min(2), 1372, Some(kpps))?;
        last = format!("{:.2} % at {kpps:.1} kpps", udp.loss * 100.0);
        search.note(Try { sent: udp.sent, received: udp.received, loss: udp.loss });
    }
    search.best().with_context(|| format!("every rate tried lost more than 0.5 %, at last {last}"))
}

/// How much of one core the device that takes most uses while nobody says a word, in percent. `None` without a tunnel.
fn idle_share(rig: &Rig, seconds: u32) -> Result<Option<f64>> {
    if rig.devices().next().is_none() {
        return Ok(None);
    }
    let used = || rig.devices().map(proc::processor_time).collect::<Result<Vec<f64>>>();
    let (start, before) = (Instant::now(), used()?);
    thread::sleep(Duration::from_secs(seconds.into()));
    let (span, after) = (start.elapsed().as_secs_f64(), used()?);
    let shares = after.iter().zip(before).map(|(after, before)| (after - before) / span * 100.0);
    Ok(shares.reduce(f64::max))
}

fn ping(way: Way<'_>, count: u32, interval: &str) -> Result<Child> {
    let count = count.to_string();
    let args = ["-q", "-n", "-c", &count, "-i", interval, "-W", "2", way.address];
    Ok(way.from.spawn("ping", args)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_round_trip_is_read() {
        let printed = "rtt min/avg/max/mdev = 0.014/0.250/0.034/0.003 ms, pipe 2\n";
        assert_eq!(average(printed), Some(250.0));
        assert_eq!(average("50 packets transmitted, 0 received, 100% packet loss"), None);
    }
}
