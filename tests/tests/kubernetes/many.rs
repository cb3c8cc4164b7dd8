//! Two hundred Nodes, five of them real: what idling costs the cluster and a machine.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_model::PrivateKey;

use crate::rig::{Cluster, names};
use crate::{need_all, regions};

const REAL: [&str; 5] = ["ams-1", "ams-2", "waw-1", "lon-1", "ire-1"];

/// Nodes that are only objects, and give their signs of life. They are in regions of their own, so that no real one has
/// its gateway among them.
const OTHERS: u8 = 195;

/// How often a Lease is renewed.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// How many heartbeats long is measured: a minute.
const ROUNDS: u64 = 3;

fn list(items: impl Iterator<Item = Value>) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>() }).to_string()
}

fn other_node(number: u8) -> Value {
    let key = PrivateKey::from_random([number.wrapping_add(1); 32]).public_key();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": format!("other-{number}"),
            "labels": { "topology.kubernetes.io/region": format!("far-{}", number % 4) },
            "annotations": {
                "kilo.squat.ai/key": key,
                "kilo.squat.ai/endpoint": format!("198.51.100.{number}:51820"),
                "kilo.squat.ai/internal-ip": format!("10.250.0.{number}/24"),
                "kilo.squat.ai/granularity": "location",
            },
        },
        "spec": { "podCIDR": format!("10.201.{number}.0/24") },
    })
}

/// The heartbeat of a node that is only an object.
fn beat(number: u8, round: u64) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": format!("other-{number}"), "namespace": "kube-system" },
        "spec": {
            "holderIdentity": format!("other-{number}"),
            "leaseDurationSeconds": 60,
            "renewTime": format!("2026-01-01T00:{:02}:{:02}.000000Z", round / 60, round % 60),
        },
    })
}

/// The writes to Nodes, Leases and Events that the server has counted so far. Its own Lease, by which it is known to others
/// of its kind, it writes by PUT.
fn writes(cluster: &Cluster) -> u64 {
    let metrics = cluster.kubectl("get --raw /metrics");
    let counted = metrics.lines().filter(|line| {
        let is_one_of = |key: &str, values: &[&str]| {
            values.iter().any(|value| line.contains(&format!("{key}=\"{value}\"")))
        };
        line.starts_with("apiserver_request_total{")
            && is_one_of("verb", &["APPLY", "PATCH", "POST"])
            && is_one_of("resource", &["nodes", "leases", "events"])
    });
    counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// The processor time that a process has used (proc_pid_stat(5), fields 14 and 15, in ticks of 10 ms).
fn busy(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

pub(crate) fn of_two_hundred_nodes_five_are_real_and_ask_little_of_the_cluster_and_of_their_machines()
 {
    need_all!();
    let mut cluster = Cluster::empty(regions());
    let mut round = 0;
    let mut renew = |cluster: &Cluster| {
        round += 1;
        cluster.api.apply(&list((0..OTHERS).map(|number| beat(number, round)))).unwrap();
    };
    cluster.api.apply(&list((0..OTHERS).map(other_node))).unwrap();
    renew(&cluster);
    for name in REAL {
        cluster.join(name);
    }
    for name in REAL {
        cluster.until(name, "all are in its mesh", |status| {
            names(status).len() == REAL.len() + usize::from(OTHERS)
        });
    }
    cluster.all_pods_meet(&REAL);
    let mut open = cluster.connect("ire-1", "ams-2");

    let state = |cluster: &Cluster| -> (u64, Vec<Duration>) {
        let spent = REAL.iter().map(|name| busy(cluster.agent(name).id())).collect();
        (writes(cluster), spent)
    };
    renew(&cluster);
    let (written, spent) = state(&cluster);
    for _ in 0..ROUNDS {
        let next = Instant::now() + HEARTBEAT;
        renew(&cluster);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let (written_then, spent_then) = state(&cluster);
    let written = written_then - written - ROUNDS * u64::from(OTHERS);
    let spent: Vec<Duration> =
        spent_then.iter().zip(&spent).map(|(then, at)| *then - *at).collect();
    println!("200 nodes, 5 of them real, one minute: {written} writes, processor time {spent:?}");
    // A heartbeat each 20 s, and one more that falls into the minute by its edges.
    let real = REAL.len() as u64;
    assert!((2 * real..=4 * real).contains(&written), "{written} writes");
    for (name, spent) in REAL.iter().zip(&spent) {
        assert!(*spent < Duration::from_secs(1), "{name} used {spent:?} of its processor");
    }
    open.iter_mut().for_each(|connection| connection.goes_on());
    cluster.all_pods_meet(&REAL);
}
