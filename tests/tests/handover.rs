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

/// An agent with the rights of a pod.
fn agent(host: &Host, api: &ApiServer) -> Child {
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
        "--cni=false",
    ];
    host.spawn("setpriv", line).unwrap()
}

#[test]
fn an_agent_takes_over_from_one_that_is_stopped_and_connections_last() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in ["iperf3", "setpriv", "ss", "sysctl"] {
        need!(program program);
    }
    let regions = vec![
        Region::new("provider", &["control"]),
        Region::new("ams", &["ams-1"]),
        Region::new("waw", &["waw-1"]),
        Region::new("ire", &["ire-1"]).behind_nat(),
    ];
    let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
    let addresses = lab.plan().regions[0].hosts[0].public.unwrap().map(|public| public.address());
    let api = ApiServer::start_on(lab.host("control").unwrap(), &addresses).unwrap();
    api.apply(include_str!("../../deploy/base/crds.yaml")).unwrap();
    let hosts = ["ams-1", "waw-1", "ire-1"].map(|name| lab.host(name).unwrap());
    let before = hosts.map(NetworkState::of);
    for (host, region) in hosts.iter().zip(["ams", "waw", "ire"]) {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": {
            "name": host.name(),
            "labels": { "topology.kubernetes.io/region": region },
        }});
        api.apply(&node.to_string()).unwrap();
    }
    let mut agents = hosts.map(|host| agent(host, &api));
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
            let new = agent(host, &api);
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
