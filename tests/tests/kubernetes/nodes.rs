//! Nodes that are added, moved, removed, and that change their key or their name.

use serde_json::Value;
use wireloom_tests::cluster::REGION;
use wireloom_tests::ok;

use crate::rig::{Cluster, complains, names, node};
use crate::{need_all, regions};

/// Where a node's mesh has these nodes: their homes and their overlay addresses.
fn places(status: &Value, nodes: &[&str]) -> Vec<Value> {
    nodes.iter().map(|name| node(status, name).clone()).collect()
}

pub(crate) fn a_node_comes_moves_goes_and_comes_back_and_nobody_else_notices() {
    need_all!();
    let others = ["ams-1", "waw-1", "ire-1"];
    let all = ["ams-1", "ams-2", "waw-1", "ire-1"];
    let mut cluster = Cluster::of(regions(), &others);
    cluster.all_pods_meet(&others);
    let before = places(&cluster.status("waw-1"), &others);
    let mut bystanders = cluster.connect("ire-1", "waw-1");

    cluster.join("ams-2");
    for name in all {
        cluster.knows(name, &all);
    }
    cluster.all_pods_meet(&all);
    assert_eq!(places(&cluster.status("waw-1"), &others), before);

    // Its label is another one: it is a location of its own, and then one of its region again.
    let mut its_own = cluster.connect("ire-1", "ams-2");
    for (region, is_alone) in [("nl-rot", true), ("nl-ams", false)] {
        cluster.kubectl(&format!("label node ams-2 {REGION}={region} --overwrite"));
        for name in all {
            cluster.until(name, "ams-2 has moved", |status| {
                let leads = ["ams-1", "ams-2"].map(|name| node(status, name)["home"] == name);
                node(status, "ams-2")["location"] == region && (leads == [true; 2]) == is_alone
            });
        }
        cluster.all_pods_meet(&all);
        its_own.iter_mut().chain(&mut bystanders).for_each(|connection| connection.goes_on());
    }

    // Its Node is deleted under its agent, and made anew.
    cluster.kubectl("delete node ams-2");
    for name in others {
        cluster.knows(name, &others);
    }
    let left = cluster.until("ams-2", "it knows that it is out", |status| status["node"].is_null());
    assert!(complains(&left, &["ams-2", "--hostname"]), "{left:#}");
    assert_eq!(left["peers"].as_array().unwrap().len(), 0, "{left:#}");
    cluster.all_pods_meet(&others);
    bystanders.iter_mut().for_each(|connection| connection.goes_on());

    cluster.declare("ams-2", "ams-2");
    for name in all {
        cluster.knows(name, &all);
    }
    cluster.all_pods_meet(&all);
    bystanders.iter_mut().for_each(|connection| connection.goes_on());
}

pub(crate) fn a_node_with_a_new_key_or_a_new_name_is_the_same_machine() {
    need_all!();
    let all = ["ams-1", "ams-2", "waw-1"];
    let mut cluster = Cluster::of(regions(), &all);
    cluster.all_pods_meet(&all);
    let mut open: Vec<_> = [("ams-1", "waw-1"), ("waw-1", "ams-2")]
        .iter()
        .flat_map(|(from, to)| cluster.connect(from, to))
        .collect();
    let before = places(&cluster.status("ams-1"), &["waw-1"]);
    let key = |cluster: &Cluster, name: &str| cluster.status(name)["public_key"].clone();

    // The disk that held its key is gone.
    let old = key(&cluster, "waw-1");
    cluster.kill("waw-1");
    ok(cluster.host("waw-1"), "rm /run/test/key");
    cluster.start("waw-1");
    let new = cluster.knows("waw-1", &all)["public_key"].clone();
    assert_ne!(new, old);
    for name in ["ams-1", "ams-2"] {
        cluster.until(name, "nobody has the old key", |status| {
            let peers = status["peers"].as_array().unwrap();
            peers.iter().all(|peer| peer["public_key"] != old)
        });
    }
    cluster.all_pods_meet(&all);
    assert_eq!(places(&cluster.status("ams-1"), &["waw-1"]), before);
    open.iter_mut().for_each(|connection| connection.goes_on());

    // The machine is called otherwise. As long as there are two Nodes with one key, the older one counts.
    cluster.kill("waw-1");
    cluster.declare("warsaw", "waw-1");
    cluster.start_as("warsaw", "waw-1", "");
    cluster.until("waw-1", "it waits for its old Node to go", |status| {
        complains(status, &["warsaw", "waw-1", "key"])
    });
    cluster.until("ams-1", "others say so too", |status| complains(status, &["warsaw", "waw-1"]));
    cluster.kubectl("delete node waw-1");
    for (host, others) in [("waw-1", ["ams-1", "ams-2"]), ("ams-1", ["ams-2", "warsaw"])] {
        let status = cluster.knows(host, &["ams-1", "ams-2", "warsaw"]);
        assert!(others.iter().all(|name| names(&status).contains(name)));
        cluster
            .until(host, "nothing is wrong", |status| status["problems"] == serde_json::json!([]));
    }
    assert_eq!(key(&cluster, "waw-1"), new);
    cluster.all_pods_meet(&all);
    open.iter_mut().for_each(|connection| connection.goes_on());
}
