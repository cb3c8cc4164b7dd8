//! A mesh through machines whose own firewall drops what they pass on.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fmt::Write as _;
use std::time::Duration;

use wireloom_lab::{Host, Lab, Layout, Region};
use wireloom_testkit::need;
use wireloom_tests::foreign::nft;
use wireloom_tests::{Keys, answers, eventually, ok, ping, run, wireloom, within};

const NODES: [&str; 2] = ["ams-1", "waw-1"];

/// What Docker makes, in little.
const DOCKER: &str = "table ip filter {
    chain DOCKER-USER { return; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER;
        oifname docker0 ct state established accept;
    }
}
table ip6 filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; }
}";

struct Rig {
    lab: Lab,
    keys: [Keys; 2],
}

impl Rig {
    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    fn write(&self, more: &str) {
        let mut text = format!("[mesh]\noverlay = [\"10.4.0.0/16\", \"fd04::/64\"]\n{more}\n");
        for (host, keys) in self.lab.plan().hosts().zip(&self.keys) {
            let prefixes = host.pod.as_ref().unwrap().prefixes;
            let public = host.public.unwrap()[0].address();
            write!(
                text,
                "[[node]]\nname = \"{}\"\npublic-key = \"{}\"\nendpoint = \"{public}\"\n\
                 prefixes = [\"{}\", \"{}\"]\n",
                host.name, keys.public, prefixes[0], prefixes[1]
            )
            .unwrap();
        }
        for name in NODES {
            self.host(name).write("/run/test/new", &text).unwrap();
            ok(self.host(name), "mv /run/test/new /run/test/mesh.toml");
        }
    }
}

#[test]
fn pods_reach_each_other_where_docker_drops_what_is_passed_on_if_that_is_asked_for() {
    need!(root);
    need!(device "/dev/net/tun");
    for program in ["ip", "nft", "ping"] {
        need!(program program);
    }
    let regions = vec![Region::new("nl-ams", &["ams-1"]), Region::new("pl-waw", &["waw-1"])];
    let lab = Lab::build(&Layout { regions, pods: true }).unwrap();
    let rig = Rig { lab, keys: [Keys::new(), Keys::new()] };
    let ams = rig.host("ams-1");
    nft(ams, DOCKER);
    // Without numbers: what is made anew has new ones.
    let rules = || ok(ams, "nft list ruleset");
    let before = rules();
    rig.write("");
    let nodes = NODES.into_iter().zip(&rig.keys).map(|(name, keys)| {
        let host = rig.host(name);
        host.write("/run/test/key", &keys.private).unwrap();
        ok(host, "chmod 600 /run/test/key");
        wireloom(host, "up -c /run/test/mesh.toml --key /run/test/key")
    });
    let _nodes: Vec<_> = nodes.collect();
    for name in NODES {
        eventually("the node is in the mesh", || {
            run(rig.host(name), "wireloom status -o json").stdout.contains("waw-1")
        });
    }
    let pod = rig.host("ams-1-pod");
    let far: Vec<String> = {
        let hosts = rig.lab.plan().hosts();
        let pod = hosts.last().unwrap().pod.clone().unwrap();
        pod.address.iter().map(|address| address.address().to_string()).collect()
    };
    // The nodes themselves are not passed on, so the mesh is there by now.
    for address in &far {
        ping(ams, address);
        assert!(!answers(pod, address), "the firewall of ams-1 lets {address} through by itself");
    }
    let doctor = "wireloom doctor -c /run/test/mesh.toml --key /run/test/key -o json";
    let told = run(ams, doctor).stdout;
    assert!(told.contains("ip filter FORWARD") && told.contains("ip6 filter FORWARD"), "{told}");

    rig.write("forward-accept = true");
    far.iter().for_each(|address| ping(pod, address));
    assert!(!run(ams, doctor).stdout.contains("filter FORWARD"));

    // A firewall that is made anew is as it was for two seconds at most, and what is not the mesh's stays out.
    nft(ams, &format!("flush ruleset ip; flush ruleset ip6; {DOCKER}"));
    let soon = Duration::from_secs(10);
    within(soon, "the rule is back", || rules().contains("wireloom passes on"));
    far.iter().for_each(|address| ping(pod, address));

    ok(ams, "wireloom down");
    assert_eq!(rules(), before);
}
