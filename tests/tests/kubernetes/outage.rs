//! An API server that is away, or has forgotten.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_tests::{Keys, ok, run, within};

use crate::rig::{Cluster, PATIENCE, complains, names, node};
use crate::{need_all, regions};

const ALL: [&str; 5] = ["ams-1", "ams-2", "waw-1", "lon-1", "ire-1"];

/// How long the API server is away. What could fall in time, has by then: a node is missed after 60 s, a watch ends after
/// 120 s, the agent's own writes and watches are tried again after 23 s at most, names and the host are looked at again
/// within 60 s, a tunnel's session ends after 180 s (REJECT_AFTER_TIME), and after 540 s WireGuard has forgotten even the
/// keys of idle sessions.
const AWAY: Duration = Duration::from_secs(600);

fn peer_names(status: &Value) -> Vec<String> {
    let peers = status["peers"].as_array().into_iter().flatten();
    peers.map(|peer| peer["name"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn nothing_is_lost_while_the_api_server_is_away_for_ten_minutes_not_even_a_node_that_is_rebooted()
 {
    need_all!();
    let mut cluster = Cluster::of(regions(), &ALL);
    cluster.all_pods_meet(&ALL);
    let laptop = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "laptop" },
        "spec": { "allowedIPs": ["10.5.0.1/32"], "publicKey": Keys::new().public },
    });
    cluster.api.apply(&laptop.to_string()).unwrap();
    for name in ["waw-1", "lon-1", "ire-1"] {
        cluster.until(name, "the laptop is a peer", |status| {
            peer_names(status).contains(&"laptop".to_owned())
        });
        within(PATIENCE, "the last mesh is on disk", || {
            run(cluster.host(name), "grep laptop /run/test/state/mesh.json").status.success()
        });
    }
    let before: Vec<Value> = ALL.iter().map(|name| cluster.status(name)).collect();
    let mut open: Vec<_> = [("ire-1", "ams-2"), ("ams-1", "lon-1")]
        .iter()
        .flat_map(|(from, to)| cluster.connect(from, to))
        .collect();
    let mut to_rebooted = cluster.connect("ams-2", "waw-1");
    let is_same = |status: &Value, before: &Value| {
        status["nodes"] == before["nodes"] && peer_names(status) == peer_names(before)
    };

    cluster.api.stop();
    let end = Instant::now() + AWAY;
    for name in ALL {
        cluster.until(name, "it says that the API is away", |status| status["stale"].is_string());
    }
    cluster.switch_off("waw-1");
    cluster.start("waw-1");
    cluster.until("waw-1", "it is back from its last mesh", |status| {
        names(status).len() == ALL.len() && status["stale"].is_string()
    });
    cluster.pods_meet("waw-1", "ire-1");
    cluster.pods_meet("ams-2", "waw-1");
    // The connection's ends were elsewhere, in pods.
    to_rebooted.iter_mut().for_each(|connection| connection.goes_on());
    while Instant::now() < end {
        for (name, before) in ALL.iter().zip(&before) {
            let status = cluster.status(name);
            assert!(is_same(&status, before), "{name}: {status:#}\nbefore: {before:#}");
        }
        open.iter_mut().for_each(|connection| connection.goes_on());
        std::thread::sleep(Duration::from_secs(5));
    }
    cluster.all_pods_meet(&ALL);

    cluster.api.resume().unwrap();
    for (name, before) in ALL.iter().zip(&before) {
        cluster.until(name, "the API is back, and nothing has changed", |status| {
            status["stale"].is_null() && is_same(status, before)
        });
    }
    open.iter_mut().chain(&mut to_rebooted).for_each(|connection| connection.goes_on());
    // It goes on from where it was.
    cluster.kubectl("delete peer laptop");
    cluster.kubectl("delete node lon-1");
    for name in ["ams-1", "ams-2", "waw-1", "ire-1"] {
        cluster.until(name, "what comes later is followed", |status| {
            names(status).len() == 4 && !peer_names(status).contains(&"laptop".to_owned())
        });
    }
}

pub(crate) fn what_happened_while_a_watch_was_cut_is_found_though_etcd_has_forgotten_it() {
    need_all!();
    let nodes = ["ams-1", "waw-1", "lon-1"];
    let mut cluster = Cluster::of(regions(), &nodes);
    cluster.all_pods_meet(&nodes);
    let mut open = cluster.connect("waw-1", "ams-1");

    // Packets between Warsaw and the API server are lost without a word.
    let api = cluster.plan("control").public.unwrap()[0].address();
    ok(cluster.host("waw-1"), &format!("ip route add blackhole {api}/32"));
    cluster.until("waw-1", "it says so", |status| status["stale"].is_string());
    cluster.kill("lon-1");
    cluster.kubectl("delete node lon-1");
    cluster.join("ire-1");
    cluster.knows("ams-1", &["ams-1", "ire-1", "waw-1"]);
    cluster.api.stop();
    cluster.api.compact().unwrap();
    cluster.api.resume().unwrap();
    // It is not missed: what others know of it is not less than what it knows of them.
    assert_eq!(node(&cluster.status("waw-1"), "lon-1")["name"], "lon-1", "it has lost nothing");
    open.iter_mut().for_each(|connection| connection.goes_on());

    ok(cluster.host("waw-1"), &format!("ip route del blackhole {api}/32"));
    for name in ["ams-1", "waw-1", "ire-1"] {
        cluster.knows(name, &["ams-1", "ire-1", "waw-1"]);
        cluster.until(name, "all is well", |status| {
            status["stale"].is_null() && !complains(status, &["error"])
        });
    }
    cluster.all_pods_meet(&["ams-1", "waw-1", "ire-1"]);
    open.iter_mut().for_each(|connection| connection.goes_on());
}
