//! An agent that is stopped while another one stands by: addresses, routes and connections last.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::flow::Flow;
use wireloom_tests::{NetworkState, eventually, ok, ping, run, within};

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent with the rights of a pod, and with more arguments.
fn agent(host: &Host, api: &ApiServer, more: &[&str]) -> Child {
    host.write("/run/test/kubeconfig", api.kubeconfig()).unwrap();
    let name = format!("--hostname={}", host.name());
    let wireloom = wireloom_binary().display().to_string();
    let line = [
        "--bounding-set=-all,+net_admin",
        &wireloom,
        "agent",
        "--namespace=kube-system",
        "--kubeconfig=/run/test/kubeconfig",
        &name,
        "--key=/run/test/key",
        "--state-dir=/run/test/state",
    ];
    host.spawn("setpriv", [&line[..], more].concat()).unwrap()
}

/// A lab of these regions and an API server in one more, which knows the resource `Peer`.
fn cluster(regions: Vec<Region>) -> (Lab, ApiServer) {
    let regions = [vec![Region::new("provider", &["control"])], regions].concat();
    let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
    let addresses = lab.plan().regions[0].hosts[0].public.unwrap().map(|public| public.address());
    let api = ApiServer::start_on(lab.host("control").unwrap(), &addresses).unwrap();
    api.apply(include_str!("../../deploy/base/crds.yaml")).unwrap();
    (lab, api)
}

#[test]
fn an_agent_takes_over_from_one_that_is_stopped_and_connections_last() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in ["iperf3", "setpriv", "ss", "sysctl"] {
        need!(program program);
    }
    let (lab, api) = cluster(vec![
        Region::new("ams", &["ams-1"]),
        Region::new("waw", &["waw-1"]),
        Region::new("ire", &["ire-1"]).behind_nat(),
    ]);
    let hosts = ["ams-1", "waw-1", "ire-1"].map(|name| lab.host(name).unwrap());
    let before = hosts.map(NetworkState::of);
    for (host, region) in hosts.iter().zip(["ams", "waw", "ire"]) {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": {
            "name": host.name(),
            "labels": { "topology.kubernetes.io/region": region },
            "annotations": if region == "ire" { json!({"kilo.squat.ai/persistent-keepalive": "25"}) } else { json!({}) },
        }});
        api.apply(&node.to_string()).unwrap();
    }
    let mut agents = hosts.map(|host| agent(host, &api, &["--cni=false"]));
    let overlay = hosts.map(|host| {
        let mut status = Value::Null;
        within(PATIENCE, "the node is in the mesh", || {
            status = serde_json::from_str(&run(host, "wireloom status -o json").stdout)
                .unwrap_or_default();
            status["overlay_addresses"][0].is_string()
        });
        status["overlay_addresses"][0].as_str().unwrap().to_owned()
    });
    // The one behind NAT dials in.
    ping(hosts[2], &overlay[0]);
    ping(hosts[1], &overlay[0]);

    // Both ways: what is sent by the node whose agent is replaced, and what it is sent.
    for (from, to) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
        let flow = Flow::start(hosts[from], hosts[to], &overlay[to]);
        for (host, old) in hosts.iter().zip(&mut agents) {
            let device = ok(host, "ip -o link show wl0");
            let new = agent(host, &api, &["--cni=false"]);
            eventually("the new one stands by", || new.written().unwrap().1.contains("stands by"));
            let old = std::mem::replace(old, new).stop(PATIENCE).unwrap();
            assert!(old.status.success(), "{}", old.stderr);
            assert!(old.stderr.contains("handed over"), "{}", old.stderr);
            within(PATIENCE, "the new one answers", || {
                run(host, "wireloom status").status.success()
            });
            assert_eq!(ok(host, "ip -o link show wl0"), device);
        }
        let stood = flow.stop();
        println!("two handovers held a flow up for {stood:?} at most");
        assert!(stood < Duration::from_secs(2), "nothing arrived for {stood:?}");
    }

    for agent in agents {
        agent.stop(PATIENCE).unwrap();
    }
    for (host, before) in hosts.iter().zip(&before) {
        NetworkState::of(host).assert_same(before);
    }
}

#[test]
fn who_stood_by_and_is_gone_takes_nothing_over() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    need!(program "setpriv");
    let (lab, api) = cluster(vec![Region::new("ams", &["ams-1"])]);
    let host = lab.host("ams-1").unwrap();
    let before = NetworkState::of(host);
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": {
        "name": host.name(),
        "labels": { "topology.kubernetes.io/region": "ams" },
    }, "spec": { "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"] }});
    api.apply(&node.to_string()).unwrap();
    let told = "/run/test/net.d/10-wireloom.conflist";
    let cni = [&format!("--cni-path={told}"), "--cni-bin=/run/test/bin"];
    ok(host, "mkdir -p /run/test/net.d /run/test/bin");
    let old = agent(host, &api, &cni);
    let is_told = || run(host, &format!("test -e {told}")).status.success();
    within(PATIENCE, "the container runtime is told of pods' network", is_told);
    let new = agent(host, &api, &cni);
    eventually("the new one stands by", || new.written().unwrap().1.contains("stands by"));
    drop(new);

    let old = old.stop(PATIENCE).unwrap();
    assert!(old.status.success() && !old.stderr.contains("handed over"), "{}", old.stderr);
    assert!(!is_told(), "nobody gives pods their network, and yet the runtime is told so");
    NetworkState::of(host).assert_same(&before);
}
