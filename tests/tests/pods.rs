//! Pods of four regions on one network: a real cluster, containerd and runc, Debian's CNI plugins, and the mesh.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_cluster::{Cluster, TOOLS};
use wireloom_testkit::{need, promised};
use wireloom_tests::admin::{script, section, shell};
use wireloom_tests::cluster::{self, CONTROL, DEPLOY, LONG, four_regions, kubectl, rolled_out};
use wireloom_tests::pod::{Pod, idle};
use wireloom_tests::{NetworkState, eventually, ok, run, within};

/// Nodes of four regions; the last is behind NAT.
const NODES: [&str; 4] = ["ams-1", "waw-1", "lon-1", "ire-1"];

const CONFLIST: &str = "/etc/cni/net.d/10-wireloom.conflist";

/// How soon two pods reach each other. A node behind NAT finds within a minute that a node that can't dial it has lost
/// their session.
const PAIR: Duration = Duration::from_secs(100);

#[test]
fn pods_of_four_regions_reach_each_other_and_leave_nothing() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in
        ["busybox", "containerd", "ldd", "nft", "nsenter", "openssl", "ping", "runc", "sysctl"]
    {
        need!(program program);
    }
    let mut cluster = cluster::start(four_regions(), Some(Path::new("/usr/lib/cni")));
    cluster.join(&[&NODES[..], &[CONTROL]].concat()).unwrap();
    let base = format!("{DEPLOY}/base");
    let before = NODES.map(|node| NetworkState::of(cluster.lab().host(node).unwrap()));
    kubectl(&cluster, &["apply", "-k", &base]);
    rolled_out(&cluster, "wireloom");
    kubectl(&cluster, &["wait", "node", "--all", "--for=condition=Ready", LONG]);

    cluster.api().apply(&idle("pod").to_string()).unwrap();
    kubectl(&cluster, &["wait", "pod", "--selector=app=pod", "--for=condition=Ready", LONG]);
    let pods: Vec<Pod> = NODES.iter().map(|node| Pod::of(&cluster, node, "pod")).collect();
    assert!(pods.iter().all(|pod| pod.addresses.len() == 2), "an address of each family");
    every_pair(&cluster, &pods);
    packets_of_the_mtu_and_no_larger(&cluster, &pods);

    a_pod_may_stay_off_the_mesh(&cluster, &pods);
    an_address_of_no_prefix_is_reached_while_its_pod_is_there(&cluster, &pods);
    a_webhook_judges_peers(&cluster);

    // A new agent finds what the old one left, and pods do not notice.
    kubectl(&cluster, &["rollout", "restart", "daemonset/wireloom", "--namespace=kube-system"]);
    rolled_out(&cluster, "wireloom");
    every_pair(&cluster, &pods);

    kubectl(&cluster, &["delete", "daemonset/pod", LONG]);
    kubectl(&cluster, &["wait", "--for=delete", "pod", "--selector=app=pod", LONG]);
    for node in NODES {
        // The pod is gone from the API before it is from its node.
        within(Duration::from_secs(60), "its addresses are free again", || {
            let leases = ok(cluster.lab().host(node).unwrap(), "ls /run/wireloom/leases/wireloom");
            !leases.lines().any(|name| name.parse::<IpAddr>().is_ok())
        });
    }
    kubectl(&cluster, &["delete", "-k", &base, LONG]);
    for (node, before) in NODES.iter().zip(&before) {
        let host = cluster.lab().host(node).unwrap();
        let has = |path: &str| run(host, &format!("test -e {path}")).status.success();
        eventually("the agent is gone", || !ok(host, "ip -o link").contains("wl0"));
        eventually("the runtime is told nothing any longer", || {
            !has(CONFLIST) && !has("/opt/cni/bin/wireloom")
        });
        NetworkState::of(host).assert_same(before);
    }
    // Agents have until their rights go, which is a moment; the busiest may miss it. deploy/README.md says so, and what
    // gives them all the time that they need, which the scenario of the DaemonSet does.
    let ours = ["kilo.squat.ai/", "wireloom.dev/"];
    let says_something = |node: &str| {
        let annotations = "--output=jsonpath={.metadata.annotations}";
        let said = kubectl(&cluster, &["get", "node", node, annotations]);
        ours.iter().any(|prefix| said.contains(prefix))
    };
    let silent = NODES.into_iter().filter(|node| !says_something(node)).count();
    println!("what {silent} of {} Nodes said is taken back", NODES.len());
    assert!(silent > 0, "no agent has taken back what it said");
}

/// By the commands of deploy/README.md. The API server asks a Service, whose pod is in another region, behind NAT.
fn a_webhook_judges_peers(cluster: &Cluster) {
    const README: &str = include_str!("../../deploy/README.md");
    let component = format!("{DEPLOY}/components/webhook");
    kubectl(cluster, &["apply", "-k", &component]);
    let commands = script(section(README, "## A webhook for Peers"));
    shell(cluster, &format!("mkdir /run/webhook && cd /run/webhook\n{commands}"));
    let far = json!({ "kubernetes.io/hostname": "ire-1" });
    let far = json!({ "spec": { "template": { "spec": { "nodeSelector": far } } } }).to_string();
    let webhook = ["deployment/wireloom-webhook", "--namespace=kube-system"];
    kubectl(cluster, &[&["patch", "--patch", &far], &webhook[..]].concat());
    kubectl(cluster, &[&["rollout", "status", LONG], &webhook[..]].concat());
    let peer = |key: &str| {
        let peer = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1",
            "kind": "Peer",
            "metadata": { "name": "laptop" },
            "spec": { "allowedIPs": ["10.5.0.1/32"], "publicKey": key },
        });
        cluster.api().apply(&peer.to_string()).map_err(|error| error.to_string())
    };
    // The definition lets this key pass. While the webhook is away, nobody takes it, either.
    let refused = || peer(&format!("{}=", "A".repeat(43))).unwrap_err();
    let begin = Instant::now();
    loop {
        let said = refused();
        if said.contains("all zero") {
            break;
        }
        assert!(begin.elapsed() < promised(Duration::from_secs(60)), "{said}");
    }
    peer("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").unwrap();
    kubectl(cluster, &["delete", "peer", "laptop"]);
    kubectl(cluster, &["delete", "-k", &component, LONG]);
}

fn every_pair(cluster: &Cluster, pods: &[Pod<'_>]) {
    for from in pods {
        for to in pods {
            for address in &to.addresses {
                let answers =
                    || from.run(cluster, &format!("ping -c 1 -W 1 {address}")).status.success();
                let begin = Instant::now();
                while !answers() {
                    assert!(
                        begin.elapsed() < promised(PAIR),
                        "not within {PAIR:?}: {} reaches {address} on {}\n{}\n{}",
                        from.node,
                        to.node,
                        mesh_of(cluster, from.node),
                        mesh_of(cluster, to.node)
                    );
                }
            }
        }
    }
}

/// What a node tells of the mesh, for whoever looks into a failure.
fn mesh_of(cluster: &Cluster, node: &str) -> String {
    let host = cluster.lab().host(node).unwrap();
    run(host, "wireloom status").stdout + &run(host, "ip route").stdout
}

/// A pod's packets are as large as the mesh carries them whole, and the pod hears of one that is larger.
fn packets_of_the_mtu_and_no_larger(cluster: &Cluster, pods: &[Pod<'_>]) {
    for from in pods {
        let host = cluster.lab().host(from.node).unwrap();
        let conflist: Value = serde_json::from_str(&ok(host, &format!("cat {CONFLIST}"))).unwrap();
        let mtu = conflist["plugins"][0]["mtu"].as_u64().unwrap();
        let to = pods.iter().find(|to| to.node != from.node).unwrap();
        for address in &to.addresses {
            let whole = from.ping(cluster, mtu, *address);
            assert!(whole.status.success(), "{mtu} to {address}: {}{}", whole.stdout, whole.stderr);
            let larger = from.ping(cluster, mtu + 1, *address);
            assert!(!larger.status.success(), "{mtu} + 1 to {address}: {}", larger.stdout);
            let said = format!("{}{}", larger.stdout, larger.stderr);
            assert!(said.contains("too long") && said.contains(&mtu.to_string()), "{said}");
        }
    }
}

/// An annotation keeps a pod from other locations, and from nothing else.
fn a_pod_may_stay_off_the_mesh(cluster: &Cluster, pods: &[Pod<'_>]) {
    let loner = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "loner", "namespace": "default", "labels": { "app": "loner" },
            "annotations": { "wireloom.dev/mesh": "false" },
        },
        "spec": {
            "nodeName": pods[0].node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "pod", "image": TOOLS, "imagePullPolicy": "Never" }],
        },
    });
    cluster.api().apply(&loner.to_string()).unwrap();
    kubectl(cluster, &["wait", "pod/loner", "--for=condition=Ready", LONG]);
    let loner = Pod::of(cluster, pods[0].node, "loner");
    let ping = |to: IpAddr| loner.run(cluster, &format!("ping -c 1 -W 5 {to}"));
    for to in &pods[0].addresses {
        let near = ping(*to);
        assert!(near.status.success(), "{to}: {}{}", near.stdout, near.stderr);
    }
    for to in pods[1..].iter().flat_map(|pod| &pod.addresses) {
        let far = ping(*to);
        let said = far.stdout + &far.stderr;
        assert!(!far.status.success() && said.to_lowercase().contains("no route"), "{to}: {said}");
    }
    kubectl(cluster, &["delete", "pod/loner", LONG]);
}

/// A cloud may give a pod an address of its own network.
fn an_address_of_no_prefix_is_reached_while_its_pod_is_there(cluster: &Cluster, pods: &[Pod<'_>]) {
    let node = pods[1].node;
    let host = cluster.lab().host(node).unwrap();
    let shell = |script: &str| {
        let node = &cluster.nodes()[node];
        let done = node.exec(host, "sh", &["-c", script], Duration::from_secs(60)).unwrap();
        assert!(done.status.success(), "{script}: {}{}", done.stdout, done.stderr);
        done.stdout
    };
    shell(
        "set -e; ip netns add cloud; ip link add cloud0 type veth peer name eth0 netns cloud
        ip link set cloud0 up; ip -n cloud link set eth0 up
        ip address add 169.254.1.1/32 dev cloud0; ip route add 10.99.1.5/32 dev cloud0
        ip -n cloud address add 10.99.1.5/32 dev eth0; ip -n cloud route add 169.254.1.1 dev eth0
        ip -n cloud route add default via 169.254.1.1",
    );
    let previous = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.99.1.5/32" }] });
    let config = json!({
        "cniVersion": "1.0.0", "name": "cloud", "type": "wireloom", "prevResult": previous,
    });
    let call = |command: &str| {
        let called = shell(&format!(
            "echo '{config}' | CNI_COMMAND={command} CNI_CONTAINERID=cloud CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
             CNI_NETNS=/run/netns/cloud /opt/cni/bin/wireloom"
        ));
        serde_json::from_str::<Value>(&called).unwrap_or_default()
    };
    assert_eq!(call("ADD"), previous);
    let is_reached = || pods[0].run(cluster, "ping -c 1 -W 1 10.99.1.5").status.success();
    within(Duration::from_secs(60), "the address is reached from another location", is_reached);
    call("DEL");
    within(Duration::from_secs(60), "the address is no longer reached", || !is_reached());
    let held = kubectl(cluster, &["get", "node", node, "--output=yaml"]);
    assert!(!held.contains("10.99.1.5"), "{held}");
    shell("ip netns delete cloud");
    // The kernel takes the links away after it has returned.
    eventually("its link is gone", || !ok(host, "ip -o link").contains("cloud0"));
}
