//! Machines in four regions that a cluster makes one mesh: `wireloom agent` on each, a real API server on one more, and
//! real packets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_testkit::need;
use wireloom_tests::{Keys, run, wireloom};

/// How long anything may take that waits for a node to be missed: three heartbeats, and a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(150);

const NODES: [&str; 4] = ["ams-1", "ams-2", "waw-1", "pi"];

struct Cluster {
    nodes: Vec<(&'static str, Child)>,
    api: ApiServer,
    lab: Lab,
}

impl Cluster {
    /// Starts an API server in a region of its own, and an agent on each node. The pi is at home behind NAT, and nobody
    /// says so.
    fn start() -> Self {
        let layout = Layout {
            regions: vec![
                Region::new("provider", &["control"]),
                Region::new("nl-ams", &["ams-1", "ams-2"]),
                Region::new("pl-waw", &["waw-1"]),
                Region::new("home", &["pi"]).behind_nat(),
            ],
            pods: true,
        };
        let lab = Lab::build(&layout).unwrap();
        let addresses = lab.plan().regions[0].hosts[0].public.unwrap();
        let addresses = addresses.map(|public| public.address());
        let api = ApiServer::start_on(lab.host("control").unwrap(), &addresses).unwrap();
        api.apply(include_str!("../../deploy/base/crds.yaml")).unwrap();
        let mut cluster = Self { nodes: Vec::new(), api, lab };
        for region in &cluster.lab.plan().regions[1..] {
            for host in &region.hosts {
                let pods = host.pod.as_ref().unwrap().prefixes.map(|prefix| prefix.to_string());
                let node = json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": host.name,
                        "labels": { "topology.kubernetes.io/region": region.name },
                        "annotations": {},
                    },
                    "spec": { "podCIDR": pods[0], "podCIDRs": pods },
                });
                cluster.api.apply(&node.to_string()).unwrap();
            }
        }
        for name in NODES {
            let host = cluster.host(name);
            host.write("/run/test/kubeconfig", cluster.api.kubeconfig()).unwrap();
            let agent = cluster.agent(name);
            cluster.nodes.push((name, agent));
        }
        cluster
    }

    fn agent(&self, name: &str) -> Child {
        let line = format!(
            "agent --namespace kube-system --kubeconfig /run/test/kubeconfig --hostname {name} --key /run/test/key \
             --state-dir /run/test/state --subnet 10.4.0.0/16,fd04::/64 --cni=false"
        );
        wireloom(self.host(name), &line)
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    /// Kills a node's agent, as a machine that goes down does.
    fn kill(&mut self, name: &str) {
        self.nodes.retain(|(node, _)| *node != name);
    }

    fn status(&self, name: &str) -> Value {
        let output = run(self.host(name), "wireloom status -o json");
        serde_json::from_str(&output.stdout).unwrap_or_default()
    }

    /// Waits until something holds of what a node says of itself.
    fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name);
            if holds(&status) {
                return status;
            }
            let log =
                |(node, child): &(&str, Child)| (*node == name).then(|| child.written().unwrap().1);
            assert!(
                Instant::now() < deadline,
                "{name}: not in time: {what}: {status:#}\n{}",
                self.nodes.iter().find_map(log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until the pod of a node gets an echo from that of another, by both families.
    fn pods_meet(&self, from: &str, to: &str) {
        let pod = |name: &str| {
            let plan = self.lab.plan().hosts().find(|host| host.name == name).unwrap();
            plan.pod.clone().unwrap()
        };
        let host = self.host(&pod(from).name);
        for address in pod(to).address {
            self.meet(host, from, address.address());
        }
    }

    fn meet(&self, host: &Host, from: &str, to: IpAddr) {
        let deadline = Instant::now() + PATIENCE;
        let answer = wireloom_lab::measure::ping(host, to, deadline).unwrap();
        assert!(answer.is_some(), "{from} gets no echo from {to}: {:#}", self.status(from));
    }
}

/// The names of the nodes that a status lists.
fn names(status: &Value) -> Vec<&str> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| node["name"].as_str()).collect()
}

fn is_whole(status: &Value) -> bool {
    names(status)
        == NODES
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
}

#[test]
fn regions_are_one_mesh_whatever_becomes_of_the_api_and_of_a_gateway() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(cluster);
    let mut cluster = Cluster::start();
    for name in NODES {
        cluster.until(name, "all nodes are in the mesh", is_whole);
    }
    for (from, to) in [("ams-2", "waw-1"), ("waw-1", "pi"), ("pi", "ams-2"), ("ams-1", "ams-2")] {
        cluster.pods_meet(from, to);
    }
    for node in cluster.status("pi")["nodes"].as_array().unwrap() {
        for address in node["overlay_addresses"].as_array().unwrap() {
            let address = address.as_str().unwrap().parse().unwrap();
            cluster.meet(cluster.host("pi"), "pi", address);
        }
    }

    // A Peer comes by the resource of Kilo.
    let keys = Keys::new();
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "laptop" },
        "spec": { "allowedIPs": ["10.5.0.1/32"], "publicKey": keys.public },
    });
    cluster.api.apply(&peer.to_string()).unwrap();
    let has_laptop = |status: &Value| {
        let peers = status["peers"].as_array().into_iter().flatten();
        peers.clone().any(|peer| peer["name"] == "laptop")
    };
    cluster.until("waw-1", "the laptop is a peer", has_laptop);

    wireloom_tests::eventually("the last mesh is on disk", || {
        run(cluster.host("waw-1"), "grep laptop /run/test/state/mesh.json").status.success()
    });

    // The API goes away, and with it a machine, which comes back before it.
    cluster.api.stop();
    cluster.until("waw-1", "it says that the API is away", |status| status["stale"].is_string());
    cluster.kill("waw-1");
    let agent = cluster.agent("waw-1");
    cluster.nodes.push(("waw-1", agent));
    cluster.until("waw-1", "it is back from its last mesh", |status| {
        is_whole(status) && status["stale"].is_string() && has_laptop(status)
    });
    cluster.pods_meet("waw-1", "pi");
    cluster.pods_meet("ams-2", "waw-1");
    cluster.api.resume().unwrap();
    cluster
        .until("waw-1", "the API is back", |status| is_whole(status) && status["stale"].is_null());

    // Amsterdam's gateway dies: the other one takes its place.
    let leads = |name: &str, cluster: &Cluster| cluster.status(name)["gateway"] == true;
    let (gateway, other) =
        if leads("ams-1", &cluster) { ("ams-1", "ams-2") } else { ("ams-2", "ams-1") };
    assert!(leads(gateway, &cluster) && !leads(other, &cluster), "one of the two is the gateway");
    cluster.kill(gateway);
    cluster.until(other, "it is the gateway", |status| status["gateway"] == true);
    cluster.pods_meet("pi", other);

    // A Node that is deleted is gone from all, and nobody else is.
    cluster.api.kubectl(["delete", "node", gateway]).unwrap();
    for name in [other, "waw-1", "pi"] {
        cluster.until(name, "three are left", |status| {
            names(status).len() == 3 && !names(status).contains(&gateway)
        });
    }
    cluster.pods_meet("waw-1", other);
}
