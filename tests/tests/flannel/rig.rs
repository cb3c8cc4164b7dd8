//! A cluster whose pods have their network from flannel, as its manifest installs it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use wireloom_cluster::Cluster;
use wireloom_image::{Image, recipe};
use wireloom_lab::{Region, plan::INTERNET};
use wireloom_testkit::built;
use wireloom_tests::admin::last_words;
use wireloom_tests::{cluster, ok};

/// Two nodes in one region, and one in another.
pub(crate) const NODES: [&str; 3] = ["ams-1", "ams-2", "waw-1"];

/// The list that flannel writes.
pub(crate) const LIST: &str = "/etc/cni/net.d/10-flannel.conflist";

/// Where its daemon and its plugin lie once they are built.
pub(crate) const DAEMON: &str = "flannel/bin/flanneld";
pub(crate) const PLUGIN: &str = "flannel/bin/flannel";

/// The name of the image with both.
const IMAGE: &str = "localhost/flannel:test";

/// The namespace of flannel's DaemonSet, and its name.
pub(crate) const FLANNEL: (&str, &str) = ("kube-flannel", "kube-flannel-ds");

/// The UDP port that Linux takes for VXLAN where nobody names one, and so flannel's (`drivers/net/vxlan/vxlan_core.c`).
const VXLAN: u16 = 8472;

/// The cluster. If a test panics while it lives, the last words of flannel and of the agents are printed.
pub(crate) struct Rig(pub(crate) Cluster);

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            last_words(&self.0, "kube-flannel", "app=flannel");
            last_words(&self.0, "kube-system", "app.kubernetes.io/name=wireloom");
        }
    }
}

/// Three nodes that wait for a pod network. Between their regions no VXLAN passes, as behind a provider's firewall.
pub(crate) fn start() -> Rig {
    let regions = vec![Region::new("ams", &NODES[..2]), Region::new("waw", &NODES[2..])];
    let mut cluster = cluster::start(regions, None);
    let lab = cluster.lab();
    let internet = lab.host(INTERNET).unwrap();
    ok(internet, "nft add table inet firewall");
    ok(internet, "nft add chain inet firewall forward { type filter hook forward priority 0; }");
    let far = lab.plan().regions.iter().find(|region| region.name == "waw").unwrap();
    for (network, family) in far.internet.map(|address| address.network()).iter().zip(["ip", "ip6"])
    {
        for end in ["saddr", "daddr"] {
            let rule = format!("{family} {end} {network} udp dport {VXLAN} drop");
            ok(internet, &format!("nft add rule inet firewall forward {rule}"));
        }
    }
    cluster.provide(&image()).unwrap();
    cluster.join(&NODES).unwrap();
    Rig(cluster)
}

/// The daemon, the plugin that it brings, and the iptables that it runs.
fn image() -> Image {
    let mut layer = recipe::system()
        .unwrap()
        .program("/opt/bin/flanneld", &built(DAEMON))
        .and_then(|layer| layer.program("/flannel", &built(PLUGIN)))
        .unwrap();
    let iptables = recipe::find("iptables-nft", "iptables").unwrap();
    for name in ["iptables", "iptables-restore", "ip6tables", "ip6tables-restore"] {
        layer = layer.program(format!("/usr/sbin/{name}"), &iptables).unwrap();
    }
    for directory in extensions() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            layer = layer.program(&path, &path).unwrap();
        }
    }
    Image::new(IMAGE).layer(layer).entrypoint(&["/opt/bin/flanneld"])
}

/// Where Debian has the matches and targets of iptables: below a directory of the machine's architecture.
fn extensions() -> impl Iterator<Item = std::path::PathBuf> {
    let libraries = fs::read_dir("/usr/lib").unwrap();
    libraries
        .map(|entry| entry.unwrap().path().join("xtables"))
        .filter(|path: &_| Path::is_dir(path))
}

/// What flannel's manifest makes (`Documentation/kube-flannel.yml` of v0.27.4), with the pods' prefixes of the cluster.
pub(crate) fn manifest() -> Value {
    let account = json!({ "name": "flannel", "namespace": "kube-flannel" });
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "ClusterRole",
        "metadata": { "name": "flannel" },
        "rules": [
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
        ],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "flannel" },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "flannel" },
        "subjects": [{ "kind": "ServiceAccount", "name": "flannel", "namespace": "kube-flannel" }],
    });
    let list = json!({
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "plugins": [
            { "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    // Nodes have prefixes of both families here, and flannel goes by both or not at all.
    let network = json!({
        "Network": "10.42.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:42::/56",
        "EnableNFTables": false, "Backend": { "Type": "vxlan" },
    });
    let configuration = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "kube-flannel-cfg", "namespace": "kube-flannel" },
        "data": {
            "cni-conf.json": serde_json::to_string_pretty(&list).unwrap() + "\n",
            "net-conf.json": network.to_string(),
        },
    });
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "kube-flannel" },
    });
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account });
    let items = [namespace, role, binding, account, configuration, daemon_set()];
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn daemon_set() -> Value {
    let labels = json!({ "app": "flannel" });
    let copy = |name: &str, from: &str, to: &str, mounts: Value| {
        json!({
            "name": name, "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["cp", "-f", from, to], "volumeMounts": mounts,
        })
    };
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let volume = |name: &str, path: &str, kind: &str| json!({ "name": name, "hostPath": { "path": path, "type": kind } });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let configuration = mount("flannel-cfg", "/etc/kube-flannel/");
    let daemon = json!({
        "name": "kube-flannel",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/opt/bin/flanneld"],
        "args": ["--ip-masq", "--kube-subnet-mgr"],
        "securityContext": {
            "privileged": false, "capabilities": { "add": ["NET_ADMIN", "NET_RAW"] },
        },
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            { "name": "EVENT_QUEUE_DEPTH", "value": "5000" },
        ],
        "volumeMounts": [
            mount("run", "/run/flannel"), configuration, mount("xtables-lock", "/run/xtables.lock"),
        ],
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "kube-flannel-ds", "namespace": "kube-flannel", "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "hostNetwork": true,
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{ "operator": "Exists", "effect": "NoSchedule" }],
                    "serviceAccountName": "flannel",
                    "initContainers": [
                        copy("install-cni-plugin", "/flannel", "/opt/cni/bin/flannel", json!([
                            mount("cni-plugin", "/opt/cni/bin"),
                        ])),
                        copy("install-cni", "/etc/kube-flannel/cni-conf.json", LIST, json!([
                            mount("cni", "/etc/cni/net.d"), configuration,
                        ])),
                    ],
                    "containers": [daemon],
                    "volumes": [
                        volume("run", "/run/flannel", "DirectoryOrCreate"),
                        volume("cni-plugin", "/opt/cni/bin", "DirectoryOrCreate"),
                        volume("cni", "/etc/cni/net.d", "DirectoryOrCreate"),
                        { "name": "flannel-cfg", "configMap": { "name": "kube-flannel-cfg" } },
                        volume("xtables-lock", "/run/xtables.lock", "FileOrCreate"),
                    ],
                },
            },
        },
    })
}
