//! The tunnel bench itself, for as short as it can be: a bench that nobody runs rots.

use wireloom_benches::{Effort, Load, Subject, measure};
use wireloom_testkit::need;

const EFFORT: Effort = Effort { seconds: 1, rates: 2, idle_seconds: 1 };

#[test]
fn every_figure_of_a_tunnel_is_measured() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "iperf3");
    need!(program "wg");
    need!(program "wireguard-go");
    let subject: Subject = "wireguard-go=wireguard-go".parse().unwrap();
    // The highest rate without loss may be none on a busy machine: the search has tests of its own.
    let loads: Vec<Load> = Load::ALL.into_iter().filter(|load| *load != Load::UdpRate).collect();
    let round = measure(&subject, &loads, EFFORT, |_| {});
    assert!(round.missing.is_empty(), "{:?}", round.missing);
    let names: Vec<_> = round.figures.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "eight.gbit",
            "eight.retransmits_per_gb",
            "forwarded.gbit",
            "forwarded.retransmits_per_gb",
            "idle1000.cpu_percent",
            "idle1000.gbit",
            "idle1000.retransmits_per_gb",
            "idle1000.rss_mb",
            "loadping.avg_us",
            "peak_rss_mb",
            "ping.avg_us",
            "tcp1.cpu_s_per_gb",
            "tcp1.gbit",
            "tcp1.retransmits_per_gb",
            "tcp8.gbit",
            "tcp8.retransmits_per_gb",
            "tcpboth.gbit",
            "tcpboth.retransmits_per_gb",
            "udp1372.kpps",
            "udp64.kpps",
            "vxlan.gbit",
            "vxlan.retransmits_per_gb",
        ]
    );
    for (name, value) in round.figures {
        let may_be_none = name.ends_with("retransmits_per_gb") || name == "idle1000.cpu_percent";
        assert!(value > 0.0 || may_be_none, "{name} is {value}");
    }
}

#[test]
fn a_program_that_fails_leaves_its_reason_and_no_figure() {
    need!(root);
    need!(program "iperf3");
    need!(program "wg");
    let subject: Subject = "wireguard-go=/bin/false".parse().unwrap();
    let round = measure(&subject, &[Load::Ping, Load::Eight], EFFORT, |_| {});
    assert!(round.figures.is_empty());
    let reasons: Vec<_> = round.missing.values().collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons.iter().all(|reason| reason.contains("wireguard-go has ended")), "{reasons:?}");
}
