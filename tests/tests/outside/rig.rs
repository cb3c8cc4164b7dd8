//! Machines of a cluster in a lab, with real agents and a real API server.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_tests::{run, wireloom, within};

/// How long anything may take that several agents take part in, on a machine with much to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The arguments by which a command knows the cluster.
pub(crate) const CLUSTER: &str = "--kubeconfig /run/test/kubeconfig --namespace kube-system";

/// Machines of which some are nodes of a cluster, whose API server has a region of its own.
pub(crate) struct Cluster {
    agents: Vec<Child>,
    pub(crate) api: ApiServer,
    pub(crate) lab: Lab,
}

impl Cluster {
    /// Starts the API server, and an agent on each of these of the regions' machines, with more arguments for all.
    pub(crate) fn start(regions: &[Region], nodes: &[&str], more: &str) -> Self {
        let provider = [Region::new("provider", &["control"])];
        let layout = Layout { regions: [&provider, regions].concat(), pods: true };
        let lab = Lab::build(&layout).unwrap();
        let addresses = lab.plan().regions[0].hosts[0].public.unwrap();
        let addresses = addresses.map(|public| public.address());
        let api = ApiServer::start_on(lab.host("control").unwrap(), &addresses).unwrap();
        api.apply(include_str!("../../../deploy/base/crds.yaml")).unwrap();
        let mut agents = Vec::new();
        for region in &lab.plan().regions[1..] {
            for host in &region.hosts {
                let machine = lab.host(&host.name).unwrap();
                machine.write("/run/test/kubeconfig", api.kubeconfig()).unwrap();
                if !nodes.contains(&host.name.as_str()) {
                    continue;
                }
                let pods = host.pod.as_ref().unwrap().prefixes.map(|prefix| prefix.to_string());
                let node = json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": host.name,
                        "labels": { "topology.kubernetes.io/region": region.name },
                    },
                    "spec": { "podCIDR": pods[0], "podCIDRs": pods },
                });
                api.apply(&node.to_string()).unwrap();
                let line = format!(
                    "agent {CLUSTER} --hostname {} --key /run/test/key --state-dir /run/test/state --cni=false {more}",
                    host.name
                );
                agents.push(wireloom(machine, &line));
            }
        }
        Self { agents, api, lab }
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    pub(crate) fn peers(&self) -> String {
        self.api.kubectl(["get", "peers", "-o=name"]).unwrap()
    }

    /// Waits until each of these is a gateway of a mesh of all of them.
    pub(crate) fn meet(&self, nodes: &[&str]) {
        for name in nodes {
            within(PATIENCE, "all nodes are in the mesh, and gateways", || {
                let status = status(self.host(name));
                status["gateway"] == true && length(&status["nodes"]) == nodes.len()
            });
        }
    }

    /// What the agents have logged.
    pub(crate) fn logs(&self) -> String {
        self.agents.iter().map(|agent| agent.written().unwrap().1).collect()
    }

    /// Fails unless a host gets an echo from a node's pod and from its overlay addresses, by both families.
    pub(crate) fn reaches(&self, host: &str, node: &str) {
        let plan = self.lab.plan().hosts().find(|host| host.name == node).unwrap();
        let pod = plan.pod.clone().unwrap();
        let status = status(self.host(node));
        let overlay = status["overlay_addresses"].as_array().unwrap().iter();
        let overlay = overlay.map(|address| address.as_str().unwrap().parse().unwrap());
        for address in pod.address.map(|address| address.address()).into_iter().chain(overlay) {
            let deadline = Instant::now() + PATIENCE;
            let answer = wireloom_lab::measure::ping(self.host(host), address, deadline).unwrap();
            assert!(
                answer.is_some(),
                "{host} gets no echo from {node} at {address}\n{}",
                self.logs()
            );
        }
    }
}

pub(crate) fn status(host: &Host) -> Value {
    serde_json::from_str(&run(host, "wireloom status -o json").stdout).unwrap_or_default()
}

/// The length of a list, or none.
pub(crate) fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}
