//! Packets of all sizes, families and protocols.

use wireloom_lab::Host;
use wireloom_tests::device::{Device, datagrams, stream};
use wireloom_tests::{Pair, cable, ok, ping};

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

#[test]
fn a_tunnel_that_is_larger_than_its_wire_allows_still_carries() {
    need_all!();
    for outer in [V4, V6] {
        let pair = Pair::start();
        for host in [&pair.a, &pair.b] {
            ok(host, "ip link set eth0 mtu 1400");
        }
        let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
        a.dial(&b, outer[1]);
        b.await_dial(&a);
        for (there, headers) in b.inside().iter().zip(ECHO) {
            ping(&pair.a, there);
            let size = 1420 - headers;
            ok(&pair.a, &format!("ping -n -c 3 -i 0.1 -w 5 -M do -s {size} {there}"));
        }
        let rate = stream(&pair.a, &pair.b, "10.9.0.2");
        println!("MTU 1420 over {} with 1400: TCP {:.2} Gbit/s", outer[0], rate / 1e9);
        assert!(rate > 10e6, "{rate} bit/s");
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
        ok(host, &format!("ip link set {link} mtu 1400"));
    }
    let (a, b) = (Device::start(&left, 1), Device::start(&right, 2));
    b.await_dial(&a);
    for outer in ["192.0.2.2", "2001:db8:2::2"] {
        a.dial(&b, outer);
        for (there, headers) in b.inside().iter().zip(ECHO) {
            ping(&left, there);
            // The first may be lost to finding out.
            let size = 1420 - headers;
            ok(&left, &format!("ping -n -c 10 -i 0.1 -w 5 -M do -s {size} {there}"));
            for (from, to, address) in [(&left, &right, there), (&right, &left, &a.inside()[0])] {
                let rate = stream(from, to, address);
                println!("narrow further on, to {outer}: TCP {:.2} Gbit/s", rate / 1e9);
                assert!(rate > 10e6, "{rate} bit/s");
            }
        }
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
