//! A node behind NAT, whom nobody can dial unasked, and an agent that dies at either end of its tunnel.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use wireloom_lab::{Child, Host, Lab, Layout, Region, measure};
use wireloom_testkit::need;
use wireloom_tests::{Keys, eventually, ok, run, wireloom};

const OVERLAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 4, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 4, 0, 2))];

/// How long it takes until all that was sent is confirmed, so that a dead end is noticed by nobody: KEEPALIVE_TIMEOUT, which
/// is 10 s, and then some (WireGuard paper, section 6.5).
const SETTLED: Duration = Duration::from_secs(12);

struct Ends {
    lab: Lab,
}

impl Ends {
    /// Two nodes, the second behind NAT.
    fn new() -> Self {
        let regions =
            vec![Region::new("pl-waw", &["waw-1"]), Region::new("home", &["pi-1"]).behind_nat()];
        let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
        let mut text = "[mesh]\noverlay = [\"10.4.0.0/16\"]\n".to_owned();
        let keys = [Keys::new(), Keys::new()];
        for ((name, keys), overlay) in ["waw-1", "pi-1"].iter().zip(&keys).zip(OVERLAY) {
            let public = &keys.public;
            write!(
                text,
                "[[node]]\nname = \"{name}\"\npublic-key = \"{public}\"\noverlay-addresses = [\"{overlay}\"]\n"
            )
            .unwrap();
            if *name == "waw-1" {
                let public = lab.plan().regions[0].hosts[0].public.unwrap()[0].address();
                writeln!(text, "endpoint = \"{public}\"").unwrap();
            }
        }
        for (name, keys) in ["waw-1", "pi-1"].iter().zip(&keys) {
            let host = lab.host(name).unwrap();
            host.write("/run/test/mesh.toml", &text).unwrap();
            host.write("/run/test/key", &keys.private).unwrap();
            ok(host, "chmod 600 /run/test/key");
        }
        Self { lab }
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    fn up(&self, name: &str) -> Child {
        let host = self.host(name);
        let child = wireloom(host, "up -c /run/test/mesh.toml --key /run/test/key");
        eventually("the node is in the mesh", || {
            run(host, "wireloom status -o json").stdout.contains("waw-1")
        });
        child
    }

    /// How long it takes until the public node gets an echo from the one behind NAT, which sends nothing by itself.
    fn reached_after(&self) -> Duration {
        let began = Instant::now();
        let answer =
            measure::ping(self.host("waw-1"), OVERLAY[1], began + Duration::from_secs(200));
        assert!(answer.unwrap().is_some());
        began.elapsed()
    }
}

#[test]
#[ignore = "waits for two minutes; `cargo xtask test` runs it beside the others"]
fn a_node_behind_nat_is_reached_soon_after_an_agent_of_either_end_was_away() {
    need!(root);
    need!(device "/dev/net/tun");
    let ends = Ends::new();
    let [mut waw, mut pi] = ["waw-1", "pi-1"].map(|name| ends.up(name));
    let within = |what: &str, seconds: u64| {
        let after = ends.reached_after();
        println!("{what}: reached after {after:?}");
        assert!(after < Duration::from_secs(seconds), "{what}: {after:?}");
    };
    within("at the start", 10);
    drop(pi);
    pi = ends.up("pi-1");
    within("its own agent was killed", 10);
    thread::sleep(SETTLED);
    drop(waw);
    waw = ends.up("waw-1");
    within("the other agent was killed", 10);
    thread::sleep(SETTLED);
    waw.stop(Duration::from_secs(20)).unwrap();
    waw = ends.up("waw-1");
    within("the other agent was stopped", 10);
    thread::sleep(SETTLED);
    ok(ends.host("waw-1"), "wireloom down");
    waw.stop(Duration::from_secs(20)).unwrap();
    waw = ends.up("waw-1");
    within("the other agent was told to leave", 75);
    drop((waw, pi));
}
