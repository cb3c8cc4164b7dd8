//! Single events and mistakes, by name.

use std::collections::BTreeSet;

use wireloom_model::{
    Cidr, EncapsulateBy, EncapsulateWhen, Encapsulation, Endpoint, GatewayCount, Node, NodeName,
    Problem, ProblemKind, PublicKey, Snapshot,
};
use wireloom_topology::{
    Plan, PlanError, Segment, Topology, TunnelPeerName, peer_view, plan, sightings,
};

use crate::golden::demo;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn node<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut Node {
    snapshot.nodes.iter_mut().find(|node| node.name.as_str() == name).unwrap()
}

fn plan_of(snapshot: &Snapshot, node: &str) -> Plan {
    plan(snapshot, &name(node)).unwrap()
}

fn gateways(snapshot: &Snapshot) -> Vec<String> {
    let nodes = Topology::of(snapshot).nodes().into_iter();
    nodes.filter(|node| node.gateway).map(|node| node.node.to_string()).collect()
}

fn problems(snapshot: &Snapshot, kind: ProblemKind) -> Vec<Problem> {
    let all = Topology::of(snapshot).problems().to_vec();
    all.into_iter().filter(|problem| problem.kind == kind).collect()
}

fn subjects(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| problem.subject.to_string()).collect()
}

/// Every prefix that any node routes or any tunnel carries.
fn everywhere(snapshot: &Snapshot) -> BTreeSet<Cidr> {
    let topology = Topology::of(snapshot);
    let mut all = BTreeSet::new();
    for node in topology.nodes() {
        let plan = topology.plan(&node.node).unwrap();
        all.extend(plan.routes.into_keys());
        all.extend(plan.tunnel_peers.into_iter().flat_map(|peer| peer.allowed_ips));
    }
    all
}

/// The demo with these nodes as its gateways, published as such.
fn held(mut snapshot: Snapshot, gateways: &[&str]) -> Snapshot {
    for node in &mut snapshot.nodes {
        node.held.gateway = gateways.contains(&node.name.as_str());
    }
    snapshot
}

#[test]
fn an_internal_address_that_is_an_endpoint_is_reached_without_the_mesh() {
    let mut snapshot = demo();
    let lon = node(&mut snapshot, "lon-1");
    lon.internal_addresses = vec!["198.51.100.7/24".parse().unwrap()];
    lon.endpoint = Some("198.51.100.7:51820".parse().unwrap());
    assert!(!everywhere(&snapshot).contains(&"198.51.100.7/32".parse().unwrap()));
    assert_eq!(problems(&snapshot, ProblemKind::EndpointInsideMesh), []);
}

/// Agents publish a private address where they know no public one.
#[test]
fn a_private_endpoint_is_carried_where_nobody_else_dials_it() {
    let mut snapshot = demo();
    let private = |snapshot: &mut Snapshot, name: &str, endpoint: &str| {
        node(snapshot, name).endpoint = Some(endpoint.parse().unwrap());
    };
    private(&mut snapshot, "ams-2", "10.10.0.2:51820");
    private(&mut snapshot, "ire-1", "10.40.0.1:51820");
    let all = everywhere(&snapshot);
    assert!(all.contains(&"10.10.0.2/32".parse().unwrap()), "its gateway is dialled, not it");
    assert!(!all.contains(&"10.40.0.1/32".parse().unwrap()), "it is reached without the mesh");

    let ire = node(&mut snapshot, "ire-1").key;
    let heard = "198.51.100.7:40000".parse().unwrap();
    node(&mut snapshot, "ams-1").discovered_endpoints.insert(ire, heard);
    let all = everywhere(&snapshot);
    assert!(all.contains(&"10.40.0.1/32".parse().unwrap()), "it is behind NAT");
}

#[test]
fn a_network_behind_a_location_may_hold_its_own_private_endpoints_and_no_others() {
    let mut snapshot = demo();
    let lan: Cidr = "10.40.0.0/24".parse().unwrap();
    let ire = node(&mut snapshot, "ire-1");
    ire.endpoint = Some("10.40.0.1:51820".parse().unwrap());
    ire.extra_prefixes = vec![lan];
    assert!(everywhere(&snapshot).contains(&lan));
    assert_eq!(problems(&snapshot, ProblemKind::EndpointInsideMesh), []);
    node(&mut snapshot, "waw-1").endpoint = Some("10.40.0.77:51820".parse().unwrap());
    assert!(!everywhere(&snapshot).contains(&lan));
    // Either may be the mistake.
    let found = problems(&snapshot, ProblemKind::EndpointInsideMesh);
    assert_eq!(subjects(&found), ["node ire-1", "node waw-1"]);
}

#[test]
fn an_endpoint_among_pods_takes_none_away_unless_it_is_older() {
    let pods: Cidr = "10.42.5.0/24".parse().unwrap();
    let endpoint: Endpoint = "10.42.5.7:51820".parse().unwrap();
    let blamed = |snapshot: &Snapshot| {
        let found = problems(snapshot, ProblemKind::EndpointInsideMesh);
        (everywhere(snapshot).contains(&pods), subjects(&found))
    };
    let one = |name: &str| (true, vec![name.to_owned()]);

    let mut of_peer = demo();
    of_peer.peers[0].endpoint = Some(endpoint.clone());
    assert_eq!(blamed(&of_peer), one("peer laptop"));
    let plan = plan_of(&of_peer, "waw-1");
    let is_peer = |name: &TunnelPeerName| matches!(name, TunnelPeerName::Peer(_));
    assert_eq!(plan.tunnel_peers.iter().find(|p| is_peer(&p.name)).unwrap().endpoint, None);

    let mut of_another = demo();
    node(&mut of_another, "waw-1").endpoint = Some(endpoint.clone());
    node(&mut of_another, "waw-1").since = 1;
    assert_eq!(blamed(&of_another), one("node waw-1"));
    node(&mut of_another, "lon-1").since = 2;
    let both = ["node lon-1", "node waw-1"].map(str::to_owned).to_vec();
    assert_eq!(blamed(&of_another), (false, both));

    // As an address of the bridge of its pods is when it is taken for the machine's.
    let mut of_itself = demo();
    node(&mut of_itself, "lon-1").endpoint = Some(endpoint);
    assert_eq!(blamed(&of_itself), one("node lon-1"));

    // A cloud gives pods addresses outside all prefixes.
    let mut of_cloud = demo();
    node(&mut of_cloud, "lon-1").held.pod_addresses.insert("10.99.1.5".parse().unwrap());
    of_cloud.peers[0].endpoint = Some("10.99.1.5:51820".parse().unwrap());
    assert_eq!(blamed(&of_cloud), one("peer laptop"));
    assert!(everywhere(&of_cloud).contains(&"10.99.1.5/32".parse().unwrap()));
}

#[test]
fn a_prefix_that_holds_an_endpoint_is_left_out_everywhere() {
    let mut snapshot = demo();
    snapshot.peers[0].allowed_ips.push("203.0.0.0/8".parse().unwrap());
    node(&mut snapshot, "lon-1").extra_prefixes = vec!["203.0.113.0/24".parse().unwrap()];
    let all = everywhere(&snapshot);
    assert!(!all.contains(&"203.0.0.0/8".parse().unwrap()));
    assert!(!all.contains(&"203.0.113.0/24".parse().unwrap()));
    assert!(all.contains(&"10.5.0.1/32".parse().unwrap()));
    let found = problems(&snapshot, ProblemKind::EndpointInsideMesh);
    assert_eq!(subjects(&found), ["node lon-1", "peer laptop"]);
}

#[test]
fn an_endpoint_in_the_overlay_is_not_dialled() {
    let mut snapshot = demo();
    let endpoint: Endpoint = "10.4.3.3:51820".parse().unwrap();
    node(&mut snapshot, "lon-1").endpoint = Some(endpoint);
    let plan = plan_of(&snapshot, "ams-1");
    let lon = TunnelPeerName::Node(name("lon-1"));
    assert_eq!(plan.tunnel_peers.iter().find(|p| p.name == lon).unwrap().endpoint, None);
    assert_eq!(subjects(&problems(&snapshot, ProblemKind::EndpointInsideMesh)), ["node lon-1"]);
}

#[test]
fn what_overlaps_the_overlay_range_is_left_out() {
    let mut snapshot = demo();
    node(&mut snapshot, "lon-1").pod_prefixes[0] = "10.4.7.0/24".parse().unwrap();
    node(&mut snapshot, "waw-2").internal_addresses[0] = "10.4.9.9/24".parse().unwrap();
    assert!(!everywhere(&snapshot).contains(&"10.4.7.0/24".parse().unwrap()));
    let found = problems(&snapshot, ProblemKind::OverlayRange);
    assert_eq!(subjects(&found), ["node lon-1", "node waw-2"]);
    assert!(found[0].message.contains("10.4.7.0/24") && found[0].message.contains("10.4.0.0/16"));
}

#[test]
fn gateways_that_only_dial_out_are_named_on_both_sides() {
    let mut snapshot = demo();
    node(&mut snapshot, "lon-1").endpoint = None;
    let apart = problems(&snapshot, ProblemKind::NoPath);
    assert_eq!(subjects(&apart), ["node ire-1", "node lon-1", "peer laptop", "peer laptop"]);
    let ire = TunnelPeerName::Node(name("ire-1"));
    assert!(plan_of(&snapshot, "lon-1").tunnel_peers.iter().any(|peer| peer.name == ire));
}

#[test]
fn of_two_nodes_with_one_key_the_older_stays() {
    let mut snapshot = demo();
    let key = node(&mut snapshot, "ams-1").key;
    let clone = node(&mut snapshot, "waw-2");
    (clone.key, clone.since) = (key, 7);
    let error = plan(&snapshot, &name("waw-2")).unwrap_err();
    assert!(matches!(error, PlanError::KeptOut { .. }), "{error}");
    assert!(error.to_string().contains("ams-1"));
    assert!(plan(&snapshot, &name("ams-1")).is_ok());
    let found = problems(&snapshot, ProblemKind::DuplicateKey);
    assert_eq!(subjects(&found), ["node waw-2", "node ams-1"]);
    let unknown = plan(&snapshot, &name("nobody")).unwrap_err();
    assert!(matches!(unknown, PlanError::Unknown { .. }));
}

#[test]
fn of_two_nodes_with_one_name_the_older_stays() {
    let mut snapshot = demo();
    let mut twin = snapshot.nodes[0].clone();
    (twin.key, twin.since) = (snapshot.peers[0].key, 5);
    snapshot.peers.clear();
    snapshot.nodes.insert(0, twin);
    assert_eq!(plan_of(&snapshot, "ams-1").key, snapshot.nodes[1].key);
    assert_eq!(problems(&snapshot, ProblemKind::DuplicateName).len(), 1);
}

#[test]
fn only_a_declared_newcomer_takes_a_role() {
    // ams-2 holds the role, and ams-1 would be better by its endpoint.
    let mut snapshot = held(demo(), &["ams-2", "waw-1", "lon-1", "ire-1"]);
    assert_eq!(gateways(&snapshot), ["ams-2", "ire-1", "lon-1", "waw-1"]);
    node(&mut snapshot, "ams-1").gateway.declared = true;
    assert_eq!(gateways(&snapshot), ["ams-1", "ire-1", "lon-1", "waw-1"]);
    // A second declared node changes nothing while the first holds the role.
    let mut snapshot = held(snapshot, &["ams-1", "waw-1", "lon-1", "ire-1"]);
    node(&mut snapshot, "ams-2").gateway.declared = true;
    assert_eq!(gateways(&snapshot), ["ams-1", "ire-1", "lon-1", "waw-1"]);
}

#[test]
fn a_sick_gateway_gives_its_role_and_its_homes_to_another() {
    let mut snapshot = held(demo(), &["ams-1", "waw-1", "lon-1", "ire-1"]);
    node(&mut snapshot, "waw-1").healthy = false;
    assert_eq!(gateways(&snapshot), ["ams-1", "ire-1", "lon-1", "waw-2"]);
    assert_eq!(plan_of(&snapshot, "waw-1").home, name("waw-2"));
    node(&mut snapshot, "waw-2").healthy = false;
    assert_eq!(gateways(&snapshot), ["ams-1", "ire-1", "lon-1", "waw-1"]);
    assert_eq!(subjects(&problems(&snapshot, ProblemKind::NoGateway)), ["node waw-1"]);
}

#[test]
fn a_gateway_that_passes_nothing_on_gives_its_role_to_another_by_the_word_of_most_behind_it() {
    let mut snapshot = held(demo(), &["ams-1", "waw-1", "lon-1", "ire-1"]);
    let location = node(&mut snapshot, "waw-2").location.clone();
    let mut third = Node::new(name("waw-3"), PublicKey::from_bytes([33; 32]), location);
    third.internal_addresses = vec!["10.20.0.3/24".parse().unwrap()];
    snapshot.nodes.push(third);
    for behind in ["waw-2", "waw-3"] {
        node(&mut snapshot, behind).held.home = Some(name("waw-1"));
    }
    let says = |snapshot: &mut Snapshot, who: &str| {
        node(snapshot, who).held.unserved_by.insert(name("waw-1"));
    };
    // One of two is no majority, nor is somebody of elsewhere.
    says(&mut snapshot, "waw-3");
    says(&mut snapshot, "ams-2");
    assert_eq!(gateways(&snapshot), ["ams-1", "ire-1", "lon-1", "waw-1"]);
    assert_eq!(problems(&snapshot, ProblemKind::Dropped), []);
    says(&mut snapshot, "waw-2");
    let now = gateways(&snapshot);
    assert!(!now.contains(&"waw-1".to_owned()) && now.len() == 4, "{now:?}");
    assert_eq!(subjects(&problems(&snapshot, ProblemKind::Dropped)), ["node waw-1"]);
    // It stays so while anybody says it and nobody else is behind it.
    for behind in ["waw-2", "waw-3"] {
        node(&mut snapshot, behind).held.home = Some(name("waw-2"));
    }
    node(&mut snapshot, "waw-2").held.unserved_by.clear();
    assert_eq!(gateways(&snapshot), now);
    // Who is dead has no word.
    node(&mut snapshot, "waw-3").healthy = false;
    assert_eq!(problems(&snapshot, ProblemKind::Dropped), []);
}

#[test]
fn weight_0_is_no_gateway_unless_alone() {
    let mut snapshot = demo();
    snapshot.mesh.gateways = GatewayCount::All;
    for node in &mut snapshot.nodes {
        node.gateway.weight = u16::from(node.name.as_str() == "ams-2");
    }
    assert_eq!(gateways(&snapshot), ["ams-2", "ire-1", "lon-1", "waw-1", "waw-2"]);
}

#[test]
fn a_peer_is_anchored_where_it_can_be_met() {
    let mut snapshot = demo();
    snapshot.mesh.gateways = GatewayCount::All;
    let view = peer_view(&snapshot, &snapshot.peers[0].name).unwrap();
    let names: Vec<_> = view.iter().map(|peer| peer.name.clone()).collect();
    let expected = ["ire-1", "ams-1", "waw-1", "lon-1"].map(|n| TunnelPeerName::Node(name(n)));
    assert_eq!(names, expected);
    // The anchor goes, and the peer's prefixes go to the next best at once.
    snapshot.nodes.retain(|node| node.name != name("ams-1"));
    assert!(plan_of(&snapshot, "ams-2").publishes.anchors.contains(&snapshot.peers[0].name));
}

#[test]
fn of_two_equal_pod_prefixes_the_older_stays() {
    let mut snapshot = demo();
    let twice: Cidr = "10.42.1.0/24".parse().unwrap();
    let late = node(&mut snapshot, "lon-1");
    late.pod_prefixes[0] = twice;
    late.since = 3;
    let plan = plan_of(&snapshot, "ire-1");
    let carriers = plan.tunnel_peers.iter().filter(|peer| peer.allowed_ips.contains(&twice));
    let names: Vec<_> = carriers.map(|peer| peer.name.clone()).collect();
    assert_eq!(names, [TunnelPeerName::Node(name("ams-1"))]);
    let found = problems(&snapshot, ProblemKind::DuplicatePrefix);
    assert_eq!(subjects(&found), ["node lon-1", "node ams-1"]);
}

#[test]
fn internal_addresses_stay_at_home_if_they_shall() {
    let mut snapshot = demo();
    snapshot.mesh.carry_internal_addresses = false;
    let internal: Cidr = "10.20.0.1/32".parse().unwrap();
    assert!(!everywhere(&snapshot).contains(&internal));
}

#[test]
fn a_node_without_an_internal_address_is_a_segment_of_its_own() {
    let mut snapshot = demo();
    node(&mut snapshot, "ams-2").internal_addresses.clear();
    let plan = plan_of(&snapshot, "ams-2");
    assert_eq!(plan.segment, Segment::Node(name("ams-2")));
    assert!(plan.gateway);
    // The four others' gateways, and the laptop.
    assert_eq!(plan.tunnel_peers.len(), 5);
}

#[test]
fn a_family_without_a_next_hop_is_reported_and_skipped() {
    let mut snapshot = demo();
    node(&mut snapshot, "waw-2").internal_addresses.truncate(1);
    let found = problems(&snapshot, ProblemKind::NoNextHop);
    assert_eq!(subjects(&found), ["node waw-2"]);
    assert!(found[0].message.contains("fd42:0:0:4::/64"), "{}", found[0].message);
    let routes = plan_of(&snapshot, "waw-1").routes;
    assert!(!routes.contains_key(&"fd42:0:0:4::/64".parse().unwrap()));
    assert!(routes.contains_key(&"10.42.4.0/24".parse().unwrap()));
}

#[test]
fn a_network_behind_a_member_enters_by_its_home_and_is_carried_on_by_it() {
    let mut snapshot = demo();
    let network: Cidr = "172.20.0.0/24".parse().unwrap();
    node(&mut snapshot, "waw-2").extra_prefixes = vec![network];
    let hop = plan_of(&snapshot, "waw-1").routes[&network];
    assert_eq!(hop.gateway, Some("10.20.0.2".parse().unwrap()));
    assert!(plan_of(&snapshot, "waw-1").publishes.owns.contains(&network));
    assert_eq!(plan_of(&snapshot, "lon-1").routes[&network].gateway, None);
    assert!(!plan_of(&snapshot, "waw-2").routes.contains_key(&network));
}

#[test]
fn nodes_of_a_location_are_wireguard_peers_if_that_is_what_wraps() {
    let mut snapshot = demo();
    snapshot.mesh.encapsulation =
        Encapsulation { when: EncapsulateWhen::Always, by: EncapsulateBy::WireGuard };
    // Its pods need no internal address of their family.
    node(&mut snapshot, "waw-2").internal_addresses.truncate(1);
    assert_eq!(problems(&snapshot, ProblemKind::NoNextHop), []);

    let plan = plan_of(&snapshot, "waw-2");
    let [home] = &plan.tunnel_peers[..] else { panic!("{:?}", plan.tunnel_peers) };
    assert_eq!(home.name, TunnelPeerName::Node(name("waw-1")));
    // It has a public endpoint as well, which is not for its neighbours.
    assert_eq!(home.endpoint, Some("10.20.0.1:51820".parse().unwrap()));
    for prefix in ["10.4.0.0/16", "10.42.3.0/24", "10.42.1.0/24", "10.5.0.1/32", "10.20.0.1/32"] {
        assert!(home.allowed_ips.contains(&prefix.parse().unwrap()), "{prefix}");
    }
    assert!(!plan.gateway && plan.clamp_mss);

    let gateway = plan_of(&snapshot, "waw-1");
    let member = TunnelPeerName::Node(name("waw-2"));
    let member = gateway.tunnel_peers.iter().find(|peer| peer.name == member).unwrap();
    assert!(member.allowed_ips.contains(&"fd42:0:0:4::/64".parse().unwrap()));
    // Nobody far away tunnels to it, and lon-1 is alone where it is.
    let others = plan_of(&snapshot, "lon-1").tunnel_peers;
    assert!(!others.iter().any(|peer| peer.name == member.name));
}

#[test]
fn a_port_of_its_own_is_where_neighbours_dial_a_node() {
    let mut snapshot = demo();
    snapshot.mesh.encapsulation =
        Encapsulation { when: EncapsulateWhen::Always, by: EncapsulateBy::WireGuard };
    node(&mut snapshot, "waw-1").endpoint = Some("203.0.113.2:7777".parse().unwrap());
    let plan = plan_of(&snapshot, "waw-2");
    assert_eq!(plan.tunnel_peers[0].endpoint, Some("10.20.0.1:7777".parse().unwrap()));
}

#[test]
fn who_has_no_public_endpoint_keeps_its_tunnels_open_without_being_told() {
    let mut snapshot = demo();
    for node in &mut snapshot.nodes {
        node.persistent_keepalive = None;
    }
    let keepalives = |snapshot: &Snapshot| -> BTreeSet<Option<u16>> {
        let peers = plan_of(snapshot, "lon-1").tunnel_peers.into_iter();
        peers.map(|peer| peer.persistent_keepalive.map(std::num::NonZeroU16::get)).collect()
    };
    for (endpoint, keepalive) in [
        (Some("203.0.113.9:51820"), None),
        (Some("gw.example.com:51820"), None),
        (Some("[fd12::9]:51820"), Some(25)),
        (None, Some(25)),
    ] {
        node(&mut snapshot, "lon-1").endpoint = endpoint.map(|text| text.parse().unwrap());
        let all = keepalives(&snapshot);
        assert!(all.contains(&keepalive), "{endpoint:?}: {all:?}");
    }
    node(&mut snapshot, "lon-1").persistent_keepalive = std::num::NonZeroU16::new(7);
    assert!(keepalives(&snapshot).contains(&Some(7)));
}

#[test]
fn a_peer_from_outside_has_a_plan_of_its_own_with_everything_its_tunnels_lead_to() {
    let snapshot = demo();
    let topology = Topology::of(&snapshot);
    let peer = &snapshot.peers[0];
    let view = topology.peer_view(&peer.name).unwrap();
    let more: Cidr = "10.43.0.0/16".parse().unwrap();
    let plan = Plan::outside(peer, view.clone(), &[more], topology.nodes(), Vec::new());
    assert_eq!(plan.key, peer.key);
    let own: Vec<String> = plan.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["10.5.0.1/32", "fd55::1/128"]);
    assert_eq!(plan.tunnel_peers.len(), view.len());
    assert!(plan.tunnel_peers.is_sorted_by_key(|peer| peer.name.clone()));
    assert!(plan.tunnel_peers[0].allowed_ips.contains(&more));
    let carried: BTreeSet<Cidr> =
        plan.tunnel_peers.iter().flat_map(|peer| peer.allowed_ips.clone()).collect();
    assert_eq!(carried, plan.routes.keys().copied().collect());
    assert!(plan.routes.iter().all(|(prefix, hop)| {
        let is_own_family =
            |source: std::net::IpAddr| source.is_ipv4() == prefix.address().is_ipv4();
        hop.gateway.is_none() && hop.source.is_some_and(is_own_family)
    }));
}

#[test]
fn who_keeps_its_tunnels_open_is_tried_where_others_hear_it() {
    let mut snapshot = demo();
    let (heard, elsewhere) = ("198.51.100.7:40000", "198.51.100.7:40001");
    let sighting = |key, at: &str| std::iter::once((key, at.parse().unwrap())).collect();
    let pi = node(&mut snapshot, "lon-1");
    pi.endpoint = Some("192.168.1.3:51820".parse().unwrap());
    pi.more_endpoints = vec!["[2001:db8::3]:51820".parse().unwrap()];
    let (key, public) = (pi.key, snapshot.nodes[0].key);
    let others: Vec<String> = snapshot.nodes.iter().map(|node| node.name.to_string()).collect();
    let others: Vec<&String> = others.iter().filter(|name| *name != "lon-1").collect();
    node(&mut snapshot, others[0]).discovered_endpoints = sighting(key, heard);
    node(&mut snapshot, others[1]).discovered_endpoints = sighting(key, elsewhere);
    node(&mut snapshot, others[2]).discovered_endpoints = sighting(key, "[fe80::1]:1");
    node(&mut snapshot, others[3]).discovered_endpoints = sighting(public, "192.0.2.9:1");

    let peers: Vec<_> = Topology::of(&snapshot)
        .nodes()
        .iter()
        .flat_map(|node| plan_of(&snapshot, node.node.as_str()).tunnel_peers)
        .collect();
    let tried = |key| {
        let peer = peers.iter().find(|peer| peer.key == key).unwrap();
        peer.alternatives.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(tried(key), [heard, elsewhere, "[2001:db8::3]:51820"]);
    assert_eq!(tried(public), [] as [&str; 0], "it is dialled at its public endpoint alone");

    // Many that hear it differently leave room for what it says itself, and the dead hear nobody.
    for (at, other) in others.iter().enumerate() {
        let at = format!("198.51.100.7:{}", 40000 + at);
        node(&mut snapshot, other).discovered_endpoints = sighting(key, &at);
    }
    node(&mut snapshot, others[0]).healthy = false;
    node(&mut snapshot, "lon-1").more_endpoints =
        ["[2001:db8::3]:51820", "[2001:db8::4]:51820"].map(|text| text.parse().unwrap()).to_vec();
    let plan = plan_of(&snapshot, "waw-1");
    let peer = plan.tunnel_peers.iter().find(|peer| peer.key == key).unwrap();
    let tried: Vec<String> = peer.alternatives.iter().map(ToString::to_string).collect();
    let second = "198.51.100.7:40004";
    assert_eq!(tried, [elsewhere, second, "[2001:db8::3]:51820", "[2001:db8::4]:51820"]);

    let device = [(key, heard.parse().unwrap()), (public, "192.0.2.9:1".parse().unwrap())];
    assert_eq!(sightings(&snapshot, device), sighting(key, heard));
}
