//! What the data plane has to reach, and whether a run shows it.

use crate::report::Summary;
use crate::subject::{NONE, OURS};

/// One target.
#[derive(Debug, Clone, Copy)]
struct Target {
    what: &'static str,
    of: Of,
    bound: Bound,
}

/// The value that is judged.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// Our figure.
    Ours(&'static str),
    /// Our figure divided by another one of ours.
    OursTo(&'static str, &'static str),
    /// Our figure divided by wireguard-go's.
    WireguardGo(&'static str),
    /// Our figure divided by the best peer's.
    Best(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};
use Of::{Best, Ours, OursTo, WireguardGo};

const TARGETS: [Target; 14] = [
    target("TCP, 1 stream", WireguardGo("tcp1.gbit"), AtLeast(2.0)),
    target("TCP, 8 streams", WireguardGo("tcp8.gbit"), AtLeast(2.0)),
    target("TCP, both ways", WireguardGo("tcpboth.gbit"), AtLeast(2.0)),
    target("UDP flood, 1372 B", Best("udp1372.kpps"), AtLeast(2.5)),
    target("UDP flood, 64 B", Best("udp64.kpps"), AtLeast(3.0)),
    target("UDP without loss", Best("udprate.kpps"), AtLeast(2.0)),
    target("CPU per GB", WireguardGo("tcp1.cpu_s_per_gb"), AtMost(0.5)),
    target("ping under load", Best("loadping.avg_us"), AtMost(1.0)),
    target("peak RSS, MB", Ours("peak_rss_mb"), AtMost(64.0)),
    target("RSS with 1,000 idle peers, MB", Ours("idle1000.rss_mb"), AtMost(24.0)),
    target("CPU with 1,000 idle peers, % of a core", Ours("idle1000.cpu_percent"), AtMost(0.5)),
    target("forwarded TCP", OursTo("forwarded.gbit", "tcp1.gbit"), AtLeast(0.8)),
    target("TCP over VXLAN", OursTo("vxlan.gbit", "tcp1.gbit"), AtLeast(0.5)),
    // One segment in a hundred: 10⁹ bytes are about 759,000 segments of 1318 bytes.
    target("retransmits over VXLAN, per GB", Ours("vxlan.retransmits_per_gb"), AtMost(7_590.0)),
];

const fn target(what: &'static str, of: Of, bound: Bound) -> Target {
    Target { what, of, bound }
}

/// The check list of a run: a line a target, met, missed or not measured, and by how much.
pub fn check_list(summary: &Summary) -> Vec<String> {
    TARGETS.iter().map(|target| target.judge(summary)).collect()
}

impl Target {
    fn judge(&self, summary: &Summary) -> String {
        let Self { what, of, bound } = self;
        let (word, limit) = match bound {
            AtLeast(limit) => ("at least", limit),
            AtMost(limit) => ("at most", limit),
        };
        let Some((value, unit)) = of.value(summary) else {
            return format!("?      {what}: not measured; {word} {limit} wanted");
        };
        let (met, margin) = match bound {
            AtLeast(limit) => (value >= *limit, (value - limit) / limit),
            AtMost(limit) => (value <= *limit, (limit - value) / limit),
        };
        let (verdict, room) = if met { ("met", "to spare") } else { ("MISSED", "short") };
        let margin = margin.abs() * 100.0;
        format!("{verdict:6} {what}: {value:.2}{unit}, {word} {limit} wanted, {margin:.0} % {room}")
    }
}

impl Of {
    /// The value, and what it is a multiple of.
    fn value(self, summary: &Summary) -> Option<(f64, String)> {
        let figure = |subject: &str, name| summary.median.get(subject)?.get(name).copied();
        let (ours, other, unit) = match self {
            Ours(name) => return Some((figure(OURS, name)?, String::new())),
            OursTo(name, other) => {
                (figure(OURS, name)?, figure(OURS, other)?, format!(" x our own {other}"))
            }
            WireguardGo(name) => {
                (figure(OURS, name)?, figure("wireguard-go", name)?, " x wireguard-go".to_owned())
            }
            Best(name) => {
                let is_peer = |subject: &&String| *subject != NONE && !subject.starts_with(OURS);
                let peers = summary.median.keys().filter(is_peer);
                let theirs = peers.filter_map(|peer| Some((peer, figure(peer, name)?)));
                let best = if is_better_low(name) {
                    theirs.min_by(|(_, a), (_, b)| a.total_cmp(b))
                } else {
                    theirs.max_by(|(_, a), (_, b)| a.total_cmp(b))
                };
                let (peer, value) = best?;
                (figure(OURS, name)?, value, format!(" x {peer}, the best peer"))
            }
        };
        (other > 0.0).then(|| (ours / other, unit))
    }
}

/// Whether less of this figure is better: time, memory, retransmits.
fn is_better_low(figure: &str) -> bool {
    !["gbit", "kpps"].iter().any(|unit| figure.ends_with(unit))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn summary<const N: usize>(figures: [(&str, &str, f64); N]) -> Summary {
        let mut median: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for (subject, name, value) in figures {
            median.entry(subject.to_owned()).or_default().insert(name.to_owned(), value);
        }
        Summary { median, ratio: BTreeMap::new() }
    }

    fn line(summary: &Summary, what: &str) -> String {
        let marked = format!(" {what}:");
        check_list(summary).into_iter().find(|line| line.contains(&marked)).unwrap()
    }

    #[test]
    fn a_target_is_met_or_missed_by_so_much() {
        let run = summary([
            (OURS, "tcp1.gbit", 5.0),
            (OURS, "tcp8.gbit", 3.0),
            (OURS, "peak_rss_mb", 80.0),
            ("wireguard-go", "tcp1.gbit", 2.0),
            ("wireguard-go", "tcp8.gbit", 2.0),
        ]);
        let met = "met    TCP, 1 stream: 2.50 x wireguard-go, at least 2 wanted, 25 % to spare";
        assert_eq!(line(&run, "TCP, 1 stream"), met);
        let missed = "MISSED TCP, 8 streams: 1.50 x wireguard-go, at least 2 wanted, 25 % short";
        assert_eq!(line(&run, "TCP, 8 streams"), missed);
        let memory = "MISSED peak RSS, MB: 80.00, at most 64 wanted, 25 % short";
        assert_eq!(line(&run, "peak RSS, MB"), memory);
    }

    #[test]
    fn the_best_peer_is_neither_ours_nor_the_plain_link() {
        let run = summary([
            (OURS, "loadping.avg_us", 900.0),
            (OURS, "udp64.kpps", 300.0),
            ("wireloom-noise", "udp64.kpps", 300.0),
            (NONE, "udp64.kpps", 240.0),
            (NONE, "loadping.avg_us", 30.0),
            ("gotatun", "udp64.kpps", 60.0),
            ("gotatun", "loadping.avg_us", 1_000.0),
            ("boringtun", "udp64.kpps", 75.0),
            ("boringtun", "loadping.avg_us", 4_000.0),
        ]);
        assert!(
            line(&run, "UDP flood, 64 B").starts_with("met    UDP flood, 64 B: 4.00 x boringtun")
        );
        assert!(
            line(&run, "ping under load").starts_with("met    ping under load: 0.90 x gotatun")
        );
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let run = summary([(OURS, "tcp1.gbit", 5.0)]);
        assert!(check_list(&run).iter().all(|line| line.starts_with("? ")));
    }
}
