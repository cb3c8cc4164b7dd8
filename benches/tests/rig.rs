//! The tunnel bench itself, for as short as it can be: a bench that nobody runs rots.

use wireloom_benches::{Rig, Subject, measure};
use wireloom_testkit::need;

#[test]
fn every_figure_of_a_tunnel_is_measured() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "iperf3");
    need!(program "wg");
    need!(program "wireguard-go");
    let subject: Subject = "wireguard-go=wireguard-go".parse().unwrap();
    let rig = Rig::start(&subject).unwrap();
    let figures = measure(&rig, 1, |_| {}).unwrap();
    let names: Vec<_> = figures.keys().copied().collect();
    assert_eq!(
        names,
        [
            "loadping.avg_us",
            "peak_rss_mb",
            "ping.avg_us",
            "tcp1.cpu_s_per_gb",
            "tcp1.gbit",
            "tcp1.retransmits",
            "tcp8.gbit",
            "tcpboth.gbit",
            "udp1372.kpps",
            "udp64.kpps",
        ]
    );
    for (name, value) in figures {
        assert!(value > 0.0 || name == "tcp1.retransmits", "{name} is {value}");
    }
}
