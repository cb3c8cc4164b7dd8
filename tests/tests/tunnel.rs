//! `wireloom tunnel` as the tools and devices of WireGuard see it.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use wireloom_lab::Host;
use wireloom_testkit::need;
use wireloom_tests::device::{configuration, tunnel, wait_for_device};
use wireloom_tests::{
    Keys, NetworkState, Pair, SOON, answers, eventually, ok, ping, run, wireloom,
};

fn addresses(host: &Host, last: u8) {
    ok(host, &format!("ip address add 10.9.0.{last}/24 dev wg0"));
    ok(host, &format!("ip address add fd09::{last}/64 dev wg0 nodad"));
    ok(host, "ip link set wg0 up");
}

/// Configures a's wg0 and b's wg0 as each other's peers.
fn join(pair: &Pair) {
    let (a, b) = (Keys::new(), Keys::new());
    for (host, own, other, last) in [(&pair.a, &a, &b, 1), (&pair.b, &b, &a, 2)] {
        let far = 3 - last;
        let file = configuration(
            host,
            &format!(
                "[Interface]\nPrivateKey = {}\nListenPort = 51820\n\
                 [Peer]\nPublicKey = {}\nEndpoint = 192.0.2.{far}:51820\n\
                 AllowedIPs = 10.9.0.{far}/32, fd09::{far}/128\n",
                own.private, other.public
            ),
        );
        ok(host, &format!("wg setconf wg0 {file}"));
        addresses(host, last);
    }
}

#[test]
fn two_devices_carry_both_families() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let pair = Pair::start();
    let _devices = (tunnel(&pair.a, "wg0"), tunnel(&pair.b, "wg0"));
    join(&pair);
    ping(&pair.a, "10.9.0.2");
    ping(&pair.b, "fd09::1");
    let transfer = ok(&pair.a, "wg show wg0 transfer");
    let bytes: Vec<u64> =
        transfer.split_ascii_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    assert!(bytes.iter().all(|count| *count > 100), "{transfer}");
}

#[test]
fn a_device_has_the_queues_that_are_asked_for_and_leaves_nothing() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let pair = Pair::start();
    let before = [&pair.a, &pair.b].map(NetworkState::of);
    let devices = [(&pair.a, 2), (&pair.b, 4)].map(|(host, queues)| {
        let device = wireloom(host, &format!("tunnel -f --queues {queues} wg0"));
        wait_for_device(host, "wg0");
        let shown = ok(host, "ip -details link show wg0");
        assert!(shown.contains(&format!("numqueues {queues} ")), "{shown}");
        device
    });
    join(&pair);
    for (host, addresses) in
        [(&pair.a, ["10.9.0.2", "fd09::2"]), (&pair.b, ["10.9.0.1", "fd09::1"])]
    {
        addresses.iter().for_each(|address| ping(host, address));
    }
    for device in devices {
        let end = device.stop(SOON).unwrap();
        assert!(end.status.success(), "{}", end.stderr);
    }
    for (host, before) in [&pair.a, &pair.b].into_iter().zip(before) {
        NetworkState::of(host).assert_same(&before);
    }
}

#[test]
fn data_flows_to_debians_wireguard_go() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    need!(program "wireguard-go");
    let pair = Pair::start();
    let _ours = tunnel(&pair.a, "wg0");
    let _theirs = pair.b.spawn("wireguard-go", ["-f", "wg0"]).unwrap();
    wait_for_device(&pair.b, "wg0");
    join(&pair);
    ping(&pair.a, "10.9.0.2");
    ping(&pair.b, "10.9.0.1");
    ping(&pair.a, "fd09::2");
    ping(&pair.b, "fd09::1");
    // Packets of the largest size, in both directions.
    ok(&pair.a, "ping -n -c 3 -i 0.1 -w 5 -M do -s 1392 10.9.0.2");
    ok(&pair.b, "ping -n -c 3 -i 0.1 -w 5 -M do -s 1372 fd09::1");
}

#[test]
fn every_field_that_wg_sets_is_shown_again() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let host = Host::start("a").unwrap();
    let _device = tunnel(&host, "wg0");
    let (own, peer) = (Keys::new(), Keys::new());
    let shared = Keys::new().private;
    let text = format!(
        "[Interface]\nListenPort = 51823\nFwMark = 0xca6c\nPrivateKey = {}\n\n\
         [Peer]\nPublicKey = {}\nPresharedKey = {shared}\n\
         AllowedIPs = 10.9.0.0/24, fd09::/64\nEndpoint = [2001:db8::7]:1234\nPersistentKeepalive = 25\n",
        own.private, peer.public
    );
    let file = configuration(&host, &text);
    ok(&host, &format!("wg setconf wg0 {file}"));
    assert_eq!(ok(&host, "wg showconf wg0").trim(), text.trim());
    assert_eq!(ok(&host, "wg show wg0 public-key").trim(), own.public);
    assert!(ok(&host, "wg show wg0 latest-handshakes").trim().ends_with("\t0"));
    ok(&host, &format!("wg set wg0 peer {} remove", peer.public));
    assert_eq!(ok(&host, "wg show wg0 peers").trim(), "");
    let refused = run(&host, "wg set wg0 fwmark 1 peer AAAA");
    assert!(!refused.status.success());
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_device() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let host = Host::start("a").unwrap();
    let before = NetworkState::of(&host);
    let device = tunnel(&host, "wg0");
    let mode = host
        .run(|| fs::metadata("/var/run/wireguard/wg0.sock").unwrap().permissions().mode() & 0o777)
        .unwrap();
    assert_eq!(mode, 0o600, "{mode:o}");
    let end = device.stop(SOON).unwrap();
    assert!(end.status.success(), "{}", end.stderr);
    assert!(!host.run(|| fs::exists("/var/run/wireguard/wg0.sock").unwrap()).unwrap());
    NetworkState::of(&host).assert_same(&before);
}

#[test]
fn syncconf_of_one_peer_of_three_leaves_the_others_alone() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let pair = Pair::start();
    // Three devices of b, each a peer of a's one device.
    let names = ["wg1", "wg2", "wg3"];
    let _ours = tunnel(&pair.a, "wg0");
    let _theirs = names.map(|name| tunnel(&pair.b, name));
    let own = Keys::new();
    let peers = names.map(|_| Keys::new());
    let conf = |second_allowed: &str| {
        let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", own.private);
        for (number, peer) in (1..).zip(&peers) {
            let more = if number == 2 { second_allowed } else { "" };
            text += &format!(
                "[Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.{}/32{more}\n",
                peer.public,
                number + 10
            );
        }
        text
    };
    ok(&pair.a, &format!("wg setconf wg0 {}", configuration(&pair.a, &conf(""))));
    addresses(&pair.a, 1);
    for ((number, name), peer) in (1..).zip(names).zip(&peers) {
        let text = format!(
            "[Interface]\nPrivateKey = {}\n\
             [Peer]\nPublicKey = {}\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 10.9.0.1/32\n\
             PersistentKeepalive = 5\n",
            peer.private, own.public
        );
        ok(&pair.b, &format!("wg setconf {name} {}", configuration(&pair.b, &text)));
        ok(&pair.b, &format!("ip address add 10.9.0.{}/32 dev {name}", number + 10));
        ok(&pair.b, &format!("ip link set {name} up"));
    }
    let handshakes = || ok(&pair.a, "wg show wg0 latest-handshakes");
    eventually("all three have shaken hands", || {
        handshakes().lines().all(|line| !line.ends_with("\t0"))
    });
    let show = || (handshakes(), ok(&pair.a, "wg show wg0 endpoints"));
    let before = show();
    ok(&pair.a, &format!("wg syncconf wg0 {}", configuration(&pair.a, &conf(", 10.77.0.0/16"))));
    assert_eq!(show(), before, "sessions and learnt endpoints stay");
    assert!(ok(&pair.a, "wg show wg0 allowed-ips").contains("10.77.0.0/16"));
    ok(&pair.b, "ip route add 10.9.0.1 dev wg1 src 10.9.0.11");
    ok(&pair.a, "ping -n -c 2 -i 0.1 -w 2 10.9.0.11");
    assert_eq!(handshakes(), before.0, "the ping went over the old session");
}

#[test]
fn wg_quick_brings_it_up_and_down() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg-quick");
    let pair = Pair::start();
    let (a, b) = (Keys::new(), Keys::new());
    let before = NetworkState::of(&pair.a);
    let _far = tunnel(&pair.b, "wg0");
    let text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51820\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.1/32, fd09::1/128\n",
        b.private, a.public
    );
    ok(&pair.b, &format!("wg setconf wg0 {}", configuration(&pair.b, &text)));
    addresses(&pair.b, 2);
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24, fd09::1/64\n\
         [Peer]\nPublicKey = {}\nEndpoint = 192.0.2.2:51820\nAllowedIPs = 10.9.0.0/24, fd09::/64\n",
        a.private, b.public
    );
    let file = configuration(&pair.a, &text);
    let program = wireloom_testkit::wireloom_binary();
    let quick = |verb: &str| {
        let program = program.display();
        ok(
            &pair.a,
            &format!("env WG_QUICK_USERSPACE_IMPLEMENTATION={program} wg-quick {verb} {file}"),
        );
    };
    quick("up");
    ping(&pair.a, "10.9.0.2");
    ping(&pair.a, "fd09::2");
    quick("down");
    eventually("the device is gone", || !run(&pair.a, "ip link show wg0").status.success());
    NetworkState::of(&pair.a).assert_same(&before);
}

#[test]
fn in_the_background_it_is_there_when_the_command_returns() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let host = Host::start("a").unwrap();
    ok(&host, "wireloom tunnel wg0");
    ok(&host, "wg show wg0");
    let status: Value =
        serde_json::from_str(&ok(&host, "wireloom status wg0 --output json")).unwrap();
    assert_eq!(status["peers"], serde_json::json!([]));
    let again = run(&host, "wireloom tunnel wg0");
    assert!(!again.status.success());
    assert!(again.stderr.contains("wg0"), "{}", again.stderr);
    // It ends when its device is deleted.
    ok(&host, "ip link delete wg0");
    eventually("the process ends", || {
        !host.run(|| fs::exists("/var/run/wireguard/wg0.sock").unwrap()).unwrap()
    });
}

#[test]
fn a_bare_device_tells_what_it_dropped_and_how_it_moves_packets() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "ping");
    need!(program "wg");
    let host = Host::start("a").unwrap();
    ok(&host, "wireloom tunnel wg0");
    ok(&host, "ip address add 10.9.0.1/24 dev wg0");
    ok(&host, "ip link set wg0 up");
    run(&host, "ping -n -c 3 -i 0.01 -W 1 10.9.0.77");
    // wg passes over the keys that it does not know.
    assert!(ok(&host, "wg show wg0").contains("listening port"));
    let status: Value =
        serde_json::from_str(&ok(&host, "wireloom status wg0 --output json")).unwrap();
    assert!(status["path"]["drops"]["no_peer"].as_u64() >= Some(3), "{status}");
    assert_eq!(status["path"]["offloads"]["gso"], true);
    assert_eq!(status["path"]["engine"], "noise");
    let text = ok(&host, "wireloom status wg0");
    assert!(text.contains("offloads gro, gso") && text.contains("no_peer "), "{text}");
    ok(&host, "ip link delete wg0");
}

#[test]
fn a_foreign_link_of_that_name_is_named_and_left_alone() {
    need!(root);
    need!(device "/dev/net/tun");
    let pair = Pair::start();
    let before = NetworkState::of(&pair.a);
    let refused = run(&pair.a, "wireloom tunnel -f eth0");
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("eth0"), "{}", refused.stderr);
    NetworkState::of(&pair.a).assert_same(&before);
    assert!(answers(&pair.a, "192.0.2.2"));
}

#[test]
fn a_port_in_use_is_named_with_its_owner() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let host = Host::start("a").unwrap();
    let holder = host.run(|| std::net::UdpSocket::bind("0.0.0.0:51820").unwrap()).unwrap();
    let device = tunnel(&host, "wg0");
    let refused = run(&host, "wg set wg0 listen-port 51820");
    assert!(!refused.status.success());
    let pid = std::process::id().to_string();
    eventually("the log names the port and who holds it", || {
        let (_, log) = device.written().unwrap();
        log.contains("51820") && log.contains(&pid)
    });
    drop(holder);
    ok(&host, "wg set wg0 listen-port 51820");
}

#[test]
fn without_a_tun_device_or_the_right_to_it_the_error_says_what_to_do() {
    need!(root);
    let host = Host::start("a").unwrap();
    let program = wireloom_testkit::wireloom_binary();
    let program = program.display();
    let weak = run(
        &host,
        &format!("setpriv --bounding-set=-net_admin --inh-caps=-net_admin {program} tunnel -f wg0"),
    );
    assert!(!weak.status.success());
    assert!(weak.stderr.contains("CAP_NET_ADMIN"), "{}", weak.stderr);
    // The mount namespace is the host's own, so the machine keeps its device.
    ok(&host, "mount -t tmpfs none /dev/net");
    let without = run(&host, "wireloom tunnel -f wg0");
    assert!(!without.status.success());
    assert!(without.stderr.contains("/dev/net/tun"), "{}", without.stderr);
}
