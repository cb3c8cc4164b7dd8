//! Answers leave by the path that questions came by, on hosts that drop whatever does not, and what is not the mesh's goes
//! where it always went.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fmt::Write as _;

use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_testkit::need;
use wireloom_tests::mesh::status;
use wireloom_tests::{Keys, eventually, ok, ping, run, wireloom};

const NODES: [&str; 5] = ["ams-1", "ams-2", "ams-3", "waw-1", "waw-2"];

/// Two regions with two gateways each; ams-3 is none. ams-3 reaches a network for its region. Every link of every host
/// takes only what would be answered by it.
struct Strict {
    lab: Lab,
    keys: Vec<Keys>,
}

impl Strict {
    fn build() -> Self {
        let layout = Layout {
            regions: vec![
                Region::new("nl-ams", &["ams-1", "ams-2", "ams-3"]),
                Region::new("pl-waw", &["waw-1", "waw-2"]),
            ],
            pods: true,
        };
        let lab = Lab::build(&layout).unwrap();
        let strict = Self { lab, keys: NODES.map(|_| Keys::new()).into() };
        for host in NODES.map(|name| strict.host(name)) {
            for link in ["private", "public", "pod"] {
                host.write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "1").unwrap();
            }
        }
        strict
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    fn up(&self) -> Vec<Child> {
        let text = self.mesh_file();
        let up = |(name, keys): (&str, &Keys)| {
            let host = self.host(name);
            host.write("/run/test/mesh.toml", &text).unwrap();
            host.write("/run/test/key", &keys.private).unwrap();
            ok(host, "chmod 600 /run/test/key");
            wireloom(host, "up -c /run/test/mesh.toml --key /run/test/key")
        };
        let nodes = NODES.into_iter().zip(&self.keys).map(up).collect();
        for name in NODES {
            eventually("the node is in the mesh", || {
                run(self.host(name), "wireloom status -o json").stdout.contains("waw-2")
            });
        }
        nodes
    }

    fn mesh_file(&self) -> String {
        let mut text =
            "[mesh]\noverlay = [\"10.4.0.0/16\", \"fd04::/64\"]\ngateways = 2\n".to_owned();
        for region in &self.lab.plan().regions {
            for host in &region.hosts {
                let place = NODES.iter().position(|name| *name == host.name).unwrap();
                let (number, name) = (host.number, &host.name);
                let (key, region) = (&self.keys[place].public, &region.name);
                let public = host.public.unwrap()[0].address();
                let [v4, v6] = host.private.map(|address| address.to_string());
                let pods = host.pod.as_ref().unwrap().prefixes;
                write!(
                    text,
                    "[[node]]\nname = \"{name}\"\nlocation = \"{region}\"\npublic-key = \"{key}\"\n\
                     endpoint = \"{public}\"\ninternal-addresses = [\"{v4}\", \"{v6}\"]\n\
                     overlay-addresses = [\"10.4.0.{number}\", \"fd04::{number}\"]\n\
                     prefixes = [\"{}\", \"{}\"]\n",
                    pods[0], pods[1]
                )
                .unwrap();
                text += match name.as_str() {
                    "ams-3" => {
                        "gateway = false\nlocation-prefixes = [\"192.168.7.0/24\", \"fd07::/64\"]\n"
                    }
                    _ => "gateway = true\n",
                };
            }
        }
        text
    }
}

#[test]
fn replies_leave_by_the_path_they_came_whichever_gateway_that_is() {
    need!(root);
    need!(device "/dev/net/tun");
    let strict = Strict::build();
    let _nodes = strict.up();
    let homes: Vec<String> =
        NODES.iter().map(|name| status(strict.host(name))["home"].to_string()).collect();
    assert!(["\"ams-1\"", "\"ams-2\""].contains(&homes[2].as_str()), "{homes:?}");
    assert_eq!(homes[..2], ["\"ams-1\"", "\"ams-2\""]);

    let inside = |number: usize| [format!("10.4.0.{number}"), format!("fd04::{number}")];
    for (from, name) in NODES.iter().enumerate() {
        for to in (1..=NODES.len()).filter(|to| *to != from + 1) {
            inside(to).iter().for_each(|address| ping(strict.host(name), address));
        }
    }
    // Pods of everybody, each with its node's home.
    for (from, to) in [("ams-3", "waw-1"), ("waw-2", "ams-3"), ("ams-1", "waw-2")] {
        let plan = strict.lab.plan().hosts().find(|host| host.name == to).unwrap();
        for address in plan.pod.as_ref().unwrap().address {
            ping(strict.host(&format!("{from}-pod")), &address.address().to_string());
        }
    }
    // And a network behind one that is no gateway.
    let carrier = strict.host("ams-3");
    ok(carrier, "ip address add 192.168.7.1/24 dev lo");
    ok(carrier, "ip address add fd07::1/64 dev lo nodad");
    for far in ["waw-1", "waw-2", "ams-1", "ams-2"] {
        ping(strict.host(far), "192.168.7.1");
        ping(strict.host(far), "fd07::1");
    }
}

#[test]
fn probes_of_pods_by_their_own_host_and_its_other_traffic_are_left_alone() {
    need!(root);
    need!(device "/dev/net/tun");
    let strict = Strict::build();
    let (host, internet) = (strict.host("ams-1"), strict.host("internet"));
    ok(internet, "ip address add 198.51.100.9/32 dev lo");
    let plan = strict.lab.plan().hosts().find(|host| host.name == "ams-1").unwrap();
    let pod = plan.pod.as_ref().unwrap().address.map(|address| address.address().to_string());
    let neighbour = strict.lab.plan().hosts().find(|host| host.name == "ams-2").unwrap();
    let near = neighbour.private.map(|address| address.address().to_string());
    let ways = || -> Vec<String> {
        let to =
            pod.iter().chain(&near).map(String::as_str).chain(["198.51.100.9", "2001:db8:ffff::1"]);
        // Numbers of users and lifetimes differ.
        to.map(|to| ok(host, &format!("ip -o route get {to}"))).collect()
    };
    let before = ways();
    let _nodes = strict.up();
    assert_eq!(ways(), before);
    for address in pod.iter().chain(&near) {
        ping(host, address);
    }
    ping(host, "198.51.100.9");
    // The pod sees its host at the address on their link, as it did.
    assert!(ok(host, &format!("ip -o route get {}", pod[0])).contains("src 10.42.1.1"));
}
