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

fn read_node(name: &str, annotations: Value) -> ReadNode {
    let mut object = json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "podCIDR": "10.42.0.0/24" },
    });
    object["metadata"]["annotations"]["kilo.squat.ai/key"] = json!(KEY);
    node::read(&serde_json::from_value(object).unwrap(), "region")
}

fn lease(name: &str, time: &str) -> PartialObjectMeta<Lease> {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "managedFields": [{ "manager": "wireloom", "time": "2026-11-25T09:00:00Z" }, { "time": time }],
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

#[test]
fn who_lags_behind_the_newest_heartbeat_is_dead_and_who_has_none_is_not() {
    let leases = [
        lease("a", "2026-11-25T10:10:00Z"),
        lease("b", "2026-11-25T10:09:01Z"),
        lease("c", "2026-11-25T10:08:59Z"),
    ];
    let nodes = ["a", "b", "c", "d"].map(|name| read_node(name, json!({})));
    let snapshot = snapshot(nodes.to_vec(), &[], &leases, &config()).unwrap();
    let healthy: Vec<bool> = snapshot.nodes.iter().map(|node| node.healthy).collect();
    assert_eq!(healthy, [true, true, false, true]);
}

#[test]
fn an_outage_is_told_once_and_takes_nothing() {
    let mut known = Known::default();
    let mesh = || snapshot(vec![read_node("a", json!({}))], &[], &[], &config());
    let gone = || Err(VisitError::Nodes("gone".to_owned()));
    assert!(known.learn(mesh()));
    assert!(!known.learn(mesh()), "nothing is new");
    assert!(known.learn(gone()) && !known.learn(gone()));
    assert!(known.snapshot.is_some() && known.stale.is_some());
    assert!(known.learn(mesh()), "it is sure again");
    assert_eq!(known.stale, None);
}
