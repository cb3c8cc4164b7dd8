//! Clusters in labs: whole ones, whose nodes run pods, and an API server with nothing but agents around it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_cluster::{ApiServer, Cluster};
use wireloom_image::recipe;
use wireloom_lab::{Host, Lab, Layout, Region};
use wireloom_testkit::wireloom_binary;

use crate::run;

/// Where what people install lies.
pub const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// The name that `deploy/` gives our image.
pub const IMAGE: &str = "localhost/wireloom:dev";

/// The label that says a Node's region.
pub const REGION: &str = "topology.kubernetes.io/region";

/// The host of the API server, in a region of its own.
pub const CONTROL: &str = "control";

/// A time limit for kubectl that holds on a machine with much to do.
pub const LONG: &str = "--timeout=180s";

/// A region for each of these hosts, the last of them behind NAT.
pub fn four_regions() -> Vec<Region> {
    vec![
        Region::new("ams", &["ams-1"]),
        Region::new("waw", &["waw-1"]),
        Region::new("lon", &["lon-1"]),
        Region::new("ire", &["ire-1"]).behind_nat(),
    ]
}

/// Builds these regions and one for the control plane.
fn lab(regions: Vec<Region>, pods: bool) -> Lab {
    let regions = [vec![Region::new("provider", &[CONTROL])], regions].concat();
    Lab::build(&Layout { regions, pods }).unwrap()
}

/// Starts a cluster over these regions, of which no host is a node yet. Nodes have our image, with the plugins that lie
/// here, if any.
pub fn start(regions: Vec<Region>, plugins: Option<&Path>) -> Cluster {
    let mut cluster = Cluster::start(lab(regions, false), CONTROL).unwrap();
    let image = recipe::wireloom(IMAGE, "test", &wireloom_binary(), plugins).unwrap();
    cluster.provide(&image).unwrap();
    cluster
}

/// Starts an API server beside these regions, which knows the resource `Peer`. With `pods`, each host has one.
pub fn api_server(regions: Vec<Region>, pods: bool) -> (Lab, ApiServer) {
    let lab = lab(regions, pods);
    let addresses = lab.plan().regions[0].hosts[0].public.unwrap();
    let addresses = addresses.map(|public| public.address());
    let api = ApiServer::start_on(lab.host(CONTROL).unwrap(), &addresses).unwrap();
    api.apply(include_str!("../../deploy/base/crds.yaml")).unwrap();
    (lab, api)
}

/// Makes a host of a lab a Node by this name, with its region's label and with its pod's prefixes if it has one.
pub fn declare(api: &ApiServer, lab: &Lab, name: &str, host: &str) {
    let mut regions = lab.plan().regions.iter();
    let is_it = |plan: &&wireloom_lab::plan::HostPlan| plan.name == host;
    let (region, plan) = regions
        .find_map(|region| Some((region, region.hosts.iter().find(is_it)?)))
        .expect("the lab has the host");
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { REGION: region.name } },
    });
    if let Some(pod) = &plan.pod {
        let pods = pod.prefixes.map(|prefix| prefix.to_string());
        node["spec"] = json!({ "podCIDR": pods[0], "podCIDRs": pods });
    }
    api.apply(&node.to_string()).unwrap();
}

/// The arguments by which a command knows the cluster, once [`admit`] has written what they name.
pub const CLUSTER: &str = "--kubeconfig /run/test/kubeconfig --namespace kube-system";

/// Gives a host what its programs need to speak with the API server.
pub fn admit(host: &Host, api: &ApiServer) {
    host.write("/run/test/kubeconfig", api.kubeconfig()).unwrap();
}

/// The command line of the agent of this Node, on a host that is [admitted](admit). Hosts share the machine's `/etc`,
/// which is not theirs to write to.
pub fn agent(name: &str) -> String {
    format!(
        "agent {CLUSTER} --hostname {name} --key /run/test/key --state-dir /run/test/state --cni=false"
    )
}

/// What a host's agent says of itself; nothing as long as it can't be asked.
pub fn status(host: &Host) -> Value {
    serde_json::from_str(&run(host, "wireloom status -o json").stdout).unwrap_or_default()
}

/// Runs kubectl where the control plane is, and returns what it prints.
pub fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    let kubectl = cluster.api().spawn_kubectl(arguments).unwrap();
    kubectl.success(Duration::from_secs(200)).unwrap().stdout
}

/// Asks kubectl for JSON.
pub fn read(cluster: &Cluster, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--output=json"]].concat();
    serde_json::from_str(&kubectl(cluster, &arguments)).unwrap()
}

/// Waits until every pod of a DaemonSet in `kube-system` is the newest and ready.
pub fn rolled_out(cluster: &Cluster, set: &str) {
    rolled_out_in(cluster, "kube-system", set);
}

/// The same in another namespace.
pub fn rolled_out_in(cluster: &Cluster, namespace: &str, set: &str) {
    let set = format!("daemonset/{set}");
    kubectl(cluster, &["rollout", "status", &set, "--namespace", namespace, LONG]);
}

/// Replaces every pod of a DaemonSet.
pub fn restart(cluster: &Cluster, namespace: &str, set: &str) {
    kubectl(
        cluster,
        &["rollout", "restart", "--namespace", namespace, &format!("daemonset/{set}")],
    );
    rolled_out_in(cluster, namespace, set);
}
