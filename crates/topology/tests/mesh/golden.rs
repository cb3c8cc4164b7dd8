//! The mesh of the demo: four regions, six nodes, both families, one node behind NAT and a laptop.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::{NonZeroU16, NonZeroU32};

use wireloom_model::kernel::{KernelState, Nft};
use wireloom_model::{
    EncapsulateBy, EncapsulateWhen, Encapsulation, Filter, GatewayCount, Mesh, Node, Overlay, Peer,
    PublicKey, Snapshot,
};
use wireloom_topology::{Graph, Plan, Topology, TunnelPeer, Underlay};

fn nonzero(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// The demo's mesh.
pub(crate) fn demo() -> Snapshot {
    let nodes = [
        ("ams-1", "nl-ams", ["10.10.0.1/24", "fd10:0:0:10::1/64"], Some("203.0.113.1:51820")),
        ("ams-2", "nl-ams", ["10.10.0.2/24", "fd10:0:0:10::2/64"], None),
        ("waw-1", "pl-waw", ["10.20.0.1/24", "fd10:0:0:20::1/64"], Some("203.0.113.2:51820")),
        ("waw-2", "pl-waw", ["10.20.0.2/24", "fd10:0:0:20::2/64"], None),
        ("lon-1", "uk-lon", ["10.30.0.1/24", "fd10:0:0:30::1/64"], Some("lon.example.com:51820")),
        ("ire-1", "eu-west-1", ["10.40.0.1/24", "fd10:0:0:40::1/64"], None),
    ];
    let nodes = nodes.into_iter().enumerate().map(|(at, (name, location, internal, endpoint))| {
        let number = u8::try_from(at + 1).unwrap();
        let key = PublicKey::from_bytes([number; 32]);
        let mut node = Node::new(name.parse().unwrap(), key, location.parse().unwrap());
        node.internal_addresses = internal.map(|address| address.parse().unwrap()).to_vec();
        node.endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
        node.pod_prefixes = vec![
            format!("10.42.{number}.0/24").parse().unwrap(),
            format!("fd42:0:0:{number}::/64").parse().unwrap(),
        ];
        if name == "ire-1" {
            node.persistent_keepalive = Some(nonzero(25));
        }
        node
    });
    Snapshot {
        mesh: Mesh {
            overlay: Overlay::new(["10.4.0.0/16", "fd44::/64"].map(|r| r.parse().unwrap()))
                .unwrap(),
            gateways: GatewayCount::AtMost(NonZeroU32::MIN),
            port: nonzero(51820),
            mtu: None,
            carry_internal_addresses: true,
            encapsulation: Encapsulation::default(),
            filter: Filter::default(),
        },
        nodes: nodes.collect(),
        peers: vec![Peer {
            name: "laptop".parse().unwrap(),
            key: PublicKey::from_bytes([99; 32]),
            preshared_key: None,
            allowed_ips: vec!["10.5.0.1/32".parse().unwrap(), "fd55::1/128".parse().unwrap()],
            endpoint: None,
            persistent_keepalive: Some(nonzero(10)),
            since: 0,
        }],
        problems: Vec::new(),
    }
}

fn show_peers(out: &mut String, peers: &[TunnelPeer]) {
    for peer in peers {
        let endpoint = peer.endpoint.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let keepalive = peer.persistent_keepalive.map_or(0, NonZeroU16::get);
        writeln!(out, "{:?} endpoint {endpoint} keepalive {keepalive}", peer.name).unwrap();
        for prefix in &peer.allowed_ips {
            writeln!(out, "    {prefix}").unwrap();
        }
    }
}

fn show(plan: &Plan) -> String {
    let mut out = String::new();
    let role = if plan.gateway { "gateway" } else { "member" };
    writeln!(out, "{} in {}: {role}, home {}", plan.node, plan.segment, plan.home).unwrap();
    writeln!(out, "addresses {:?}", plan.addresses).unwrap();
    show_peers(&mut out, &plan.tunnel_peers);
    for (prefix, hop) in &plan.routes {
        let hop_text =
            hop.gateway.map_or_else(|| "device".to_owned(), |gateway| gateway.to_string());
        let source = hop.source.map_or_else(|| "-".to_owned(), |source| source.to_string());
        writeln!(out, "{prefix} by {hop_text} from {source}").unwrap();
    }
    writeln!(out, "{:?}", plan.publishes).unwrap();
    for problem in &plan.problems {
        writeln!(out, "{problem}").unwrap();
    }
    out
}

#[test]
fn the_plans_of_the_demo() {
    let snapshot = demo();
    let topology = Topology::of(&snapshot);
    for name in ["ams-1", "ams-2", "ire-1"] {
        insta::assert_snapshot!(name, show(&topology.plan(&name.parse().unwrap()).unwrap()));
    }
}

#[test]
fn the_laptops_own_configuration() {
    let snapshot = demo();
    let mut out = String::new();
    show_peers(&mut out, &Topology::of(&snapshot).peer_view(&"laptop".parse().unwrap()).unwrap());
    insta::assert_snapshot!(out);
}

fn show_state(state: &KernelState) -> String {
    let mut out = String::new();
    for (name, link) in &state.links {
        writeln!(out, "{name} mtu {} up {} {:?}", link.mtu, link.up, link.kind).unwrap();
    }
    for address in &state.addresses {
        writeln!(out, "{} on {}", address.address, address.link).unwrap();
    }
    for (key, route) in &state.routes {
        let words = [
            route.gateway.map(|gateway| format!(" via {gateway}")),
            route.link.as_ref().map(|link| format!(" dev {link}")),
            route.source.map(|source| format!(" src {source}")),
        ];
        let words = words.into_iter().flatten().collect::<String>();
        writeln!(out, "{}{words} table {} metric {}", key.destination, key.table, key.metric)
            .unwrap();
    }
    for rule in &state.rules {
        writeln!(out, "rule {rule}").unwrap();
    }
    for ((link, address), mac) in &state.neighbours {
        writeln!(out, "neighbour {address} {mac} dev {link}").unwrap();
    }
    for ((link, mac), host) in &state.forwarding {
        writeln!(out, "forwarding {mac} to {host} dev {link}").unwrap();
    }
    for ((link, setting), value) in &state.settings {
        writeln!(out, "{setting} {value} of {link}").unwrap();
    }
    if let Some(nft) = &state.nft {
        let Nft { masquerade, clamp, guard, accept, sets } = nft;
        writeln!(out, "masquerade {masquerade} clamp {clamp:?} guard {guard:?} accept {accept:#x}")
            .unwrap();
        for (set, prefixes) in sets {
            let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            writeln!(out, "{}: {}", set.as_str(), prefixes.join(" ")).unwrap();
        }
    }
    out
}

/// Paths that all take what the tunnel device does, and ends of the tunnel far from any prefix.
pub(crate) fn wide() -> Underlay {
    Underlay {
        tunnel_mtu: 1420,
        internal_mtu: 1500,
        narrow: BTreeMap::new(),
        endpoints: BTreeSet::new(),
        mark: 0x20,
        metric: 0,
    }
}

fn state_of(snapshot: &Snapshot, node: &str) -> KernelState {
    let plan = wireloom_topology::plan(snapshot, &node.parse().unwrap()).unwrap();
    plan.kernel_state(&"wl0".parse().unwrap(), &wide())
}

#[test]
fn the_kernel_state_of_a_gateway() {
    insta::assert_snapshot!(show_state(&state_of(&demo(), "lon-1")));
}

#[test]
fn the_kernel_states_of_a_location_that_wraps() {
    for by in EncapsulateBy::ALL {
        let mut snapshot = demo();
        snapshot.mesh.encapsulation = Encapsulation { when: EncapsulateWhen::Always, by };
        for node in ["ams-1", "ams-2"] {
            insta::assert_snapshot!(format!("{node}-{by}"), show_state(&state_of(&snapshot, node)));
        }
    }
}

#[test]
fn the_kernel_state_of_a_gateway_that_masquerades_and_has_packets_accepted() {
    let mut snapshot = demo();
    snapshot.mesh.filter.masquerade = true;
    snapshot.mesh.filter.forward_accept = true;
    snapshot.mesh.filter.services = vec!["10.43.0.0/16".parse().unwrap()];
    for node in &mut snapshot.nodes {
        match node.name.as_str() {
            "lon-1" => node.extra_prefixes = vec!["192.168.7.0/24".parse().unwrap()],
            "waw-2" => node.extra_prefixes = vec!["192.168.8.0/24".parse().unwrap()],
            _ => {}
        }
    }
    let nft = state_of(&snapshot, "lon-1").nft;
    insta::assert_snapshot!(show_state(&KernelState { nft, ..KernelState::default() }));
}

#[test]
fn the_pictures_of_the_demo() {
    let snapshot = demo();
    let graph = Graph::of(&Topology::of(&snapshot));
    insta::assert_snapshot!("dot", graph.dot());
    insta::assert_snapshot!("mermaid", graph.mermaid());
    insta::assert_snapshot!("svg", graph.svg());
    insta::assert_json_snapshot!("json", graph);
}
