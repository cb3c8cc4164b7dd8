//! What a machine's own network changes of the kernel state that a plan asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use wireloom_model::kernel::{KernelState, MAIN_TABLE, NftSet, Route, RouteKey, Rule};
use wireloom_model::{Cidr, Family, InterfaceName};
use wireloom_topology::kilo::{Seen, Settings, View};
use wireloom_topology::{Hop, Plan, Underlay, Way};

use crate::golden::{demo, wide};

const MARK: u32 = 0x20;

fn wl0() -> InterfaceName {
    "wl0".parse().unwrap()
}

fn plan() -> Plan {
    wireloom_topology::plan(&demo(), &"lon-1".parse().unwrap()).unwrap()
}

/// The longest route to an address among these.
fn longest<'a>(
    routes: impl Iterator<Item = (&'a RouteKey, &'a Route)>,
    to: IpAddr,
) -> Option<(&'a RouteKey, &'a Route)> {
    routes
        .filter(|(key, _)| key.destination.contains(to))
        .max_by_key(|(key, _)| key.destination.length())
}

#[test]
fn routes_to_what_lies_behind_a_narrow_path_say_so_and_no_others() {
    let plan = plan();
    let narrow = &plan.tunnel_peers[0];
    let underlay = Underlay { narrow: BTreeMap::from([(narrow.key, 1240)]), ..wide() };
    let state = plan.kernel_state(&wl0(), &underlay);
    for peer in &plan.tunnel_peers {
        for prefix in &peer.allowed_ips {
            let (_, route) = longest(state.routes.iter(), prefix.address()).unwrap();
            let mtu = match prefix.family() {
                _ if peer.key != narrow.key => None,
                Family::V4 => Some(1240),
                // IPv6 works with no less.
                Family::V6 => Some(1280),
            };
            assert_eq!(route.mtu, mtu, "{prefix}");
            let (_, usual) =
                longest(plan.kernel_state(&wl0(), &wide()).routes.iter(), prefix.address())
                    .map(|(key, route)| (key.clone(), route.clone()))
                    .unwrap();
            assert_eq!(*route, Route { mtu, ..usual }, "{prefix}");
        }
    }
    assert_eq!((plan.pod_mtu(&underlay), plan.pod_mtu(&wide())), (1280, 1420));
}

/// Which route a packet takes, by the rules of the state and the main table's own (fib_rules(7)).
fn taken(state: &KernelState, to: IpAddr, mark: u32) -> Option<Route> {
    let family = Family::of(to);
    let mut rules: Vec<Rule> = state.rules.iter().cloned().collect();
    rules.push(Rule::all(family, 32766, MAIN_TABLE));
    rules.sort_by_key(|rule| rule.priority);
    let applies = |rule: &&Rule| {
        rule.family == family
            && rule.to.is_none_or(|prefix| prefix.contains(to))
            && rule.mark.is_none_or(|wanted| mark & wanted.mask == wanted.value)
    };
    rules.iter().filter(applies).find_map(|rule| {
        let table = state.routes.iter().filter(|(key, _)| key.table == rule.table);
        let (key, route) = longest(table, to)?;
        let counts = rule.suppress.is_none_or(|length| key.destination.length() > length);
        counts.then(|| route.clone())
    })
}

/// Few prefixes of few lengths, so that some hold others: whether each leads into the tunnel.
fn routes() -> impl Strategy<Value = BTreeMap<Cidr, bool>> {
    let prefix = (any::<bool>(), any::<u8>(), 0u8..=8).prop_map(|(v6, bits, length)| {
        let address: IpAddr = if v6 {
            [u16::from(bits) << 8, 0, 0, 0, 0, 0, 0, 0].into()
        } else {
            [bits, 0, 0, 0].into()
        };
        Cidr::truncated(address, length).unwrap()
    });
    proptest::collection::btree_map(prefix, any::<bool>(), 0..12)
}

fn ends() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    let end = (any::<bool>(), any::<u8>()).prop_map(|(v6, bits)| -> IpAddr {
        if v6 { [u16::from(bits) << 8, 0, 0, 0, 0, 0, 0, 9].into() } else { [bits, 0, 0, 9].into() }
    });
    proptest::collection::btree_set(end, 0..6)
}

proptest! {
    #[test]
    fn the_tunnels_own_packets_never_take_it_and_all_others_go_where_they_would(
        routes in routes(),
        endpoints in ends(),
        others in ends(),
    ) {
        let mut plan = plan();
        plan.tunnel_peers.clear();
        plan.routes = routes
            .iter()
            .map(|(prefix, tunnelled)| {
                let neighbour = "192.0.2.9".parse().unwrap();
                let (by, gateway) = match tunnelled {
                    true => (Way::Tunnel, None),
                    false => (Way::Location, Some(neighbour)),
                };
                (*prefix, Hop { by, gateway, source: None, away: false })
            })
            .collect();
        let usual = plan.kernel_state(&wl0(), &wide());
        let state = plan.kernel_state(&wl0(), &Underlay { endpoints: endpoints.clone(), ..wide() });
        for end in &endpoints {
            prop_assert!(taken(&state, *end, MARK).is_none_or(|route| route.link != Some(wl0())));
        }
        for to in endpoints.iter().chain(&others) {
            prop_assert_eq!(taken(&state, *to, 0), taken(&usual, *to, 0), "{}", to);
        }
        // Nothing is special about prefixes without an end in them.
        let holds_none = |cidr: &Cidr| endpoints.iter().all(|end| !cidr.contains(*end));
        for prefix in routes.keys().filter(|prefix| holds_none(prefix)) {
            prop_assert!(state.routes.contains_key(&RouteKey::main(*prefix)));
        }
    }
}

#[test]
fn without_a_mark_all_routes_stay_in_the_main_table_but_those_to_ends_themselves() {
    let usual = plan().kernel_state(&wl0(), &wide());
    let with_end = |end: IpAddr| {
        let endpoints = BTreeSet::from([end]);
        plan().kernel_state(&wl0(), &Underlay { endpoints, mark: 0, ..wide() })
    };
    assert_eq!(with_end("10.42.3.7".parse().unwrap()), usual, "in a pod prefix");
    let is_single =
        |(key, route): &(&RouteKey, &Route)| key.destination.is_host() && route.link == Some(wl0());
    let (itself, _) = usual.routes.iter().find(is_single).unwrap();
    let itself = itself.clone();
    let mut without = usual;
    without.routes.remove(&itself);
    assert_eq!(with_end(itself.destination.address()), without);
}

#[test]
fn between_all_prefixes_of_the_mesh_and_no_others_packets_are_accepted() {
    let asked = |services: &[&str]| {
        let mut snapshot = demo();
        snapshot.mesh.filter.forward_accept = true;
        snapshot.mesh.filter.services = services.iter().map(|cidr| cidr.parse().unwrap()).collect();
        snapshot
    };
    let nft = |plan: Plan, mark| plan.kernel_state(&wl0(), &Underlay { mark, ..wide() }).nft;
    let me = "lon-1".parse().unwrap();
    assert_eq!(plan().kernel_state(&wl0(), &wide()).nft.unwrap().accept, 0);
    // Whether anything is masqueraded is another matter. Services are no place that packets come from or go to.
    let snapshot = asked(&["10.43.0.0/16"]);
    for plan in [
        wireloom_topology::plan(&snapshot, &me).unwrap(),
        View::of(&snapshot, Settings::default(), &Seen::default(), Some(&me)).plan(&me).unwrap(),
    ] {
        let passed = plan.passed.clone();
        let peers = plan.tunnel_peers.iter().flat_map(|peer| &peer.allowed_ips);
        for prefix in peers.chain(plan.routes.keys()).chain(&plan.pods) {
            assert!(passed.iter().any(|passed| passed.covers(prefix)), "{prefix} of {passed:?}");
        }
        assert!(!passed.contains(&"10.43.0.0/16".parse().unwrap()));
        for (mark, bits) in [(MARK, MARK), (0x40, 0x40), (0, 0x20)] {
            let nft = nft(plan.clone(), mark).unwrap();
            assert_eq!((nft.accept, &nft.sets[&NftSet::Passed]), (bits, &passed));
        }
    }
}
