//! How long one node of a large mesh takes to plan: 10,000 nodes in 100 locations, both families, two gateways each.
//!
//! `cargo bench -p wireloom-benches --bench plan`

#![expect(clippy::expect_used, reason = "the mesh is made here, and is as it is made")]

use std::hint::black_box;
use std::num::{NonZeroU16, NonZeroU32};

use criterion::{Criterion, criterion_group, criterion_main};
use wireloom_model::{
    Encapsulation, Filter, GatewayCount, Mesh, Node, NodeName, Overlay, PublicKey, Snapshot,
};
use wireloom_topology::{Topology, plan};

const LOCATIONS: usize = 100;
const NODES: usize = 10_000;

fn node(at: usize) -> Node {
    let location = at % LOCATIONS;
    let text = "every generated name and address parses";
    let mut key = [0; 32];
    key[..8].copy_from_slice(&at.to_le_bytes());
    let mut node = Node::new(
        format!("node-{at}").parse().expect(text),
        PublicKey::from_bytes(key),
        format!("location-{location}").parse().expect(text),
    );
    let (high, low) = (at / 256, at % 256);
    node.internal_addresses = vec![
        format!("10.{location}.{}.{}/16", at / LOCATIONS / 250, at / LOCATIONS % 250 + 1)
            .parse()
            .expect(text),
        format!("fd10:0:0:{location:x}::{at:x}/64").parse().expect(text),
    ];
    node.pod_prefixes = vec![
        format!("172.{}.{}.0/26", 16 + high % 16, low).parse().expect(text),
        format!("fd42:0:0:{at:x}::/64").parse().expect(text),
    ];
    // 172.16.0.0/12 is used up after 4,096 nodes.
    if high >= 16 {
        node.pod_prefixes[0] = format!("100.{}.{low}.0/26", 64 + high % 64).parse().expect(text);
    }
    node.endpoint = Some(format!("203.0.113.1:{}", 1024 + at).parse().expect(text));
    node
}

fn mesh() -> Snapshot {
    let overlay = ["10.192.0.0/10", "fd44::/64"].map(|range| range.parse().expect("a prefix"));
    Snapshot {
        mesh: Mesh {
            overlay: Overlay::new(overlay).expect("one range of each family"),
            gateways: GatewayCount::AtMost(NonZeroU32::new(2).expect("2 is not 0")),
            port: NonZeroU16::new(51820).expect("the port is not 0"),
            mtu: None,
            carry_internal_addresses: true,
            encapsulation: Encapsulation::default(),
            filter: Filter::default(),
        },
        nodes: (0..NODES).map(node).collect(),
        peers: Vec::new(),
        problems: Vec::new(),
    }
}

/// The mesh as it is once all nodes have published what they hold.
fn settled() -> Snapshot {
    let mut snapshot = mesh();
    let nodes = Topology::of(&snapshot).nodes();
    let mut held: Vec<_> = snapshot.nodes.iter_mut().collect();
    held.sort_by(|a, b| a.name.cmp(&b.name));
    for (node, summary) in held.into_iter().zip(nodes) {
        node.held.overlay_addresses = summary.overlay_addresses;
        node.held.gateway = summary.gateway;
        node.held.home = Some(summary.home);
    }
    snapshot
}

fn a_large_mesh(criterion: &mut Criterion) {
    let (new, settled) = (mesh(), settled());
    let topology = Topology::of(&settled);
    assert_eq!(topology.problems(), [], "the bench measures a healthy mesh");
    let nodes = topology.nodes();
    let gateway = nodes.iter().find(|node| node.gateway).expect("a mesh has gateways");
    let member = nodes.iter().find(|node| !node.gateway).expect("most nodes are no gateways");
    let mut group = criterion.benchmark_group("plan/10k-nodes-100-locations");
    let mut bench = |name: &str, snapshot: &Snapshot, me: &NodeName| {
        group.bench_function(name, |bencher| bencher.iter(|| plan(black_box(snapshot), me)));
    };
    bench("gateway", &settled, &gateway.node);
    bench("member", &settled, &member.node);
    bench("gateway-of-a-new-mesh", &new, &gateway.node);
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = a_large_mesh
}
criterion_main!(benches);
