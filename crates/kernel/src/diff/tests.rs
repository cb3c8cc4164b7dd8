use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use wireloom_model::{Cidr, InterfaceAddress};

use super::*;

fn name() -> impl Strategy<Value = InterfaceName> {
    prop_oneof![Just("wl0"), Just("wl1")].prop_map(|name| name.parse().unwrap())
}

fn link() -> impl Strategy<Value = Link> {
    (prop_oneof![Just(1280), Just(1420)], any::<bool>())
        .prop_map(|(mtu, up)| Link { up, ..Link::held(mtu) })
}

/// Few hosts and lengths, so that resized and secondary addresses come up often.
fn address() -> impl Strategy<Value = Address> {
    let address = prop_oneof![
        (1u8..3, prop_oneof![Just(16), Just(32)]).prop_map(|(host, length)| {
            InterfaceAddress::new([10, 4, 0, host].into(), length).unwrap()
        }),
        (1u16..3, prop_oneof![Just(64), Just(128)]).prop_map(|(host, length)| {
            InterfaceAddress::new([0xfd00, 0, 0, 0, 0, 0, 0, host].into(), length).unwrap()
        }),
    ];
    (name(), address).prop_map(|(link, address)| Address { link, address })
}

fn route() -> impl Strategy<Value = (RouteKey, Route)> {
    let table = prop_oneof![Just(MAIN_TABLE), Just(1000)];
    let metric = prop_oneof![Just(0), Just(50)];
    (any::<bool>(), 0u8..4, table, metric, any::<bool>(), option::of(name()), option::of(1u8..3))
        .prop_map(|(v6, net, table, metric, gateway, link, source)| {
            let network = |net: u8, host: u8| -> std::net::IpAddr {
                if v6 {
                    [0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()].into()
                } else {
                    [10, net, 0, host].into()
                }
            };
            let length = if v6 { 32 } else { 16 };
            let destination = Cidr::truncated(network(net, 0), length).unwrap();
            let route = Route {
                gateway: gateway.then(|| network(200, 1)),
                link,
                source: source.map(|host| network(if v6 { 0 } else { 4 }, host)),
            };
            (RouteKey { table, destination, metric }, route)
        })
}

fn state() -> impl Strategy<Value = KernelState> {
    let routes = proptest::collection::vec(route(), 0..8);
    (btree_map(name(), link(), 0..=2), btree_set(address(), 0..6), routes).prop_map(
        |(links, addresses, routes)| KernelState {
            links,
            addresses,
            routes: routes.into_iter().collect(),
            ..KernelState::default()
        },
    )
}

/// The states after each step, the observed one first.
fn walk(observed: &KernelState, changes: &[Change]) -> Vec<KernelState> {
    let mut states = vec![observed.clone()];
    for change in changes {
        let mut next = states[states.len() - 1].clone();
        change.apply_to(&mut next);
        states.push(next);
    }
    states
}

/// Where a change stands in the order that the documentation promises.
fn rank(change: &Change, desired: &KernelState, observed: &KernelState) -> u8 {
    let added: Vec<&Address> = desired.addresses.difference(&observed.addresses).collect();
    match change {
        Change::SetLink(_, link) if link.up => 0,
        Change::DeleteAddress(old) if added.iter().any(|new| replaces(new, old)) => 1,
        Change::AddAddress(_) => 2,
        Change::AddRoute(_, route) | Change::ReplaceRoute(_, route) => {
            3 + u8::from(route.gateway.is_some())
        }
        Change::DeleteRoute(_) => 5,
        Change::DeleteAddress(_) => 6,
        Change::SetLink(..) => 7,
    }
}

proptest! {
    #[test]
    fn the_steps_lead_to_what_is_desired(desired in state(), observed in state()) {
        let changes = diff(&desired, &observed);
        let states = walk(&observed, &changes);
        let reached = &states[changes.len()];
        prop_assert_eq!(&reached.addresses, &desired.addresses);
        prop_assert!(reached.routes.keys().eq(desired.routes.keys()));
        for (key, route) in &desired.routes {
            prop_assert!(matches(route, &reached.routes[key]));
        }
        for (name, link) in &reached.links {
            let wanted = desired.links.get(name).or_else(|| observed.links.get(name));
            prop_assert_eq!(Some(link), wanted);
        }
        prop_assert!(desired.links.keys().all(|name| reached.links.contains_key(name)));
        prop_assert_eq!(diff(&desired, reached), vec![]);
    }

    #[test]
    fn equal_states_need_no_step(state in state()) {
        prop_assert_eq!(diff(&state, &state), vec![]);
    }

    #[test]
    fn what_both_hold_is_never_gone(desired in state(), observed in state()) {
        let shared: Vec<&RouteKey> =
            desired.routes.keys().filter(|key| observed.routes.contains_key(*key)).collect();
        let same: Vec<&RouteKey> = shared
            .iter()
            .copied()
            .filter(|key| matches(&desired.routes[*key], &observed.routes[*key]))
            .collect();
        let changes = diff(&desired, &observed);
        for between in walk(&observed, &changes) {
            prop_assert!(shared.iter().all(|key| between.routes.contains_key(*key)));
            for key in &same {
                prop_assert!(matches(&desired.routes[*key], &between.routes[*key]));
            }
            let kept = desired.addresses.intersection(&observed.addresses);
            prop_assert!(between.addresses.is_superset(&kept.cloned().collect()));
        }
    }

    #[test]
    fn the_steps_stand_in_the_promised_order(desired in state(), observed in state()) {
        let ranks: Vec<u8> =
            diff(&desired, &observed).iter().map(|change| rank(change, &desired, &observed)).collect();
        prop_assert!(ranks.is_sorted(), "{:?}", ranks);
    }

    #[test]
    fn nothing_is_left_of_us_after_teardown(observed in state()) {
        let changes = diff(&KernelState::default(), &observed);
        let states = walk(&observed, &changes);
        let last = &states[changes.len()];
        prop_assert!(last.addresses.is_empty() && last.routes.is_empty());
    }
}

fn v6_route(metric: u32, source: Option<&str>) -> KernelState {
    let key = RouteKey { metric, ..RouteKey::main("fd01::/16".parse().unwrap()) };
    let source = source.map(|text| text.parse().unwrap());
    let route = Route { gateway: None, link: Some("wl0".parse().unwrap()), source };
    KernelState { routes: [(key, route)].into(), ..KernelState::default() }
}

#[test]
fn the_default_metric_of_ipv6_has_two_spellings() {
    assert_eq!(diff(&v6_route(0, None), &v6_route(1024, None)), vec![]);
    assert_eq!(diff(&v6_route(1024, None), &v6_route(0, None)), vec![]);
    assert_eq!(diff(&v6_route(0, None), &v6_route(1023, None)).len(), 2);
}

#[test]
fn a_route_gets_its_source_back_after_the_address_was_resized() {
    let with_length = |length: u8| {
        let address = InterfaceAddress::new("fd00::1".parse().unwrap(), length).unwrap();
        let mut state = v6_route(0, Some("fd00::1"));
        state.addresses.insert(Address { link: "wl0".parse().unwrap(), address });
        state
    };
    let changes = diff(&with_length(64), &with_length(128));
    assert!(
        matches!(
            changes.as_slice(),
            [Change::DeleteAddress(_), Change::AddAddress(_), Change::ReplaceRoute(..)]
        ),
        "{changes:?}"
    );
}

#[test]
fn a_change_reads_like_a_sentence() {
    let key = RouteKey { table: 7, destination: "10.0.0.0/8".parse().unwrap(), metric: 5 };
    let route = Route {
        gateway: Some("10.9.0.1".parse().unwrap()),
        link: Some("wl0".parse().unwrap()),
        source: Some("10.4.0.1".parse().unwrap()),
    };
    assert_eq!(
        Change::AddRoute(key.clone(), route).to_string(),
        "add the route to 10.0.0.0/8 via 10.9.0.1 dev wl0 src 10.4.0.1 metric 5 table 7"
    );
    assert_eq!(
        Change::DeleteRoute(key).to_string(),
        "delete the route to 10.0.0.0/8 metric 5 table 7"
    );
}
