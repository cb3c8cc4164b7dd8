//! An agent whose data plane is another process.

use std::time::Duration;

use serde_json::Value;
use wireloom_lab::Flow;
use wireloom_testkit::promised;
use wireloom_tests::device::tunnel;
use wireloom_tests::ok;

use crate::rig::Cluster;
use crate::{need_all, regions};

pub(crate) fn an_agent_is_killed_and_started_again_under_load_and_no_connection_is_lost() {
    need_all!();
    wireloom_testkit::need!(program "iperf3");
    wireloom_testkit::need!(program "ss");
    wireloom_testkit::need!(program "wg");
    let all = ["ams-1", "ams-2", "waw-1"];
    let mut cluster = Cluster::empty(regions());
    // Each carries what is between the others.
    cluster.declare("ams-1", "ams-1");
    cluster.kubectl("annotate node ams-1 kilo.squat.ai/leader=true");
    let devices = ["ams-1", "waw-1"].map(|name| tunnel(cluster.host(name), "wl0"));
    cluster.start_as("ams-1", "ams-1", "--device uapi");
    cluster.declare("waw-1", "waw-1");
    cluster.start_as("waw-1", "waw-1", "--device uapi");
    cluster.join("ams-2");
    for name in all {
        cluster.knows(name, &all);
    }
    cluster.all_pods_meet(&all);
    let mut open = cluster.connect("ams-2", "waw-1");
    let handshakes = |cluster: &Cluster| {
        ["ams-1", "waw-1"].map(|name| ok(cluster.host(name), "wg show wl0 latest-handshakes"))
    };
    let before = handshakes(&cluster);

    let [server, client] = ["waw-1", "ams-2"].map(|name| cluster.pod(name).clone());
    let [there, here] = [&server, &client].map(|pod| cluster.host(&pod.name));
    let flows = server.address.map(|address| Flow::start(here, there, address.address()).unwrap());
    let writes = |status: &Value| status["work"]["device_writes"].clone();
    for name in ["ams-1", "waw-1"] {
        cluster.kill(name);
        cluster.start_as(name, name, "--device uapi");
        let status = cluster.knows(name, &all);
        let is_ready = |status: &Value| status["problems"] == Value::Array(Vec::new());
        cluster.until(name, "its plan is in force", is_ready);
        assert_eq!(writes(&status), 0, "{name}: the device had all of it: {status:#}");
    }
    for stood in flows.map(|flow| flow.stop().unwrap()) {
        assert!(stood < promised(Duration::from_secs(1)), "nothing arrived for {stood:?}");
    }
    open.iter_mut().for_each(|connection| connection.goes_on());
    assert_eq!(handshakes(&cluster), before, "the sessions are the same");
    drop(devices);
}
