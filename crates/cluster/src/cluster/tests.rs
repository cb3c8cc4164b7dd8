//! That a cluster ends with its process, even one that is killed.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wireloom_lab::{Layout, Region};
use wireloom_testkit::need;

use super::*;
use crate::groups;

const HOLDER: &str = "cluster::tests::holds_a_cluster";

#[test]
#[ignore = "runs for ever: it is the process that another test kills"]
fn holds_a_cluster() {
    let regions = vec![Region::new("here", &["control", "node"])];
    let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
    let mut cluster = Cluster::start(lab, "control").unwrap();
    cluster.join(&["node"]).unwrap();
    // A controller makes the account of its pods in its own time.
    let account = ["wait", "serviceaccount/default", "--for=create", "--timeout=50s"];
    cluster.api().kubectl(account).unwrap();
    cluster.api().apply(&pod().to_string()).unwrap();
    cluster.api().kubectl(["wait", "pod/here", "--for=condition=Ready", "--timeout=50s"]).unwrap();
    println!("\nrunning");
    loop {
        thread::park();
    }
}

/// A pod on the host's network, which needs no other.
fn pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "here", "namespace": "default" },
        "spec": {
            "nodeName": "node",
            "hostNetwork": true,
            "containers": [{ "name": "here", "image": node::TOOLS, "imagePullPolicy": "Never" }],
        },
    })
}

#[test]
fn a_killed_process_leaves_nothing_of_its_cluster() {
    need!(root);
    need!(cluster);
    for program in ["busybox", "containerd", "ldd", "runc"] {
        need!(program program);
    }
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", HOLDER, "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let id = holder.id();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "running"), "the cluster never ran");
    let programs = groups::processes_of(id);
    assert!(programs.len() > 3, "containerd, kubelet, a pod: {programs:?}");

    holder.kill().unwrap();
    holder.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !groups::processes_of(id).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", groups::processes_of(id));
        thread::sleep(Duration::from_millis(20));
    }
    drop(Groups::new());
    assert!(!groups::exist_for(id));
}
