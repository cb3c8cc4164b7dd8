//! Machines whose clocks do not agree.

use serde_json::Value;
use wireloom_testkit::wireloom_binary;
use wireloom_tests::{ok, run, within};

use crate::rig::{Cluster, PATIENCE, node};
use crate::{need_all, regions};

pub(crate) fn a_node_whose_clock_is_a_day_ahead_is_a_node_like_any_other() {
    need_all!();
    wireloom_testkit::need!(program "faketime");
    let all = ["ams-1", "ams-2", "waw-1", "ire-1"];
    let mut cluster = Cluster::empty(regions());
    // It is Amsterdam's gateway, and there is another one, so that it would be replaced if anybody took it for dead.
    cluster.declare("ams-1", "ams-1");
    cluster.kubectl("annotate node ams-1 kilo.squat.ai/leader=true");
    start_ahead(&mut cluster, "ams-1");
    for name in &all[1..] {
        cluster.join(name);
    }
    for name in all {
        cluster.knows(name, &all);
    }
    cluster.all_pods_meet(&all);
    let mut open = cluster.connect("ire-1", "ams-2");
    let beats = |name: &str| {
        let lease = cluster.json(&format!("get lease {name} --namespace=kube-system"));
        lease["spec"]["renewTime"].as_str().unwrap().to_owned()
    };
    assert!(beats("ams-1")[..10] > beats("waw-1")[..10], "it is tomorrow for it");

    // A minute without a sign of life would make a node miss another: everybody has given four more, 20 s apart.
    for _ in 0..4 {
        let last = all.map(beats);
        within(PATIENCE, "everybody gives another sign of life", || {
            all.iter().zip(&last).all(|(name, last)| beats(name) != *last)
        });
    }
    for name in all {
        let status = cluster.status(name);
        let home = |of: &str| node(&status, of)["home"].clone();
        assert_eq!([home("ams-1"), home("ams-2")], ["ams-1", "ams-1"], "{name}: {status:#}");
        // Only its own agent says so, and nothing follows from it.
        let told: &[&str] = if name == "ams-1" { &["clock"] } else { &[] };
        let problems = status["problems"].as_array().unwrap().iter();
        let kinds: Vec<&str> = problems.map(|problem| problem["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, told, "{name}: {status:#}");
    }
    let line = cluster.agent_line("waw-1").replacen("agent", "wireloom doctor -o json", 1);
    let findings: Value = serde_json::from_str(&run(cluster.host("waw-1"), &line).stdout).unwrap();
    let clocks: Vec<&str> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["check"] == "clock")
        .map(|finding| finding["what"].as_str().unwrap())
        .collect();
    let said = "the clock of node ams-1 was more than an hour ahead of the API server's at its last sign of life";
    assert!(clocks == [said] || clocks == [said.replace("an hour", "a day")], "{findings:#}");
    open.iter_mut().for_each(|connection| connection.goes_on());

    // Somebody sets its clock, so that it goes back by a day.
    cluster.kill("ams-1");
    cluster.start("ams-1");
    cluster.knows("ams-1", &all);
    cluster.all_pods_meet(&all);
    open.iter_mut().for_each(|connection| connection.goes_on());
}

/// Starts a host's agent with a clock that is a day ahead. The clock that counts from the machine's start is right.
fn start_ahead(cluster: &mut Cluster, name: &str) {
    cluster.prepare(name);
    let host = cluster.host(name);
    // What the library shares among processes by memory stays on this host.
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    let mount = move || rustix::mount::mount("tmpfs", "/dev/shm", "tmpfs", flags, None);
    host.run(mount).unwrap().unwrap();
    let library = ok(host, "faketime -m -f +1d printenv LD_PRELOAD");
    let line = format!(
        "LD_PRELOAD={} FAKETIME=+1d FAKETIME_DONT_FAKE_MONOTONIC=1 {} {}",
        library.trim(),
        wireloom_binary().display(),
        cluster.agent_line(name)
    );
    let agent = host.spawn("env", line.split_ascii_whitespace()).unwrap();
    cluster.adopt(name, agent);
}
