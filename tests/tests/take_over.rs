//! Agents take over what another program made, WireGuard device and all, and not one packet is lost: in a virtual machine
//! whose kernel has WireGuard and IPIP, with three nodes in network namespaces there.
//!
//! What is there before is what Kilo makes: `kilo0`, `tunl0`, and static routes in the main table.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use wireloom_testkit::{Vm, in_new_network, need};
use wireloom_tests::vm::three_nodes;
use wireloom_tests::{Keys, SOON, echoes, within};

/// Two nodes in Amsterdam, of which n1 is the gateway, and one in Warsaw. Each has a pod.
struct Nodes {
    vm: Vm,
    keys: Vec<Keys>,
}

/// Echoes that are asked for all the time: from a node's pod, to another's.
const ECHOES: [(u8, u8); 4] = [(1, 2), (2, 3), (3, 1), (3, 2)];

impl Nodes {
    fn start() -> Self {
        let (vm, keys) = three_nodes(&["ip", "nft", "ping", "wg"], "wireguard ipip dummy");
        let nodes = Self { vm, keys };
        for number in 1..=3 {
            nodes.vm.ok(&format!(
                "set -e
                 ip -n n{number} link add pod type dummy
                 ip -n n{number} link set pod up
                 ip -n n{number} address add 10.42.{number}.1/32 dev pod
                 ip netns exec n{number} sysctl -q -w net.ipv4.ip_forward=1"
            ));
        }
        nodes.vm.write("/run/mesh.toml", nodes.mesh_file());
        nodes
    }

    fn mesh_file(&self) -> String {
        let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\"]\nencapsulation = \"always\"\nencapsulate-by = \"ipip\"\n".to_owned();
        for (number, keys) in (1..).zip(&self.keys) {
            let location = if number < 3 { "ams" } else { "waw" };
            text += &format!(
                "[[node]]\nname = \"n{number}\"\nlocation = \"{location}\"\npublic-key = \"{}\"\n\
                 endpoint = \"192.0.2.{number}:5182{number}\"\ninternal-addresses = [\"192.0.2.{number}/24\"]\n\
                 overlay-addresses = [\"10.4.0.{number}\"]\nprefixes = [\"10.42.{number}.0/24\"]\ngateway = {}\n",
                keys.public,
                number != 2
            );
        }
        text
    }

    /// Runs a command in a node's namespace and returns what it printed.
    fn on(&self, node: u8, command: &str) -> String {
        self.vm.ok(&format!("ip netns exec n{node} sh -c '{command}'"))
    }

    /// Makes of a node what Kilo's agent does: a device with these peers, and routes to these nodes by it or by n1.
    fn as_kilo_does(&self, node: u8) {
        let peer = |number: u8, nodes: &[u8]| {
            let allowed = nodes.iter().map(|n| format!("10.42.{n}.0/24,10.4.0.{n}/32"));
            let allowed = allowed.collect::<Vec<_>>().join(",");
            let key = &self.keys[usize::from(number) - 1].public;
            format!(
                "wg set kilo0 peer {key} endpoint 192.0.2.{number}:5182{number} allowed-ips {allowed}; "
            )
        };
        let routes = |nodes: &[u8], by: &str| {
            let both = |n: &u8| [format!("10.42.{n}.0/24"), format!("10.4.0.{n}/32")];
            let add = |to: String| format!("ip route add {to} {by} proto static; ");
            nodes.iter().flat_map(both).map(add).collect::<String>()
        };
        let by = |gateway: u8| format!("via 192.0.2.{gateway} dev tunl0 onlink");
        let leads = format!("wg set kilo0 private-key /run/n{node}/key listen-port 5182{node}; ");
        let rest = match node {
            1 => leads + &peer(3, &[3]) + &routes(&[3], "dev kilo0") + &routes(&[2], &by(2)),
            2 => routes(&[1, 3], &by(1)),
            _ => leads + &peer(1, &[1, 2]) + &routes(&[1, 2], "dev kilo0"),
        };
        self.on(node, &format!(
            "set -e; ip link add kilo0 type wireguard; ip address add 10.4.0.{node}/24 dev kilo0 noprefixroute; \
             ip link set kilo0 up mtu 1420; ip link set tunl0 up; {rest}"
        ));
    }

    /// Takes away what Kilo's agent does when it ends. The device stays.
    fn kilo_ends(&self, node: u8) {
        self.on(node, "ip route flush table main proto static; ip link set tunl0 down");
    }

    fn ask_for_echoes(&self) {
        for (from, to) in ECHOES {
            let ping = format!("ping -n -i 0.05 -I 10.42.{from}.1 10.42.{to}.1");
            self.on(
                from,
                &format!("{ping} >/run/{from}-{to} 2>&1 & echo $! >/run/{from}-{to}.pid"),
            );
        }
    }

    /// How many echoes came, and the numbers of those that did not; it goes on.
    fn echoes(&self, (from, to): (u8, u8)) -> (usize, Vec<u32>) {
        echoes(&self.vm.ok(&format!("cat /run/{from}-{to}")))
    }

    /// Waits until every one has come some times more, and asserts that none has failed to come.
    fn all_come(&self, when: &str) {
        for echo in ECHOES {
            let before = self.echoes(echo).0;
            within(SOON, "more echoes come, and none is missing", || {
                let (came, missing) = self.echoes(echo);
                if came >= before + 20 && !missing.is_empty() {
                    eprintln!("{when}, {echo:?}: {missing:?} of {came}");
                }
                came >= before + 20 && missing.is_empty()
            });
        }
    }

    fn up(&self, node: u8) -> String {
        let command = format!(
            "timeout 40 wireloom up --detach -c /run/mesh.toml --key /run/n{node}/key --run-dir /run/n{node} --interface kilo0 \
             --device kernel --route-metric 1107 >/run/n{node}/log 2>&1 || true; cat /run/n{node}/log"
        );
        self.on(node, &command)
    }

    /// How many bytes each peer of a node's device has sent, which counts anew for a peer that is.
    fn received(&self, node: u8) -> Vec<u64> {
        let transfer = self.on(node, "wg show kilo0 transfer");
        let bytes = |line: &str| line.split_whitespace().nth(1).unwrap().parse().unwrap();
        transfer.lines().map(bytes).collect()
    }
}

#[test]
fn a_device_and_routes_are_taken_over_without_a_lost_packet() {
    need!(root);
    need!(vm);
    for program in ["ip", "nft", "ping", "wg"] {
        need!(program program);
    }
    in_new_network(|| {
        let nodes = Nodes::start();
        (1..=3).for_each(|node| nodes.as_kilo_does(node));
        // The first packet waits for a handshake.
        nodes.on(2, "ping -n -c 1 -w 30 -I 10.42.2.1 10.42.3.1");
        nodes.on(1, "ping -n -c 1 -w 30 -I 10.42.1.1 10.42.2.1");
        nodes.ask_for_echoes();
        nodes.all_come("before");
        for node in [2, 1, 3] {
            let before = nodes.received(node);
            let links = nodes.on(node, "ip -o link show kilo0");
            let log = nodes.up(node);
            nodes.all_come(&format!("n{node} has ours beside the other: {log}"));
            nodes.kilo_ends(node);
            nodes.all_come(&format!("n{node} has ours alone: {log}"));
            let after = nodes.received(node);
            let go_on =
                before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a <= b);
            assert!(go_on, "n{node} has its peers anew: {before:?}, {after:?}");
            let is = |line: &str| line.split(':').next().map(str::to_owned);
            assert_eq!(is(&nodes.on(node, "ip -o link show kilo0")), is(&links), "the same link");
            let routes = nodes.on(node, "ip route show proto 107");
            assert!(routes.contains("metric 1107"), "{routes}");
        }
        // A device that goes is made anew, and is ours then.
        nodes.on(3, "ip link delete kilo0");
        within(SOON, "the device is there again", || {
            nodes.vm.run("ip -n n3 link show kilo0 group 107").stdout.contains("UP")
        });
        nodes.on(3, "ping -n -c 1 -w 30 -I 10.42.3.1 10.42.1.1");
        // Who leaves leaves the device where it was, with nothing of ours on it.
        nodes.on(2, "wireloom down kilo0 --run-dir /run/n2");
        assert!(nodes.on(2, "wg show kilo0 private-key").contains("(none)"));
        assert_eq!(nodes.on(2, "ip route show table all proto 107"), "");

        // A device with a key of its own is somebody else's.
        nodes.on(2, "wg set kilo0 private-key /run/n3/key");
        let all = "wg showconf kilo0; ip address show kilo0; ip route show table all dev kilo0";
        let before = nodes.on(2, all);
        let log = nodes.up(2);
        assert!(log.contains("kilo0 is somebody else"), "{log}");
        assert_eq!(nodes.on(2, all), before);
    });
}
