//! Kilo's own results for Kilo's own example: three nodes in two locations, and a laptop.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};

use wireloom_model::kernel::{KernelState, NftSet, RouteKey};
use wireloom_model::{
    Cidr, EncapsulateBy, EncapsulateWhen, Encapsulation, Filter, GatewayCount, Mesh, Node, Overlay,
    Peer, ProblemKind, PublicKey, Snapshot,
};
use wireloom_topology::kilo::{Plugin, Seen, Settings, View, discoveries};
use wireloom_topology::{Plan, Underlay};

use crate::golden::wide;

pub(crate) fn nonzero(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// A node of a location with an internal address, an endpoint's address, and pods.
pub(crate) fn node(name: &str, location: &str, internal: &str, endpoint: &str, pods: &str) -> Node {
    let mut key = [0; 32];
    key[..name.len()].copy_from_slice(name.as_bytes());
    let key = PublicKey::from_bytes(key);
    let mut node = Node::new(name.parse().unwrap(), key, location.parse().unwrap());
    node.internal_addresses = internal.parse().into_iter().collect();
    let endpoint: IpAddr = endpoint.parse().unwrap();
    node.endpoint = Some(SocketAddr::new(endpoint, 51820).to_string().parse().unwrap());
    node.pod_prefixes = vec![pods.parse().unwrap()];
    node
}

fn peer(name: &str, key: u8, allowed_ips: &[&str]) -> Peer {
    Peer {
        name: name.parse().unwrap(),
        key: PublicKey::from_bytes([key; 32]),
        preshared_key: None,
        allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        endpoint: None,
        persistent_keepalive: None,
        since: 0,
    }
}

pub(crate) fn mesh_of(nodes: Vec<Node>, peers: Vec<Peer>) -> Snapshot {
    Snapshot {
        mesh: Mesh {
            overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
            gateways: GatewayCount::AtMost(NonZeroU32::MIN),
            port: nonzero(51820),
            mtu: None,
            carry_internal_addresses: true,
            encapsulation: Encapsulation { when: EncapsulateWhen::Always, by: EncapsulateBy::Ipip },
            filter: Filter { clamp_mss: false, ..Filter::default() },
        },
        nodes,
        peers,
        problems: Vec::new(),
    }
}

/// The contract's example.
pub(crate) fn example() -> Snapshot {
    let a = node("a", "aws", "10.0.0.1/24", "203.0.113.1", "10.42.0.0/24");
    let b = node("b", "aws", "10.0.0.2/24", "10.0.0.2", "10.42.1.0/24");
    let mut c = node("c", "edge", "192.168.1.3/24", "192.168.1.3", "10.42.2.0/24");
    c.persistent_keepalive = Some(nonzero(25));
    c.extra_prefixes = vec!["192.168.1.50/32".parse().unwrap()];
    let mut laptop = peer("laptop", 99, &["10.5.0.1/32"]);
    laptop.persistent_keepalive = Some(nonzero(10));
    mesh_of(vec![c, b, a], vec![laptop])
}

/// With c heard by a at another address.
fn discovered() -> Snapshot {
    let mut snapshot = example();
    let c = snapshot.nodes[0].key;
    snapshot.nodes[2].discovered_endpoints.insert(c, "198.51.100.7:40000".parse().unwrap());
    snapshot
}

fn plan(snapshot: &Snapshot, settings: &Settings, me: &str) -> Plan {
    let seen = Seen::default();
    let me = me.parse().unwrap();
    View::of(snapshot, settings.clone(), &seen, Some(&me)).plan(&me).unwrap()
}

/// The kernel state in the words of ip-route(8) and ip-rule(8), with the device as `kilo0`.
fn kernel(snapshot: &Snapshot, settings: &Settings, me: &str) -> String {
    words(&plan(snapshot, settings, me).kernel_state(&"kilo0".parse().unwrap(), &wide()))
}

fn words(state: &KernelState) -> String {
    let mut out = String::new();
    for address in &state.addresses {
        writeln!(out, "address {} dev {}", address.address, address.link).unwrap();
    }
    for (key, route) in &state.routes {
        write!(out, "{}", key.destination).unwrap();
        if let Some(gateway) = route.gateway {
            write!(out, " via {gateway}").unwrap();
        }
        if let Some(link) = &route.link {
            write!(out, " dev {link}").unwrap();
        }
        if let Some(source) = route.source {
            write!(out, " src {source}").unwrap();
        }
        if key.table != 254 {
            write!(out, " table {}", key.table).unwrap();
        }
        out.push('\n');
    }
    for rule in &state.rules {
        writeln!(out, "rule {rule}").unwrap();
    }
    out
}

fn confs(snapshot: &Snapshot) -> String {
    let seen = Seen::default();
    let view = |me: &str| View::of(snapshot, Settings::default(), &seen, me.parse().ok().as_ref());
    let mut out = String::new();
    for node in ["a", "b", "c"] {
        let conf = view(node).conf_of_node(&node.parse().unwrap(), nonzero(51820)).unwrap();
        let conf = conf.map_or_else(|| "not a leader\n".to_owned(), |conf| conf.to_string());
        writeln!(out, "# node {node}\n{conf}").unwrap();
    }
    let laptop = view("a").conf_of_peer(&"laptop".parse().unwrap(), &[]).unwrap();
    writeln!(out, "# peer laptop\n{laptop}").unwrap();
    let as_peer = view("a").node_as_peer(&"c".parse().unwrap()).unwrap().unwrap();
    writeln!(out, "# node c as a peer\n{as_peer}").unwrap();
    out
}

#[test]
fn the_configurations_of_the_example() {
    insta::assert_snapshot!("kilo_confs", confs(&example()));
    let before = confs(&example());
    let after = confs(&discovered());
    // Only c's endpoint differs, and not where c is offered as a peer of others.
    let moved = before.replace(
        "Endpoint = 192.168.1.3:51820\nPersistentKeepalive = 0\nPublicKey = Yw",
        "Endpoint = 198.51.100.7:40000\nPersistentKeepalive = 0\nPublicKey = Yw",
    );
    let moved = moved.replace(
        "Endpoint = 192.168.1.3:51820\nPersistentKeepalive = 10",
        "Endpoint = 198.51.100.7:40000\nPersistentKeepalive = 10",
    );
    let (head, tail) = moved.split_once("# node c as a peer").unwrap();
    let tail = tail.replace("198.51.100.7:40000", "192.168.1.3:51820");
    assert_eq!(after, format!("{head}# node c as a peer{tail}"));
}

#[test]
fn the_routes_of_the_example() {
    let snapshot = example();
    let all = Settings::default();
    for node in ["a", "b", "c"] {
        insta::assert_snapshot!(format!("kilo_always_{node}"), kernel(&snapshot, &all, node));
    }
    let discovered = kernel(&discovered(), &all, "a");
    let more = "192.168.1.3/32 via 10.4.0.2 dev kilo0 src 10.0.0.1\n";
    assert!(discovered.contains(more));
    assert_eq!(discovered.replace(more, ""), kernel(&snapshot, &all, "a"));
}

#[test]
fn the_routes_of_one_subnet_need_no_wrapping() {
    let mut snapshot = example();
    for when in [EncapsulateWhen::CrossSubnet, EncapsulateWhen::Never] {
        snapshot.mesh.encapsulation.when = when;
        for node in ["a", "b"] {
            let words = kernel(&snapshot, &Settings::default(), node);
            insta::assert_snapshot!(format!("kilo_crosssubnet_{node}"), words);
        }
    }
}

#[test]
fn the_routes_beside_other_network_plugins() {
    let mut snapshot = example();
    let flannel = Settings { beside: Some(Plugin::Flannel), local: false, cni: false };
    for node in ["a", "b"] {
        insta::assert_snapshot!(format!("kilo_flannel_{node}"), kernel(&snapshot, &flannel, node));
    }
    let cilium = Settings { beside: Some(Plugin::Cilium), ..flannel };
    snapshot.mesh.encapsulation.when = EncapsulateWhen::CrossSubnet;
    snapshot.nodes[2].cni_address = Some("10.244.0.11".parse().unwrap());
    snapshot.nodes[1].cni_address = Some("10.244.1.12".parse().unwrap());
    for node in ["a", "b"] {
        insta::assert_snapshot!(format!("kilo_cilium_{node}"), kernel(&snapshot, &cilium, node));
    }
}

#[test]
fn another_plugins_routes_stay_and_those_of_the_mesh_to_other_locations_come_first() {
    let (snapshot, me) = (example(), "a".parse().unwrap());
    let flannel = Settings { beside: Some(Plugin::Flannel), local: true, cni: false };
    let [near, far] = ["10.42.1.0/24", "10.42.2.0/24"].map(|text| text.parse::<Cidr>().unwrap());
    let ours = wireloom_topology::plan(&snapshot, &me).unwrap();
    for plan in [plan(&snapshot, &flannel, "a"), ours] {
        let plan = plan.beside_another(&snapshot.nodes);
        assert!(plan.near().contains(&near) && plan.elsewhere().contains(&far));
        let state = plan.kernel_state(&"wl0".parse().unwrap(), &wide());
        let tables_of = |prefix: Cidr| {
            let keys = state.routes.keys().filter(move |key| key.destination == prefix);
            keys.map(|key| key.table).collect::<Vec<_>>()
        };
        assert_eq!((tables_of(near), tables_of(far)), (vec![], vec![51110]));
        let first = state.rules.iter().find(|rule| rule.table == 51110).unwrap();
        assert_eq!(first.priority, 30110);
    }
}

/// Beside Kilo's agent on the same node: its routes are there first, and what comes by our link is let in.
#[test]
fn routes_that_stand_behind_others_are_the_same_but_for_their_metric() {
    let behind = Underlay { metric: 1107, ..wide() };
    for node in ["a", "b", "c"] {
        let plan = plan(&example(), &Settings::default(), node);
        let state = |underlay| plan.kernel_state(&"kilo0".parse().unwrap(), underlay);
        let (usual, state) = (state(&wide()), state(&behind));
        for (key, route) in &usual.routes {
            let metric = if key.table == 254 { 1107 } else { 0 };
            assert_eq!(state.routes.get(&RouteKey { metric, ..key.clone() }), Some(route));
        }
        assert_eq!(state.routes.len(), usual.routes.len());
        assert_eq!(state.rules, usual.rules);
        let wrapping = state.links.keys().find(|link| link.as_str() == "kilo0-ip");
        let has = |state: &KernelState| state.addresses.iter().any(|a| Some(&a.link) == wrapping);
        assert_eq!((has(&usual), has(&state)), (false, wrapping.is_some()));
    }
}

#[test]
fn every_node_of_a_full_mesh_leads_itself() {
    let mut snapshot = example();
    snapshot.mesh.gateways = GatewayCount::All;
    for node in ["a", "b", "c"] {
        let always = kernel(&snapshot, &Settings::default(), node);
        insta::assert_snapshot!(format!("kilo_full_{node}"), always);
        snapshot.mesh.encapsulation.when = EncapsulateWhen::CrossSubnet;
        assert_eq!(kernel(&snapshot, &Settings::default(), node), always);
        snapshot.mesh.encapsulation.when = EncapsulateWhen::Always;
    }
    insta::assert_snapshot!("kilo_full_confs", confs(&snapshot));
}

#[test]
fn what_a_masquerades_and_what_not() {
    let sets = plan(&example(), &Settings::default(), "a").masquerade.unwrap();
    let texts = |set: NftSet| sets[&set].iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(NftSet::Mesh),
        [
            "10.0.0.1/32",
            "10.0.0.2/32",
            "10.4.0.1/32",
            "10.4.0.2/32",
            "10.42.0.0/24",
            "10.42.1.0/24",
            "10.42.2.0/24",
            "192.168.1.3/32"
        ]
    );
    assert_eq!(texts(NftSet::Peers), ["10.5.0.1/32"]);
    assert_eq!(texts(NftSet::Pods), ["10.42.0.0/24"]);
    assert!(texts(NftSet::Site).is_empty());
    let sets = plan(&example(), &Settings { cni: false, ..Settings::default() }, "c").masquerade;
    let sets = sets.unwrap();
    assert_eq!(sets[&NftSet::Site], ["192.168.1.50/32".parse().unwrap()].into());
    assert!(sets[&NftSet::Pods].is_empty());
}

#[test]
fn the_picture_that_kgctl_draws() {
    let (snapshot, seen) = (example(), Seen::default());
    let view = View::of(&snapshot, Settings::default(), &seen, None);
    // What gographviz 2.0.3 printed of the calls that Kilo's `Topology.Dot` makes for the example.
    assert_eq!(view.dot(), include_str!("kilo_graph.dot"));
    insta::assert_snapshot!("kilo_mermaid", view.graph().mermaid());
}

#[test]
fn edges_are_in_the_order_of_names_whatever_that_of_segments() {
    let (mut snapshot, seen) = (example(), Seen::default());
    snapshot.nodes.push(node("z", "abc", "10.9.0.1/24", "10.9.0.1", "10.42.9.0/24"));
    let dot = View::of(&snapshot, Settings::default(), &seen, None).dot();
    let edges: Vec<&str> =
        dot.lines().filter_map(|line| line.split_once("[ dir")).map(|e| e.0).collect();
    assert_eq!(
        edges,
        [
            "\t\"a\"->\"b\"",
            "\t\"a\"->\"c\"",
            "\t\"a\"->\"laptop\"",
            "\t\"c\"->\"laptop\"",
            "\t\"z\"->\"a\"",
            "\t\"z\"->\"c\"",
            "\t\"z\"->\"laptop\"",
        ]
    );
}

/// The segments as text: leader and address, then the members.
fn segments(snapshot: &Snapshot) -> Vec<String> {
    let seen = Seen::default();
    let view = View::of(snapshot, Settings::default(), &seen, None);
    let graph = view.graph();
    let text = |segment: &wireloom_topology::graph::GraphSegment| {
        let leader = segment.nodes.iter().find(|node| node.gateway).unwrap();
        let names: Vec<&str> = segment.nodes.iter().map(|node| node.name.as_str()).collect();
        let address = leader.overlay_addresses.first().map(ToString::to_string);
        let address = address.unwrap_or_default();
        format!("{} {} {address} {}", segment.segment, leader.name, names.join(","))
    };
    graph.segments.iter().map(text).collect()
}

#[test]
fn segments_are_numbered_in_order_and_a_newcomer_renumbers() {
    let mut snapshot = example();
    assert_eq!(segments(&snapshot), ["location aws a 10.4.0.1 a,b", "location edge c 10.4.0.2 c"]);
    snapshot.nodes.push(node("z", "abc", "10.9.0.1/24", "10.9.0.1", "10.42.9.0/24"));
    assert_eq!(
        segments(&snapshot),
        ["location abc z 10.4.0.1 z", "location aws a 10.4.0.2 a,b", "location edge c 10.4.0.3 c"]
    );
}

#[test]
fn a_node_without_internal_address_comes_last_and_addresses_may_be_had_twice() {
    let nodes = vec![
        node("a", "1", "192.168.0.1/32", "10.1.0.1", "10.2.1.0/24"),
        node("b", "2", "192.168.0.1/32", "10.1.0.2", "10.2.2.0/24"),
        node("c", "2", "192.168.0.2/32", "10.1.0.3", "10.2.3.0/24"),
        node("d", "1", "none", "10.1.0.4", "10.2.4.0/24"),
    ];
    let snapshot = mesh_of(nodes, Vec::new());
    assert_eq!(
        segments(&snapshot),
        ["location 1 a 10.4.0.1 a", "location 2 b 10.4.0.2 b,c", "node d d 10.4.0.3 d"]
    );
    let seen = Seen::default();
    let view = View::of(&snapshot, Settings::default(), &seen, None);
    let conf = view.conf_of_node(&"d".parse().unwrap(), nonzero(1)).unwrap().unwrap().to_string();
    assert_eq!(conf.matches("192.168.0.1/32").count(), 2);
    // The device has it once, where the kernel would leave it.
    let peers = view.plan(&"d".parse().unwrap()).unwrap().tunnel_peers;
    let shared = "192.168.0.1/32".parse().unwrap();
    let having: Vec<bool> = peers.iter().map(|peer| peer.allowed_ips.contains(&shared)).collect();
    assert_eq!(having, [false, true]);
}

#[test]
fn leaders_are_declared_or_public_or_first() {
    let named = |name: &str, endpoint: &str, declared: bool| {
        let at = name.as_bytes()[0];
        let mut node =
            node(name, "l", &format!("10.0.0.{at}/24"), endpoint, &format!("10.42.{at}.0/24"));
        node.gateway.declared = declared;
        node
    };
    let (private, public) = ("10.1.0.1", "203.0.113.9");
    let lead = |nodes: Vec<Node>| segments(&mesh_of(nodes, Vec::new()))[0].clone();
    let abc =
        || vec![named("a", private, false), named("b", public, false), named("c", public, false)];
    assert!(lead(abc()).starts_with("location l b "));
    let with = |more: Vec<Node>| lead(abc().into_iter().chain(more).collect());
    assert!(with(vec![named("d", private, true)]).starts_with("location l d "));
    assert!(
        with(vec![named("d", private, true), named("2", public, true)])
            .starts_with("location l 2 ")
    );
    assert!(
        lead(vec![named("b", private, false), named("a", private, false)])
            .starts_with("location l a ")
    );
    // What Kilo takes for public.
    for (odd, leads) in [
        ("100.64.0.1", true),
        ("198.18.0.1", true),
        ("fd12::1", true),
        ("fd00::1", false),
        ("172.31.0.1", false),
    ] {
        let leader = lead(vec![named("a", private, false), named("b", odd, false)]);
        assert_eq!(leader.starts_with("location l b "), leads, "{odd}");
    }
    // A name counts by what it resolves to, and for nothing if that is not known.
    let mut by_name = vec![named("a", private, false), named("b", private, false)];
    by_name[1].endpoint = Some("gw.example.com:51820".parse().unwrap());
    let snapshot = mesh_of(by_name, Vec::new());
    assert!(segments(&snapshot)[0].starts_with("location l a "));
    let names = [("gw.example.com".parse().unwrap(), public.parse().unwrap())].into();
    let seen = Seen { names, heard: None };
    let nodes = View::of(&snapshot, Settings::default(), &seen, None).nodes();
    assert_eq!(nodes.iter().find(|node| node.gateway).unwrap().node.as_str(), "b");
}

#[test]
fn a_range_that_is_used_up_is_said() {
    let nodes = (1..6).map(|at| {
        let octet = at.to_string();
        node(
            &format!("n{at}"),
            &octet,
            &format!("10.0.{at}.1/24"),
            "203.0.113.1",
            &format!("10.42.{at}.0/24"),
        )
    });
    let mut snapshot = mesh_of(nodes.collect(), Vec::new());
    snapshot.mesh.overlay = Overlay::new(["10.4.0.0/30".parse().unwrap()]).unwrap();
    let found = segments(&snapshot);
    assert!(found[2].contains("10.4.0.3"), "the last address is given out: {found:?}");
    assert!(found[3].ends_with("n4  n4"), "{found:?}");
    let seen = Seen::default();
    let view = View::of(&snapshot, Settings::default(), &seen, None);
    let said = view.problems().iter().filter(|p| p.kind == ProblemKind::OverlayExhausted).count();
    assert_eq!(said, 2);
}

/// Which of these networks a node of `edge` brings in are left, with the given lists at both locations.
fn left(aws: &[&str], edge: &[&str], peers: &[&str]) -> [Vec<String>; 2] {
    let mut snapshot = example();
    snapshot.peers.truncate(0);
    if !peers.is_empty() {
        snapshot.peers.push(peer("p", 50, peers));
    }
    let list = |prefixes: &[&str]| prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    snapshot.nodes[2].extra_prefixes = list(aws);
    snapshot.nodes[0].extra_prefixes = list(edge);
    let seen = Seen::default();
    let graph = View::of(&snapshot, Settings::default(), &seen, None).graph();
    ["a", "c"].map(|name| {
        let mut nodes = graph.segments.iter().flat_map(|segment| &segment.nodes);
        let owns = &nodes.find(|node| node.name.as_str() == name).unwrap().owns;
        owns.iter().map(ToString::to_string).collect()
    })
}

#[test]
fn networks_behind_locations_are_filtered_as_kilo_does() {
    let none: Vec<String> = Vec::new();
    let one = |text: &str| vec![text.to_owned()];
    assert_eq!(
        left(&["172.20.0.0/16"], &["172.20.0.0/16"], &[]),
        [none.clone(), one("172.20.0.0/16")]
    );
    assert_eq!(left(&["10.42.0.0/16"], &[], &[]), [none.clone(), none.clone()]);
    assert_eq!(left(&["10.40.0.0/13"], &[], &[]), [one("10.40.0.0/13"), none.clone()]);
    assert_eq!(left(&["0.0.0.0/0"], &[], &[]), [one("0.0.0.0/0"), none.clone()]);
    assert_eq!(left(&["0.0.0.0/0"], &[], &["10.5.0.1/32"]), [none.clone(), none]);
}

#[test]
fn a_later_peer_loses_what_an_earlier_one_has_by_the_letter() {
    let (wide, narrow) = ("10.7.0.0/24", "10.7.0.1/32");
    let peers = vec![peer("b", 2, &[wide, narrow]), peer("a", 1, &[wide])];
    let snapshot = Snapshot { peers, ..example() };
    let seen = Seen::default();
    let peers = View::of(&snapshot, Settings::default(), &seen, None).graph().peers;
    let has: Vec<usize> = peers.iter().map(|peer| peer.allowed_ips.len()).collect();
    assert_eq!(has, [1, 1]);
    assert_eq!(peers[1].allowed_ips[0].to_string(), narrow);
}

#[test]
fn the_own_sighting_counts_before_others_and_only_of_those_that_move() {
    let mut snapshot = discovered();
    let [c, b, a] = [0, 1, 2].map(|at| snapshot.nodes[at].key);
    snapshot.nodes[1].discovered_endpoints.insert(c, "198.51.100.8:1".parse().unwrap());
    snapshot.nodes[1].discovered_endpoints.insert(a, "198.51.100.9:1".parse().unwrap());
    let endpoint = |heard: Option<&str>| {
        let heard = heard.map(|at| [(c, at.parse().unwrap())].into());
        let seen = Seen { heard, ..Seen::default() };
        let me = "a".parse().unwrap();
        let plan = View::of(&snapshot, Settings::default(), &seen, Some(&me)).plan(&me).unwrap();
        plan.tunnel_peers[0].endpoint.clone().unwrap().to_string()
    };
    assert_eq!(endpoint(Some("192.0.2.1:9")), "192.0.2.1:9");
    assert_eq!(endpoint(None), "198.51.100.7:40000");
    // a keeps nothing open, so what b heard of it counts for nothing.
    let plan = plan(&snapshot, &Settings::default(), "c");
    assert_eq!(plan.tunnel_peers[0].endpoint.clone().unwrap().to_string(), "203.0.113.1:51820");
    // And nobody publishes it.
    let address: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let laptop = snapshot.peers[0].key;
    let published = discoveries(&snapshot, [a, b, c, laptop].map(|key| (key, address)));
    assert_eq!(published.keys().copied().collect::<Vec<_>>(), {
        let mut keys = [c, laptop];
        keys.sort();
        keys
    });
}

#[test]
fn who_is_not_ready_is_not_there() {
    let mut snapshot = example();
    snapshot.nodes[2].healthy = false;
    assert_eq!(segments(&snapshot), ["location aws b 10.4.0.1 b", "location edge c 10.4.0.2 c"]);
    // To itself it is there as long as it lives.
    assert!(plan(&snapshot, &Settings::default(), "a").gateway);
    snapshot.nodes[1].endpoint = None;
    assert_eq!(segments(&snapshot), ["location edge c 10.4.0.1 c"]);
    snapshot.nodes[0].pod_prefixes.clear();
    assert!(segments(&snapshot).is_empty());
}
