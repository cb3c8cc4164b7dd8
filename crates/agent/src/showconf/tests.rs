//! Configurations by both algorithms. Kilo's own texts are compared in `wireloom-topology`.

use std::num::NonZeroU32;

use wireloom_model::{Encapsulation, Filter, GatewayCount, Mesh, Node, Overlay, Peer, PublicKey};

use super::*;

fn snapshot() -> Snapshot {
    let node = |number: u8, name: &str, location: &str| {
        let key = PublicKey::from_bytes([number; 32]);
        let mut node = Node::new(name.parse().unwrap(), key, location.parse().unwrap());
        node.internal_addresses = vec![format!("10.{number}.0.1/24").parse().unwrap()];
        node.endpoint = format!("203.0.113.{number}:51821").parse().ok();
        node.pod_prefixes = vec![format!("10.42.{number}.0/24").parse().unwrap()];
        node.algorithm = wireloom_model::Algorithm::Kilo;
        node
    };
    let laptop = Peer {
        name: "laptop".parse().unwrap(),
        key: PublicKey::from_bytes([9; 32]),
        preshared_key: Some(PresharedKey::from_bytes([5; 32])),
        allowed_ips: vec!["10.5.0.1/32".parse().unwrap()],
        endpoint: None,
        persistent_keepalive: NonZeroU16::new(10),
        since: 0,
    };
    let mut nodes = vec![node(1, "a", "aws"), node(2, "b", "aws"), node(3, "c", "edge")];
    nodes[1].internal_addresses = vec!["10.1.0.2/24".parse().unwrap()];
    Snapshot {
        mesh: Mesh {
            overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
            gateways: GatewayCount::AtMost(NonZeroU32::MIN),
            port: NonZeroU16::new(51820).unwrap(),
            mtu: None,
            carry_internal_addresses: true,
            encapsulation: Encapsulation::default(),
            filter: Filter::default(),
        },
        nodes,
        peers: vec![laptop],
        problems: Vec::new(),
    }
}

fn kilos() -> Planner {
    Planner::beside_kilo()
}

fn node(name: &str, as_peer: Option<Vec<Cidr>>) -> Ask {
    ask(Whose::Node(name.parse().unwrap()), as_peer)
}

fn laptop(as_peer: Option<Vec<Cidr>>) -> Ask {
    ask(Whose::Peer("laptop".parse().unwrap()), as_peer)
}

fn ask(whose: Whose, as_peer: Option<Vec<Cidr>>) -> Ask {
    Ask { whose, as_peer: as_peer.is_some(), more: as_peer.unwrap_or_default() }
}

#[test]
fn a_node_that_leads_nothing_has_no_configuration() {
    for planner in [kilos(), Planner::default()] {
        let names = ["a", "b"];
        let shown = names.map(|name| show(&snapshot(), &planner, &node(name, None)).unwrap());
        let none = shown.iter().filter(|shown| **shown == Shown::NoGateway).count();
        assert_eq!(none, 1, "one of two leads");
        let as_peers =
            names.map(|name| show(&snapshot(), &planner, &node(name, Some(Vec::new()))).unwrap());
        assert_eq!(as_peers.iter().filter(|shown| **shown == Shown::NoGateway).count(), 1);
    }
}

#[test]
fn kilos_algorithm_is_used_while_it_is_in_force_and_no_longer() {
    let mut snapshot = snapshot();
    let text = |snapshot: &Snapshot| match show(snapshot, &kilos(), &node("c", None)).unwrap() {
        Shown::Conf(text) => text,
        other => panic!("{other:?}"),
    };
    let kilos = text(&snapshot);
    assert!(kilos.starts_with("[Interface]\nListenPort = 51821\n\n[Peer]\n"), "{kilos}");
    let order = "AllowedIPs = 10.42.1.0/24, 10.1.0.1/32, 10.42.2.0/24, 10.1.0.2/32, 10.4.0.1/32\n";
    assert!(kilos.contains(order), "{kilos}");
    for node in &mut snapshot.nodes {
        node.algorithm = wireloom_model::Algorithm::Wireloom;
    }
    let ours = text(&snapshot);
    assert!(!ours.contains("10.4.0.1/32") && ours.contains("10.42.1.0/24"), "{ours}");
}

#[test]
fn a_peer_is_shown_what_it_reaches_with_its_keepalive_and_secret() {
    for planner in [kilos(), Planner::default()] {
        let Shown::Conf(text) = show(&snapshot(), &planner, &laptop(None)).unwrap() else {
            panic!("a peer always has one")
        };
        assert_eq!(text.matches("[Peer]").count(), 2);
        assert_eq!(text.matches("PersistentKeepalive = 10\nPresharedKey = BQUF").count(), 2);
        assert!(!text.contains("[Interface]"));
    }
}

#[test]
fn what_a_peer_reaches_besides_is_carried_by_exactly_one_of_its_tunnels() {
    let mut snapshot = snapshot();
    // The first in the order of names is not in the first location.
    snapshot.nodes[2].name = "0".parse().unwrap();
    for planner in [kilos(), Planner::default()] {
        let more = ["10.43.0.0/16", "10.42.1.0/24"].map(|text| text.parse().unwrap()).to_vec();
        let asked = Ask { more, ..laptop(None) };
        let Shown::Conf(text) = show(&snapshot, &planner, &asked).unwrap() else {
            panic!("a peer always has one")
        };
        let lines = |prefix| text.lines().filter(move |line| line.contains(prefix));
        let carrier: Vec<&str> = lines("10.43.0.0/16").collect();
        assert!(carrier.len() == 1 && carrier[0].contains("10.42.3.0/24"), "{text}");
        assert_eq!(lines("10.42.1.0/24").count(), 1, "it is reached already: {text}");
        let Shown::Conf(before) = show(&snapshot, &planner, &laptop(None)).unwrap() else {
            panic!("a peer always has one")
        };
        assert_eq!(text.replace(", 10.43.0.0/16", ""), before, "and nothing else changes");
    }
}

#[test]
fn what_is_printed_as_a_resource_is_one_that_kilo_takes() {
    let more = vec!["10.43.0.0/16".parse().unwrap(), "10.5.0.1/32".parse().unwrap()];
    let Shown::AsPeer(peer) = show(&snapshot(), &kilos(), &laptop(Some(more))).unwrap() else {
        panic!("a peer always is one")
    };
    let resource = peer.resource("laptop");
    assert_eq!(resource["apiVersion"], "kilo.squat.ai/v1alpha1");
    assert_eq!(resource["metadata"]["name"], "laptop");
    let spec = &resource["spec"];
    assert_eq!(spec["allowedIPs"], serde_json::json!(["10.5.0.1/32", "10.43.0.0/16"]));
    assert_eq!(spec["persistentKeepalive"], 10, "seconds");
    assert!(spec.get("endpoint").is_none(), "left out if there is none: {spec}");
    let Shown::AsPeer(node) = show(&snapshot(), &kilos(), &node("c", Some(Vec::new()))).unwrap()
    else {
        panic!("c leads")
    };
    let endpoint = &node.resource("c")["spec"]["endpoint"];
    assert_eq!(*endpoint, serde_json::json!({"dnsOrIP": {"ip": "203.0.113.3"}, "port": 51821}));
    assert_eq!(
        node.text(),
        "[Peer]\nAllowedIPs = 10.42.3.0/24, 10.3.0.1/32, 10.4.0.2/32\nEndpoint = 203.0.113.3:51821\nPersistentKeepalive = 0\nPublicKey = AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n"
    );
}

#[test]
fn who_is_not_there_is_said() {
    for planner in [kilos(), Planner::default()] {
        let error = show(&snapshot(), &planner, &node("nobody", None)).unwrap_err();
        assert!(error.to_string().contains("node nobody"), "{error}");
    }
}
