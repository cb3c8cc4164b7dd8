//! The virtual machine for tests, tried.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Instant;

use wireloom_testkit::{Vm, in_new_network, ip, need, wireloom_binary};

#[test]
fn a_machine_boots_and_has_what_this_kernel_may_lack() {
    need!(root);
    need!(vm);
    need!(program "ip");
    need!(program "nft");
    need!(program "tc");
    need!(program "wg");
    in_new_network(|| {
        let before = Instant::now();
        let vm = Vm::boot(&["tap0"], &["ip", "nft", "tc", "wg"]);
        println!("booted in {:.1} s", before.elapsed().as_secs_f64());
        for kind in ["ipip", "sit", "ip6tnl"] {
            let ends = if kind == "ip6tnl" {
                "fd00::1 remote fd00::2"
            } else {
                "10.0.0.1 remote 10.0.0.2"
            };
            vm.ok(&format!("ip link add {kind}7 type {kind} local {ends}"));
        }
        vm.ok("ip link add wireguard0 type wireguard");
        vm.ok("ip link add vxlan0 type vxlan id 7 dstport 4789");
        vm.ok("tc qdisc add dev eth0 root netem delay 1ms");
        vm.ok("nft add table inet t && nft add chain inet t c '{ type nat hook postrouting priority 100; }'");
        vm.ok("nft add rule inet t c ip saddr 10.0.0.0/8 ct state new masquerade");
        assert!(vm.ok("wg show wireguard0").contains("wireguard0"));
    });
}

#[test]
fn scripts_are_answered_and_the_network_is_the_tests_own() {
    need!(root);
    need!(vm);
    need!(program "ip");
    in_new_network(|| {
        let vm = Vm::boot(&["tap0"], &["ip"]);
        let output = vm.run("echo out; echo err >&2; exit 7");
        assert_eq!(
            (output.status, &*output.stdout, &*output.stderr),
            (7, "out\n", "err\n"),
            "{output:?}"
        );
        // Every byte, and more than any buffer on the way.
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        vm.write("/a/place/file", &bytes);
        assert_eq!(vm.ok("wc -c < /a/place/file").trim(), "200000");
        assert_eq!(vm.ok("md5sum < /a/place/file"), vm.feed("md5sum", &bytes).stdout);
        assert_eq!(vm.ok("seq 1 40000").lines().last(), Some("40000"));
        // What goes on in the background writes nothing into later answers.
        vm.ok("(sleep 0.2; echo late; echo late >&2) &");
        assert_eq!(vm.ok("sleep 0.5; echo now"), "now\n");

        ip("address add 192.0.2.1/24 dev tap0");
        ip("link set tap0 up");
        vm.ok("ip address add 192.0.2.2/24 dev eth0 && ip link set eth0 up");
        let listener = TcpListener::bind("192.0.2.1:7000").unwrap();
        vm.ok("(echo hello | nc 192.0.2.1 7000 > /heard) > /dev/null 2>&1 &");
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello\n");
        stream.write_all(b"and back\n").unwrap();
        drop(stream);
        vm.ok("until grep -q 'and back' /heard; do sleep 0.1; done");
    });
}

#[test]
fn our_own_program_runs_in_it() {
    need!(root);
    need!(vm);
    need!(program "ip");
    need!(program "wg");
    let ours = wireloom_binary();
    in_new_network(|| {
        let vm = Vm::boot(&[], &["ip".as_ref(), "wg".as_ref(), ours.as_path()]);
        vm.ok("wireloom tunnel wg0");
        assert!(vm.ok("ip -details link show wg0").contains("tun"));
        let key =
            vm.ok("wireloom keygen > /key; wg set wg0 private-key /key; wireloom pubkey < /key");
        assert_eq!(vm.ok("wg show wg0 public-key"), key);
    });
}

#[test]
fn a_machine_goes_with_its_handle() {
    need!(root);
    need!(vm);
    in_new_network(|| {
        let programs: [&str; 0] = [];
        drop(Vm::boot(&["tap0"], &programs));
        let links = ip("-oneline link");
        assert!(!links.contains("tap0"), "{links}");
    });
}
