//! Nodes behind NAT that reach each other without anybody between them.

use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_lab::Region;
use wireloom_testkit::{need, promised};
use wireloom_tests::cluster::status;

use crate::rig::Cluster;

const NODES: [&str; 3] = ["waw-1", "pi-1", "pi-2"];

fn peer(status: &Value, name: &str) -> Value {
    let mut peers = status["peers"].as_array().into_iter().flatten();
    peers.find(|peer| peer["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn two_homes_behind_nat_meet_where_a_third_node_hears_them() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(cluster);
    let regions = [
        Region::new("pl-waw", &["waw-1"]),
        Region::new("home-1", &["pi-1"]).behind_nat(),
        Region::new("home-2", &["pi-2"]).behind_nat(),
    ];
    let cluster = Cluster::start(&regions, &NODES, "");
    cluster.meet(&NODES);
    cluster.reaches("pi-1", "waw-1");
    cluster.reaches("pi-2", "waw-1");

    // Neither has an address that the other can dial. Both have tunnels to Warsaw, which publishes where it hears them.
    cluster.reaches("pi-1", "pi-2");
    cluster.reaches("pi-2", "pi-1");
    for (from, to, region) in [("pi-1", "pi-2", 2), ("pi-2", "pi-1", 1)] {
        let router = &cluster.lab.plan().regions[region + 1].router.as_ref().unwrap().public;
        let known = peer(&status(cluster.host(from)), to)["endpoint"].clone();
        let public = router.iter().map(|public| public.address().to_string());
        assert!(public.clone().any(|public| known.to_string().contains(&public)), "{known}");
    }

    // It was no luck of the moment: the tunnel is there a while later, though nothing was sent.
    std::thread::sleep(Duration::from_secs(35));
    let pod = cluster.lab.plan().hosts().find(|host| host.name == "pi-2").unwrap().pod.clone();
    for address in pod.unwrap().address {
        let soon = Instant::now() + promised(Duration::from_secs(3));
        let answer = wireloom_lab::measure::ping(cluster.host("pi-1"), address.address(), soon);
        assert!(answer.unwrap().is_some(), "{address}\n{}", cluster.logs());
    }
}
