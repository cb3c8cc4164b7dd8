//! `wireloom up`: a node that follows a mesh file, whatever happens to the file, the device and the kernel.

use std::fs;
use std::time::Duration;

use wireloom_lab::Host;
use wireloom_testkit::need;
use wireloom_tests::mesh::{Mesh, OVERLAY, routes, status};
use wireloom_tests::{Keys, NetworkState, SOON, eventually, ok, ping, run, wireloom, within};

fn problems(host: &Host) -> String {
    status(host)["problems"].to_string()
}

/// How soon what others take away is there again.
const REPAIR: Duration = Duration::from_secs(2);

macro_rules! need_all {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ping");
        need!(program "wg");
    };
}

#[test]
fn a_mesh_of_two_comes_up_and_leaves_nothing() {
    need_all!();
    let mesh = Mesh::new();
    let before = NetworkState::of(&mesh.pair.a);
    let (a, _b) = (mesh.up("a"), mesh.up("b"));
    for there in OVERLAY[1] {
        ping(&mesh.pair.a, there);
    }
    for there in OVERLAY[0] {
        ping(&mesh.pair.b, there);
    }
    let status = status(&mesh.pair.a);
    assert_eq!(status["peers"][0]["name"], "b");
    assert_eq!(status["peers"][0]["state"], "connected");
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!(status["gateway"], true);
    let text = ok(&mesh.pair.a, "wireloom status");
    assert!(text.contains("connected") && text.contains("10.4.0.2"), "{text}");
    for (format, sign) in
        [("dot", "graph wireloom"), ("mermaid", "flowchart"), ("svg", "<svg"), ("json", "{")]
    {
        let graph = ok(&mesh.pair.a, &format!("wireloom graph --format {format}"));
        assert!(graph.contains(sign), "{format}: {graph}");
    }
    ok(&mesh.pair.a, "wireloom down");
    assert!(a.wait(SOON).unwrap().status.success());
    NetworkState::of(&mesh.pair.a).assert_same(&before);
}

#[test]
fn a_changed_file_is_followed_and_sessions_stay() {
    need_all!();
    let mesh = Mesh::new();
    let _nodes = (mesh.up("a"), mesh.up("b"));
    ping(&mesh.pair.a, OVERLAY[1][0]);
    let handshakes = || ok(&mesh.pair.a, "wg show wl0 latest-handshakes");
    let before = handshakes();
    mesh.write(&mesh.text("", "prefixes = [\"10.77.0.0/24\", \"fd77::/64\"]"));
    eventually("the new prefixes have routes", || {
        let routes = routes(&mesh.pair.a);
        routes.contains("10.77.0.0/24") && routes.contains("fd77::/64")
    });
    assert!(ok(&mesh.pair.a, "wg show wl0 allowed-ips").contains("10.77.0.0/24"));
    assert_eq!(handshakes(), before);
    mesh.write(&mesh.text("", ""));
    eventually("and lose them", || !routes(&mesh.pair.a).contains("77::"));
    assert_eq!(handshakes(), before);
}

#[test]
fn a_bad_file_keeps_the_last_good_mesh_and_says_where() {
    need_all!();
    let mesh = Mesh::new();
    let _nodes = (mesh.up("a"), mesh.up("b"));
    ping(&mesh.pair.a, OVERLAY[1][0]);
    mesh.write("[[node]\nname = ");
    eventually("status says line 1", || {
        status(&mesh.pair.a)["stale"].as_str().is_some_and(|reason| reason.contains("line 1"))
    });
    ping(&mesh.pair.a, OVERLAY[1][0]);

    let good = mesh.text("", "");
    let bad = good.replace("192.0.2.2:51820", "192.0.2.2:70000");
    let line = bad.lines().position(|line| line.contains("70000")).unwrap() + 1;
    mesh.write(&bad);
    eventually("status names the bad entry and its line", || {
        let status = status(&mesh.pair.a);
        let problems = status["problems"].to_string();
        status["stale"].is_null()
            && problems.contains("70000")
            && problems.contains(&format!("line {line}"))
    });
    ping(&mesh.pair.a, OVERLAY[1][0]);

    fs::remove_file(mesh.path()).unwrap();
    eventually("status says that the file is gone", || !status(&mesh.pair.a)["stale"].is_null());
    ping(&mesh.pair.a, OVERLAY[1][0]);
    mesh.write(&good);
    eventually("all is well again", || {
        let status = status(&mesh.pair.a);
        status["stale"].is_null() && status["problems"] == serde_json::json!([])
    });
}

#[test]
fn what_others_take_away_comes_back() {
    need_all!();
    let mesh = Mesh::new();
    let (a, _b) = (mesh.up("a"), mesh.up("b"));
    ping(&mesh.pair.a, OVERLAY[1][0]);
    let wanted = routes(&mesh.pair.a);

    ok(&mesh.pair.a, "ip route flush dev wl0");
    within(REPAIR, "flushed routes come back", || routes(&mesh.pair.a) == wanted);
    ok(&mesh.pair.a, "ip address del 10.4.0.1/32 dev wl0");
    within(REPAIR, "a deleted address comes back", || {
        ok(&mesh.pair.a, "ip address show dev wl0").contains("10.4.0.1/32")
    });
    ok(&mesh.pair.a, "ip link set wl0 down");
    within(REPAIR, "the link goes up again", || routes(&mesh.pair.a) == wanted);
    ping(&mesh.pair.a, OVERLAY[1][1]);

    let handshake = || ok(&mesh.pair.b, "wg show wl0 latest-handshakes");
    let before = handshake();
    // Their times are told in seconds.
    std::thread::sleep(Duration::from_secs(1));
    ok(&mesh.pair.a, "ip link delete wl0");
    within(REPAIR, "a deleted device comes back", || {
        run(&mesh.pair.a, "ip link show wl0").status.success() && routes(&mesh.pair.a) == wanted
    });
    let log = a.written().unwrap().1;
    assert!(log.contains("made anew") && !log.contains("can't be made"), "{log}");
    // The other end, which would send by a session that is gone, is called.
    within(REPAIR, "there is another session", || handshake() != before);
    for there in OVERLAY[1] {
        ping(&mesh.pair.a, there);
    }
}

#[test]
fn a_plan_that_says_the_same_reads_and_writes_nothing() {
    need_all!();
    let mesh = Mesh::new();
    let host = &mesh.pair.a;
    let _a = mesh.up("a");
    let wanted = routes(host);
    // What the kernel tells of our own first changes is past once others' are repaired.
    ok(host, "ip route flush dev wl0");
    within(REPAIR, "flushed routes come back", || routes(host) == wanted);
    let work = || status(host)["work"].clone();
    let before = work();
    // Whose share of homes it would be makes no difference to a mesh of two.
    mesh.write(&mesh.text("", "gateway-weight = 7"));
    eventually("the new mesh is planned", || work()["reconciles"] != before["reconciles"]);
    // So does what others do for themselves.
    ok(host, "ip link add other0 type veth peer name other1");
    ok(host, "ip link set other0 up");
    ok(host, "ip address add 172.31.0.1/24 dev other0");
    ok(host, "ip link delete other0");
    mesh.write(&mesh.text("", "gateway-weight = 8"));
    let again = work();
    eventually("and another one", || work()["reconciles"] != again["reconciles"]);
    for what in ["kernel_reads", "kernel_writes", "device_writes"] {
        assert_eq!(work()[what], before[what], "{what}");
    }
}

#[test]
fn foreign_routes_and_addresses_survive_everything() {
    need_all!();
    let mesh = Mesh::new();
    ok(&mesh.pair.a, "ip route add 198.51.100.0/24 via 192.0.2.2");
    ok(&mesh.pair.a, "ip route add 198.51.100.0/24 via 192.0.2.2 table 99 proto 200");
    ok(&mesh.pair.a, "ip rule add from 198.51.100.9 table 99");
    let before = NetworkState::of(&mesh.pair.a);
    let a = mesh.up("a");
    assert!(a.stop(SOON).unwrap().status.success());
    NetworkState::of(&mesh.pair.a).assert_same(&before);
}

#[test]
fn a_killed_agent_is_followed_by_one_that_cleans_up() {
    need_all!();
    let mesh = Mesh::new();
    let before = NetworkState::of(&mesh.pair.a);
    mesh.write(&mesh.text("", "prefixes = [\"10.77.0.0/24\"]"));
    drop(mesh.up("a")); // SIGKILL
    mesh.write(&mesh.text("", ""));
    let a = mesh.up("a");
    assert!(!routes(&mesh.pair.a).contains("10.77.0.0/24"));
    assert!(a.stop(SOON).unwrap().status.success());
    // Whether forwarding was on before went with the killed process, and anycast addresses come with forwarding.
    let kept = |state: NetworkState| state.without(&["forward", "anycast", "accept_redirects"]);
    kept(NetworkState::of(&mesh.pair.a)).assert_same(&kept(before));
}

#[test]
fn a_second_agent_is_refused() {
    need_all!();
    let mesh = Mesh::new();
    let a = mesh.up("a");
    let second = run(&mesh.pair.a, &format!("wireloom up {}", mesh.args("a")));
    assert!(!second.status.success());
    let first = format!("runs already (process {})", a.id());
    assert!(second.stderr.contains(&first), "{}", second.stderr);
}

#[test]
fn a_port_in_use_is_named_with_its_owner_and_taken_when_free() {
    need_all!();
    let mesh = Mesh::new();
    let holder = mesh.pair.a.run(|| std::net::UdpSocket::bind("0.0.0.0:51820").unwrap()).unwrap();
    let _nodes = (mesh.up("a"), mesh.up("b"));
    let pid = std::process::id().to_string();
    eventually("status names the port and who holds it", || {
        let problems = problems(&mesh.pair.a);
        problems.contains("51820") && problems.contains(&pid)
    });
    drop(holder);
    ping(&mesh.pair.b, OVERLAY[0][0]);
    assert_eq!(problems(&mesh.pair.a), "[]");
}

#[test]
fn an_overlay_that_overlaps_a_local_route_is_named() {
    need_all!();
    let mesh = Mesh::new();
    ok(&mesh.pair.a, "ip route add 10.4.0.0/25 via 192.0.2.2");
    let _nodes = (mesh.up("a"), mesh.up("b"));
    eventually("status names both", || {
        let problems = problems(&mesh.pair.a);
        problems.contains("10.4.0.0/24") && problems.contains("10.4.0.0/25")
    });
    // The other family works.
    ping(&mesh.pair.a, OVERLAY[1][1]);
    assert!(ok(&mesh.pair.a, "ip route show 10.4.0.0/25").contains("via 192.0.2.2"));
}

#[test]
fn a_name_that_does_not_resolve_takes_nobody_else_down() {
    need_all!();
    let mesh = Mesh::new();
    mesh.write(&mesh.text("", "endpoint = \"gone.invalid:51820\""));
    let _nodes = (mesh.up("a"), mesh.up("b"));
    eventually("status names it", || problems(&mesh.pair.a).contains("gone.invalid"));
    // b can dial a, and a answers where b is.
    ping(&mesh.pair.b, OVERLAY[0][0]);
    ping(&mesh.pair.a, OVERLAY[1][1]);
}

#[test]
fn a_machine_that_is_not_in_the_mesh_says_how_to_get_in() {
    need_all!();
    let mesh = Mesh::new();
    let stranger = Keys::new();
    let file = mesh.folder.path().join("stranger");
    fs::write(&file, &stranger.private).unwrap();
    ok(&mesh.pair.a, &format!("chmod 600 {}", file.display()));
    let _up = wireloom(
        &mesh.pair.a,
        &format!("up -c {} --key {}", mesh.path().display(), file.display()),
    );
    eventually("status shows the key to add", || {
        let status = run(&mesh.pair.a, "wireloom status -o json");
        status.status.success()
            && status.stdout.contains("not in the mesh")
            && status.stdout.contains(&stranger.public)
    });
    mesh.write(&mesh.text("", "").replace(&mesh.keys[0].public, &stranger.public));
    eventually("and once it is added, the machine joins", || status(&mesh.pair.a)["node"] == "a");
}

#[test]
fn detached_it_returns_when_the_node_is_in_the_mesh() {
    need_all!();
    let mesh = Mesh::new();
    ok(&mesh.pair.a, &format!("wireloom up --detach {}", mesh.args("a")));
    assert_eq!(status(&mesh.pair.a)["node"], "a");
    ok(&mesh.pair.a, "wireloom down");
    eventually("it is gone", || !run(&mesh.pair.a, "wireloom status").status.success());
}
