//! Agents that plan by Kilo's algorithm, and the switch from it to ours.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_tests::cluster::REGION;

use crate::rig::{Cluster, node};
use crate::{need_all, regions};

const ALL: [&str; 4] = ["ams-1", "ams-2", "waw-1", "ire-1"];

/// The Node of an agent of Kilo's, as others see it: it says where it is, and that it is there.
fn kilos_node(stamp: u64) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "kilos",
            "labels": { REGION: "uk-lon" },
            "annotations": {
                "kilo.squat.ai/endpoint": "203.0.113.99:51820",
                "kilo.squat.ai/internal-ip": "10.99.0.1/24",
                "kilo.squat.ai/key": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
                "kilo.squat.ai/last-seen": stamp.to_string(),
            },
        },
        "spec": { "podCIDR": "10.42.99.0/24", "podCIDRs": ["10.42.99.0/24"] },
    })
    .to_string()
}

/// The overlay addresses of a node, as another one sees them.
fn overlay(status: &Value, name: &str) -> Vec<String> {
    let addresses = node(status, name)["overlay_addresses"].as_array().into_iter().flatten();
    addresses.map(|address| address.as_str().unwrap().to_owned()).collect()
}

pub(crate) fn nodes_plan_as_kilo_does_until_its_last_agent_goes_and_keep_their_connections_then() {
    need_all!();
    let mut cluster = Cluster::empty(regions());
    cluster.arguments += " --compatibility kilo --encapsulate crosssubnet";
    cluster.api.apply(&kilos_node(0)).unwrap();
    for name in ALL {
        cluster.join(name);
    }
    // By Kilo's algorithm, people say who is behind NAT.
    cluster.kubectl("annotate node ire-1 kilo.squat.ai/persistent-keepalive=25");
    thread::scope(|scope| {
        let (stays, goes) = mpsc::channel::<()>();
        let api = &cluster.api;
        scope.spawn(move || {
            for stamp in 1.. {
                // As often as Kilo's agents do (`pkg/mesh/mesh.go`), until it is told to go.
                match goes.recv_timeout(Duration::from_secs(30)) {
                    Err(RecvTimeoutError::Timeout) => api.apply(&kilos_node(stamp)).unwrap(),
                    _ => return,
                };
            }
        });
        beside(&cluster);
        let mut open: Vec<_> = [("ire-1", "ams-2"), ("waw-1", "ams-1"), ("ams-2", "waw-1")]
            .iter()
            // Kilo knows of no pods but those of IPv4.
            .flat_map(|(from, to)| cluster.connect_by(from, to, &[0]))
            .collect();
        drop(stays);
        for name in ALL {
            cluster.until(name, "all plan by our algorithm", |status| {
                ALL.iter().all(|name| overlay(status, name).len() == 2)
            });
        }
        open.iter_mut().for_each(|connection| connection.goes_on());
        for (at, one) in ALL.iter().enumerate() {
            ALL[at + 1..].iter().for_each(|other| cluster.pods_meet(one, other));
        }
        // Who led leads on, by the address that it had.
        let status = cluster.status("ams-2");
        assert!(overlay(&status, "ams-1").contains(&"10.4.0.2".to_owned()), "{status:#}");
        assert_eq!(node(&status, "ams-2")["home"], "ams-1", "{status:#}");
        open.iter_mut().for_each(|connection| connection.goes_on());
    });
    for name in ALL {
        let annotations =
            || cluster.json(&format!("get node {name}"))["metadata"]["annotations"].clone();
        let is_stamped = || annotations()["kilo.squat.ai/last-seen"].is_string();
        wireloom_tests::within(crate::rig::PATIENCE, "nobody stamps any longer", || !is_stamped());
    }
}

/// What holds as long as one of Kilo's agents is there.
fn beside(cluster: &Cluster) {
    // Locations by name, Ireland first, an address each; who does not lead has none.
    let expected = [
        ("ire-1", "10.4.0.1"),
        ("ams-1", "10.4.0.2"),
        ("waw-1", "10.4.0.3"),
        ("kilos", "10.4.0.4"),
    ];
    for name in ALL {
        let status = cluster.until(name, "the mesh is Kilo's", |status| {
            expected.iter().all(|(name, address)| overlay(status, name) == [*address])
        });
        assert_eq!(overlay(&status, "ams-2"), Vec::<String>::new());
    }
    for (at, one) in ALL.iter().enumerate() {
        ALL[at + 1..].iter().for_each(|other| cluster.pods_meet_by(one, other, &[0]));
    }
    for (name, address) in &expected[..3] {
        let said = || cluster.json(&format!("get node {name}"))["metadata"]["annotations"].clone();
        // A change is written a moment after it is in force.
        let told = format!("{address}/16");
        wireloom_tests::within(crate::rig::PATIENCE, "the address is told", || {
            said()["kilo.squat.ai/wireguard-ip"] == told
        });
        let said = said();
        assert!(said["kilo.squat.ai/last-seen"].is_string(), "{said:#}");
        assert_eq!(said["kilo.squat.ai/granularity"], "location", "{said:#}");
    }
}
