//! A node moves from Kilo's DaemonSet to ours and back by a label, by the very commands of docs/migrating-from-kilo.md.
//!
//! What runs in Kilo's place does nothing: which node has which pod is what this is about, and what Kilo leaves on a node.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use serde_json::{Value, json};
use wireloom_cluster::{Cluster, TOOLS};
use wireloom_image::recipe;
use wireloom_lab::{Host, Lab, Layout, Region};
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::admin::{commands, shell, way_to_the_api};
use wireloom_tests::cluster::{LONG, kubectl};
use wireloom_tests::{Keys, ok, run, within};

const GUIDE: &str = include_str!("../../docs/migrating-from-kilo.md");

const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/kubeadm-kilo");

/// The node that is moved, and one that stays.
const NODES: [&str; 2] = ["ams-2", "waw-1"];

/// How soon a pod is where it belongs.
const SOON: Duration = Duration::from_secs(90);

#[test]
fn a_node_is_moved_by_a_label_and_back() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in ["busybox", "containerd", "ldd", "nft", "runc"] {
        need!(program program);
    }
    let cluster = cluster();
    let host = cluster.lab().host("ams-2").unwrap();
    let keys = Keys::new();
    kilo_was_on(host, &keys);
    cluster.api().apply(&kilo().to_string()).unwrap();
    kubectl(&cluster, &["rollout", "status", "daemonset/kilo", "--namespace=kube-system", LONG]);
    let before = NODES.map(|node| pod(&cluster, "kilo", node).unwrap());

    for line in commands(GUIDE, "kubectl -n kube-system patch daemonset kilo") {
        shell(&cluster, line);
    }
    cluster.api().apply(&way_to_the_api(&cluster).to_string()).unwrap();
    kubectl(&cluster, &["apply", "-k", OVERLAY]);
    within(SOON, "the controller has seen both", || {
        ["kilo", "wireloom"].iter().all(|set| is_seen(&cluster, set))
    });
    assert_eq!(NODES.map(|node| pod(&cluster, "kilo", node).unwrap()), before);
    assert_eq!(NODES.map(|node| pod(&cluster, "wireloom", node)), [None, None]);

    shell(&cluster, commands(GUIDE, "kubectl label node ams-2")[0]);
    within(SOON, "ours is on the node", || pod(&cluster, "wireloom", "ams-2").is_some());
    shell(&cluster, commands(GUIDE, "kubectl -n kube-system wait pod")[0]);
    assert_eq!(pod(&cluster, "kilo", "ams-2"), None);
    assert_eq!(pod(&cluster, "kilo", "waw-1").as_ref(), Some(&before[1]));
    assert_eq!(pod(&cluster, "wireloom", "waw-1"), None);
    // Nobody has to learn a new key, and nothing of Kilo's is in the way.
    let read = commands(GUIDE, "kubectl get node ams-2 -o jsonpath");
    within(SOON, "the Node says its key", || shell(&cluster, read[0]) == keys.public);
    assert!(!ok(host, "ip -o link").contains("kilo0"), "{}", ok(host, "ip -o link"));
    assert!(!ok(host, "ip rule").contains("1107"), "{}", ok(host, "ip rule"));
    // Pods keep their network, and whoever looks is told so.
    let says = || run(host, "wireloom status").stdout;
    within(SOON, "it says whose network pods have", || says().contains("10-kilo.conflist"));

    shell(&cluster, commands(GUIDE, "kubectl label node ams-2 wireloom.dev/moved-")[0]);
    within(SOON, "Kilo is on the node again", || pod(&cluster, "kilo", "ams-2").is_some());
    within(SOON, "ours is gone", || !ok(host, "ip -o link").contains("wl0"));
    assert_eq!(ok(host, "cat /var/lib/kilo/key").trim(), keys.private);
}

fn cluster() -> Cluster {
    let regions = vec![
        Region::new("provider", &["control"]),
        Region::new("ams", &["ams-2"]),
        Region::new("waw", &["waw-1"]),
    ];
    let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
    let mut cluster = Cluster::start(lab, "control").unwrap();
    let image =
        recipe::wireloom("localhost/wireloom:dev", "test", &wireloom_binary(), None).unwrap();
    cluster.provide(&image).unwrap();
    cluster.join(&NODES).unwrap();
    cluster
}

/// What an agent of Kilo has made on a node: its key, link, rule and CNI configuration.
fn kilo_was_on(host: &Host, keys: &Keys) {
    host.write("/var/lib/kilo/key", &keys.private).unwrap();
    ok(host, "chmod 600 /var/lib/kilo/key");
    host.write("/etc/cni/net.d/10-kilo.conflist", r#"{"cniVersion":"0.4.0","name":"kilo","plugins":[{"type":"bridge","bridge":"kube-bridge","isDefaultGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.42.0.0/24"}]]}}]}"#).unwrap();
    ok(host, "ip tuntap add kilo0 mode tun");
    ok(host, "ip link set kilo0 up");
    ok(host, "ip rule add to 10.10.0.0/24 table 1107");
}

/// A DaemonSet in the place of Kilo's.
fn kilo() -> Value {
    let labels = json!({ "app.kubernetes.io/name": "kilo" });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "kilo", "namespace": "kube-system" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{ "name": "kilo", "image": TOOLS, "imagePullPolicy": "Never" }],
                },
            },
        },
    })
}

/// Whether a DaemonSet is as its controller knows it.
fn is_seen(cluster: &Cluster, set: &str) -> bool {
    let set = kubectl(cluster, &["get", "daemonset", set, "--namespace=kube-system", "-o=json"]);
    let set: Value = serde_json::from_str(&set).unwrap();
    set["status"]["observedGeneration"] == set["metadata"]["generation"]
}

/// The pod of a DaemonSet on a node, by its unique identifier.
fn pod(cluster: &Cluster, set: &str, node: &str) -> Option<String> {
    let selector = format!("--selector=app.kubernetes.io/name={set}");
    let on = format!("--field-selector=spec.nodeName={node}");
    let list =
        kubectl(cluster, &["get", "pods", "--namespace=kube-system", &selector, &on, "-o=json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"][0]["metadata"]["uid"].as_str().map(str::to_owned)
}
