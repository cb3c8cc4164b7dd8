//! A node whose own network changes under it: addresses, links, routes, and how much its paths take.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::time::Duration;

use serde_json::Value;
use wireloom_lab::{Child, Host};
use wireloom_testkit::need;
use wireloom_tests::device::stream;
use wireloom_tests::mesh::{Mesh, OVERLAY, status};
use wireloom_tests::{NetworkState, Pair, SOON, answers, cable, eventually, ok, ping, within};

/// How soon a node is at its new address, and its packets take their new way.
const MOVED: Duration = Duration::from_secs(5);

/// How soon it is known that a path takes less.
const FOUND: Duration = Duration::from_secs(10);

macro_rules! need_all {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ping");
        need!(program "wg");
    };
}

/// Two nodes with a router between them: a is 192.0.2.1 and 2001:db8::1, b is 198.51.100.2 and 2001:db8:1::2.
struct Routed {
    router: Host,
    mesh: Mesh,
}

impl Routed {
    fn start() -> Self {
        let (a, router, b) =
            (Host::start("a").unwrap(), Host::start("r").unwrap(), Host::start("b").unwrap());
        for host in [&a, &router, &b] {
            host.write("/proc/sys/net/ipv6/conf/default/dad_transmits", "0").unwrap();
        }
        cable(&a, "eth0", &router, "to-a");
        cable(&b, "eth0", &router, "to-b");
        let networks =
            [(&a, "to-a", ["192.0.2.1", "2001:db8::1"], ["192.0.2.254", "2001:db8::fe"])];
        let other =
            (&b, "to-b", ["198.51.100.2", "2001:db8:1::2"], ["198.51.100.254", "2001:db8:1::fe"]);
        for (host, port, own, gateway) in networks.into_iter().chain([other]) {
            ok(host, "ip link set lo up");
            for (family, length) in [24, 64].into_iter().enumerate() {
                let (own, gateway) = (own[family], gateway[family]);
                ok(host, &format!("ip address add {own}/{length} dev eth0"));
                ok(&router, &format!("ip address add {gateway}/{length} dev {port}"));
                ok(host, &format!("ip route add default via {gateway}"));
            }
        }
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.write(format!("/proc/sys/net/{path}"), "1").unwrap();
        }
        let pair = Pair { a, b };
        pair.wait();
        let routed = Self { router, mesh: Mesh::of(pair) };
        routed.write("198.51.100.2");
        routed
    }

    /// Writes the mesh with this address for b.
    fn write(&self, b: &str) {
        let b = if b.contains(':') { format!("[{b}]") } else { b.to_owned() };
        self.mesh.write(&self.mesh.text("", &format!("endpoint = \"{b}:51820\"")));
    }

    fn hosts(&self) -> [&Host; 2] {
        [&self.mesh.pair.a, &self.mesh.pair.b]
    }
}

fn peer(host: &Host) -> Value {
    status(host)["peers"][0].clone()
}

/// Packets of a usual size from a to b, for as long as this lives.
fn flow(host: &Host) -> Child {
    host.spawn("ping", ["-n", "-q", "-i", "0.2", "-s", "1000", OVERLAY[1][0]]).unwrap()
}

/// Asserts that a hop that takes 1,300 bytes is found where this is done to it.
fn narrow(endpoint: &str, fits: u64, hurt: impl Fn(&Routed)) {
    let routed = Routed::start();
    routed.write(endpoint);
    let [a, b] = routed.hosts();
    let _nodes = (routed.mesh.up("a"), routed.mesh.up("b"));
    ping(a, OVERLAY[1][0]);
    let device = status(a)["mtu"].as_u64().unwrap();
    assert_eq!(peer(a)["mtu"], device);
    hurt(&routed);
    ok(&routed.router, "ip link set to-b mtu 1300");
    let _flow = flow(a);
    within(FOUND, "the path's size is found", || peer(a)["mtu"] == fits);

    // The device stays as wide as the link allows; routes to what lies behind the hop say what fits.
    assert_eq!(status(a)["mtu"], device);
    let [v4, v6] = OVERLAY[1];
    assert!(ok(a, &format!("ip route get {v4}")).contains(&format!("mtu {fits}")));
    assert!(ok(a, &format!("ip -6 route get {v6}")).contains("mtu 1280"));
    assert!(stream(a, b, v4) > 0.0);
    assert_eq!(status(a)["pod_mtu"], 1280);

    // Both numbers are said wherever somebody looks.
    let problems = status(a)["problems"].to_string();
    let doctor =
        wireloom_tests::run(a, &format!("wireloom doctor {}", routed.mesh.args("a"))).stdout;
    for said in [problems, doctor] {
        assert!(
            said.contains(&format!(" {fits} ")) && said.contains(&device.to_string()),
            "{said}"
        );
    }
}

#[test]
fn a_hop_that_takes_less_and_says_so_is_found() {
    need_all!();
    need!(program "iperf3");
    // 1,240 bytes would fit, but packets in a tunnel grow to whole blocks of 16.
    narrow("198.51.100.2", 1232, |_| {});
}

#[test]
fn so_is_one_on_a_path_of_ipv6() {
    need_all!();
    need!(program "iperf3");
    narrow("2001:db8:1::2", 1216, |_| {});
}

#[test]
fn a_hop_that_takes_less_and_says_nothing_is_found() {
    need_all!();
    need!(program "iperf3");
    need!(program "nft");
    narrow("198.51.100.2", 1232, |routed| {
        let b = &routed.mesh.pair.b;
        ok(&routed.router, "nft add table inet mute");
        ok(&routed.router, "nft add chain inet mute out { type filter hook output priority 0 ; }");
        ok(&routed.router, "nft add rule inet mute out icmp type destination-unreachable drop");
        // Pieces are lost, as in many a cloud.
        ok(b, "nft add table inet whole");
        ok(b, "nft add chain inet whole in { type filter hook prerouting priority -450 ; }");
        ok(b, "nft add rule inet whole in ip frag-off & 0x3fff != 0 drop");
    });
}

#[test]
fn a_link_that_takes_more_or_less_changes_the_tunnel() {
    need_all!();
    let routed = Routed::start();
    let [a, _] = routed.hosts();
    let _a = routed.mesh.up("a");
    let mtu = || ok(a, "ip link show wl0");
    assert!(mtu().contains("mtu 1440"), "{}", mtu());
    for (link, tunnel) in [(1400, 1340), (9000, 8940), (1500, 1440)] {
        ok(a, &format!("ip link set eth0 mtu {link}"));
        within(MOVED, "the device follows", || mtu().contains(&format!("mtu {tunnel}")));
        assert_eq!(status(a)["mtu"], tunnel);
    }
}

#[test]
fn a_node_at_a_new_address_is_known_there_at_once() {
    need_all!();
    let mesh = Mesh::new();
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    let _nodes = (mesh.up("a"), mesh.up("b"));
    ping(b, OVERLAY[0][0]);
    ok(a, "ip address add 192.0.2.11/24 dev eth0");
    ok(a, "ip address delete 192.0.2.1/24 dev eth0");
    ok(a, "ip address replace 192.0.2.11/24 dev eth0");
    // Nobody has anything to send: the node tells by itself.
    within(MOVED, "b knows", || ok(b, "wg show wl0 endpoints").contains("192.0.2.11:"));
    assert!(answers(b, OVERLAY[0][0]));
    assert!(answers(a, OVERLAY[1][1]));
}

#[test]
fn a_link_that_was_down_carries_again() {
    need_all!();
    let mesh = Mesh::new();
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    let _nodes = (mesh.up("a"), mesh.up("b"));
    ping(a, OVERLAY[1][0]);
    ok(a, "ip link set eth0 down");
    assert!(!answers(a, OVERLAY[1][0]));
    ok(a, "ip link set eth0 up");
    within(MOVED, "packets arrive again", || answers(a, OVERLAY[1][0]));
    assert!(answers(b, OVERLAY[0][1]));
}

#[test]
fn packets_follow_the_default_route_with_an_address_that_answers_reach() {
    need_all!();
    let mesh = Mesh::new();
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    // A second wire, and b at an address that is reached by either.
    cable(a, "eth1", b, "eth1");
    ok(a, "ip address add 198.51.100.1/24 dev eth1");
    ok(b, "ip address add 198.51.100.2/24 dev eth1");
    ok(b, "ip address add 203.0.113.2/32 dev lo");
    ok(a, "ip route add default via 192.0.2.2");
    mesh.write(&mesh.text("", "endpoint = \"203.0.113.2:51820\""));
    let _nodes = (mesh.up("a"), mesh.up("b"));
    ping(a, OVERLAY[1][0]);
    assert!(ok(b, "wg show wl0 endpoints").contains("192.0.2.1:"));
    ok(a, "ip route replace default via 198.51.100.2");
    within(MOVED, "the new way's address is taken", || {
        ok(b, "wg show wl0 endpoints").contains("198.51.100.1:")
    });
    // The old way is not needed any more.
    ok(b, "ip link set eth0 down");
    for there in OVERLAY[1] {
        within(MOVED, "packets arrive", || answers(a, there));
    }
}

#[test]
fn a_prefix_that_holds_an_endpoint_takes_all_packets_but_the_tunnels_own() {
    need_all!();
    let forgotten = ["forward", "anycast", "accept_redirects"];
    for (b, prefix, inside, beside) in [
        ("192.0.2.2", "192.0.2.2/31", "192.0.2.3", "192.0.2.4"),
        ("2001:db8::2", "2001:db8::2/127", "2001:db8::3", "2001:db8::4"),
    ] {
        let mesh = Mesh::new();
        let a = &mesh.pair.a;
        // Behind a name, for no mesh takes a prefix that holds an address written down in it.
        a.write("/run/test/hosts", format!("{b} b.test\n")).unwrap();
        a.run(|| rustix::mount::mount_bind("/run/test/hosts", "/etc/hosts")).unwrap().unwrap();
        let before = NetworkState::of(a).without(&forgotten);
        let more = format!("endpoint = \"b.test:51820\"\nlocation-prefixes = [\"{prefix}\"]");
        mesh.write(&mesh.text("", &more));
        let first = mesh.up("a");
        let _b = mesh.up("b");
        for there in OVERLAY[1] {
            ping(a, there);
        }
        let way = |to: &str| ok(a, &format!("ip -o route get {to}"));
        let marked = format!("{b} mark 0x20");
        for (to, link) in [(inside, "wl0"), (b, "wl0"), (beside, "eth0"), (&marked, "eth0")] {
            assert!(way(to).contains(&format!("dev {link} ")), "{to}: {}", way(to));
        }
        let family = if b.contains(':') { "-6" } else { "-4" };
        assert!(ok(a, &format!("ip {family} route show table 51108")).contains(prefix));
        assert_eq!(status(a)["problems"], serde_json::json!([]));

        drop(first); // SIGKILL
        ok(a, "wireloom cleanup");
        NetworkState::of(a).without(&forgotten).assert_same(&before);
        let second = mesh.up("a");
        for there in OVERLAY[1] {
            ping(a, there);
        }
        assert!(second.stop(SOON).unwrap().status.success());
        NetworkState::of(a).without(&forgotten).assert_same(&before);
    }
}

#[test]
fn marks_are_as_asked_for() {
    need_all!();
    let mesh = Mesh::new();
    let a = &mesh.pair.a;
    for (asked, mark) in [("--fwmark 0x4", "0x4"), ("", "0x20"), ("--fwmark 0", "off")] {
        let up = wireloom_tests::wireloom(a, &format!("up {} {asked}", mesh.args("a")));
        eventually("the device has the mark", || {
            let shown = wireloom_tests::run(a, "wg show wl0 fwmark");
            shown.status.success() && shown.stdout.trim() == mark
        });
        assert!(up.stop(SOON).unwrap().status.success());
    }
}
