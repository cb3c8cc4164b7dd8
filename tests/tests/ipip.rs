//! IPIP inside a location, in a virtual machine whose kernel has it: three nodes in network namespaces there.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use wireloom_testkit::{Vm, in_new_network, need};
use wireloom_tests::Keys;
use wireloom_tests::vm::three_nodes;

/// Two nodes in Amsterdam, of which n1 is the gateway, and one in Warsaw, all on one bridge of 1500 bytes. What n2 has
/// sent wrapped is told by its link's counters.
struct Nodes {
    vm: Vm,
    keys: Vec<Keys>,
}

/// Whatever `ip` and `nft` tell of a node's namespace, without what differs from one call to the next.
const EVERYTHING: &str = "ip -j -d link; ip -j address; ip -j route show table all; \
     ip -j -6 route show table all; ip -j rule; ip -j -6 rule; nft -j list ruleset";

impl Nodes {
    fn start() -> Self {
        // The module puts a tunl0 of its own into every namespace, for as long as it is loaded.
        let (vm, keys) = three_nodes(&["ip", "nft", "ping"], "ipip");
        Self { vm, keys }
    }

    fn mesh_file(&self, when: &str, length: u8) -> String {
        let mut text = format!(
            "[mesh]\noverlay = [\"10.4.0.0/24\", \"fd04::/64\"]\nmasquerade = true\n\
             encapsulation = \"{when}\"\nencapsulate-by = \"ipip\"\n"
        );
        for (number, keys) in (1..).zip(&self.keys) {
            let location = if number < 3 { "ams" } else { "waw" };
            text += &format!(
                "[[node]]\nname = \"n{number}\"\nlocation = \"{location}\"\npublic-key = \"{}\"\n\
                 endpoint = \"192.0.2.{number}:5182{number}\"\n\
                 internal-addresses = [\"192.0.2.{number}/{length}\", \"2001:db8::{number}/64\"]\n\
                 overlay-addresses = [\"10.4.0.{number}\", \"fd04::{number}\"]\ngateway = {}\n",
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

    fn up(&self, when: &str, length: u8) {
        self.vm.write("/run/mesh.toml", self.mesh_file(when, length));
        for node in 1..=3 {
            self.on(
                node,
                &format!(
                    "wireloom up --detach -c /run/mesh.toml --key /run/n{node}/key \
                 --interface wl{node} >/run/n{node}/log 2>&1 || {{ cat /run/n{node}/log; exit 1; }}"
                ),
            );
        }
    }

    fn down(&self) {
        for node in 1..=3 {
            self.on(node, &format!("wireloom down wl{node}"));
        }
    }

    /// Whether an echo of a packet of this size, in one piece, comes back at once.
    fn echoes(&self, node: u8, to: &str, size: u32) -> bool {
        let data = size - 28;
        let ping = format!("ping -n -c 1 -W 2 -M do -s {data} {to}");
        self.vm.run(&format!("ip netns exec n{node} {ping}")).status == 0
    }

    /// A network that drops IP protocol 4 is named as long as it does, with VXLAN as what to do.
    fn protocol_4_is_dropped_and_named(&self) {
        let chain = "{ type filter hook prerouting priority -300; }";
        self.vm.ok(&format!(
            "ip netns exec n1 nft add table inet fabric
             ip netns exec n1 nft add chain inet fabric in '{chain}'
             ip netns exec n1 nft add rule inet fabric in meta l4proto 4 drop"
        ));
        // Packets that get no answer are what tells.
        self.vm.ok(
            "for i in $(seq 90); do
                 ip netns exec n2 ping -n -c 1 -W 1 10.4.0.1 >/dev/null
                 ip netns exec n2 wireloom status wl2 >/run/said
                 grep 'IPIP (IP protocol 4)' /run/said | grep -q 'encapsulate-by = \"vxlan\"' && exit
             done; cat /run/said; exit 1",
        );
        self.on(1, "nft delete table inet fabric");
        self.vm.ok("for i in $(seq 90); do
                 ip netns exec n2 wireloom status wl2 | grep -q 'protocol 4' || exit 0; sleep 1
             done; exit 1");
    }

    fn wrapped_by_n2(&self) -> u64 {
        let counter = "cat /sys/class/net/wl2-ip/statistics/tx_packets 2>/dev/null || echo 0";
        self.on(2, counter).trim().parse().unwrap()
    }
}

#[test]
fn a_location_wraps_in_ipip_to_the_byte_and_leaves_nothing() {
    need!(root);
    need!(vm);
    for program in ["ip", "nft", "ping"] {
        need!(program program);
    }
    in_new_network(|| {
        let nodes = Nodes::start();
        let everything = || (1..=3).map(|node| nodes.on(node, EVERYTHING)).collect::<Vec<_>>();
        let before = everything();
        // When, the prefix length of internal addresses, and whether n1 and n2 wrap for each other then.
        for (when, length, wraps) in
            [("always", 24, true), ("crosssubnet", 32, true), ("crosssubnet", 24, false)]
        {
            nodes.up(when, length);
            let case = format!("{when}, /{length}");
            // Within the location both ways, and to the other one by way of n1.
            for (from, to) in [(1, "10.4.0.2"), (2, "10.4.0.1"), (2, "10.4.0.3"), (3, "10.4.0.2")] {
                nodes.on(from, &format!("ping -n -c 1 -w 30 {to}"));
            }
            // IPv6 goes bare.
            nodes.on(2, "ping -n -c 1 -w 30 fd04::1");
            let sent = nodes.wrapped_by_n2();
            assert_eq!(sent > 0, wraps, "{case}: {sent}");
            let largest = if wraps { 1480 } else { 1500 };
            assert!(nodes.echoes(2, "10.4.0.1", largest), "{case}");
            assert!(!nodes.echoes(2, "10.4.0.1", largest + 1), "{case}");
            // Through the tunnel between locations, which is narrower than the wrapping.
            assert!(nodes.echoes(2, "10.4.0.3", 1440), "{case}");
            assert!(!nodes.echoes(2, "10.4.0.3", 1441), "{case}");
            if when == "always" {
                nodes.protocol_4_is_dropped_and_named();
            }
            nodes.down();
            for (after, before) in everything().iter().zip(&before) {
                let lines = |text: &str| text.replace("},{", "},\n{");
                let (after, before) = (lines(after), lines(before));
                let lost: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
                let new: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
                assert!(lost.is_empty() && new.is_empty(), "{case}: lost {lost:#?}, new {new:#?}");
            }
        }
    });
}
