//! What two nodes claim.

use wireloom_tests::ok;

use crate::rig::{Cluster, Connection, complains};
use crate::{need_all, regions};

#[test]
fn of_two_nodes_with_one_private_address_in_different_regions_both_are_reached() {
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
            ok(host, &format!("ip address add {address} dev {link}"));
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
