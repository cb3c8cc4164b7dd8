//! Two hundred Nodes, five of them real: what idling costs the cluster and a machine. In a process of its own, since it
//! measures.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod rig;

use std::time::Duration;

use rig::{Rig, key, mesh, node};
use serde_json::json;
use wireloom_kube::KubeConfig;
use wireloom_model::{Held, PrivateKey};
use wireloom_registry::{Publication, Registry as _};
use wireloom_testkit::need;

const NODES: usize = 200;
const REAL: u8 = 5;

/// The processor time that this process has used, in clock ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idling_costs_three_writes_a_minute_and_node() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            let byte = [u8::try_from(number).unwrap(), 77].repeat(16);
            let key = PrivateKey::from_random(byte.try_into().unwrap()).public_key();
            let is_real = number < usize::from(REAL);
            node(
                &format!("n{number:03}"),
                ["nl", "pl", "uk", "ie"][number % 4],
                (!is_real).then_some(key),
            )
        })
        .collect();
    rig.api
        .apply(&json!({ "apiVersion": "v1", "kind": "List", "items": nodes }).to_string())
        .unwrap();
    let mut registries = Vec::new();
    for number in 0..REAL {
        let name = format!("n{number:03}");
        let (mut registry, facts) = rig.registry(&name, number + 1, KubeConfig::HEARTBEAT).await;
        let publication = Publication {
            node: name.parse().unwrap(),
            key: key(number + 1),
            held: Held { gateway: true, ..Held::default() },
            discovered_endpoints: std::collections::BTreeMap::new(),
        };
        registry.publish(&publication).await.unwrap();
        registries.push((registry, facts));
    }
    for (registry, _) in &mut registries {
        mesh(registry, "all are there", |mesh| {
            mesh.nodes.len() == NODES
                && mesh.nodes.iter().filter(|node| node.held.gateway).count() == usize::from(REAL)
        })
        .await;
    }
    let (before, busy) = (rig.writes(), ticks());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (written, busy) = (rig.writes() - before, ticks() - busy);
    println!(
        "{NODES} nodes, {REAL} real, one minute: {written} writes, {} ms of processor time",
        busy * 10
    );
    // A heartbeat each 20 s, and one more that falls into the minute by its edges.
    assert!(written >= 2 * u64::from(REAL), "heartbeats are counted: {written}");
    assert!(written <= 4 * u64::from(REAL), "{written} writes");
    // Five nodes' registries, and the reading of the server's metrics.
    assert!(busy * 10 < 3000, "{} ms of processor time", busy * 10);
}
