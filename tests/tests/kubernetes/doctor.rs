//! `wireloom doctor` on nodes of a cluster.

use std::net::UdpSocket;

use serde_json::{Value, json};
use wireloom_tests::{Keys, eventually, ok, run};

use crate::rig::Cluster;
use crate::{need_all, regions};

/// What the agent of a host is told, and its doctor.
fn told(cluster: &Cluster, name: &str) -> String {
    cluster.agent_line(name).strip_prefix("agent").unwrap().to_owned()
}

/// What the doctor finds on a host beside notes, after checking that the exit code says the same.
fn faults(cluster: &Cluster, host: &str, arguments: &str) -> Vec<Value> {
    let told = run(cluster.host(host), &format!("wireloom doctor -o json {arguments}"));
    let findings: Vec<Value> = serde_json::from_str(&told.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", told.stdout, told.stderr));
    let faults: Vec<Value> =
        findings.into_iter().filter(|finding| finding["severity"] != "note").collect();
    assert_eq!(told.status.success(), faults.is_empty(), "{faults:#?}");
    faults
}

/// The one fault that there must be, and what to do about it.
fn only(cluster: &Cluster, host: &str, arguments: &str, check: &str, what: &str) -> String {
    let faults = faults(cluster, host, arguments);
    assert!(faults.len() == 1 && faults[0]["check"] == check, "{check}: {faults:#?}");
    assert!(faults[0]["what"].as_str().unwrap().contains(what), "{what}: {faults:#?}");
    faults[0]["do"].as_str().unwrap().to_owned()
}

const NONE: [Value; 0] = [];

pub(crate) fn a_healthy_node_is_told_so_before_during_and_after_and_its_mesh_comes_from_where_it_is_known()
 {
    need_all!();
    let mut cluster = Cluster::empty(regions());
    for name in ["waw-1", "lon-1"] {
        cluster.declare(name, name);
        cluster.prepare(name);
        assert_eq!(faults(&cluster, name, &told(&cluster, name)), NONE, "{name}");
    }
    let nothing = ["get", "nodes", "--output=jsonpath={.items[*].metadata.annotations}"];
    assert_eq!(cluster.api.kubectl(nothing).unwrap(), "", "nothing is written");

    for name in ["waw-1", "lon-1"] {
        cluster.start(name);
    }
    for name in ["waw-1", "lon-1"] {
        cluster.knows(name, &["lon-1", "waw-1"]);
    }
    cluster.pods_meet("waw-1", "lon-1");
    let arguments = told(&cluster, "waw-1");
    assert_eq!(faults(&cluster, "waw-1", &arguments), NONE);
    // Beside the agent, without a word of its settings: it knows the mesh.
    let beside = "--key /run/test/key --state-dir /run/test/state";
    assert_eq!(faults(&cluster, "waw-1", beside), NONE);
    let text = ok(cluster.host("waw-1"), &format!("wireloom doctor {beside}"));
    assert!(text.contains("--kubeconfig FILE") && text.ends_with("nothing is wrong\n"), "{text}");

    // Without agent and API server, the last mesh on disk, which may come there seconds after it was known.
    let node = cluster.json("get node waw-1");
    let key = node["metadata"]["annotations"]["kilo.squat.ai/key"].as_str().unwrap();
    let kept = format!("grep -F {key} /run/test/state/mesh.json");
    eventually("the mesh is on disk", || run(cluster.host("waw-1"), &kept).status.success());
    cluster.kill("waw-1");
    eventually("it is told of as gone", || {
        !run(cluster.host("waw-1"), "wireloom status").status.success()
    });
    ok(cluster.host("waw-1"), "wireloom cleanup");
    assert_eq!(faults(&cluster, "waw-1", &arguments), NONE);
    cluster.api.stop();
    only(&cluster, "waw-1", &arguments, "api", "does not answer");
    let holder = cluster.host("waw-1").run(|| UdpSocket::bind("0.0.0.0:51820").unwrap()).unwrap();
    let found = faults(&cluster, "waw-1", &arguments);
    assert!(found.iter().any(|fault| fault["check"] == "port"), "{found:#?}");
    drop(holder);
}

pub(crate) fn what_stands_in_the_way_of_a_node_is_found_by_name_before_its_first_start() {
    need_all!();
    let cluster = Cluster::empty(regions());
    let (node, arguments) = ("waw-1", told(&cluster, "waw-1"));
    let host = cluster.host(node);
    cluster.prepare(node);
    only(&cluster, node, &arguments, "mesh", "the cluster has no Node waw-1");
    cluster.declare(node, node);
    cluster.declare("lon-1", "lon-1");
    assert_eq!(faults(&cluster, node, &arguments), NONE);

    let holder = host.run(|| UdpSocket::bind("0.0.0.0:51820").unwrap()).unwrap();
    only(&cluster, node, &arguments, "port", &std::process::id().to_string());
    assert_eq!(faults(&cluster, node, &format!("{arguments} --port 51821")), NONE);
    drop(holder);

    // A range of this machine's network, of the cluster's Services, and of another machine.
    ok(host, "ip link add other0 type bridge");
    ok(host, "ip link set other0 up");
    ok(host, "ip address add 10.4.0.1/25 dev other0");
    only(&cluster, node, &arguments, "ranges", "this host's route to 10.4.0.0/25 on other0");
    ok(host, "ip link delete other0");
    let services = cluster.json("get servicecidrs kubernetes");
    let services = services["spec"]["cidrs"][0].as_str().unwrap().to_owned();
    let over = arguments.replace("10.4.0.0/16,fd04::/64", &services);
    only(&cluster, node, &over, "ranges", &format!("overlaps the Services {services}"));
    let address = json!([{ "type": "InternalIP", "address": "10.4.0.9" }]);
    let status = json!({ "status": { "addresses": address } }).to_string();
    let say = ["patch", "node", "lon-1", "--subresource=status", "--patch"];
    cluster.api.kubectl(say.into_iter().chain([status.as_str()])).unwrap();
    only(&cluster, node, &arguments, "ranges", "node lon-1's address 10.4.0.9");
    let status = json!({ "status": { "addresses": null } }).to_string();
    cluster.api.kubectl(say.into_iter().chain([status.as_str()])).unwrap();

    // What lies behind a Peer is reached through the mesh, the API server itself for one.
    let api = cluster.plan("control").public.unwrap()[0].address();
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "detour" },
        "spec": { "allowedIPs": [format!("{api}/32")], "publicKey": Keys::new().public },
    });
    cluster.api.apply(&peer.to_string()).unwrap();
    let remedy = only(&cluster, node, &arguments, "api", &api.to_string());
    assert!(remedy.contains("--master"), "{remedy}");
    cluster.kubectl("delete peer detour");
    assert_eq!(faults(&cluster, node, &arguments), NONE);
}

pub(crate) fn what_an_agent_may_not_is_found_with_the_rule_that_is_missing() {
    need_all!();
    let cluster = Cluster::empty(regions());
    let node = "waw-1";
    cluster.declare(node, node);
    cluster.api.apply(include_str!("../../../deploy/base/namespace.yaml")).unwrap();
    cluster.api.apply(include_str!("../../../deploy/base/access.yaml")).unwrap();
    let token = cluster.kubectl("create token wireloom --namespace=kube-system");
    let kubeconfig = cluster.api.kubeconfig_of_bearer(token.trim());
    cluster.host(node).write("/run/test/kubeconfig", kubeconfig).unwrap();
    let arguments = told(&cluster, node);
    let arguments = arguments.replace("--namespace kube-system", "--namespace wireloom");
    let arguments = format!("{arguments} --daemon-set kube-system/wireloom");
    assert_eq!(faults(&cluster, node, &arguments), NONE, "what is granted is enough");

    let elsewhere = arguments.replace("--namespace wireloom", "--namespace elsewhere");
    let remedy = only(&cluster, node, &elsewhere, "rights", "leases.coordination.k8s.io");
    assert!(remedy.contains("Role in the namespace elsewhere"), "{remedy}");

    // The first rule of the ClusterRole is that of Nodes, the second that of Peers.
    let change = |to: &str| {
        let line = ["patch", "clusterrole", "wireloom", "--type=json", "--patch", to];
        cluster.api.kubectl(line).unwrap();
    };
    change(
        "[{\"op\":\"replace\",\"path\":\"/rules/0/verbs\",\"value\":[\"get\",\"list\",\"watch\"]},\
          {\"op\":\"replace\",\"path\":\"/rules/1/verbs\",\"value\":[\"list\"]}]",
    );
    let said = |faults: &[Value]| -> Vec<String> {
        faults.iter().map(|fault| fault["what"].as_str().unwrap().to_owned()).collect()
    };
    eventually("the rules are taken", || faults(&cluster, node, &arguments).len() == 2);
    let found = faults(&cluster, node, &arguments);
    let lacks = ["the agent may not patch nodes", "the agent may not watch peers.kilo.squat.ai"];
    assert_eq!(said(&found), lacks);
    let remedy = found[0]["do"].as_str().unwrap();
    assert!(remedy.contains("resources: [nodes], verbs: [patch]"), "{remedy}");
    change(
        "[{\"op\":\"replace\",\"path\":\"/rules/0/verbs\",\"value\":[\"get\",\"list\",\"watch\",\"patch\"]},\
          {\"op\":\"replace\",\"path\":\"/rules/1/verbs\",\"value\":[\"list\",\"watch\"]}]",
    );
    eventually("the rules are back", || faults(&cluster, node, &arguments).is_empty());

    // A token of no node may write no node's annotations where the policy is in force.
    cluster.api.apply(include_str!("../../../deploy/base/admission.yaml")).unwrap();
    eventually("the policy is in force", || !faults(&cluster, node, &arguments).is_empty());
    let found = faults(&cluster, node, &arguments);
    let policy = "an agent writes the Node and the Lease of its own node alone";
    assert!(said(&found).iter().all(|what| what.contains(policy)), "{found:#?}");

    let unknown = cluster.api.kubeconfig_of_bearer("nobody");
    cluster.host(node).write("/run/test/kubeconfig", unknown).unwrap();
    let found = faults(&cluster, node, &arguments);
    let is_told = |check: &str| found.iter().any(|fault| fault["check"] == check);
    assert!(is_told("api") && said(&found).iter().any(|what| what.contains("401")), "{found:#?}");
}
