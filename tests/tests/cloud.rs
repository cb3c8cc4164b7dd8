//! Chained behind lists as clouds have them, by the very commands of docs/cni.md: pods with addresses of the node's prefix,
//! as on GKE, and pods with addresses of the cloud's own network, one of them fixed.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde_json::{Value, json};
use wireloom_cluster::Cluster;
use wireloom_lab::{Host, Region};
use wireloom_testkit::need;
use wireloom_tests::admin::{commands, section, shell};
use wireloom_tests::cluster::{self, DEPLOY, LONG, kubectl, rolled_out, rolled_out_in};
use wireloom_tests::pod::{
    Pod, SOON, all_known, await_gone, far_by_the_mesh, idle, on_node, reaches,
};
use wireloom_tests::{NetworkState, ok, run, within};

const GUIDE: &str = include_str!("../../docs/cni.md");

/// The part that the test follows.
const HEADING: &str = "### A cloud's own plugin";

/// Two nodes in one region, and one in another.
const NODES: [&str; 3] = ["ams-1", "ams-2", "waw-1"];

/// What the cloud gives packets of pods.
const FULL: u64 = 1460;

/// The address of the pod on the last node.
const FIXED: &str = "10.99.1.5";

/// Where each node's cloud has its list.
const LIST: &str = "/etc/cni/net.d/10-cloud.conflist";

#[test]
fn pods_of_clouds_reach_each_other_and_their_addresses_are_withdrawn() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in
        ["busybox", "containerd", "ldd", "nft", "nsenter", "ping", "pkill", "runc", "sysctl"]
    {
        need!(program program);
    }
    let cluster = cluster();
    let before = NODES.map(|node| (list(&cluster, node), NetworkState::of(host(&cluster, node))));
    let guide = section(GUIDE, HEADING);
    for line in commands(guide, "kubectl") {
        shell(&cluster, line);
    }
    rolled_out(&cluster, "wireloom");
    for node in NODES {
        within(SOON, "ours is in the cloud's list", || list(&cluster, node).contains("wireloom"));
    }
    all_known(&cluster, &NODES);
    cluster.api().apply(&idle("pod").to_string()).unwrap();
    rolled_out_in(&cluster, "default", "pod");
    let pods = NODES.map(|node| Pod::of(&cluster, node, "pod"));
    assert_eq!(pods[2].addresses[0].to_string(), FIXED);
    reaches(&cluster, &pods[1], &pods[0], FULL);
    // What no prefix holds is near for pods that start later; until then it gets what other locations get.
    reaches(&cluster, &pods[0], &pods[1], 1280);
    for (from, to) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        far_by_the_mesh(&cluster, &pods[from], &pods[to], FULL);
    }

    // The address is another's once its pod is gone.
    let publishes = |node: &str, address: &str| {
        kubectl(&cluster, &["get", "node", node, "--output=yaml"]).contains(address)
    };
    let given = pods[1].addresses[0].to_string();
    assert!(publishes(NODES[2], FIXED) && publishes(NODES[1], &given));
    kubectl(&cluster, &["delete", "daemonset/pod", LONG]);
    for (node, address, far) in [(NODES[1], &*given, NODES[2]), (NODES[2], FIXED, NODES[0])] {
        within(SOON, &format!("{node} no longer publishes {address}"), || {
            !publishes(node, address)
        });
        within(SOON, &format!("{far} leads nobody to {address}"), || {
            !ok(host(&cluster, far), "ip route show table all").contains(&format!("{address} "))
        });
    }
    pods.iter().for_each(|pod| await_gone(&cluster, pod));

    // A pod that starts while its agent stands still is reached once that goes on.
    let agent = |signal: &str| {
        let sent = on_node(&cluster, NODES[2], &format!("pkill -{signal} -x wireloom"));
        assert!(sent.status.success(), "{}{}", sent.stdout, sent.stderr);
    };
    agent("STOP");
    cluster.api().apply(&idle("late").to_string()).unwrap();
    rolled_out_in(&cluster, "default", "late");
    assert!(!publishes(NODES[2], FIXED));
    agent("CONT");
    let late = NODES.map(|node| Pod::of(&cluster, node, "late"));
    within(SOON, "the address is told", || publishes(NODES[2], FIXED));
    far_by_the_mesh(&cluster, &late[0], &late[2], FULL);
    kubectl(&cluster, &["delete", "daemonset/late", LONG]);
    late.iter().for_each(|pod| await_gone(&cluster, pod));

    kubectl(&cluster, &["delete", LONG, "-k", &format!("{DEPLOY}/base")]);
    for (node, (list_before, before)) in NODES.iter().zip(&before) {
        let host = host(&cluster, node);
        within(SOON, "the agent is gone", || !ok(host, "ip -o link").contains("wl0"));
        within(SOON, "the cloud has its list again", || list(&cluster, node) == *list_before);
        assert!(!run(host, "test -e /opt/cni/bin/wireloom").status.success());
        NetworkState::of(host).assert_same(before);
    }
}

fn cluster() -> Cluster {
    let regions = vec![Region::new("ams", &NODES[..2]), Region::new("waw", &NODES[2..])];
    let mut cluster = cluster::start(regions, None);
    cluster.join(&NODES).unwrap();
    let way = "--output=jsonpath={.spec.podCIDR}";
    let mut prefix = String::new();
    within(SOON, "the node has a prefix", || {
        prefix = kubectl(&cluster, &["get", "node", NODES[0], way]);
        !prefix.is_empty()
    });
    let everywhere = json!([{ "dst": "0.0.0.0/0" }]);
    let local = |subnet: &str| json!({ "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": everywhere });
    let fixed = json!([{ "address": format!("{FIXED}/24"), "gateway": "10.99.1.1" }]);
    let fixed = json!({ "type": "static", "addresses": fixed, "routes": everywhere });
    for (node, ipam) in NODES.iter().zip([local(&prefix), local("10.99.2.0/24"), fixed]) {
        host(&cluster, node).write(LIST, clouds(&ipam).to_string()).unwrap();
    }
    // The cloud's own network leads pods' packets to their nodes.
    for (node, prefix, to) in [(0, "10.99.2.0/24", 1), (1, &*prefix, 0)] {
        let to = cluster.lab().plan().hosts().find(|host| host.name == NODES[to]).unwrap();
        let by = to.private[0].address();
        ok(host(&cluster, NODES[node]), &format!("ip route add {prefix} via {by}"));
    }
    kubectl(&cluster, &["wait", "node", "--all", "--for=condition=Ready", LONG]);
    cluster
}

/// A cloud's list: GKE's but for where addresses come from.
fn clouds(ipam: &Value) -> Value {
    json!({
        "name": "k8s-pod-network",
        "cniVersion": "0.3.1",
        "plugins": [
            { "type": "ptp", "mtu": FULL, "ipam": ipam },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn list(cluster: &Cluster, node: &str) -> String {
    ok(host(cluster, node), &format!("cat {LIST}"))
}

fn host<'a>(cluster: &'a Cluster, node: &str) -> &'a Host {
    cluster.lab().host(node).unwrap()
}
