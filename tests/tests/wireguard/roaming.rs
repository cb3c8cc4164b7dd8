//! Peers that move, hosts with several addresses, and NAT between them.

use std::time::{Duration, Instant};

use wireloom_lab::Host;
use wireloom_tests::device::{Device, PORT, endpoint};
use wireloom_tests::{Pair, answers, cable, eventually, ok, ping};

use crate::need_all;

fn joined(pair: &Pair) -> (Device<'_>, Device<'_>) {
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    ping(&pair.a, "10.9.0.2");
    (a, b)
}

#[test]
fn data_alone_moves_the_endpoint() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = joined(&pair);
    assert_eq!(b.endpoint_of(&a), "192.0.2.1:51820");
    let handshakes = || (a.show(&b, "latest-handshakes"), b.show(&a, "latest-handshakes"));
    let before = handshakes();
    // To another address.
    ok(&pair.a, "ip address add 192.0.2.9/24 dev eth0");
    ok(&pair.a, "ip address delete 192.0.2.1/24 dev eth0");
    ok(&pair.a, "ip address replace 192.0.2.9/24 dev eth0");
    ping(&pair.a, "10.9.0.2");
    assert_eq!(b.endpoint_of(&a), "192.0.2.9:51820");
    ping(&pair.b, "10.9.0.1");
    // To another port.
    ok(&pair.a, "wg set wg0 listen-port 7000");
    ping(&pair.a, "10.9.0.2");
    assert_eq!(b.endpoint_of(&a), "192.0.2.9:7000");
    ping(&pair.b, "10.9.0.1");
    // To the other family, by the other end.
    b.set(&a, "endpoint [2001:db8::1]:7000");
    ping(&pair.b, "fd09::1");
    assert_eq!(a.endpoint_of(&b), "[2001:db8::2]:51820");
    ok(&pair.b, "ip address add 2001:db8::9/64 dev eth0 nodad");
    ok(&pair.b, "ip address delete 2001:db8::2/64 dev eth0");
    ping(&pair.b, "fd09::1");
    assert_eq!(a.endpoint_of(&b), "[2001:db8::9]:51820");
    ping(&pair.a, "fd09::2");
    assert_eq!(handshakes(), before, "the session has moved along");
}

#[test]
fn answers_come_from_the_address_that_was_dialled() {
    need_all!();
    let pair = Pair::start();
    for address in ["192.0.2.12/24", "2001:db8::12/64 nodad"] {
        ok(&pair.b, &format!("ip address add {address} dev eth0"));
    }
    let (a, b) = joined(&pair);
    for (address, inside) in [("192.0.2.12", "10.9.0.2"), ("2001:db8::12", "fd09::2")] {
        // Whatever comes from elsewhere is lost, handshakes as well as data.
        ok(&pair.a, "nft flush ruleset");
        ok(&pair.a, "nft add table inet strict");
        ok(&pair.a, "nft add chain inet strict in { type filter hook input priority 0 ; }");
        let family = if address.contains(':') { "ip6" } else { "ip" };
        let rule = format!("udp sport {PORT} {family} saddr != {address} counter drop");
        ok(&pair.a, &format!("nft add rule inet strict in {rule}"));
        // A key of its own, and so a handshake of its own.
        ok(&pair.a, &format!("wg set wg0 peer {} remove", b.keys.public));
        a.dial(&b, address);
        ping(&pair.a, inside);
        assert_eq!(a.endpoint_of(&b), endpoint(address, PORT));
        let counted = ok(&pair.a, "nft list chain inet strict in");
        assert!(counted.contains("packets 0 bytes 0"), "{counted}");
    }
}

#[test]
fn answers_leave_by_the_interface_that_the_dialled_address_belongs_to() {
    need_all!();
    let pair = Pair::start();
    cable(&pair.a, "eth1", &pair.b, "eth1");
    ok(&pair.a, "ip address add 198.51.100.1/24 dev eth1");
    ok(&pair.b, "ip address add 198.51.100.2/24 dev eth1");
    // b reaches a's own address by the first wire, but what is from its second address goes by the second.
    ok(&pair.a, "ip address add 203.0.113.1/32 dev lo");
    ok(&pair.a, "ip route replace 198.51.100.0/24 dev eth1 src 203.0.113.1");
    ok(&pair.b, "ip route add 203.0.113.1 via 192.0.2.1");
    ok(&pair.b, "ip rule add from 198.51.100.2 lookup 100");
    ok(&pair.b, "ip route add default via 198.51.100.1 dev eth1 table 100");
    ok(&pair.a, "nft add table inet strict");
    ok(&pair.a, "nft add chain inet strict in { type filter hook input priority 0 ; }");
    ok(&pair.a, &format!("nft add rule inet strict in iifname eth0 udp sport {PORT} drop"));
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "198.51.100.2");
    b.await_dial(&a);
    ping(&pair.a, "10.9.0.2");
    ping(&pair.b, "10.9.0.1");
    assert_eq!(a.endpoint_of(&b), "198.51.100.2:51820");
    assert_eq!(b.endpoint_of(&a), "203.0.113.1:51820");
}

#[test]
fn a_source_address_that_went_away_is_given_up_at_once() {
    need_all!();
    let pair = Pair::start();
    ok(&pair.b, "ip address add 192.0.2.12/24 dev eth0");
    ok(&pair.b, "ip address add 2001:db8::12/64 dev eth0 nodad");
    let (a, b) = joined(&pair);
    for (dialled, length, inside, other) in [
        ("192.0.2.12", 24, ["10.9.0.1", "10.9.0.2"], "192.0.2.2"),
        ("2001:db8::12", 64, ["fd09::1", "fd09::2"], "2001:db8::2"),
    ] {
        a.dial(&b, dialled);
        ping(&pair.a, inside[1]);
        assert_eq!(a.endpoint_of(&b), endpoint(dialled, PORT));
        ok(&pair.b, &format!("ip address delete {dialled}/{length} dev eth0"));
        // The first packet already arrives.
        ok(&pair.b, &format!("ping -n -c 1 -W 1 {}", inside[0]));
        assert_eq!(a.endpoint_of(&b), endpoint(other, PORT));
    }
}

#[test]
fn a_source_address_is_sticky_but_not_too_sticky() {
    need_all!();
    let pair = Pair::start();
    cable(&pair.a, "eth1", &pair.b, "eth1");
    // b has an address that is reached by both wires, and takes from each only what it would send there.
    ok(&pair.b, "ip address add 203.0.113.2/32 dev lo");
    ok(&pair.b, "ip address add 2001:db8:5::2/128 dev lo nodad");
    for (host, last) in [(&pair.a, 1), (&pair.b, 2)] {
        ok(host, &format!("ip address add 198.51.100.{last}/24 dev eth1"));
        ok(host, &format!("ip address add 2001:db8:1::{last}/64 dev eth1 nodad"));
    }
    for link in ["all", "eth0", "eth1"] {
        pair.b.write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "1").unwrap();
    }
    for (target, first, second, inside) in [
        ("203.0.113.2", ["192.0.2.1", "192.0.2.2"], ["198.51.100.1", "198.51.100.2"], "10.9.0.2"),
        (
            "2001:db8:5::2",
            ["2001:db8::1", "2001:db8::2"],
            ["2001:db8:1::1", "2001:db8:1::2"],
            "fd09::2",
        ),
    ] {
        ok(&pair.a, &format!("ip route add {target} via {}", first[1]));
        let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
        a.dial(&b, target);
        b.await_dial(&a);
        ping(&pair.a, inside);
        assert_eq!(b.endpoint_of(&a), endpoint(first[0], PORT));
        // Other routes may come and go.
        ok(&pair.a, "ip route add 203.0.113.99 via 198.51.100.2");
        ok(&pair.a, "ip route delete 203.0.113.99");
        ping(&pair.a, inside);
        assert_eq!(b.endpoint_of(&a), endpoint(first[0], PORT));
        // The address is still there, but the route has moved: the next packets say so, not the silence after them.
        ok(&pair.a, &format!("ip route replace {target} via {}", second[1]));
        let moved = Instant::now();
        while !answers(&pair.a, inside) || b.endpoint_of(&a) != endpoint(second[0], PORT) {
            assert!(moved.elapsed() < Duration::from_secs(8), "the old source address stays");
        }
    }
}

/// A host a behind a router that translates its addresses, and a host b before it. The router forgets quickly.
struct Nat {
    a: Host,
    router: Host,
    b: Host,
}

impl Nat {
    fn start() -> Self {
        let [a, router, b] = ["a", "router", "b"].map(|name| Host::start(name).unwrap());
        cable(&a, "eth0", &router, "inside");
        cable(&b, "eth0", &router, "outside");
        ok(&a, "ip address add 10.0.0.2/24 dev eth0");
        ok(&a, "ip route add default via 10.0.0.1");
        ok(&router, "ip address add 10.0.0.1/24 dev inside");
        ok(&router, "ip address add 192.0.2.1/24 dev outside");
        ok(&b, "ip address add 192.0.2.2/24 dev eth0");
        router.write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        for line in [
            "add table ip nat",
            "add chain ip nat out { type nat hook postrouting priority 100 ; }",
            "add rule ip nat out oifname outside masquerade",
            "add chain ip nat in { type filter hook input priority 0 ; }",
            "add rule ip nat in iifname outside udp dport != 0 drop",
        ] {
            ok(&router, &format!("nft {line}"));
        }
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            router.write(format!("/proc/sys/net/netfilter/{timeout}"), "2").unwrap();
        }
        Self { a, router, b }
    }

    fn connections(&self) -> String {
        ok(&self.router, "cat /proc/sys/net/netfilter/nf_conntrack_count").trim().to_owned()
    }
}

#[test]
fn keepalives_hold_the_way_through_a_nat_open() {
    need_all!();
    let nat = Nat::start();
    let (a, b) = (Device::start(&nat.a, 1), Device::start(&nat.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    ping(&nat.a, "10.9.0.2");
    assert!(b.endpoint_of(&a).starts_with("192.0.2.1:"));
    ping(&nat.b, "10.9.0.1");
    eventually("the router forgets", || nat.connections() == "0");
    assert!(!answers(&nat.b, "10.9.0.1"), "without keepalives the way in is closed");
    a.set(&b, "persistent-keepalive 1");
    // Twice as long as the router remembers, and nothing else is sent meanwhile: a keepalive is 32 bytes.
    let [_, before] = a.transfer(&b);
    eventually("five keepalives are sent", || a.transfer(&b)[1] >= before + 5 * 32);
    assert!(answers(&nat.b, "10.9.0.1"), "with keepalives the way in is open");
}
