use serde_json::{Value, json};

use super::*;
use crate::cluster::tests::mesh as a_mesh;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn config() -> VisitorConfig {
    VisitorConfig {
        topology_label: "region".to_owned(),
        namespace: "wireloom".to_owned(),
        granularity: None,
        gateways: None,
        overlay: None,
        port: None,
        mtu: None,
    }
}

fn node(name: &str, annotations: Value) -> NodeObject {
    let mut object = json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "podCIDR": "10.42.0.0/24" },
    });
    object["metadata"]["annotations"]["kilo.squat.ai/key"] = json!(KEY);
    serde_json::from_value(object).unwrap()
}

fn read_node(name: &str, annotations: Value) -> ReadNode {
    node::read(&node(name, annotations), "region")
}

/// A Node of one of Kilo's agents, which said at this time by the API server's clock that it is there.
fn kilos(name: &str, seen: &str, time: &str) -> NodeObject {
    let mut node = node(name, json!({ "kilo.squat.ai/last-seen": seen }));
    node.metadata.managed_fields = serde_json::from_value(json!([
        {
            "manager": "kg",
            "time": time,
            "fieldsV1": { "f:metadata": { "f:annotations": { "f:kilo.squat.ai/last-seen": {} } } },
        },
        {
            "manager": "kubelet",
            "time": "2026-11-25T10:30:00Z",
            "fieldsV1": { "f:metadata": { "f:annotations": { "f:volumes": {} } } },
        },
    ]))
    .unwrap();
    node
}

fn lease(name: &str, time: &str) -> PartialObjectMeta<Lease> {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "resourceVersion": time,
            "managedFields": [{ "manager": "wireloom", "time": time }],
        },
    }))
    .unwrap()
}

#[test]
fn the_mesh_is_what_agents_say_unless_somebody_says_otherwise() {
    let said = serde_json::to_string(&a_mesh()).unwrap();
    let nodes = [read_node("a", json!({})), read_node("b", json!({ "wireloom.dev/mesh": said }))];
    assert_eq!(mesh(&nodes, &config()).unwrap(), a_mesh());
    let other = VisitorConfig {
        gateways: Some(GatewayCount::All),
        overlay: Some(Overlay::new(["10.9.0.0/16".parse().unwrap()]).unwrap()),
        ..config()
    };
    let mesh = mesh(&nodes, &other).unwrap();
    assert_eq!((mesh.gateways, Some(mesh.overlay)), (GatewayCount::All, other.overlay));
    assert_eq!(mesh.port, a_mesh().port);
}

#[test]
fn kilos_mesh_is_known_by_what_its_agents_do() {
    let nodes = [
        read_node("a", json!({ "kilo.squat.ai/wireguard-ip": "" })),
        read_node(
            "b",
            json!({
                "kilo.squat.ai/wireguard-ip": "10.7.0.1/16",
                "kilo.squat.ai/granularity": "full",
            }),
        ),
    ];
    let found = mesh(&nodes, &config()).unwrap();
    assert_eq!(found.overlay.ranges().collect::<Vec<_>>(), ["10.7.0.0/16".parse().unwrap()]);
    assert_eq!(found.gateways, GatewayCount::All);
    let told = VisitorConfig { granularity: Some(Granularity::Location), ..config() };
    assert_eq!(mesh(&nodes, &told).unwrap().gateways, GatewayCount::AtMost(NonZeroU32::MIN));
    assert!(mesh(&[], &config()).is_ok());
}

/// Who is healthy when this is read.
fn healthy(
    nodes: &[NodeObject],
    leases: &[PartialObjectMeta<Lease>],
    lives: &mut Lives,
    now: Instant,
) -> Vec<bool> {
    let listed = Listed { nodes: nodes.to_vec(), leases: leases.to_vec(), ..Listed::default() };
    let snapshot = listed.snapshot(&config(), lives, now).unwrap();
    snapshot.nodes.iter().map(|node| node.healthy).collect()
}

#[test]
fn who_lags_behind_the_newest_heartbeat_is_dead() {
    let ours = |name| node(name, json!({ "wireloom.dev/algorithm": "wireloom" }));
    let leases = [
        lease("a", "2026-11-25T10:10:00Z"),
        lease("b", "2026-11-25T10:09:01Z"),
        lease("c", "2026-11-25T10:08:59Z"),
    ];
    let nodes = ["a", "b", "c", "refused"].map(ours);
    assert_eq!(healthy(&nodes, &leases, &mut lives(), Instant::now()), [true, true, false, true]);
}

#[test]
fn kilos_nodes_live_by_when_they_were_seen_whatever_their_clocks_say() {
    let now = Instant::now();
    let nodes = [
        kilos("a", "7", "2026-11-25T10:10:00Z"),
        kilos("b", "9999999999", "2026-11-25T10:09:30Z"),
        kilos("c", "1764065339", "2026-11-25T10:08:59Z"),
        node("never", json!({})),
    ];
    assert_eq!(healthy(&nodes, &[], &mut lives(), now), [true, true, false, false]);
    // Beside ours, the last of Kilo's is not taken for the newest of all.
    let leases = [lease("z", "2026-11-25T10:11:00Z")];
    assert_eq!(healthy(&nodes[2..], &leases, &mut lives(), now), [false, false]);
}

#[test]
fn who_stays_notices_death_and_return_and_an_outage_is_nobodys() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut lives = lives();
    let a = |seen: u64| kilos("a", &seen.to_string(), "2026-11-25T10:10:00Z");
    let b = |seen: u64| kilos("b", &seen.to_string(), "2026-11-25T10:08:00Z");
    assert_eq!(healthy(&[a(1), b(1)], &[], &mut lives, at(0)), [true, false]);
    assert_eq!(healthy(&[a(1), b(2)], &[], &mut lives, at(30)), [true, true], "b is back");
    assert_eq!(healthy(&[a(1), b(3)], &[], &mut lives, at(60)), [false, true], "a is gone");
    // The API is away, and b is not the first to be back.
    lives.set_deaf(true, lives.heard().unwrap());
    lives.set_deaf(false, at(660));
    assert_eq!(healthy(&[a(1), b(3)], &[], &mut lives, at(660)), [false, true]);
    assert_eq!(healthy(&[a(2), b(3)], &[], &mut lives, at(690)), [true, true]);
    assert_eq!(healthy(&[a(3), b(3)], &[], &mut lives, at(720)), [true, false]);
}

#[test]
fn an_outage_is_told_once_and_takes_nothing() {
    let mut known = Known::default();
    let mesh = || {
        let listed = Listed { nodes: vec![node("a", json!({}))], ..Listed::default() };
        listed.snapshot(&config(), &mut lives(), Instant::now())
    };
    let gone = || Err(VisitError::Nodes("gone".to_owned()));
    assert!(known.learn(mesh()));
    assert!(!known.learn(mesh()), "nothing is new");
    assert!(known.learn(gone()) && !known.learn(gone()));
    assert!(known.snapshot.is_some() && known.stale.is_some());
    assert!(known.learn(mesh()), "it is sure again");
    assert_eq!(known.stale, None);
}
