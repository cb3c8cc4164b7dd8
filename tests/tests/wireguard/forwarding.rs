//! Traffic of others: overlays above the tunnel, and networks behind it.

use wireloom_lab::Host;
use wireloom_tests::device::{Device, datagrams, iperf};
use wireloom_tests::{Pair, cable, eventually, ok, ping};

use crate::need_all;

/// A TCP stream's rate in bits per second, and what was sent again, per GB.
fn tcp(from: &Host, to: &Host, address: &str, options: &str) -> (f64, f64) {
    let report = iperf(from, to, address, options);
    let end = &report["end"];
    let rate = end["sum_received"]["bits_per_second"].as_f64().unwrap();
    let bytes = end["sum_received"]["bytes"].as_f64().unwrap();
    let again = end["sum_sent"]["retransmits"].as_f64().unwrap();
    (rate, again / (bytes / 1e9))
}

#[test]
fn vxlan_above_the_tunnel_is_no_slower_by_orders() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    for (device, peer, last) in [(&a, &b, 1), (&b, &a, 2)] {
        let (here, there) = (&device.inside()[0], &peer.inside()[0]);
        let vxlan = format!("vxlan id 7 dstport 4789 local {here} remote {there} dev wg0");
        ok(device.host, &format!("ip link add vxlan7 mtu 1370 type {vxlan}"));
        ok(device.host, &format!("ip address add 10.70.0.{last}/24 dev vxlan7"));
        ok(device.host, "ip link set vxlan7 up");
    }
    ping(&pair.a, "10.70.0.2");
    eventually("VXLAN has half of the plain rate at least", || {
        let (plain, _) = tcp(&pair.a, &pair.b, "10.9.0.2", "-t 2");
        let (overlay, again) = tcp(&pair.a, &pair.b, "10.70.0.2", "-t 2");
        println!(
            "VXLAN {:.2} of {:.2} Gbit/s, {again:.0} sent again per GB",
            overlay / 1e9,
            plain / 1e9
        );
        overlay >= plain / 2.0
    });
}

#[test]
fn networks_behind_both_ends_get_their_packets_whole() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    let (left, right) = (Host::start("left").unwrap(), Host::start("right").unwrap());
    for (device, peer, leaf, here, there) in [(&a, &b, &left, 21, 22), (&b, &a, &right, 22, 21)] {
        let host = device.host;
        cable(host, "port", leaf, "eth0");
        ok(host, "ip link add bridge type bridge");
        ok(host, "ip link set port master bridge");
        ok(host, "ip link set bridge up");
        ok(host, &format!("ip address add 10.{here}.0.1/24 dev bridge"));
        ok(host, &format!("ip address add fd{here}::1/64 dev bridge nodad"));
        ok(leaf, &format!("ip address add 10.{here}.0.2/24 dev eth0"));
        ok(leaf, &format!("ip address add fd{here}::2/64 dev eth0 nodad"));
        ok(leaf, &format!("ip route add default via 10.{here}.0.1"));
        ok(leaf, &format!("ip -6 route add default via fd{here}::1"));
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            host.write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        let prefixes = format!("10.{there}.0.0/24,fd{there}::/64");
        device.set(peer, &format!("allowed-ips {},{prefixes}", peer.allowed_ips()));
        for prefix in prefixes.split(',') {
            ok(host, &format!("ip route add {prefix} dev wg0"));
        }
    }
    ping(&left, "10.22.0.2");
    let (plain, _) = tcp(&pair.a, &pair.b, "10.9.0.2", "-t 1");
    for (there, options) in [
        ("10.22.0.2", "-t 2"),
        ("fd22::2", "-t 1"),
        ("10.22.0.2", "-t 1 -R"),
        ("10.22.0.2", "-t 2 -P 4"),
    ] {
        let (rate, again) = tcp(&left, &right, there, options);
        println!(
            "to {there} {options}: {:.2} of {:.2} Gbit/s, {again:.0} sent again per GB",
            rate / 1e9,
            plain / 1e9
        );
        assert!(rate > plain / 4.0, "{there} {options}: {rate} of {plain} bit/s");
        // A GB is 700,000 segments.
        assert!(again < 10_000.0, "{there} {options}: {again} segments sent again per GB");
    }
    datagrams(&left, &right, "10.22.0.2");
    datagrams(&left, &right, "fd22::2");
}
