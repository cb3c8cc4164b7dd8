//! A laptop at home behind NAT that joins the mesh of a cluster by itself, and what is told of that mesh to whoever has
//! the cluster's API alone.

use serde_json::json;
use wireloom_lab::Region;
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::cluster::{CLUSTER, status};
use wireloom_tests::{NetworkState, SOON, ok, wireloom, within};

use crate::rig::{Cluster, PATIENCE, length};

const NODES: [&str; 3] = ["ams-1", "ams-2", "waw-1"];

/// The peers of a WireGuard configuration, by their lines.
fn sections(conf: &str) -> Vec<&str> {
    conf.split("\n\n").map(str::trim).collect()
}

#[test]
fn a_laptop_joins_by_itself_and_whoever_reads_the_cluster_sees_what_agents_see() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(cluster);
    let regions = [
        Region::new("nl-ams", &["ams-1", "ams-2"]),
        Region::new("pl-waw", &["waw-1"]),
        Region::new("home", &["laptop"]).behind_nat(),
    ];
    let cluster = Cluster::start(&regions, &NODES, "--gateways 2 --subnet 10.4.0.0/16,fd04::/64");
    let (gateway, laptop) = (cluster.host("ams-1"), cluster.host("laptop"));
    cluster.meet(&NODES);

    // kgctl's verbs, by the API alone, from a machine that is no node. It is told nothing of the agents' settings.
    let asked = |line: &str| ok(laptop, &format!("wireloom {line} {CLUSTER}"));
    within(PATIENCE, "what nodes hold is published", || {
        asked("graph -f json") == ok(gateway, "wireloom graph -f json")
    });
    let folder = tempfile::tempdir().unwrap();
    let kgctl = folder.path().join("kgctl");
    std::os::unix::fs::symlink(wireloom_binary(), &kgctl).unwrap();
    let line = format!("{} --kubeconfig /run/test/kubeconfig", kgctl.display());
    let drawn = ok(laptop, &format!("{line} graph --namespace kube-system"));
    assert!(drawn.starts_with("digraph kilo {\n\tlabel=") && drawn.ends_with("}\n\n"), "{drawn}");
    assert_eq!(drawn, asked("graph -f kgctl"));
    let theirs = asked("showconf node ams-1");
    let own = ok(gateway, "wireloom showconf node ams-1");
    assert_eq!(sections(&theirs), sections(&own));
    assert!(theirs.contains("[Interface]\nListenPort = 51820\n"), "{theirs}");
    for (form, begin) in
        [("json", "{"), ("yaml", "apiVersion: kilo.squat.ai/v1alpha1"), ("wireguard", "[Peer]")]
    {
        let line = format!("showconf node waw-1 --as-peer --allowed-ips 10.43.0.0/16 -o {form}");
        let shown = asked(&line);
        assert!(shown.starts_with(begin) && shown.contains("10.43.0.0/16"), "{form}: {shown}");
    }

    let before = NetworkState::of(laptop);
    let connect = |more: &str| {
        let line =
            format!("connect {CLUSTER} -a 10.5.0.1/32,fd05::1/128 --resync-period 1s {more}");
        wireloom(laptop, &line)
    };
    let child = connect("laptop --allowed-ips 10.96.0.0/16");
    within(PATIENCE, "the laptop has its tunnels", || length(&status(laptop)["peers"]) == 2);
    assert_eq!(cluster.peers().trim(), "peer.kilo.squat.ai/laptop");
    for name in NODES {
        cluster.reaches("laptop", name);
    }
    assert!(ok(laptop, "ip route show 10.96.0.0/16").contains("wl0"));
    assert!(asked("showconf peer laptop").contains("PersistentKeepalive = 10"));

    // What changes in the mesh while it is there comes to it.
    let site = "kilo.squat.ai/allowed-location-ips=192.0.2.128/25";
    cluster.api.kubectl(["annotate", "node", "waw-1", site]).unwrap();
    within(PATIENCE, "a new network is routed to", || {
        ok(laptop, "ip route show 192.0.2.128/25").contains("wl0")
    });

    let ended = child.stop(SOON).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(cluster.peers(), "");
    NetworkState::of(laptop).assert_same(&before);

    // A Peer that somebody made keeps its addresses, gets the machine's key, and stays.
    let mut peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "guest" },
        "spec": { "allowedIPs": ["10.6.0.1/32"], "publicKey": wireloom_tests::Keys::new().public },
    });
    cluster.api.apply(&peer.to_string()).unwrap();
    let child = connect("guest");
    within(PATIENCE, "the guest has its tunnels", || length(&status(laptop)["peers"]) == 2);
    within(PATIENCE, "it has its address", || {
        ok(laptop, "ip address show dev wl0").contains("10.6.0.1/32")
    });
    let ended = child.stop(SOON).unwrap();
    assert!(
        ended.status.success() && ended.stderr.contains("was there before"),
        "{}",
        ended.stderr
    );
    peer = serde_json::from_str(&cluster.api.kubectl(["get", "peer", "guest", "-o=json"]).unwrap())
        .unwrap();
    assert_eq!(peer["spec"]["allowedIPs"], json!(["10.6.0.1/32"]));
    NetworkState::of(laptop).assert_same(&before);
}
