//! Beside a real flannel: it gives pods their network, and the mesh joins the regions, by the very commands of docs/cni.md.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod rig;

use rig::{DAEMON, FLANNEL, LIST, NODES, PLUGIN, manifest};
use serde_json::Value;
use wireloom_cluster::Cluster;
use wireloom_lab::Host;
use wireloom_testkit::need;
use wireloom_tests::admin::{commands, section, shell};
use wireloom_tests::cluster::{LONG, kubectl, restart, rolled_out_in};
use wireloom_tests::pod::{Pod, SOON, all_known, await_gone, far_by_the_mesh, idle, reaches};
use wireloom_tests::{NetworkState, ok, run, within};

const GUIDE: &str = include_str!("../../../docs/cni.md");

/// The part that the test follows.
const HEADING: &str = "### flannel, with kubeadm";

/// What flannel's VXLAN leaves of a packet of 1500 bytes.
const FULL: u64 = 1450;

/// The node on which flannel's link is made anew: with another number.
const REMADE: &str = NODES[1];

/// The namespace of the agents' DaemonSet, and its name.
const AGENTS: (&str, &str) = ("kube-system", "wireloom");

#[test]
fn the_mesh_joins_the_regions_of_flannels_pods_and_leaves_flannel_as_it_was() {
    need!(root);
    need!(cluster);
    need!(built DAEMON);
    need!(built PLUGIN);
    need!(device "/dev/net/tun");
    for program in
        ["busybox", "containerd", "iptables-nft", "ldd", "nft", "nsenter", "ping", "runc"]
    {
        need!(program program);
    }
    let rig = rig::start();
    let cluster = &rig.0;
    cluster.api().apply(&manifest().to_string()).unwrap();
    rolled_out_in(cluster, FLANNEL.0, FLANNEL.1);
    kubectl(cluster, &["wait", "node", "--all", "--for=condition=Ready", LONG]);
    let early = start(cluster, "early");
    near(cluster, &early);
    let far = |pods: &[Pod]| pods[0].ping(cluster, 100, pods[2].addresses[0]);
    assert!(!far(&early).status.success(), "flannel alone joins regions");
    let before = NODES.map(|node| (list(cluster, node), state(cluster, node)));

    let guide = section(GUIDE, HEADING);
    cluster.api().apply(&cluster.api().way_of_kubeadm().to_string()).unwrap();
    for line in commands(guide, "kubectl").iter().filter(|line| !line.contains("delete")) {
        shell(cluster, line);
    }
    rolled_out_in(cluster, AGENTS.0, AGENTS.1);
    await_chained(cluster);
    all_known(cluster, &NODES);
    let pods = start(cluster, "pod");
    all(cluster, &pods);
    // What ran before has its way to the other region too, and finds out on the way what fits.
    within(SOON, "pods of before reach the other region", || far(&early).status.success());

    restart(cluster, AGENTS.0, AGENTS.1);
    all(cluster, &pods);

    // A daemon that starts anew writes its list anew, and makes its link anew if it is not as it should be.
    ok(host(cluster, REMADE), "ip link delete flannel.1");
    restart(cluster, FLANNEL.0, FLANNEL.1);
    await_chained(cluster);
    all(cluster, &pods);
    kubectl(cluster, &["delete", "daemonset/pod", LONG]);
    let pods = start(cluster, "later");
    all(cluster, &pods);
    kubectl(cluster, &["delete", "daemonset/later", LONG]);
    pods.iter().for_each(|pod| await_gone(cluster, pod));

    for line in commands(guide, "kubectl delete") {
        shell(cluster, line);
    }
    for (node, (list_before, before)) in NODES.iter().zip(&before) {
        let host = host(cluster, node);
        within(SOON, "the agent is gone", || !ok(host, "ip -o link").contains("wl0"));
        within(SOON, "flannel has its list again", || list(cluster, node) == *list_before);
        assert_eq!(ok(host, "ls -A /etc/cni/net.d"), "10-flannel.conflist\n");
        assert!(!run(host, "test -e /opt/cni/bin/wireloom").status.success());
        state(cluster, node).assert_same(before);
    }
    near(cluster, &early);
    assert!(!far(&early).status.success(), "the mesh is gone, and regions are joined");
    near(cluster, &start(cluster, "last"));
}

/// Starts a pod on each node, which does nothing.
fn start(cluster: &Cluster, app: &str) -> [Pod<'static>; 3] {
    cluster.api().apply(&idle(app).to_string()).unwrap();
    rolled_out_in(cluster, "default", app);
    NODES.map(|node| Pod::of(cluster, node, app))
}

/// Between nodes of one region packets go by flannel, as large as its links take.
fn near(cluster: &Cluster, pods: &[Pod<'_>]) {
    for (from, to) in [(0, 1), (1, 0)] {
        reaches(cluster, &pods[from], &pods[to], FULL);
    }
}

/// Near by flannel and far by the mesh.
fn all(cluster: &Cluster, pods: &[Pod<'_>]) {
    near(cluster, pods);
    for (from, to) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        far_by_the_mesh(cluster, &pods[from], &pods[to], FULL);
    }
}

/// Waits until ours is last in flannel's list on every node.
fn await_chained(cluster: &Cluster) {
    for node in NODES {
        within(SOON, &format!("ours is in the list of {node}"), || {
            let list: Value = serde_json::from_str(&list(cluster, node)).unwrap_or_default();
            let plugins = list["plugins"].as_array().into_iter().flatten();
            let types: Vec<_> = plugins.filter_map(|plugin| plugin["type"].as_str()).collect();
            types == ["flannel", "portmap", "wireloom"]
        });
    }
}

/// A node's network, but for clocks of its bridge and for what is new about flannel's link after it was made anew.
fn state(cluster: &Cluster, node: &str) -> NetworkState {
    let state = NetworkState::of(host(cluster, node)).without(&["_timer"]);
    if node == REMADE { state.without(&[": flannel.1"]) } else { state }
}

fn list(cluster: &Cluster, node: &str) -> String {
    ok(host(cluster, node), &format!("cat {LIST}"))
}

fn host<'a>(cluster: &'a Cluster, node: &str) -> &'a Host {
    cluster.lab().host(node).unwrap()
}
