//! A whole cluster on one machine: what the other scenarios stand on.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_cluster::Cluster;
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::cluster::{self, DEPLOY, IMAGE, LONG, REGION, four_regions, kubectl, read};

/// Four regions as in the demo, and the provider's own place for the control plane.
const NODES: [&str; 4] = ["ams-1", "waw-1", "lon-1", "ire-1"];

/// Nodes that the API server reaches: the last is behind NAT.
const REACHED: [&str; 3] = ["ams-1", "waw-1", "lon-1"];

#[test]
fn nodes_join_by_a_token_and_run_pods_with_an_agents_rights() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in ["busybox", "containerd", "ldd", "nft", "runc", "sysctl"] {
        need!(program program);
    }
    let mut cluster = cluster::start(four_regions(), None);
    let spans = cluster.join(&NODES).unwrap();
    println!("known to the API server after {spans:?}");
    for node in NODES {
        let node: Value = read(&cluster, &["get", "node", node]);
        let region = &node["metadata"]["labels"][REGION];
        assert!(node["metadata"]["name"].as_str().unwrap().starts_with(region.as_str().unwrap()));
        assert_eq!(node["spec"]["podCIDRs"].as_array().unwrap().len(), 2, "{}", node["spec"]);
    }

    // No pod network, no readiness; what gives it is a pod on the host's network, and those run without.
    let unready =
        kubectl(&cluster, &["wait", "node", "--all", "--for=condition=Ready=False", LONG]);
    assert_eq!(unready.lines().count(), NODES.len());
    cluster.api().apply(&daemon_set(&agent_rights(&cluster)).to_string()).unwrap();
    kubectl(&cluster, &["rollout", "status", "daemonset/probe", LONG]);
    kubectl(&cluster, &["wait", "node", "--all", "--for=condition=Ready", LONG]);

    let version = Command::new(wireloom_binary()).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let pods: Value = read(&cluster, &["get", "pods", "--selector=app=probe"]);
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), NODES.len());
    for pod in
        pods.iter().filter(|pod| REACHED.contains(&pod["spec"]["nodeName"].as_str().unwrap()))
    {
        let host = cluster.lab().host(pod["spec"]["nodeName"].as_str().unwrap()).unwrap();
        let pod = pod["metadata"]["name"].as_str().unwrap();
        assert_eq!(kubectl(&cluster, &["logs", pod]), version);
        // It may make a device, and that is the node's.
        kubectl(&cluster, &["exec", pod, "--", "wireloom", "tunnel", "probe0"]);
        let link = Duration::from_secs(20);
        let link = host.exec("ip", ["-o", "link", "show", "probe0"], link).unwrap();
        assert!(link.status.success(), "{}", link.stderr);
        let report =
            kubectl(&cluster, &["exec", pod, "--", "sh", "-c", "wireloom doctor -o json; true"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        // And so are its settings.
        let setting =
            "cd /host/proc/sys/net/ipv4/conf/probe0 && echo 2 > rp_filter && cat rp_filter";
        assert_eq!(kubectl(&cluster, &["exec", pod, "--", "sh", "-c", setting]), "2\n");
        // All that it lacks is what an agent has of its own: a key, an account at the API server with its rights, and by that a
        // mesh. What a container needs of its node is there: privileges, the device, and forwarding.
        let checks = report.as_array().unwrap().iter().map(|line| line["check"].as_str().unwrap());
        let missing: BTreeSet<&str> = checks.filter(|check| *check != "kernel").collect();
        assert_eq!(missing, BTreeSet::from(["api", "key", "mesh", "rights"]), "{report}");
    }

    kubectl(&cluster, &["delete", "daemonset/probe", LONG]);
    kubectl(&cluster, &["wait", "--for=delete", "pod", "--selector=app=probe", LONG]);

    let groups = control_groups();
    assert!(!groups.is_empty());
    drop(cluster);
    assert_eq!(control_groups(), [""; 0]);
}

/// What the agent's container may do on a node, by what people install.
fn agent_rights(cluster: &Cluster) -> Value {
    let base = format!("{DEPLOY}/base");
    let objects = read(cluster, &["apply", "--dry-run=client", "-k", &base]);
    let objects = objects["items"].as_array().unwrap();
    let agents = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let rights = &agents["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert!(rights["capabilities"]["add"].is_array(), "{agents}");
    rights.clone()
}

/// A pod for each node, with these rights, which writes the configuration of a pod network as an agent would.
fn daemon_set(rights: &Value) -> Value {
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "test",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isDefaultGateway": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.42.99.0/24" }]] },
        }],
    });
    let write = format!(
        "wireloom --version && echo '{network}' > /net.d/10-test.conflist && exec sleep 100000"
    );
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "probe", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": { "app": "probe" } },
            "template": {
                "metadata": { "labels": { "app": "probe" } },
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{
                        "name": "probe",
                        "image": IMAGE,
                        "imagePullPolicy": "Never",
                        "command": ["sh", "-c", write],
                        "securityContext": rights,
                        "volumeMounts": [
                            { "name": "network", "mountPath": "/net.d" },
                            { "name": "settings", "mountPath": "/host/proc/sys/net" },
                            { "name": "sockets", "mountPath": "/var/run/wireguard" },
                            { "name": "tun", "mountPath": "/dev/net/tun" },
                        ],
                    }],
                    "volumes": [
                        { "name": "network", "hostPath": { "path": "/etc/cni/net.d" } },
                        { "name": "settings", "hostPath": { "path": "/proc/sys/net" } },
                        { "name": "sockets", "emptyDir": {} },
                        { "name": "tun", "hostPath": { "path": "/dev/net/tun", "type": "CharDevice" } },
                    ],
                },
            },
        },
    })
}

/// What clusters of this process have in the machine's control groups.
fn control_groups() -> Vec<String> {
    let mine = format!("wireloom-cluster-{}-", std::process::id());
    fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .filter_map(|hierarchy| fs::read_dir(hierarchy.path()).ok())
        .flatten()
        .flatten()
        .map(|group| group.path().display().to_string())
        .filter(|path| path.contains(&mine))
        .collect()
}
