//! A mesh of regions whose members have a gateway before them: pods, an outside peer and a network behind a node.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_testkit::need;
use wireloom_tests::{Keys, answers, eventually, ok, ping, run, wireloom};

/// Two regions and a laptop behind a NAT router of its own.
struct Regions {
    _nodes: Vec<Child>,
    lab: Lab,
    nodes: Vec<(String, Keys)>,
    laptop: Keys,
}

/// What a region's own network is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// It carries packets of any address, and all nodes are neighbours.
    CarriesAll,
    /// It carries its own addresses alone, and no two nodes are in one subnet. What else they send is wrapped in this.
    KnowsItsOwn(&'static str),
}

const NODES: [&str; 3] = ["ams-1", "ams-2", "waw-1"];

impl Regions {
    /// Starts the nodes. ams-1 is Amsterdam's gateway; ams-2 reaches a network for it.
    fn start(network: Network) -> Self {
        let layout = Layout {
            regions: vec![
                Region::new("nl-ams", &["ams-1", "ams-2"]),
                Region::new("pl-waw", &["waw-1"]),
                Region::new("home", &["laptop"]).behind_nat(),
            ],
            pods: true,
        };
        let lab = Lab::build(&layout).unwrap();
        let nodes: Vec<_> = NODES.map(|name| (name.to_owned(), Keys::new())).into();
        let mut regions = Self { _nodes: Vec::new(), lab, nodes, laptop: Keys::new() };
        let text = regions.mesh_file(network);
        for (name, keys) in &regions.nodes {
            let host = regions.host(name);
            host.write("/run/test/mesh.toml", &text).unwrap();
            host.write("/run/test/key", &keys.private).unwrap();
            ok(host, "chmod 600 /run/test/key");
            if network != Network::CarriesAll {
                regions.drop_unknown(host);
            }
        }
        let up = |name: &&str| {
            wireloom(regions.host(name), "up -c /run/test/mesh.toml --key /run/test/key")
        };
        regions._nodes = NODES.iter().map(up).collect();
        for name in NODES {
            eventually("the node is in the mesh", || {
                run(regions.host(name), "wireloom status -o json").stdout.contains("ams-1")
            });
        }
        regions
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    /// Has the host take from its region's network only what comes from and goes to addresses of that network.
    fn drop_unknown(&self, host: &Host) {
        let plan = self.lab.plan().hosts().find(|plan| plan.name == host.name()).unwrap();
        let [v4, v6] = plan.private.map(|address| address.network());
        let rule = |rule: &str| ok(host, &format!("nft add rule inet fabric in {rule}"));
        ok(host, "nft add table inet fabric");
        ok(host, "nft add chain inet fabric in { type filter hook prerouting priority -300 ; }");
        for end in ["saddr", "daddr"] {
            let neighbours = if end == "saddr" { "fe80::/10, ::" } else { "fe80::/10, ff00::/8" };
            rule(&format!("iifname private ip {end} != {v4} counter drop"));
            rule(&format!("iifname private ip6 {end} != {{ {v6}, {neighbours} }} counter drop"));
        }
    }

    fn mesh_file(&self, network: Network) -> String {
        let mut text = "[mesh]\noverlay = [\"10.4.0.0/16\", \"fd04::/64\"]\n".to_owned();
        if let Network::KnowsItsOwn(by) = network {
            text += &format!("encapsulation = \"crosssubnet\"\nencapsulate-by = \"{by}\"\n");
        }
        for region in &self.lab.plan().regions {
            for host in &region.hosts {
                let Some((name, keys)) = self.nodes.iter().find(|(name, _)| *name == host.name)
                else {
                    continue;
                };
                let number = host.number;
                let [v4, v6] = match network {
                    Network::CarriesAll => host.private.map(|address| address.to_string()),
                    Network::KnowsItsOwn(_) => {
                        let [v4, v6] = host.private.map(|address| address.address());
                        [format!("{v4}/32"), format!("{v6}/128")]
                    }
                };
                let public = host.public.unwrap()[0].address();
                let pods = host.pod.as_ref().unwrap().prefixes;
                write!(
                    text,
                    "[[node]]\nname = \"{name}\"\nlocation = \"{}\"\npublic-key = \"{}\"\n\
                     endpoint = \"{public}\"\ninternal-addresses = [\"{v4}\", \"{v6}\"]\n\
                     overlay-addresses = [\"10.4.0.{number}\", \"fd04::{number}\"]\n\
                     prefixes = [\"{}\", \"{}\"]\n",
                    region.name, keys.public, pods[0], pods[1]
                )
                .unwrap();
                match name.as_str() {
                    "ams-1" => text += "gateway = true\n",
                    "ams-2" => text += "location-prefixes = [\"192.168.7.0/24\", \"fd07::/64\"]\n",
                    _ => {}
                }
            }
        }
        let public = &self.laptop.public;
        text + &format!(
            "[[peer]]\nname = \"laptop\"\npublic-key = \"{public}\"\n\
             allowed-ips = [\"10.5.0.1/32\", \"fd05::1/128\"]\n"
        )
    }
}

#[test]
fn a_laptop_and_a_network_behind_a_member_reach_everybody() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    everybody_is_reached(&Regions::start(Network::CarriesAll));
}

#[test]
fn everybody_is_reached_through_a_network_that_drops_foreign_addresses() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    need!(program "nft");
    everybody_is_reached(&Regions::start(Network::KnowsItsOwn("vxlan")));
}

#[test]
fn everybody_is_reached_through_tunnels_inside_a_location() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "wg");
    need!(program "nft");
    let regions = Regions::start(Network::KnowsItsOwn("wireguard"));
    everybody_is_reached(&regions);
    tunnels_inside_a_location(&regions);
}

fn everybody_is_reached(regions: &Regions) {
    let (member, far, laptop) =
        (regions.host("ams-2"), regions.host("waw-1"), regions.host("laptop"));

    // A member is reached through its gateway, by node and by pod.
    ping(far, "10.4.0.2");
    ping(member, "fd04::3");
    let pod = &regions.lab.plan().regions[0].hosts[1].pod.as_ref().unwrap().address;
    for address in pod {
        ping(regions.host("waw-1-pod"), &address.address().to_string());
    }

    // A network that ams-2 reaches for its location, though ams-1 is the gateway.
    ok(member, "ip address add 192.168.7.1/24 dev lo");
    ok(member, "ip address add fd07::1/64 dev lo nodad");
    ping(far, "192.168.7.1");
    ping(far, "fd07::1");

    // The laptop speaks plain WireGuard and has one peer a region, its anchor.
    let mut text = format!("[Interface]\nPrivateKey = {}\n", regions.laptop.private);
    for (region, allowed) in [
        (0, "10.4.0.1/32, 10.4.0.2/32, fd04::1/128, fd04::2/128, 192.168.7.0/24"),
        (1, "10.4.0.3/32, fd04::3/128"),
    ] {
        let anchor = &regions.lab.plan().regions[region].hosts[0];
        let keys = &regions.nodes.iter().find(|(name, _)| *name == anchor.name).unwrap().1;
        let endpoint = anchor.public.unwrap()[0].address();
        text += &format!(
            "[Peer]\nPublicKey = {}\nEndpoint = {endpoint}:51820\nAllowedIPs = {allowed}\n",
            keys.public
        );
    }
    laptop.write("/run/test/wg0.conf", text).unwrap();
    let _device = wireloom(laptop, "tunnel -f wg0");
    eventually("wg finds the device", || run(laptop, "wg show wg0").status.success());
    for line in [
        "wg setconf wg0 /run/test/wg0.conf",
        "ip address add 10.5.0.1/32 dev wg0",
        "ip address add fd05::1/128 dev wg0 nodad",
        "ip link set wg0 up",
        "ip route add 10.4.0.0/16 dev wg0",
        "ip route add 192.168.7.0/24 dev wg0",
        "ip route add fd04::/64 dev wg0",
    ] {
        ok(laptop, line);
    }
    for address in ["10.4.0.1", "10.4.0.2", "10.4.0.3", "fd04::2", "fd04::3", "192.168.7.1"] {
        ping(laptop, address);
    }
    // And back, from a member that is no anchor.
    ping(member, "10.5.0.1");
    ping(far, "fd05::1");

    // What is allowed to nobody stays out: the laptop may not speak for another.
    ok(laptop, "ip address add 10.5.0.9/32 dev wg0");
    let refused = run(laptop, "ping -n -c 1 -W 1 -I 10.5.0.9 10.4.0.1");
    assert!(!refused.status.success());
    assert!(answers(laptop, "10.4.0.1"));
    let status: Value =
        serde_json::from_str(&ok(regions.host("ams-1"), "wireloom status -o json")).unwrap();
    assert!(status["path"]["drops"].to_string().contains("source"), "{}", status["path"]);
}

/// What the nodes of Amsterdam do to each other's packets: encrypt those of the mesh, and no others.
fn tunnels_inside_a_location(regions: &Regions) {
    let (gateway, member) = (regions.host("ams-1"), regions.host("ams-2"));
    let plan = regions.lab.plan();
    let [v4, v6] = plan.regions[0].hosts[0].private.map(|address| address.address().to_string());
    let home = regions.nodes.iter().find(|(name, _)| name == "ams-1").unwrap().1.public.clone();
    let peers = ok(member, "wg show wl0 endpoints");
    assert_eq!(peers.trim(), format!("{home}\t{v4}:51820"));
    let sent = || -> u64 {
        let shown = ok(member, "wg show wl0 transfer");
        shown.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    // Between internal addresses packets go bare, though a tunnel is there.
    // Packets of a moment ago have their path probed, and that ends. Small echoes to see whether the gateway passes packets
    // on do not.
    let mut last = (sent(), Instant::now());
    eventually("the tunnel is as good as quiet", || {
        let is_quiet = sent() < last.0 + 1000;
        if !is_quiet {
            last = (sent(), Instant::now());
        }
        is_quiet && last.1.elapsed() > Duration::from_secs(5)
    });
    let before = sent();
    for bare in [&v4, &v6] {
        ok(member, &format!("ping -n -c 2 -i 0.2 -W 5 -s 1000 {bare}"));
    }
    assert!(sent() < before + 1000);
    // From an address of the mesh to an internal one they do not.
    for (from, to) in [("10.4.0.2", &v4), ("fd04::2", &v6)] {
        ok(member, &format!("ping -n -c 1 -W 5 -s 1000 -I {from} {to}"));
    }
    assert!(sent() > before + 2000);
    // Not a byte more than fits is sent through, and what fits is.
    ok(member, "ping -n -c 1 -W 5 -M do -s 1412 10.4.0.3");
    let larger = run(member, "ping -n -c 1 -W 1 -M do -s 1413 10.4.0.3");
    assert!(!larger.status.success());
    assert_eq!(run(gateway, "ip -o link show group 107").stdout, "");
}
