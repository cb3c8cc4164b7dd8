//! A location whose gateway goes: with notice, and without.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{Cluster, PATIENCE, complains, node};
use crate::{need_all, regions};

const ALL: [&str; 5] = ["ams-1", "ams-2", "waw-1", "lon-1", "ire-1"];

fn leads(status: &Value, name: &str) -> bool {
    node(status, name)["home"] == name
}

/// Waits until everybody has this gateway for Amsterdam, and not the other.
fn led_by(cluster: &Cluster, asked: &[&str], gateway: &str, other: &str) {
    for name in asked {
        cluster.until(name, &format!("{gateway} is the gateway"), |status| {
            leads(status, gateway) && !leads(status, other)
        });
    }
}

pub(crate) fn a_gateway_that_lives_and_does_not_forward_is_replaced() {
    need_all!();
    wireloom_testkit::need!(program "nft");
    let cluster = Cluster::of(regions(), &ALL);
    cluster.all_pods_meet(&ALL);
    let is_first = leads(&cluster.status("ire-1"), "ams-1");
    let (gateway, other) = if is_first { ("ams-1", "ams-2") } else { ("ams-2", "ams-1") };
    let host = cluster.host(gateway);

    // What its agent can mend, it does.
    let forwards = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
    for setting in forwards.map(|setting| format!("/proc/sys/net/{setting}")) {
        host.write(&setting, "0").unwrap();
        wireloom_tests::within(PATIENCE, "it forwards again", || {
            wireloom_tests::ok(host, &format!("cat {setting}")).trim() == "1"
        });
    }
    cluster.all_pods_meet(&ALL);

    // Its signs of life go on, and it answers echoes. By now those behind it have heard others beyond it, each 5 s.
    std::thread::sleep(Duration::from_secs(10));
    let mut open = cluster.connect("lon-1", "waw-1");
    for line in [
        "nft add table inet others",
        "nft add chain inet others forward { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        wireloom_tests::ok(host, line);
    }
    let began = Instant::now();
    led_by(&cluster, &ALL, other, gateway);
    println!("replaced after {:?}", began.elapsed());
    for name in ALL {
        cluster
            .until(name, "it is said why", |status| complains(status, &[gateway, "nobody beyond"]));
    }
    let rest: Vec<&str> = ALL.into_iter().filter(|name| *name != gateway).collect();
    cluster.all_pods_meet(&rest);
    open.iter_mut().for_each(|connection| connection.goes_on());
}

pub(crate) fn a_gateway_is_drained_without_a_lost_connection_and_one_that_dies_is_replaced() {
    need_all!();
    let mut cluster = Cluster::of(regions(), &ALL);
    cluster.all_pods_meet(&ALL);
    let amsterdam = |cluster: &Cluster| {
        let is_first = leads(&cluster.status("ire-1"), "ams-1");
        if is_first { ("ams-1", "ams-2") } else { ("ams-2", "ams-1") }
    };
    let (gateway, other) = amsterdam(&cluster);
    led_by(&cluster, &ALL, gateway, other);
    let ends = [("ire-1", other), (other, "waw-1"), ("lon-1", gateway)];
    let mut open: Vec<_> = ends.iter().flat_map(|(from, to)| cluster.connect(from, to)).collect();

    // Before a machine is switched off, its Node is cordoned: the role goes to another, and stays there.
    cluster.kubectl(&format!("cordon {gateway}"));
    led_by(&cluster, &ALL, other, gateway);
    open.iter_mut().for_each(|connection| connection.goes_on());
    cluster.all_pods_meet(&ALL);
    cluster.kubectl(&format!("uncordon {gateway}"));
    cluster.until(gateway, "nobody is unwilling", |status| {
        status["problems"] == serde_json::json!([])
    });
    led_by(&cluster, &ALL, other, gateway);

    // The same for the role alone, by an annotation.
    cluster.kubectl(&format!("annotate node {other} wireloom.dev/gateway-weight=0"));
    led_by(&cluster, &ALL, gateway, other);
    open.iter_mut().for_each(|connection| connection.goes_on());
    cluster.kubectl(&format!("annotate node {other} wireloom.dev/gateway-weight-"));

    // Without notice it takes as long as it takes to miss its signs of life, whoever it is that people want.
    cluster.kubectl(&format!("annotate node {gateway} kilo.squat.ai/leader=true"));
    cluster.kill(gateway);
    let rest: Vec<&str> = ALL.into_iter().filter(|name| *name != gateway).collect();
    led_by(&cluster, &rest, other, gateway);
    cluster.all_pods_meet(&rest);
    let between_others = &mut open[..4];
    between_others.iter_mut().for_each(|connection| connection.goes_on());

    // Who starts anew does not go back to it, whether it remembers the mesh or is new to it.
    for (name, is_new) in [(other, false), ("ire-1", true)] {
        cluster.kill(name);
        if is_new {
            wireloom_tests::ok(cluster.host(name), "rm /run/test/state/mesh.json");
        }
        cluster.start(name);
        let never = |status: &Value| assert!(!leads(status, gateway), "{name}: {status:#}");
        cluster.until(name, "it is back", |status| {
            never(status);
            leads(status, other) && status["stale"].is_null()
        });
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            let status = cluster.status(name);
            never(&status);
            assert!(leads(&status, other), "{name}: {status:#}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    cluster.all_pods_meet(&rest);
    between_others.iter_mut().for_each(|connection| connection.goes_on());
}
