//! Machines of a cluster in a lab, with real agents and a real API server.

use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_cluster::ApiServer;
use wireloom_lab::{Child, Host, Lab, Region};
use wireloom_tests::cluster::{self, status};
use wireloom_tests::{wireloom, within};

/// How long anything may take that several agents take part in, on a machine with much to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Machines of which some are nodes of a cluster, whose API server has a region of its own.
pub(crate) struct Cluster {
    agents: Vec<Child>,
    pub(crate) api: ApiServer,
    pub(crate) lab: Lab,
}

impl Cluster {
    /// Starts the API server, and an agent on each of these of the regions' machines, with more arguments for all.
    pub(crate) fn start(regions: &[Region], nodes: &[&str], more: &str) -> Self {
        let (lab, api) = cluster::api_server(regions.to_vec(), true);
        let mut agents = Vec::new();
        for host in lab.plan().regions[1..].iter().flat_map(|region| &region.hosts) {
            let machine = lab.host(&host.name).unwrap();
            cluster::admit(machine, &api);
            if nodes.contains(&&*host.name) {
                cluster::declare(&api, &lab, &host.name, &host.name);
                agents.push(wireloom(machine, &format!("{} {more}", cluster::agent(&host.name))));
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

/// The length of a list, or none.
pub(crate) fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}
