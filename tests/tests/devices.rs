//! A node whose WireGuard device somebody else runs: another process, or the kernel.

use std::time::Duration;
use std::{fs, thread};

use serde_json::Value;
use wireloom_lab::{Host, host::Namespace};
use wireloom_testkit::{Vm, need, wireloom_binary};
use wireloom_tests::mesh::{Mesh, OVERLAY, routes, status};
use wireloom_tests::{Keys, NetworkState, SOON, eventually, ok, ping, run, wireloom, within};

/// What a killed agent can't put back: whether the host forwarded before, and what follows from that. And the device's
/// own MTU, which whoever sets up the device next sets again.
const FORGOTTEN: [&str; 4] = ["forward", "anycast", "accept_redirects", "mtu"];

/// What `wg` says of a node's device on one of its subjects.
fn show(host: &Host, subject: &str) -> String {
    ok(host, &format!("wg show wl0 {subject}"))
}

/// Starts a's agent on the device of another process, and waits until its plan is in force.
fn up(mesh: &Mesh) -> wireloom_lab::Child {
    let agent = wireloom(&mesh.pair.a, &format!("up --device uapi {}", mesh.args("a")));
    eventually("the node is in the mesh without a problem", || {
        let output = run(&mesh.pair.a, "wireloom status -o json");
        let status: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        status["node"] == "a" && status["problems"].as_array().is_some_and(Vec::is_empty)
    });
    agent
}

#[test]
fn a_device_of_another_process_carries_packets_while_its_agent_is_away() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "iperf3");
    need!(program "wg");
    let mesh = Mesh::new();
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    let device = wireloom(a, "tunnel -f wl0");
    eventually("the device is there", || run(a, "wg show wl0").status.success());
    let before = NetworkState::of(a);

    let first = up(&mesh);
    let _b = mesh.up("b");
    ping(a, OVERLAY[1][0]);
    let handshake = show(a, "latest-handshakes");

    let server = b.spawn("iperf3", ["-s", "-1"]).unwrap();
    eventually("the server listens", || ok(b, "ss -Hltn sport = :5201").contains("5201"));
    let load = ["-c", OVERLAY[1][0], "-t", "6", "-J"];
    let client = a.spawn("iperf3", load).unwrap();
    eventually("the stream runs", || ok(a, "ss -Htn dport = :5201").contains("ESTAB"));
    ok(a, &format!("kill -KILL {}", first.id()));
    drop(first);
    let second = up(&mesh);
    let report = client.wait(SOON).unwrap();
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert!(report.get("error").is_none(), "{report}");
    let intervals = report["intervals"].as_array().unwrap();
    let stood_still = intervals.iter().filter(|part| part["sum"]["bytes"] == 0).count();
    assert_eq!(stood_still, 0, "{report}");
    server.wait(SOON).unwrap();
    assert_eq!(status(a)["work"]["device_writes"], 0, "{}", status(a));
    assert_eq!(show(a, "latest-handshakes"), handshake, "the session is the same");

    // Who leaves takes back what it configured, and no more.
    assert!(second.stop(SOON).unwrap().status.success());
    assert_eq!(show(a, "peers"), "");
    assert_eq!(show(a, "private-key").trim(), "(none)");
    NetworkState::of(a).without(&FORGOTTEN).assert_same(&before.without(&FORGOTTEN));
    assert!(device.stop(SOON).unwrap().status.success());
}

#[test]
fn a_device_that_comes_later_or_comes_back_is_brought_in_line() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let mesh = Mesh::new();
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    let _b = mesh.up("b");
    let _agent = wireloom(a, &format!("up --device uapi {}", mesh.args("a")));
    eventually("the missing device is named", || {
        run(a, "wireloom status").stdout.contains("/var/run/wireguard/wl0.sock")
    });
    let device = wireloom(a, "tunnel -f wl0");
    ping(a, OVERLAY[1][1]);
    let before = show(b, "latest-handshakes");
    // Their times are told in seconds.
    thread::sleep(Duration::from_secs(1));
    drop(device);
    let _another = wireloom(a, "tunnel -f wl0");
    // Who would send by a session that is gone, is called.
    within(Duration::from_secs(3), "b has another session", || {
        show(b, "latest-handshakes") != before
    });
    ping(a, OVERLAY[1][1]);
}

#[test]
fn a_device_that_somebody_else_set_up_is_left_alone_until_it_is_free() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let mesh = Mesh::new();
    let (a, _b) = (&mesh.pair.a, mesh.up("b"));
    let _device = wireloom(a, "tunnel -f wl0");
    eventually("the device is there", || run(a, "wg show wl0").status.success());
    let folder = mesh.folder.path().display();
    let friend = Keys::new().public;
    ok(a, &format!("wg set wl0 private-key {folder}/b peer {friend} allowed-ips 10.9.0.0/24"));
    ok(a, "ip address add 10.9.0.1/24 dev wl0");
    ok(a, "ip link set wl0 up");
    let all = || {
        ["wg showconf wl0", "ip address show wl0", "ip route show table all dev wl0"]
            .map(|line| ok(a, line))
    };
    let before = all();

    let agent = wireloom(a, &format!("up --device uapi {}", mesh.args("a")));
    eventually("the agent says whose it is", || {
        run(a, "wireloom status").stdout.contains("wl0 is somebody else's WireGuard device")
    });
    assert_eq!(all(), before);
    assert!(agent.stop(SOON).unwrap().status.success());
    assert_eq!(all(), before, "nor is it taken away");

    let _agent = wireloom(a, &format!("up --device uapi {}", mesh.args("a")));
    eventually("the agent waits", || run(a, "wireloom status").status.success());
    ok(a, &format!("wg set wl0 private-key /dev/null peer {friend} remove"));
    ping(a, OVERLAY[1][0]);
}

#[test]
fn a_node_with_a_new_key_goes_on_with_the_device_of_its_old_one() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    let mut mesh = Mesh::new();
    let device = wireloom(&mesh.pair.a, "tunnel -f wl0");
    eventually("the device is there", || run(&mesh.pair.a, "wg show wl0").status.success());
    let first = up(&mesh);
    let _b = mesh.up("b");
    ping(&mesh.pair.a, OVERLAY[1][0]);
    ok(&mesh.pair.a, &format!("kill -KILL {}", first.id()));
    drop(first);

    mesh.keys[0] = Keys::new();
    fs::write(mesh.folder.path().join("a"), &mesh.keys[0].private).unwrap();
    mesh.write(&mesh.text("", ""));
    let _second = up(&mesh);
    assert_eq!(show(&mesh.pair.a, "public-key").trim(), mesh.keys[0].public.trim());
    ping(&mesh.pair.a, OVERLAY[1][0]);
    assert!(device.stop(SOON).is_ok());
}

#[test]
fn a_node_on_the_kernels_own_wireguard_is_a_node_like_any_other() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "ip");
    need!(program "nft");
    need!(program "wg");
    need!(vm);
    let mesh = Mesh::new();
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    // The machine takes a's place on the cable.
    let vm = a
        .run(|| {
            let ours = wireloom_binary();
            Vm::boot(&["tap0"], &["ip".as_ref(), "nft".as_ref(), "wg".as_ref(), ours.as_path()])
        })
        .unwrap();
    for line in [
        "ip address flush dev eth0",
        "ip link add br0 type bridge",
        "ip link set eth0 master br0",
        "ip link set tap0 master br0",
        "ip link set tap0 up",
        "ip link set br0 up",
    ] {
        ok(a, line);
    }
    vm.ok("ip link set lo up; ip link set eth0 up");
    vm.ok("ip address add 192.0.2.1/24 dev eth0; ip address add 2001:db8::1/64 dev eth0 nodad");
    vm.write("/etc/wireloom/mesh.toml", fs::read(mesh.path()).unwrap());
    vm.write("/var/lib/wireloom/key", &mesh.keys[0].private);
    vm.ok("chmod 600 /var/lib/wireloom/key");
    // The kernel notices a carrier in its own time.
    vm.ok("until ip link show dev eth0 | grep -q 'state UP'; do sleep 0.1; done");
    let links = vm.ok("ip -o link");

    vm.ok("wireloom up --detach --device kernel > /log 2>&1 || { cat /log >&2; false; }");
    let _b = mesh.up("b");
    for address in OVERLAY[0] {
        ping(b, address);
    }
    for address in OVERLAY[1] {
        vm.ok(&format!("ping -c 1 -w 20 {address}"));
    }
    assert!(vm.ok("ip -details link show dev wl0").contains("wireguard"));
    assert!(vm.ok("wireloom status").contains("the kernel"));
    let handshake = vm.ok("wg show wl0 latest-handshakes");

    // Another peer is another peer's business.
    let more = mesh.text("", "prefixes = [\"10.72.0.0/24\"]");
    mesh.write(&more);
    vm.write("/etc/wireloom/mesh.toml", &more);
    vm.ok("until wg show wl0 allowed-ips | grep -q 10.72.0.0/24; do sleep 0.1; done");
    assert_eq!(vm.ok("wg show wl0 latest-handshakes"), handshake);
    eventually("the peer has no route into itself", || !routes(b).contains("10.72.0.0"));

    vm.ok("wireloom down");
    assert_eq!(vm.ok("ip -o link"), links);
    drop(vm);
    assert!(a.namespace(Namespace::Network).exists());
}
