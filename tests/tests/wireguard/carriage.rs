//! Packets of all sizes, families and protocols.

use wireloom_lab::Host;
use wireloom_tests::device::{Device, PORT, datagrams, stream};
use wireloom_tests::{Pair, cable, eventually, ok, ping, run};

use crate::need_all;

/// What the tunnel adds to a packet over IPv6: the outer headers, the message's own header and its tag.
const OVERHEAD: u32 = 80;
/// The headers of an echo request over IPv4 and IPv6.
const ECHO: [u32; 2] = [28, 48];

/// Both families through a tunnel over one family, with a device of this MTU: echoes of the full size, TCP and UDP.
fn carry(outer: [&str; 2], mtu: u32) {
    let pair = Pair::start();
    for host in [&pair.a, &pair.b] {
        ok(host, &format!("ip link set eth0 mtu {}", mtu + OVERHEAD));
    }
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    for (device, peer, address) in [(&a, &b, outer[1]), (&b, &a, outer[0])] {
        device.dial(peer, address);
        ok(device.host, &format!("ip link set wg0 mtu {mtu}"));
    }
    for (there, headers) in b.inside().iter().zip(ECHO) {
        ping(&pair.a, there);
        for size in [0, 1, 15, 16, 17, 1000, mtu - headers] {
            ok(&pair.a, &format!("ping -n -c 2 -i 0.01 -W 5 -M do -s {size} {there}"));
        }
        let rate = stream(&pair.a, &pair.b, there);
        println!("MTU {mtu}, over {}, to {there}: TCP {:.2} Gbit/s", outer[0], rate / 1e9);
        datagrams(&pair.a, &pair.b, there);
    }
}

const V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];
/// The largest MTU whose outer packets are packets of IPv6.
const GIANT: u32 = 65_535 - OVERHEAD;

#[test]
fn both_families_over_ipv4() {
    need_all!();
    carry(V4, 1420);
}

#[test]
fn both_families_over_ipv6() {
    need_all!();
    carry(V6, 1420);
}

#[test]
fn giant_packets_over_ipv4() {
    need_all!();
    carry(V4, GIANT);
}

#[test]
fn giant_packets_over_ipv6() {
    need_all!();
    carry(V6, GIANT);
}

/// What of a tunnel's packets a path of this MTU carries whole, IPv4 and IPv6 inside. IPv6 goes on with its least MTU.
fn fitting(outer: &str, mtu: u32) -> [u32; 2] {
    let room = mtu - if outer.contains(':') { OVERHEAD } else { OVERHEAD - 20 };
    [room, room.max(1280)]
}

/// Sends what is too large for the path until the sender is told what is not, sends that, and TCP both ways.
fn is_told(from: &Device<'_>, to: &Device<'_>, room: [u32; 2]) {
    for ((there, headers), room) in to.inside().iter().zip(ECHO).zip(room) {
        ping(from.host, there);
        let large = 1420 - headers;
        let echoes = |options: &str, size: u32| {
            run(from.host, &format!("ping -n -c 2 -i 0.2 -W 1 {options} -s {size} {there}"))
        };
        eventually("the sender is told", || {
            let told = echoes("-M do", large).stdout;
            let number = |text: &str| {
                let digits = text.split_once("mtu")?.1.trim_start_matches([' ', '=']);
                digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
            };
            told.lines().filter_map(number).any(|told| {
                assert_eq!(told, room, "to {there}");
                true
            })
        });
        let fits = echoes("-M do", room - headers);
        assert!(fits.stdout.contains("2 received"), "{there}, {room}: {}", fits.stdout);
        // The first answer may be what the other end is told about.
        eventually("larger ones pass in fragments", || {
            echoes("-M dont", large).stdout.contains("2 received")
        });
        for (from, to, there) in
            [(from.host, to.host, there), (to.host, from.host, &from.inside()[0])]
        {
            let rate = stream(from, to, there);
            println!("{room} bytes of 1420, to {there}: TCP {:.2} Gbit/s", rate / 1e9);
            assert!(rate > 10e6, "{rate} bit/s");
        }
    }
}

#[test]
fn a_tunnel_that_is_larger_than_its_wire_allows_says_so() {
    need_all!();
    for outer in [V4, V6] {
        let pair = Pair::start();
        for host in [&pair.a, &pair.b] {
            ok(host, "ip link set eth0 mtu 1400");
        }
        let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
        a.dial(&b, outer[1]);
        b.await_dial(&a);
        is_told(&a, &b, fitting(outer[1], 1400));
    }
}

#[test]
fn a_wire_that_is_narrow_further_on_is_found_out() {
    need_all!();
    let [left, router, right] = ["a", "router", "b"].map(|name| Host::start(name).unwrap());
    cable(&left, "eth0", &router, "left");
    cable(&right, "eth0", &router, "right");
    for (host, link, net, last) in [
        (&left, "eth0", 1, 2),
        (&router, "left", 1, 1),
        (&right, "eth0", 2, 2),
        (&router, "right", 2, 1),
    ] {
        ok(host, &format!("ip address add 192.0.{net}.{last}/24 dev {link}"));
        ok(host, &format!("ip address add 2001:db8:{net}::{last}/64 dev {link} nodad"));
        if last == 2 {
            ok(host, &format!("ip route add default via 192.0.{net}.1"));
            ok(host, &format!("ip -6 route add default via 2001:db8:{net}::1"));
        }
    }
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        router.write(format!("/proc/sys/net/{setting}"), "1").unwrap();
    }
    for (host, link) in [(&router, "right"), (&right, "eth0")] {
        ok(host, &format!("ip link set {link} mtu 1300"));
    }
    for (number, outer) in [(1, "192.0.2.2"), (3, "2001:db8:2::2")] {
        let (a, b) = (Device::start(&left, number), Device::start(&right, number + 1));
        b.await_dial(&a);
        a.dial(&b, outer);
        is_told(&a, &b, fitting(outer, 1300));
    }
}

#[test]
fn handshakes_are_marked_and_what_is_in_the_tunnel_is_not() {
    need_all!();
    for (outer, family) in [(V4, "ip"), (V6, "ip6")] {
        let pair = Pair::start();
        let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
        b.await_dial(&a);
        ok(&pair.b, "nft add table inet seen");
        ok(&pair.b, "nft add chain inet seen in { type filter hook input priority 0 ; }");
        for class in ["af41", "cs0", "ef"] {
            let rule = format!("udp dport {PORT} {family} dscp {class} counter");
            ok(&pair.b, &format!("nft add rule inet seen in {rule}"));
        }
        a.dial(&b, outer[1]);
        ping(&pair.a, "10.9.0.2");
        // EF inside.
        ok(&pair.a, "ping -n -c 3 -i 0.1 -W 5 -Q 0xb8 10.9.0.2");
        let list = ok(&pair.b, "nft list chain inet seen in");
        let counts = list.lines().filter_map(|line| {
            line.split_once("counter packets ")?.1.split(' ').next()?.parse::<u32>().ok()
        });
        let counts: Vec<_> = counts.collect();
        let [handshakes, data, urgent] = counts[..] else { panic!("{list}") };
        assert!((1..=2).contains(&handshakes) && data >= 4 && urgent == 0, "{list}");
    }
}

#[test]
fn a_tunnel_in_a_tunnel() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.dial(&a, "192.0.2.1");
    let (inner_a, inner_b) = (Device::start_in(&pair.a, 1, 1), Device::start_in(&pair.b, 1, 2));
    inner_a.dial(&inner_b, &b.inside()[1]);
    inner_b.await_dial(&inner_a);
    for host in [&pair.a, &pair.b] {
        ok(host, "ip link set wg1 mtu 1340");
    }
    for (there, headers) in inner_b.inside().iter().zip(ECHO) {
        ping(&pair.a, there);
        ok(&pair.a, &format!("ping -n -c 2 -i 0.1 -w 5 -M do -s {} {there}", 1340 - headers));
        stream(&pair.a, &pair.b, there);
    }
    assert_eq!(inner_b.endpoint_of(&inner_a), "[fd09::1]:51821");
}
