//! A wire that delays, loses, reorders and duplicates, by netem: a bridge in a virtual machine, since not every kernel
//! has netem.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

use wireloom_lab::Host;
use wireloom_lab::host::Namespace;
use wireloom_testkit::{Vm, need};
use wireloom_tests::device::{Device, iperf};
use wireloom_tests::{Pair, ok, ping};

/// Two hosts, and the machine that is the wire between them.
struct FarApart {
    pair: Pair,
    wire: Vm,
    /// Where the machine's process lives.
    _host: Host,
}

impl FarApart {
    fn start() -> Self {
        let [a, b, host] = ["a", "b", "wire"].map(|name| Host::start(name).unwrap());
        let wire = host.run(|| Vm::boot(&["tap0", "tap1"], &["ip", "tc"])).unwrap();
        for (end, last) in [(&a, 1), (&b, 2)] {
            let (tap, net) = (format!("tap{}", last - 1), end.namespace(Namespace::Network));
            ok(&host, &format!("ip link set {tap} netns {}", net.display()));
            ok(end, &format!("ip link set {tap} name eth0"));
            ok(end, "ip link set lo up");
            ok(end, "ip link set eth0 up");
            ok(end, &format!("ip address add 192.0.2.{last}/24 dev eth0"));
            ok(end, &format!("ip address add 2001:db8::{last}/64 dev eth0 nodad"));
        }
        wire.ok("ip link add bridge0 type bridge && ip link set bridge0 up");
        for link in ["eth0", "eth1"] {
            wire.ok(&format!("ip link set {link} master bridge0 up"));
        }
        Self { pair: Pair { a, b }, wire, _host: host }
    }

    /// Sets what becomes of packets, in either direction, as tc-netem(8) words it.
    fn set(&self, faults: &str) {
        for link in ["eth0", "eth1"] {
            self.wire.ok(&format!("tc qdisc replace dev {link} root netem {faults}"));
        }
    }
}

#[test]
fn a_wire_that_delays_loses_reorders_and_duplicates_is_borne() {
    need!(root);
    need!(vm);
    need!(device "/dev/net/tun");
    need!(program "iperf3");
    need!(program "ping");
    need!(program "tc");
    need!(program "wg");
    let far = FarApart::start();
    let pair = &far.pair;
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    ping(&pair.a, "10.9.0.2");
    let handshakes = || (a.show(&b, "latest-handshakes"), b.show(&a, "latest-handshakes"));
    let before = handshakes();
    far.set("delay 10ms loss 3% duplicate 10% reorder 20% limit 10000");
    // Outside, the wire's own duplicates are seen; inside, each has been recognised.
    let echoes = |to| ok(&pair.a, &format!("ping -n -c 200 -i 0.02 -W 5 {to}"));
    let (outside, inside) = (echoes("192.0.2.2"), echoes("10.9.0.2"));
    assert!(outside.contains("DUP!"), "{outside}");
    assert!(!inside.contains("DUP!"), "{inside}");
    let answered = inside.lines().filter(|line| line.contains("bytes from")).count();
    assert!((150..200).contains(&answered), "both ways lose 6 %: {inside}");
    for to in ["10.9.0.2", "fd09::2"] {
        for direction in ["", "-R"] {
            let report = iperf(&pair.a, &pair.b, to, &format!("-t 3 {direction}"));
            let bytes = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
            println!("{to} {direction}: {bytes} bytes");
            assert!(bytes >= 200_000, "{to} {direction}: {bytes}");
        }
    }
    assert_eq!(handshakes(), before, "nobody took the loss for the session's end");
}
