//! Pods of a cluster, entered as their node's runtime has them.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_cluster::{Cluster, TOOLS};
use wireloom_lab::Output;

use crate::cluster::{read, status};
use crate::within;

/// How long a command in a pod or on its node may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How soon anything is that is expected to happen soon, on a machine with much to do.
pub const SOON: Duration = Duration::from_secs(60);

/// A pod that runs.
pub struct Pod<'a> {
    /// Its node.
    pub node: &'a str,
    /// Its addresses, one of each family that it has.
    pub addresses: Vec<IpAddr>,
    /// The file of its network namespace.
    pub namespace: String,
}

impl<'a> Pod<'a> {
    /// The one of this app on a node.
    ///
    /// # Panics
    ///
    /// If there is none with an address.
    pub fn of(cluster: &Cluster, node: &'a str, app: &str) -> Self {
        let selector = format!("--field-selector=spec.nodeName={node}");
        let app = format!("--selector=app={app}");
        let list = read(cluster, &["get", "pods", &app, &selector]);
        let addresses = list["items"][0]["status"]["podIPs"].as_array().unwrap();
        let addresses: Vec<IpAddr> =
            addresses.iter().map(|entry| entry["ip"].as_str().unwrap().parse().unwrap()).collect();
        let names = on_node(cluster, node, "ls /run/netns").stdout;
        let has_address = |file: &&str| {
            let shown =
                on_node(cluster, node, &format!("nsenter --net=/run/netns/{file} ip -o address"));
            shown.stdout.contains(&format!("{}/", addresses[0]))
        };
        let file = names.lines().find(has_address).unwrap();
        Self { node, namespace: format!("/run/netns/{file}"), addresses }
    }

    /// Runs a command line in its network.
    pub fn run(&self, cluster: &Cluster, line: &str) -> Output {
        on_node(cluster, self.node, &format!("nsenter --net={} {line}", self.namespace))
    }

    /// Sends an echo in a packet of so many bytes that nobody may cut up.
    pub fn ping(&self, cluster: &Cluster, size: u64, to: IpAddr) -> Output {
        // What stands before the payload: IP (RFC 791, RFC 8200) and ICMP (RFC 792, RFC 4443).
        let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
        self.run(cluster, &format!("ping -M do -c 1 -W 5 -s {} {to}", size - headers))
    }
}

/// Waits until the agents of these nodes know of all of them, so that pods that start now know what is near.
///
/// # Panics
///
/// If they do not soon.
pub fn all_known(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        let host = cluster.lab().host(node).unwrap();
        within(SOON, &format!("{node} knows all others"), || {
            status(host)["nodes"].as_array().is_some_and(|known| known.len() == nodes.len())
        });
    }
}

/// Waits until a pod reaches another one by packets of so many bytes.
///
/// # Panics
///
/// If it does not soon.
pub fn reaches(cluster: &Cluster, from: &Pod<'_>, to: &Pod<'_>, size: u64) {
    let to = to.addresses[0];
    within(SOON, &format!("{} reaches {to} by {size} bytes", from.node), || {
        from.ping(cluster, size, to).status.success()
    });
}

/// Waits until a pod reaches another one of another location by packets as large as the mesh carries them whole, and sees
/// that larger ones are refused, which links would take.
///
/// # Panics
///
/// If one of both is not so.
pub fn far_by_the_mesh(cluster: &Cluster, from: &Pod<'_>, to: &Pod<'_>, link: u64) {
    let to = to.addresses[0];
    let status = status(cluster.lab().host(from.node).unwrap());
    let mtu = status["pod_mtu"].as_u64().unwrap();
    assert!(mtu < link, "{status}");
    within(SOON, &format!("{} reaches {to} by {mtu} bytes", from.node), || {
        from.ping(cluster, mtu, to).status.success()
    });
    let larger = from.ping(cluster, mtu + 1, to);
    let said = format!("{}{}", larger.stdout, larger.stderr);
    assert!(!larger.status.success() && said.contains(&format!("mtu={mtu}")), "{said}");
}

/// Waits until a pod is gone from its node, which the API forgets before.
///
/// # Panics
///
/// If it does not go soon.
pub fn await_gone(cluster: &Cluster, pod: &Pod<'_>) {
    within(SOON, "the pod is gone from its node", || {
        !on_node(cluster, pod.node, &format!("test -e {}", pod.namespace)).status.success()
    });
}

/// A pod of this app on each node, which does nothing.
pub fn idle(app: &str) -> Value {
    let labels = json!({ "app": app });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": app, "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "pod", "image": TOOLS, "imagePullPolicy": "Never" }],
                },
            },
        },
    })
}

/// Runs a command line among the processes of a node, where its runtime sees files.
///
/// # Panics
///
/// If it can't be started or does not end.
pub fn on_node(cluster: &Cluster, node: &str, line: &str) -> Output {
    let mut words = line.split_ascii_whitespace();
    let program = words.next().expect("a command line has a program");
    let host = cluster.lab().host(node).unwrap();
    cluster.nodes()[node].exec(host, program, &words.collect::<Vec<_>>(), LIMIT).unwrap()
}
