//! Addresses that two nodes have, and addresses that change.

use std::time::Duration;

use serde_json::Value;
use wireloom_lab::Region;
use wireloom_tests::ok;

use crate::rig::{Cluster, Connection, complains, node};
use crate::{need_all, regions};

/// How long a connection to the API server may be silent before it is given up and made anew, and a machine with much to do.
const QUIET: Duration = Duration::from_secs(50);

pub(crate) fn of_two_nodes_with_one_private_address_in_different_regions_both_are_reached() {
    need_all!();
    let all = ["ams-1", "waw-1", "lon-1"];
    let twins = [("waw-1", 2), ("lon-1", 3)];
    let internal = ["10.77.0.1/24", "fd77::1/64"];
    let mut cluster = Cluster::empty(regions());
    for name in all {
        cluster.declare(name, name);
    }
    for (name, _) in twins {
        let host = cluster.host(name);
        let private = cluster.plan(name).private[0].address();
        let shown = ok(host, &format!("ip -o address show to {private}"));
        let link = shown.split_whitespace().nth(1).unwrap();
        for address in internal {
            // Usable at once: nobody else of its region has it.
            let nodad = if address.contains(':') { "nodad" } else { "" };
            ok(host, &format!("ip address add {address} dev {link} {nodad}"));
        }
        let internal = internal.join(",");
        cluster
            .kubectl(&format!("annotate node {name} wireloom.dev/force-internal-ips={internal}"));
    }
    for name in all {
        cluster.start(name);
    }
    for name in all {
        cluster.knows(name, &all);
        cluster.until(name, "both are named", |status| {
            internal.iter().all(|address| {
                let address = address.split('/').next().unwrap();
                complains(status, &["node waw-1", "lon-1", address])
                    && complains(status, &["node lon-1", "waw-1", address])
            })
        });
    }
    cluster.all_pods_meet(&all);
    // The address itself is one machine's: the one that the cluster has had longer, and by its name if there is none.
    let age = |name: &str| {
        let node = cluster.json(&format!("get node {name}"));
        node["metadata"]["creationTimestamp"].as_str().unwrap().to_owned()
    };
    let holder = if (age("waw-1"), "waw-1") < (age("lon-1"), "lon-1") { "waw-1" } else { "lon-1" };
    for address in internal {
        let address = address.split('/').next().unwrap().parse().unwrap();
        Connection::open(cluster.host("ams-1"), cluster.host(holder), address);
    }
}

pub(crate) fn two_nodes_behind_one_public_address_are_two_peers() {
    need_all!();
    let all = ["ams-1", "ire-1", "ire-2"];
    let regions = vec![
        Region::new("nl-ams", &["ams-1"]),
        Region::new("ire", &["ire-1", "ire-2"]).behind_nat(),
    ];
    let mut cluster = Cluster::empty(regions);
    cluster.arguments += " --mesh-granularity full";
    for name in all {
        cluster.join(name);
    }
    for name in all {
        cluster.knows(name, &all);
    }
    cluster.all_pods_meet(&all);
    let status = cluster.status("ams-1");
    let endpoint = |name: &str| -> std::net::SocketAddr {
        let peers = status["peers"].as_array().unwrap();
        let peer = peers.iter().find(|peer| peer["name"] == name).unwrap();
        peer["endpoint"].as_str().unwrap().parse().unwrap()
    };
    let (one, other) = (endpoint("ire-1"), endpoint("ire-2"));
    assert_eq!(one.ip(), other.ip(), "{status:#}");
    assert_ne!(one.port(), other.port(), "{status:#}");
}

pub(crate) fn a_node_that_gets_other_addresses_says_so_and_is_reached_there() {
    need_all!();
    let all = ["ams-1", "waw-1", "ire-1"];
    let cluster = Cluster::of(regions(), &all);
    cluster.all_pods_meet(&all);
    let mut open: Vec<_> = [("ams-1", "waw-1"), ("waw-1", "ire-1")]
        .iter()
        .flat_map(|(from, to)| cluster.connect(from, to))
        .collect();
    let new = ["203.0.113.44", "2001:db8:3::2c"].map(str::to_owned);
    cluster.readdress("waw-1", &new);
    let expected = [format!("{}:51820", new[0]), format!("[{}]:51820", new[1])];
    // Its connections to the API server were from the old ones, and nothing comes in on them any more.
    cluster.kubectl("label node ire-1 topology.kubernetes.io/region=elsewhere --overwrite");
    wireloom_tests::within(QUIET, "it hears what happens, and says where it is", || {
        let status = cluster.status("waw-1");
        let said = cluster.json("get node waw-1")["metadata"]["annotations"].clone();
        let listed = said["wireloom.dev/endpoints"].as_str().unwrap_or_default().to_owned();
        let public: Vec<&str> = listed.split(',').take(2).collect();
        node(&status, "ire-1")["location"] == "elsewhere"
            && said["kilo.squat.ai/endpoint"] == expected[0]
            && public == expected
    });
    for name in ["ams-1", "ire-1"] {
        cluster.until(name, "it is reached there", |status| {
            let peers = status["peers"].as_array().into_iter().flatten();
            let endpoints = peers.filter(|peer| peer["name"] == "waw-1");
            endpoints.map(|peer| peer["endpoint"].clone()).eq([Value::from(expected[0].clone())])
        });
    }
    cluster.all_pods_meet(&all);
    open.iter_mut().for_each(|connection| connection.goes_on());
}
