//! Nodes move from Kilo's DaemonSet to ours and back by a label, by the very commands of docs/migrating-from-kilo.md.
//!
//! What runs in Kilo's place does nothing: which node has which pod is what this is about, what Kilo has on a node, and what
//! happens to packets.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wireloom_cluster::{Cluster, TOOLS};
use wireloom_image::recipe;
use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::admin::{commands, kustomization, script, section, shell};
use wireloom_tests::cluster::{LONG, kubectl, rolled_out};
use wireloom_tests::pod::{Pod, idle};
use wireloom_tests::{Keys, echoes, eventually, ok, run, wireloom, within};

const GUIDE: &str = include_str!("../../docs/migrating-from-kilo.md");

const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/kubeadm-kilo");

/// The node that is moved, and one that stays or is moved after it.
const NODES: [&str; 2] = ["ams-2", "waw-1"];

/// How soon a pod is where it belongs.
const SOON: Duration = Duration::from_secs(90);

macro_rules! need_all {
    () => {
        need!(root);
        need!(cluster);
        need!(device "/dev/net/tun");
        for program in ["busybox", "containerd", "curl", "ldd", "nft", "nsenter", "ping", "runc", "wg"] {
            need!(program program);
        }
    };
}

#[test]
fn nodes_are_moved_one_after_the_other_and_no_packet_is_lost() {
    need_all!();
    let cluster = cluster();
    let hosts = NODES.map(|node| cluster.lab().host(node).unwrap());
    let mut kilos = Kilos::on(&cluster);
    let said = shell(&cluster, commands(GUIDE, "kubectl get nodes -o")[0]);
    assert!(said.contains("10.4.0.1/16") && !said.contains("<none>"), "{said}");
    both_are_there(&cluster, OVERLAY, || {
        // The kernel below this test may have no WireGuard: the device is one of another process in its place.
        let device = "WIRELOOM_DEVICE=uapi";
        kubectl(&cluster, &["set", "env", "daemonset/wireloom", "-n", "kube-system", device]);
    });
    let (stays, goes) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| kilos.give_signs_of_life(goes));
        moved_without_a_lost_packet(&cluster, hosts, &kilos);
        drop(stays);
    });
    pods_get_our_network(&cluster);
    the_end(&cluster, &mut kilos);
    a_device_of_our_own(&cluster, &mut kilos);
}

/// A pod of a DaemonSet hangs on Kilo's bridge, and then on ours.
fn pods_get_our_network(cluster: &Cluster) {
    let host = |node: &str| cluster.lab().host(node).unwrap();
    for node in NODES {
        let prefix = kubectl(cluster, &["get", "node", node, "-o=jsonpath={.spec.podCIDR}"]);
        give_kilos_list(host(node), &prefix);
    }
    kubectl(cluster, &["wait", "node", "--all", "--for=condition=Ready", LONG]);
    let mut pods = idle("pod");
    // Without any grace a pod is gone from the API before it is from its node.
    pods["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1.into();
    cluster.api().apply(&pods.to_string()).unwrap();
    let ready = ["wait", "pod", "--selector=app=pod", "--for=condition=Ready", LONG];
    within(SOON, "there are pods", || {
        NODES.iter().all(|node| named(cluster, "default", "app=pod", node).is_some())
    });
    kubectl(cluster, &ready);
    let links = |node: &str| ok(host(node), "ip -o link");
    let reached = |node: &str, when: &str| reached(cluster, node, when);
    for node in NODES {
        within(SOON, "ours has made way for Kilo's list", || !links(node).contains("wl-pods0"));
        assert!(links(node).contains("kube-bridge"), "{}", links(node));
        reached(node, "by Kilo's list");
    }
    let node = "ams-2";
    let old = named(cluster, "default", "app=pod", node).unwrap();
    let said = shell(cluster, script(section(GUIDE, "## Pods")));
    within(SOON, "there is another pod", || {
        named(cluster, "default", "app=pod", node).is_some_and(|new| new != old)
    });
    kubectl(cluster, &ready);
    assert!(links(node).contains("wl-pods0"), "{said}{}", links(node));
    assert!(!links(node).contains("kube-bridge"), "{said}{}", links(node));
    reached(node, "by our list");
    reached("waw-1", "by Kilo's list yet");
}

/// The pod on a node answers both of them.
fn reached(cluster: &Cluster, node: &str, when: &str) {
    let to = Pod::of(cluster, node, "pod").addresses[0];
    for from in NODES {
        let host = cluster.lab().host(from).unwrap();
        within(SOON, &format!("{when}: {from} reaches the pod of {node}"), || {
            run(host, &format!("ping -c 1 -W 1 {to}")).status.success()
        });
    }
}

/// Kilo goes for good, and ours comes as it does without Kilo, at another port for HTTP.
fn the_end(cluster: &Cluster, kilos: &mut Kilos<'_>) {
    let agents = || NODES.map(|node| pod(cluster, "wireloom", node));
    let before = agents();
    shell(cluster, "kubectl -n kube-system delete daemonset kilo");
    let listens = |port: u16| {
        move |node: &&str| {
            let host = cluster.lab().host(node).unwrap();
            run(host, &format!("curl -s -f http://127.0.0.1:{port}/readyz")).status.success()
        }
    };
    assert!(NODES.iter().all(listens(1108)));
    kilos.ports.clear();
    let shown = GUIDE.split("```yaml\nsortOptions").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let text = format!("sortOptions{shown}").replace("overlays/k3s", "overlays/kubeadm");
    // As at the beginning: the kernel below this test may have no WireGuard.
    let device = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "wireloom", "namespace": "kube-system" },
        "spec": { "template": { "spec": { "containers": [
            { "name": "wireloom", "env": [{ "name": "WIRELOOM_DEVICE", "value": "uapi" }] },
        ] } } },
    });
    let text = format!("{text}patches:\n- patch: '{device}'\n");
    let folder = kustomization(env!("CARGO_TARGET_TMPDIR"), &text);
    kubectl(cluster, &["apply", "-k", folder.path().to_str().unwrap()]);
    rolled_out(cluster, "wireloom");
    // The last of the old ones may be listed yet.
    within(SOON, "all pods are other ones", || {
        before.iter().zip(agents()).all(|(before, now)| now.is_some() && *before != now)
    });
    within(SOON, "they answer where they are told to", || NODES.iter().all(listens(1107)));
}

/// The mesh leaves Kilo's device for one of its own.
fn a_device_of_our_own(cluster: &Cluster, kilos: &mut Kilos<'_>) {
    let overlay = "sortOptions: {order: fifo}\nresources: [deploy/overlays/kubeadm]\n\
                   components: [deploy/components/beside-kilo]\n";
    let folder = kustomization(env!("CARGO_TARGET_TMPDIR"), overlay);
    let (delete, apply) = script(section(GUIDE, "## The end")).split_once('\n').unwrap();
    shell(cluster, delete);
    // A device of the kernel lets go of its port when its link goes down, as it has by now.
    kilos.devices.clear();
    shell(cluster, &apply.replace("OVERLAY-WITHOUT-ON-KILO0", folder.path().to_str().unwrap()));
    rolled_out(cluster, "wireloom");
    for node in NODES {
        let links = ok(cluster.lab().host(node).unwrap(), "ip -o link");
        assert!(links.contains("wl0"), "{links}");
        reached(cluster, node, "by a device of our own");
    }
}

fn moved_without_a_lost_packet(cluster: &Cluster, hosts: [&Host; 2], kilos: &Kilos<'_>) {
    let echoes: Vec<Echoes> =
        hosts.iter().zip(["10.4.0.2", "10.4.0.1"]).map(|(host, to)| Echoes::of(host, to)).collect();
    let all_come = |when: &str| echoes.iter().for_each(|echoes| echoes.all_come(when));
    all_come("before");
    for (node, host) in NODES.iter().zip(hosts) {
        let of_node = |beginning: &str| commands(GUIDE, beginning)[0].replace("ams-2", node);
        let device = device_of(host);
        let kilos_pod = pod(cluster, "kilo", node).unwrap();
        shell(cluster, &of_node("kubectl label node ams-2"));
        shell(cluster, &of_node("until kubectl -n kube-system wait pod"));
        assert_eq!(pod(cluster, "kilo", node), Some(kilos_pod), "Kilo's is beside it");
        all_come("both are there");
        shell(cluster, &of_node("kubectl label --overwrite node ams-2"));
        within(SOON, "Kilo's pod is gone", || pod(cluster, "kilo", node).is_none());
        kilos.end(node);
        all_come("Kilo's agent has ended");
        assert_eq!(device_of(host), device, "the device is the one that was there");
        // Later than the agent looks by itself.
        thread::sleep(Duration::from_secs(12));
        all_come("ours alone is there");
    }
    within(SOON, "all plan by our algorithm", || {
        NODES.iter().all(|node| {
            let held = annotation(cluster, node, "wireloom.dev/held");
            let held: Value = serde_json::from_str(&held).unwrap_or_default();
            held["algorithm"] == "wireloom"
        })
    });
    thread::sleep(Duration::from_secs(5));
    all_come("all plan by our algorithm");
}

/// Two leaders, each with what its agent of Kilo has made.
struct Kilos<'a> {
    cluster: &'a Cluster,
    /// The nodes' WireGuard.
    devices: Vec<Child>,
    /// The ports of their agents for HTTP.
    ports: Vec<TcpListener>,
    /// The nodes whose agent of Kilo goes on.
    alive: Mutex<Vec<&'static str>>,
}

impl<'a> Kilos<'a> {
    fn on(cluster: &'a Cluster) -> Self {
        cluster.api().apply(&may_write_nodes().to_string()).unwrap();
        let keys = NODES.map(|_| Keys::new());
        let plan = cluster.lab().plan();
        let public =
            |name: &str| plan.hosts().find(|host| host.name == name).unwrap().public.unwrap();
        let addresses = NODES.map(|node| public(node)[0].address());
        let pods = NODES.map(|node| {
            let prefix = ["get", "node", node, "-o=jsonpath={.spec.podCIDR}"];
            within(SOON, "the node has a pod prefix", || !kubectl(cluster, &prefix).is_empty());
            kubectl(cluster, &prefix)
        });
        let devices = (0..2).map(|at| {
            let (other, host) = (1 - at, cluster.lab().host(NODES[at]).unwrap());
            host.write("/var/lib/kilo/key", &keys[at].private).unwrap();
            ok(host, "chmod 600 /var/lib/kilo/key");
            let device = wireloom(host, "tunnel -f kilo0");
            eventually("the device is there", || run(host, "wg show kilo0").status.success());
            let (number, far) = (at + 1, other + 1);
            for line in [
                "wg set kilo0 private-key /var/lib/kilo/key listen-port 51820".to_owned(),
                format!(
                    "wg set kilo0 peer {} endpoint {}:51820 allowed-ips {},{}/32,10.4.0.{far}/32",
                    keys[other].public, addresses[other], pods[other], addresses[other],
                ),
                format!("ip address add 10.4.0.{number}/16 dev kilo0"),
                "ip link set kilo0 up".to_owned(),
                format!(
                    "ip route add {} via 10.4.0.{far} dev kilo0 onlink proto static",
                    pods[other]
                ),
            ] {
                ok(host, &line);
            }
            let annotations = [
                format!("key={}", keys[at].public),
                format!("endpoint={}:51820", addresses[at]),
                format!("internal-ip={}/32", addresses[at]),
                format!("wireguard-ip=10.4.0.{number}/16"),
                "granularity=location".to_owned(),
                "discovered-endpoints={}".to_owned(),
                "last-seen=1".to_owned(),
            ];
            annotate(cluster, NODES[at], &annotations);
            let port = host.run(|| TcpListener::bind("[::]:1107")).unwrap().unwrap();
            (device, port)
        });
        let (devices, ports) = devices.unzip();
        cluster.api().apply(&kilo().to_string()).unwrap();
        let rollout = ["rollout", "status", "daemonset/kilo", "--namespace=kube-system", LONG];
        kubectl(cluster, &rollout);
        Self { cluster, devices, ports, alive: Mutex::new(NODES.to_vec()) }
    }

    /// Says that Kilo's agents are there, oftener than they do, until it is told to end.
    fn give_signs_of_life(&self, goes: mpsc::Receiver<()>) {
        while goes.recv_timeout(Duration::from_secs(10)) == Err(RecvTimeoutError::Timeout) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            for node in self.alive.lock().unwrap().iter() {
                annotate(self.cluster, node, &[format!("last-seen={now}")]);
            }
        }
    }

    /// What Kilo's agent does at its end (`cleanUp` of `pkg/mesh/mesh.go`): its routes go, and what its Node says of it.
    fn end(&self, node: &str) {
        self.alive.lock().unwrap().retain(|alive| *alive != node);
        let said = || annotation(self.cluster, node, "kilo.squat.ai/key");
        let key = said();
        ok(self.cluster.lab().host(node).unwrap(), "ip route flush table main proto static");
        let names = ["endpoint", "internal-ip", "key", "last-seen", "wireguard-ip", "granularity"];
        let removals = names.map(|name| {
            json!({ "op": "remove", "path": format!("/metadata/annotations/kilo.squat.ai~1{name}") })
        });
        let removals = Value::from(removals.to_vec()).to_string();
        let patch = ["patch", "node", node, "--type=json", &format!("--patch={removals}"), KILO];
        let refused = self.cluster.api().kubectl(patch).unwrap_err().to_string();
        assert!(refused.contains("Wireloom's agent speaks for this Node"), "{refused}");
        assert_eq!(said(), key);
    }
}

/// Who Kilo's agents are to the API server.
const KILO: &str = "--as=system:serviceaccount:kube-system:kilo";

fn annotate(cluster: &Cluster, node: &str, annotations: &[String]) {
    let pairs: Vec<String> =
        annotations.iter().map(|pair| format!("kilo.squat.ai/{pair}")).collect();
    let line = ["annotate", "--overwrite", "node", node, KILO];
    let line: Vec<&str> = line.into_iter().chain(pairs.iter().map(String::as_str)).collect();
    kubectl(cluster, &line);
}

fn annotation(cluster: &Cluster, node: &str, name: &str) -> String {
    let path = format!("-o=jsonpath={{.metadata.annotations.{}}}", name.replace('.', "\\."));
    kubectl(cluster, &["get", "node", node, &path])
}

/// What Kilo's agents may.
fn may_write_nodes() -> Value {
    let subject = json!([{ "kind": "ServiceAccount", "name": "kilo", "namespace": "kube-system" }]);
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "kilo" },
            "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"] }],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "kilo" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kilo" },
            "subjects": subject,
        },
    ]})
}

/// The number of the node's device, which one made anew does not keep.
fn device_of(host: &Host) -> String {
    ok(host, "cat /sys/class/net/kilo0/ifindex")
}

/// Echoes that a host asks an address for, twenty times a second.
struct Echoes(Child);

impl Echoes {
    fn of(host: &Host, to: &str) -> Self {
        ok(host, &format!("ping -n -c 1 -w 30 {to}"));
        Self(host.spawn("ping", ["-n", "-i", "0.05", to]).unwrap())
    }

    /// Waits until some more have come, and asserts that none has failed to.
    fn all_come(&self, when: &str) {
        let now = || echoes(&self.0.written().unwrap().0);
        let before = now().0;
        within(SOON, "more echoes come, and none is missing", || {
            let (came, missing) = now();
            if came >= before + 20 && !missing.is_empty() {
                eprintln!("{when}: {missing:?} of {came}");
            }
            came >= before + 20 && missing.is_empty()
        });
    }
}

/// Has Kilo's DaemonSet leave nodes that are moved, and installs ours beside it, which comes to none yet.
fn both_are_there(cluster: &Cluster, overlay: &str, then: impl Fn()) {
    let before = NODES.map(|node| pod(cluster, "kilo", node).unwrap());
    for line in commands(GUIDE, "kubectl -n kube-system patch daemonset kilo") {
        shell(cluster, line);
    }
    cluster.api().apply(&cluster.api().way_of_kubeadm().to_string()).unwrap();
    kubectl(cluster, &["apply", "-k", overlay]);
    then();
    within(SOON, "the controller has seen both", || {
        ["kilo", "wireloom"].iter().all(|set| is_seen(cluster, set))
    });
    assert_eq!(NODES.map(|node| pod(cluster, "kilo", node).unwrap()), before);
    assert_eq!(NODES.map(|node| pod(cluster, "wireloom", node)), [None, None]);
}

#[test]
fn a_node_is_moved_from_kilo_in_user_space_by_a_label_and_back() {
    need_all!();
    let cluster = cluster();
    let host = cluster.lab().host("ams-2").unwrap();
    let keys = Keys::new();
    kilo_was_on(host, &keys);
    cluster.api().apply(&kilo().to_string()).unwrap();
    kubectl(&cluster, &["rollout", "status", "daemonset/kilo", "--namespace=kube-system", LONG]);
    let before = NODES.map(|node| pod(&cluster, "kilo", node).unwrap());

    both_are_there(&cluster, &format!("{OVERLAY}-userspace"), || {});

    shell(&cluster, commands(GUIDE, "kubectl label --overwrite node ams-2")[0]);
    shell(&cluster, commands(GUIDE, "until kubectl -n kube-system wait pod")[0]);
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

    kubectl(&cluster, &["label", "nodes", "--all", "wireloom.dev/moved=true"]);
    let who = |set: &str| NODES.map(|node| pod(&cluster, set, node).is_some());
    within(SOON, "all are moved", || (who("kilo"), who("wireloom")) == ([false; 2], [true; 2]));
    for line in script(GUIDE.split_once("The whole: take").unwrap().1).lines() {
        shell(&cluster, line);
    }
    within(SOON, "all are back", || (who("kilo"), who("wireloom")) == ([true; 2], [false; 2]));
    let links = |node: &str| ok(cluster.lab().host(node).unwrap(), "ip -o link");
    within(SOON, "ours is gone everywhere", || {
        NODES.iter().all(|node| !links(node).contains("wl0"))
    });
    // The definition of what is Kilo's stays.
    kubectl(&cluster, &["get", "peers.kilo.squat.ai"]);
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
    give_kilos_list(host, "10.42.0.0/24");
    ok(host, "ip tuntap add kilo0 mode tun");
    ok(host, "ip link set kilo0 up");
    ok(host, "ip rule add to 10.10.0.0/24 table 1107");
}

/// Gives pods their network as Kilo's manifests do.
fn give_kilos_list(host: &Host, prefix: &str) {
    let list = json!({
        "cniVersion": "0.4.0",
        "name": "kilo",
        "plugins": [{
            "type": "bridge",
            "bridge": "kube-bridge",
            "isDefaultGateway": true,
            "forceAddress": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": prefix }]] },
        }],
    });
    host.write("/etc/cni/net.d/10-kilo.conflist", list.to_string()).unwrap();
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
    named(cluster, "kube-system", &format!("app.kubernetes.io/name={set}"), node)
}

/// The pod with this label on a node, by its unique identifier.
fn named(cluster: &Cluster, namespace: &str, label: &str, node: &str) -> Option<String> {
    let (namespace, selector) = (format!("--namespace={namespace}"), format!("--selector={label}"));
    let on = format!("--field-selector=spec.nodeName={node}");
    let list = kubectl(cluster, &["get", "pods", &namespace, &selector, &on, "-o=json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"][0]["metadata"]["uid"].as_str().map(str::to_owned)
}
