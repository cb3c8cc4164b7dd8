//! Kilo's algorithm on random meshes: all nodes see one mesh, and packets arrive wherever Kilo's would.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use wireloom_model::{
    Cidr, EncapsulateBy, Endpoint, Family, InterfaceAddress, Node, NodeName, Overlay, Snapshot,
};
use wireloom_topology::kilo::{Seen, Settings, View};
use wireloom_topology::{Plan, algorithm_in_force};

use crate::generator::{Kind, inside, mesh};
use crate::kilo::nonzero;
use crate::walker::{Packet, Place, World};

/// A mesh as Kilo can have it: IPv4 alone, an endpoint and pods for each node.
fn kilos(most: usize) -> impl Strategy<Value = Snapshot> {
    let v4 = |prefix: &Cidr| prefix.family() == Family::V4;
    let lengths = prop::sample::select(vec![24, 30]);
    (mesh(Kind::Clean, most), lengths, any::<bool>()).prop_map(
        move |(mut snapshot, length, by_internal)| {
            snapshot.mesh.overlay = Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap();
            snapshot.mesh.encapsulation.by = EncapsulateBy::Ipip;
            for node in &mut snapshot.nodes {
                let number = node.key.as_bytes()[31] + 1;
                node.internal_addresses.retain(|address| address.family() == Family::V4);
                for address in &mut node.internal_addresses {
                    *address = InterfaceAddress::new(address.address(), length).unwrap();
                }
                node.pod_prefixes = vec![Cidr::truncated([10, 42, number, 0].into(), 24).unwrap()];
                let internal = node.internal_addresses.first().map(InterfaceAddress::address);
                let public = IpAddr::from([203, 0, 113, number]);
                let endpoint = internal.filter(|_| by_internal && number.is_multiple_of(3));
                node.endpoint = Some(Endpoint::at(endpoint.unwrap_or(public), nonzero(51820)));
                node.extra_prefixes.clear();
            }
            for peer in &mut snapshot.peers {
                peer.allowed_ips.retain(v4);
            }
            snapshot
        },
    )
}

fn world(snapshot: &Snapshot) -> World {
    let seen = Seen::default();
    let view = View::of(snapshot, Settings::default(), &seen, None);
    World::build(
        snapshot,
        view.graph(),
        |name| View::of(snapshot, Settings::default(), &seen, Some(name)).plan(name).unwrap(),
        |name| view.peer_view(name).unwrap(),
    )
}

fn pods(node: &Node) -> IpAddr {
    inside(node.pod_prefixes[0])
}

/// The addresses by which Kilo lets all others reach a node.
fn reached(snapshot: &Snapshot, node: &Node) -> Vec<IpAddr> {
    let is_endpoint = |address: &IpAddr| {
        let mut endpoints = snapshot.nodes.iter().filter_map(|node| node.endpoint.as_ref());
        endpoints.any(|endpoint| endpoint.address() == Some(*address))
    };
    let internal = node.internal_addresses.iter().map(InterfaceAddress::address);
    internal.filter(|address| !is_endpoint(address)).chain([pods(node)]).collect()
}

/// Follows a packet and its answer between every two nodes, and between every peer and every node. Returns how many.
fn check(snapshot: &Snapshot) -> Result<usize, String> {
    let world = world(snapshot);
    let mut followed = 0;
    let mut there_and_back = |from: &Place, to: &Place, packet: Packet| {
        followed += 1;
        let ends = [(from, to, packet), (to, from, packet.reply())];
        ends.into_iter().try_for_each(|(start, end, packet)| match world.walk(start, packet)? {
            found if found == *end => Ok(()),
            found => Err(format!("{packet:?} arrived at {found:?}, not at {end:?}")),
        })
    };
    let place = |node: &Node| Place::Node(node.name.clone());
    for a in &snapshot.nodes {
        for b in snapshot.nodes.iter().filter(|b| b.name != a.name) {
            for from in reached(snapshot, a) {
                for to in reached(snapshot, b) {
                    there_and_back(&place(a), &place(b), Packet { from, to })?;
                }
            }
            let leads = &world.nodes[&b.name].facts.overlay_addresses;
            for &to in leads {
                there_and_back(&place(a), &place(b), Packet { from: pods(a), to })?;
            }
        }
        for peer in &snapshot.peers {
            for (from, to) in peer.allowed_ips.iter().zip(reached(snapshot, a)) {
                let packet = Packet { from: inside(*from), to };
                there_and_back(&Place::Peer(peer.name.clone()), &place(a), packet)?;
            }
        }
    }
    Ok(followed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_packet_arrives_that_kilo_would_carry(snapshot in kilos(12)) {
        check(&snapshot).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn all_nodes_see_one_mesh_in_whatever_order_it_is_listed(
        (snapshot, shuffled) in kilos(12).prop_flat_map(|snapshot| {
            let nodes = Just(snapshot.nodes.clone()).prop_shuffle();
            let peers = Just(snapshot.peers.clone()).prop_shuffle();
            (Just(snapshot), nodes, peers).prop_map(|(snapshot, nodes, peers)| {
                let shuffled = Snapshot { nodes, peers, ..snapshot.clone() };
                (snapshot, shuffled)
            })
        })
    ) {
        let seen = Seen::default();
        let all = View::of(&snapshot, Settings::default(), &seen, None);
        let names: Vec<&NodeName> = snapshot.nodes.iter().map(|node| &node.name).collect();
        for name in names {
            let own = View::of(&shuffled, Settings::default(), &seen, Some(name));
            prop_assert_eq!(own.nodes(), all.nodes());
            prop_assert_eq!(own.graph(), all.graph());
            prop_assert_eq!(own.problems(), all.problems());
            prop_assert_eq!(own.plan(name).unwrap(), all.plan(name).unwrap());
        }
        prop_assert_eq!(algorithm_in_force(&snapshot), algorithm_in_force(&shuffled));
    }

    #[test]
    fn a_leader_stays_a_gateway_with_its_address_when_the_mesh_switches(snapshot in kilos(10)) {
        let seen = Seen::default();
        let before = View::of(&snapshot, Settings::default(), &seen, None);
        let mut switched = snapshot.clone();
        for node in &mut switched.nodes {
            node.held = before.plan(&node.name).unwrap().publishes;
            node.since = 0;
        }
        let after = wireloom_topology::Topology::of(&switched);
        for (old, new) in before.nodes().iter().zip(after.nodes()) {
            let weight = switched.nodes.iter().find(|node| node.name == old.node).unwrap();
            // Weight is ours alone: who has none gives the role away where others have some.
            if old.gateway && weight.gateway.weight > 0 {
                prop_assert!(new.gateway, "{} led and is no gateway", old.node);
                prop_assert_eq!(&new.overlay_addresses, &old.overlay_addresses);
            }
        }
    }
}

/// Connections to internal addresses last, too.
#[test]
fn what_kilo_carries_is_carried_after_the_switch() {
    let mut snapshot = crate::kilo::example();
    let view = |snapshot: &Snapshot, seen: &Seen| {
        let view = View::of(snapshot, Settings::default(), seen, None);
        let plans = snapshot.nodes.iter().map(|node| view.plan(&node.name).unwrap());
        plans.collect::<Vec<_>>()
    };
    let carried = |plans: &[Plan]| -> BTreeSet<Cidr> {
        // What others have routes for and their leader has none, they don't reach.
        let leaders = plans.iter().filter(|plan| plan.gateway);
        leaders.flat_map(|plan| plan.routes.keys().copied()).collect()
    };
    for (heard, at_least) in [(false, "10.0.0.2/32"), (true, "192.168.1.3/32")] {
        if heard {
            let c = snapshot.nodes[0].key;
            let at = "198.51.100.7:40000".parse().unwrap();
            snapshot.nodes[2].discovered_endpoints.insert(c, at);
        }
        let before = view(&snapshot, &Seen::default());
        let mut switched = snapshot.clone();
        for (node, plan) in switched.nodes.iter_mut().zip(&before) {
            node.held = plan.publishes.clone();
        }
        let topology = wireloom_topology::Topology::of(&switched);
        let after: Vec<Plan> =
            switched.nodes.iter().map(|node| topology.plan(&node.name).unwrap()).collect();
        let (before, after) = (carried(&before), carried(&after));
        assert!(before.contains(&at_least.parse().unwrap()), "{before:?}");
        let is_lost = |prefix: &&Cidr| !after.iter().any(|wider| wider.covers(prefix));
        assert_eq!(before.iter().filter(is_lost).collect::<Vec<_>>(), [] as [&Cidr; 0]);
    }
}

#[test]
fn the_walker_follows_many_packets_and_sees_what_is_missing() {
    let snapshot = crate::kilo::example();
    // Six ordered pairs of three nodes. a is reached at its internal address and its pods, b and c, whose endpoints
    // are their internal addresses, at their pods alone; each other node reaches the addresses of the two leaders; and
    // the laptop reaches each node.
    assert_eq!(check(&snapshot).unwrap(), 4 * 2 + 2 + 4 + 3);
    let mut broken = world(&snapshot);
    let b = broken.nodes.get_mut(&"b".parse::<NodeName>().unwrap()).unwrap();
    b.kernel.routes.clear();
    let packet = Packet { from: [10, 42, 1, 7].into(), to: [10, 42, 2, 7].into() };
    let from = Place::Node("b".parse().unwrap());
    assert!(broken.walk(&from, packet).unwrap_err().contains("no route"));
}
