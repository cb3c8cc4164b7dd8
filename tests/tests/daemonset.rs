//! The DaemonSet on a real cluster: one command brings a mesh, nodes come and agents go while packets flow, and one
//! command takes all of it away.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_cluster::Cluster;
use wireloom_lab::{Flow, Host};
use wireloom_testkit::{need, promised};
use wireloom_tests::cluster::{
    self, CONTROL, DEPLOY, LONG, four_regions, kubectl, read, rolled_out, status,
};
use wireloom_tests::{NetworkState, eventually, ok, within};

/// The machine of the control plane, two in other regions, and one at home behind NAT.
const NODES: [&str; 4] = [CONTROL, "ams-1", "waw-1", "ire-1"];

/// The node that comes later.
const LATE: &str = "lon-1";

/// The node that nobody reaches but by this address, which it has in the mesh alone.
const HIDDEN: (&str, &str) = ("ire-1", "10.4.200.1");

/// How long anything may take on a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn one_command_makes_a_mesh_that_lasts_while_agents_come_and_go_and_one_takes_it_away() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in ["busybox", "containerd", "iperf3", "ldd", "nft", "runc", "ss", "sysctl"] {
        need!(program program);
    }
    let mut cluster = cluster::start(four_regions(), None);
    cluster.join(&[CONTROL, "ams-1", "waw-1"]).unwrap();
    cluster.join_at(HIDDEN.0, &[HIDDEN.1.parse().unwrap()]).unwrap();
    let mut mesh = Mesh { nodes: NODES.to_vec(), cluster };

    // What people ask of nodes stays theirs.
    let address = format!("wireloom.dev/force-overlay-ips={}", HIDDEN.1);
    mesh.kubectl(&["annotate", "node", HIDDEN.0, &address]);
    let before = mesh.found();

    mesh.begin(&format!("{DEPLOY}/base"));
    mesh.all_meet();
    a_hidden_node_is_spoken_to(&mesh);
    the_doctor_finds_nothing_wrong(&mesh);
    let joined = a_node_joins(&mut mesh);
    let stood = a_rollout_keeps_connections(&mesh);
    println!("joined in {joined:?}; a rollout of every agent held a flow up for {stood:?} at most");
    mesh.end(&format!("{DEPLOY}/base"), &before);

    mesh.begin(&format!("{DEPLOY}/overlays/separate-tunnel"));
    mesh.all_meet();
    let stood = agents_are_killed_and_replaced_unnoticed(&mesh);
    println!("beside a data plane of its own, killed and replaced agents held it up for {stood:?}");
    mesh.end(&format!("{DEPLOY}/overlays/separate-tunnel"), &before);

    mesh.helm(&["install", "wireloom", &format!("{DEPLOY}/helm"), "--wait"]);
    mesh.all_meet();
    mesh.dismiss_agents();
    mesh.helm(&["uninstall", "wireloom", "--wait"]);
    mesh.is_as_found(&before);
}

/// `kubectl exec` and `kubectl logs` reach a node that has no address but its overlay address, because the API server's
/// machine is in the mesh too.
fn a_hidden_node_is_spoken_to(mesh: &Mesh) {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    // The kubelet tells of an address when its host has it, which it looks for every ten seconds.
    within(PATIENCE, "the node tells its overlay address", || {
        mesh.kubectl(&["get", "node", HIDDEN.0, "--output", path]) == HIDDEN.1
    });
    let pod = mesh.agent_of(HIDDEN.0);
    let pod = pod["metadata"]["name"].as_str().unwrap();
    let version = mesh.kubectl(&["exec", "-n", "kube-system", pod, "--", "wireloom", "--version"]);
    assert!(version.starts_with("wireloom "), "{version}");
    let log = mesh.kubectl(&["logs", "-n", "kube-system", pod]);
    assert!(log.contains("in the mesh"), "{log}");
}

/// The doctor has the agent's settings and rights where that runs, and ends well.
fn the_doctor_finds_nothing_wrong(mesh: &Mesh) {
    for node in ["ams-1", HIDDEN.0] {
        let pod = mesh.agent_of(node);
        let pod = pod["metadata"]["name"].as_str().unwrap();
        let told = mesh.kubectl(&["exec", "-n", "kube-system", pod, "--", "wireloom", "doctor"]);
        assert!(told.trim_end().ends_with("nothing is wrong"), "{node}: {told}");
    }
}

/// A node joins by a bootstrap token and is in the mesh: the time from the start of its kubelet until it has had an echo from
/// every other node.
fn a_node_joins(mesh: &mut Mesh) -> Duration {
    let known = mesh.cluster.join(&[LATE]).unwrap()[0];
    let start = Instant::now();
    mesh.nodes.push(LATE);
    for node in NODES {
        let to = mesh.overlay_address(node);
        ping_patiently(mesh.host(LATE), &to);
    }
    let joined = known + start.elapsed();
    let limit = promised(Duration::from_secs(10));
    assert!(joined < limit, "{joined:?}, not within {limit:?}");
    mesh.all_meet();
    joined
}

/// `kubectl rollout restart` replaces every agent, and a TCP connection between two of the nodes lasts.
fn a_rollout_keeps_connections(mesh: &Mesh) -> Duration {
    let (from, to) = (mesh.host("ams-1"), mesh.host("waw-1"));
    let before = mesh.pods();
    let flow = Flow::start(from, to, mesh.overlay_address("waw-1").parse().unwrap()).unwrap();
    mesh.kubectl(&["rollout", "restart", "daemonset/wireloom", "--namespace=kube-system"]);
    mesh.rolled_out();
    let stood = flow.stop().unwrap();
    within(PATIENCE, "the old pods are gone", || {
        let pods = mesh.pods();
        !before.iter().any(|pod| pods.contains(pod))
    });
    // Two handovers, each a handshake long; without them the device would be gone until another pod runs.
    assert!(stood < promised(Duration::from_secs(2)), "nothing arrived for {stood:?}");
    mesh.all_meet();
    stood
}

/// With the data plane apart, neither the death of an agent nor a rollout of all of them is felt.
fn agents_are_killed_and_replaced_unnoticed(mesh: &Mesh) -> Duration {
    let (from, to) = (mesh.host("ams-1"), mesh.host("waw-1"));
    let flow = Flow::start(from, to, mesh.overlay_address("waw-1").parse().unwrap()).unwrap();
    for node in ["ams-1", "waw-1"] {
        let container = |pod: &Value| {
            let container = pod["status"]["containerStatuses"][0]["containerID"].as_str();
            container.unwrap_or_default().trim_start_matches("containerd://").to_owned()
        };
        let killed = container(&mesh.agent_of(node));
        let kill = [
            "--address=/run/containerd/containerd.sock",
            "--namespace=k8s.io",
            "tasks",
            "kill",
            "--signal=SIGKILL",
            &killed,
        ];
        let output =
            mesh.cluster.nodes()[node].exec(mesh.host(node), "ctr", &kill, PATIENCE).unwrap();
        assert!(output.status.success(), "{}", output.stderr);
        within(PATIENCE, "another agent runs", || container(&mesh.agent_of(node)) != killed);
    }
    mesh.kubectl(&["rollout", "restart", "daemonset/wireloom", "--namespace=kube-system"]);
    mesh.rolled_out();
    let stood = flow.stop().unwrap();
    assert!(stood < promised(Duration::from_secs(1)), "nothing arrived for {stood:?}");
    mesh.all_meet();
    stood
}

struct Mesh {
    nodes: Vec<&'static str>,
    cluster: Cluster,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let selector = "--selector=app.kubernetes.io/name=wireloom";
            let logs = ["logs", "-n", "kube-system", selector, "--prefix", "--tail=40"];
            let logs = self.cluster.api().kubectl(logs);
            eprintln!(
                "the agents' last words:\n{}",
                logs.unwrap_or_else(|error| error.to_string())
            );
        }
    }
}

impl Mesh {
    fn host(&self, node: &str) -> &Host {
        self.cluster.lab().host(node).unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.cluster, arguments)
    }

    fn read(&self, arguments: &[&str]) -> Value {
        read(&self.cluster, arguments)
    }

    /// What of ours is asked and said of nodes, and what network they have.
    fn found(&self) -> Vec<(Vec<(String, Value)>, NetworkState)> {
        let of = |node: &&str| {
            let object = self.read(&["get", "node", node]);
            let annotations = object["metadata"]["annotations"].as_object().unwrap();
            let ours = |key: &str| {
                ["kilo.squat.ai/", "wireloom.dev/"].iter().any(|prefix| key.starts_with(prefix))
            };
            let ours = annotations.iter().filter(|(key, _)| ours(key));
            (
                ours.map(|(key, value)| (key.clone(), value.clone())).collect(),
                NetworkState::of(self.host(node)),
            )
        };
        NODES.iter().map(of).collect()
    }

    fn helm(&self, arguments: &[&str]) {
        let more = ["--namespace=kube-system", LONG];
        let helm = self.cluster.api().spawn_helm([arguments, &more[..]].concat()).unwrap();
        helm.success(Duration::from_secs(200)).unwrap();
    }

    fn begin(&self, directory: &str) {
        self.kubectl(&["apply", "-k", directory]);
        self.rolled_out();
    }

    fn rolled_out(&self) {
        rolled_out(&self.cluster, "wireloom");
    }

    /// Takes everything away and compares what is left with what was found.
    fn end(&self, directory: &str, before: &[(Vec<(String, Value)>, NetworkState)]) {
        self.dismiss_agents();
        self.kubectl(&["delete", "--ignore-not-found", "-k", directory, LONG]);
        let tunnels = ["pod", "--selector=app.kubernetes.io/name=wireloom-tunnel"];
        let deleted = ["wait", "--for=delete", LONG, "--namespace=kube-system"];
        self.kubectl(&[&deleted[..], &tunnels].concat());
        self.is_as_found(before);
    }

    /// As deploy/README.md says it for whoever wants agents to have all the time that they need.
    fn dismiss_agents(&self) {
        let agents = ["daemonset/wireloom", "--namespace=kube-system", "--cascade=foreground"];
        self.kubectl(&[&["delete", LONG], &agents[..]].concat());
    }

    /// Compares what is left with what was found.
    fn is_as_found(&self, before: &[(Vec<(String, Value)>, NetworkState)]) {
        let has = |node: &str| ok(self.host(node), "ip -o link").contains("wl0");
        eventually("the agents are gone", || !self.nodes.iter().any(|node| has(node)));
        for (node, (now, before)) in NODES.iter().zip(self.found().iter().zip(before)) {
            assert_eq!(now.0, before.0, "{node}");
            now.1.assert_same(&before.1);
            let files = ok(self.host(node), "ls -A /run/wireloom");
            let of_agents = files.lines().filter(|name| name.starts_with("wl0."));
            assert_eq!(of_agents.collect::<Vec<_>>(), [""; 0], "{node}");
        }
    }

    /// The pod of the agent that runs on this node.
    fn agent_of(&self, node: &str) -> Value {
        let selector = "--selector=app.kubernetes.io/name=wireloom";
        let on = format!("--field-selector=spec.nodeName={node}");
        let pods = self.read(&["get", "pods", "-n", "kube-system", selector, &on]);
        pods["items"][0].clone()
    }

    /// The names of the agents' pods.
    fn pods(&self) -> Vec<String> {
        let selector = "--selector=app.kubernetes.io/name=wireloom";
        let pods = self.kubectl(&["get", "pods", "-n", "kube-system", selector, "--output=name"]);
        pods.lines().map(str::to_owned).collect()
    }

    fn overlay_address(&self, node: &str) -> String {
        let mut address = String::new();
        within(PATIENCE, "the node has an overlay address", || {
            let status = status(self.host(node));
            address = status["overlay_addresses"][0].as_str().unwrap_or_default().to_owned();
            !address.is_empty()
        });
        address
    }

    /// Every node gets an echo from every other.
    fn all_meet(&self) {
        for to in &self.nodes {
            let address = self.overlay_address(to);
            for from in &self.nodes {
                ping_patiently(self.host(from), &address);
            }
        }
    }
}

/// A node behind NAT can't be dialled: it is heard of when it has heard of us.
fn ping_patiently(from: &Host, to: &str) {
    let end = Instant::now() + PATIENCE;
    let answer = wireloom_lab::measure::ping(from, to.parse().unwrap(), end).unwrap();
    assert!(answer.is_some(), "{} gets no echo from {to}", from.name());
}
