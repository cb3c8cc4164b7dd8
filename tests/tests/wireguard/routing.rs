//! Cryptokey routing, loops, and what senders are told.

use wireloom_lab::Host;
use wireloom_tests::device::Device;
use wireloom_tests::{Pair, answers, cable, ok, ping, run};

use crate::need_all;

/// The packets that came out of a host's tunnel.
fn arrived(host: &Host) -> u64 {
    let text = ok(host, "cat /sys/class/net/wg0/statistics/rx_packets");
    text.trim().parse().unwrap()
}

#[test]
fn a_source_that_is_not_allowed_is_dropped() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    for (own, foreign, there, option) in
        [("10.9.0.1", "10.9.0.99", "10.9.0.2", ""), ("fd09::1", "fd09::99", "fd09::2", "nodad")]
    {
        ping(&pair.a, there);
        ok(&pair.a, &format!("ip address add {foreign} dev wg0 {option}"));
        let (packets, [bytes, _]) = (arrived(&pair.b), b.transfer(&a));
        let refused = run(&pair.a, &format!("ping -n -c 3 -i 0.1 -W 1 -I {foreign} {there}"));
        assert!(!refused.status.success());
        assert!(b.transfer(&a)[0] >= bytes + 3 * 128, "they came as far as the device");
        assert_eq!(arrived(&pair.b), packets, "and no further");
        // The peer is still welcome as itself, and as the other once it is allowed to.
        ok(&pair.a, &format!("ping -n -c 1 -W 1 -I {own} {there}"));
        b.set(&a, &format!("allowed-ips {},{foreign}", a.allowed_ips()));
        ok(&pair.a, &format!("ping -n -c 1 -W 1 -I {foreign} {there}"));
        b.await_dial(&a);
    }
}

#[test]
fn an_allowed_ip_has_one_owner_and_moves_to_the_last_who_claims_it() {
    need_all!();
    let pair = Pair::start();
    let a = Device::start(&pair.a, 1);
    let (b, other) = (Device::start(&pair.b, 2), Device::start_in(&pair.b, 1, 2));
    a.dial(&b, "192.0.2.2");
    a.dial(&other, "192.0.2.2");
    b.await_dial(&a);
    other.await_dial(&a);
    ok(&pair.a, "ip route add 10.77.0.0/24 dev wg0");
    ok(&pair.b, "ip address add 10.77.0.1/32 dev lo");
    // b answers by whichever device has the route.
    for (owner, link) in [(&b, "wg0"), (&other, "wg1"), (&b, "wg0")] {
        let loser = if link == "wg0" { &other } else { &b };
        ok(&pair.b, &format!("ip route replace 10.9.0.1 dev {link} src 10.77.0.1"));
        a.set(owner, &format!("allowed-ips {},10.77.0.0/24", owner.allowed_ips()));
        assert!(!a.show(loser, "allowed-ips").contains("10.77"));
        ping(&pair.a, "10.77.0.1");
        // The loser's packets from there are no longer taken.
        let wrong = if link == "wg0" { "wg1" } else { "wg0" };
        ok(&pair.b, &format!("ip route replace 10.9.0.1 dev {wrong} src 10.77.0.1"));
        assert!(!answers(&pair.a, "10.77.0.1"));
    }
    // A longer prefix is another one, and both stand.
    a.set(&other, &format!("allowed-ips {},10.77.0.1/32", other.allowed_ips()));
    assert!(a.show(&b, "allowed-ips").contains("10.77.0.0/24"));
    ok(&pair.b, "ip route replace 10.9.0.1 dev wg1 src 10.77.0.1");
    ping(&pair.a, "10.77.0.1");
}

#[test]
fn senders_are_told_that_no_peer_has_the_destination() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    for (nowhere, word) in [("10.9.0.77", "Host Unreachable"), ("fd09::77", "Address unreachable")]
    {
        let refused = run(&pair.a, &format!("ping -n -c 1 -W 5 {nowhere}"));
        assert!(refused.stdout.contains(word), "{}", refused.stdout);
    }
    // A peer without an endpoint is no better.
    b.await_dial(&a);
    let refused = run(&pair.b, "ping -n -c 1 -W 5 10.9.0.1");
    assert!(refused.stdout.contains("Host Unreachable"), "{}", refused.stdout);
    // The error finds the host behind, whose address was translated on the way into the tunnel.
    let behind = Host::start("behind").unwrap();
    cable(&behind, "eth0", &pair.a, "eth1");
    ok(&behind, "ip address add 10.20.0.2/24 dev eth0");
    ok(&behind, "ip route add default via 10.20.0.1");
    ok(&pair.a, "ip address add 10.20.0.1/24 dev eth1");
    pair.a.write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    ok(&pair.a, "nft add table ip nat");
    ok(&pair.a, "nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
    ok(&pair.a, "nft add rule ip nat out oifname wg0 masquerade");
    let refused = run(&behind, "ping -n -c 1 -W 5 10.9.0.77");
    assert!(refused.stdout.contains("From 10.9.0.77"), "{}", refused.stdout);
    assert!(refused.stdout.contains("Host Unreachable"), "{}", refused.stdout);
}

#[test]
fn routers_behind_the_tunnel_are_heard() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    let behind = Host::start("behind").unwrap();
    cable(&behind, "eth0", &pair.b, "eth1");
    for (host, link, last) in [(&behind, "eth0", 2), (&pair.b, "eth1", 1)] {
        ok(host, &format!("ip address add 10.20.0.{last}/24 dev {link}"));
        ok(host, &format!("ip address add fd20::{last}/64 dev {link} nodad"));
        ok(host, &format!("ip link set {link} mtu 1300"));
    }
    ok(&behind, "ip route add default via 10.20.0.1");
    ok(&behind, "ip -6 route add default via fd20::1");
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        pair.b.write(format!("/proc/sys/net/{setting}"), "1").unwrap();
    }
    a.dial(&b, "192.0.2.2");
    a.set(&b, &format!("allowed-ips {},10.20.0.0/24,fd20::/64", b.allowed_ips()));
    b.await_dial(&a);
    ok(&pair.a, "ip route add 10.20.0.0/24 dev wg0");
    ok(&pair.a, "ip route add fd20::/64 dev wg0");
    for (there, router) in [("10.20.0.2", "10.9.0.2"), ("fd20::2", "fd09::2")] {
        ping(&pair.a, there);
        let short = run(&pair.a, &format!("ping -n -c 1 -W 5 -t 1 {there}"));
        let says = short.stdout.to_lowercase();
        assert!(says.contains(&format!("from {router}")), "{says}");
        assert!(says.contains("time") && says.contains("exceeded"), "{says}");
        // -M do refuses locally what is known to be too large, so the first of two is answered by the router.
        let large = run(&pair.a, &format!("ping -n -c 2 -i 0.2 -W 5 -M do -s 1330 {there}"));
        assert!(large.stdout.contains("mtu") && large.stdout.contains("1300"), "{}", large.stdout);
        assert!(large.stdout.contains(&format!("From {router}")), "{}", large.stdout);
        ok(&pair.a, &format!("ping -n -c 1 -W 5 -M do -s 1252 {there}"));
    }
}

/// The bytes that a sends to b, and the seconds of processor time that it takes for them, while the pings of these
/// options run.
fn cost(a: &Device<'_>, b: &Device<'_>, pings: &[&str]) -> (u64, f64) {
    let (bytes, seconds) = (a.transfer(b)[1], a.processor_seconds());
    for options in pings {
        run(a.host, &format!("ping -n -q -i 0.002 -W 1 {options}"));
    }
    let cost = (a.transfer(b)[1] - bytes, a.processor_seconds() - seconds);
    println!("{pings:?}: {} bytes, {:.2} s", cost.0, cost.1);
    cost
}

fn no_loop(endpoint: &str, network: &str) {
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, endpoint);
    b.await_dial(&a);
    a.set(&b, "allowed-ips 0.0.0.0/0,::/0");
    let v6 = if endpoint.contains(':') { "-6" } else { "-4" };
    ok(&pair.a, &format!("ip {v6} route add {endpoint} dev wg0"));
    // Initiations that would wait for themselves.
    let (bytes, _) = cost(&a, &b, &["-c 20 10.9.0.2"]);
    assert!(bytes <= 2 * 148, "20 packets became {bytes} bytes");
    ok(&pair.a, &format!("ip {v6} route delete {endpoint} dev wg0"));
    ping(&pair.a, "10.9.0.2");
    ok(&pair.a, &format!("ip {v6} route add {endpoint} dev wg0"));
    // Data that would grow with each turn, and be cut in two.
    let (bytes, seconds) = cost(&a, &b, &["-c 100 10.9.0.2", "-c 20 -s 1392 10.9.0.2"]);
    assert!(bytes < 100_000, "120 packets became {bytes} bytes");
    assert!(seconds < 1.0, "120 packets took {seconds:.2} s");
    // A mark on the outer packets, and a rule that looks at it, make it a route of everything else.
    ok(&pair.a, "wg set wg0 fwmark 51820");
    ok(&pair.a, &format!("ip {v6} route add {network} dev eth0 table 51820"));
    ok(&pair.a, &format!("ip {v6} rule add fwmark 51820 lookup 51820"));
    ping(&pair.a, "10.9.0.2");
    ok(&pair.a, "ping -n -c 2 -i 0.1 -w 2 -s 1392 10.9.0.2");
    ping(&pair.a, endpoint);
}

#[test]
fn a_route_of_the_endpoint_into_the_tunnel_is_no_loop_over_ipv4() {
    need_all!();
    no_loop("192.0.2.2", "192.0.2.0/24");
}

#[test]
fn a_route_of_the_endpoint_into_the_tunnel_is_no_loop_over_ipv6() {
    need_all!();
    no_loop("2001:db8::2", "2001:db8::/64");
}
