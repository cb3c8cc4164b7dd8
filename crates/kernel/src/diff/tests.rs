use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

use wireloom_model::InterfaceAddress;
use wireloom_model::kernel::{Link, LinkSetting, MAIN_TABLE, MacAddress, Outer};

use super::*;

fn name() -> impl Strategy<Value = InterfaceName> {
    prop_oneof![Just("wl0"), Just("wl1")].prop_map(|name| name.parse().unwrap())
}

fn link() -> impl Strategy<Value = Link> {
    let vxlan = |id| LinkKind::Vxlan {
        id,
        port: 4789,
        local: Ipv4Addr::LOCALHOST.into(),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
    };
    let kind = prop_oneof![
        2 => Just(LinkKind::Held),
        1 => (1u32..3).prop_map(vxlan),
        1 => Just(LinkKind::Ipip { local: Ipv4Addr::LOCALHOST }),
    ];
    (prop_oneof![Just(1280), Just(1420)], any::<bool>(), kind).prop_map(|(mtu, up, kind)| Link {
        mtu,
        up,
        kind,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let prefix = || option::of(prop_oneof![Just(0u8), Just(8)]);
    (any::<bool>(), 1u32..3, prefix(), option::of(0u32..2), option::of(name())).prop_map(
        |(v6, priority, from, mask, input)| {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let any = if v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
            Rule {
                from: from.map(|length| Cidr::truncated(any, length).unwrap()),
                mark: mask.map(|mask| Mark { value: 0, mask }),
                input,
                ..Rule::all(family, priority, 1107)
            }
        },
    )
}

/// Few prefixes of few lengths, so that some cover others.
fn nft() -> impl Strategy<Value = Nft> {
    let prefix = (any::<bool>(), 0u8..4, 6u8..=9).prop_map(|(v6, bits, length)| {
        let address: IpAddr = if v6 {
            [u16::from(bits) << 14, 0, 0, 0, 0, 0, 0, 0].into()
        } else {
            [bits << 6, 0, 0, 0].into()
        };
        Cidr::truncated(address, length - 6).unwrap()
    });
    let set = proptest::sample::select(&NftSet::ALL[..]);
    let sets = btree_map(set, btree_set(prefix, 0..5), 0..4);
    let outer =
        prop_oneof![Just(Outer::Ipip([192, 0, 2, 1].into())), Just(Outer::Vxlan(Family::V6, 4789))];
    let rules = (any::<bool>(), btree_set(name(), 0..2), btree_set(outer, 0..2));
    (sets, rules, 0u32..3).prop_map(|(sets, (masquerade, clamp, guard), accept)| Nft {
        sets,
        masquerade,
        clamp,
        guard,
        accept,
    })
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
    let mtu = option::of(1300u32..1302);
    let (link, source) = (option::of(name()), option::of(1u8..3));
    (any::<bool>(), 0u8..4, table, metric, any::<bool>(), link, source, mtu).prop_map(
        |(v6, net, table, metric, gateway, link, source, mtu)| {
            let network = |net: u8, host: u8| -> IpAddr {
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
                mtu,
            };
            (RouteKey { table, destination, metric }, route)
        },
    )
}

fn state() -> impl Strategy<Value = KernelState> {
    let routes = proptest::collection::vec(route(), 0..8);
    let mac = || (0u8..2).prop_map(|last| MacAddress([2, 0, 0, 0, 0, last]));
    let host = || (0u8..2).prop_map(|last| IpAddr::from([10, 0, 0, last]));
    let setting = proptest::sample::select(&LinkSetting::ALL[..]);
    let ends = (btree_map((name(), host()), mac(), 0..3), btree_map((name(), mac()), host(), 0..3));
    let settings = btree_map((name(), setting), 0u8..3, 0..3);
    let links = btree_map(name(), link(), 0..=2);
    let rules = btree_set(rule(), 0..4);
    (links, btree_set(address(), 0..6), routes, rules, ends, settings, option::of(nft())).prop_map(
        |(links, addresses, routes, rules, (neighbours, forwarding), settings, nft)| KernelState {
            links,
            addresses,
            routes: routes.into_iter().collect(),
            rules,
            neighbours,
            forwarding,
            settings,
            nft,
        },
    )
}

/// The state as it is observed once it is reached.
fn settled(state: &KernelState) -> KernelState {
    let nft = state.nft.clone().map(|mut nft| {
        for prefixes in nft.sets.values_mut() {
            *prefixes = disjoint(prefixes).collect();
        }
        nft.sets.retain(|_, prefixes| !prefixes.is_empty());
        nft
    });
    KernelState {
        routes: with_canonical_keys(state).into_owned(),
        rules: state.rules.iter().map(canonical_rule).collect(),
        nft,
        ..state.clone()
    }
}

/// A desired state that asks for nothing on a link that is about to go, and a state as it is observed.
fn pair() -> impl Strategy<Value = (KernelState, KernelState)> {
    (state(), state()).prop_map(|(mut desired, observed)| {
        let observed = settled(&observed);
        for (name, link) in &observed.links {
            if link.kind != LinkKind::Held && !desired.links.contains_key(name) {
                Change::DeleteLink(name.clone()).apply_to(&mut desired);
            }
        }
        (desired, observed)
    })
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

/// Nowhere, out of a link, through a gateway.
fn way(route: &Route) -> u8 {
    if route.is_unreachable() { 0 } else { 1 + u8::from(route.gateway.is_some()) }
}

/// Where a change stands in the order that the documentation promises.
fn rank(change: &Change, desired: &KernelState, observed: &KernelState) -> u8 {
    let added: Vec<&Address> = desired.addresses.difference(&observed.addresses).collect();
    let is_raised = |name: &InterfaceName, link: &Link| {
        link.kind != LinkKind::Held
            && observed.links.get(name).is_none_or(|before| before.kind != link.kind || !before.up)
    };
    match change {
        Change::DeleteLink(name) if desired.links.contains_key(name) => 0,
        Change::AddLink(..) => 1,
        Change::SetLink(name, link) if link.up && is_raised(name, link) => 5,
        Change::SetLink(_, link) if link.up => 1,
        Change::SetSetting(..) => 2,
        Change::DeleteAddress(old) if added.iter().any(|new| replaces(new, old)) => 3,
        Change::AddAddress(_) => 4,
        Change::SetNeighbour(..) | Change::SetForwarding(..) => 6,
        Change::SetNft(_) | Change::ChangeNftSets { .. } => 7,
        Change::AddRoute(_, route) | Change::ReplaceRoute(_, route) => 8 + way(route),
        Change::AddRule(_) => 11,
        Change::DeleteRule(_) => 12,
        Change::DeleteRoute(key) => 15 - way(&with_canonical_keys(observed)[key]),
        Change::DeleteNeighbour(..) | Change::DeleteForwarding(..) => 16,
        Change::DeleteNft => 17,
        Change::DeleteAddress(_) => 18,
        Change::SetLink(..) | Change::DeleteLink(_) => 19,
        Change::AcceptPassed(_) => unreachable!("not of the state"),
    }
}

proptest! {
    #[test]
    fn the_steps_lead_to_what_is_desired((desired, observed) in pair()) {
        let changes = diff(&desired, &observed);
        let states = walk(&observed, &changes);
        let reached = &states[changes.len()];
        let reached = &settled(reached);
        let wanted = &settled(&desired);
        prop_assert_eq!(&reached.addresses, &wanted.addresses);
        prop_assert!(reached.routes.keys().eq(wanted.routes.keys()));
        for (key, route) in &wanted.routes {
            prop_assert!(matches(route, &reached.routes[key]));
        }
        for (name, link) in &reached.links {
            let held = observed.links.get(name).filter(|link| link.kind == LinkKind::Held);
            prop_assert_eq!(Some(link), wanted.links.get(name).or(held));
        }
        prop_assert!(wanted.links.keys().all(|name| reached.links.contains_key(name)));
        prop_assert_eq!(&reached.rules, &wanted.rules);
        prop_assert_eq!(&reached.neighbours, &wanted.neighbours);
        prop_assert_eq!(&reached.forwarding, &wanted.forwarding);
        for (key, value) in &wanted.settings {
            prop_assert_eq!(reached.settings.get(key), Some(value));
        }
        prop_assert_eq!(&reached.nft, &wanted.nft);
        prop_assert_eq!(diff(&desired, reached), vec![]);
    }

    #[test]
    fn equal_states_need_no_step(state in state()) {
        prop_assert_eq!(diff(&state, &state), vec![]);
    }

    #[test]
    fn what_both_hold_is_never_gone((desired, observed) in pair()) {
        // What stands on a link that is made anew goes with it.
        let mut lasting = observed.clone();
        for name in links_in_the_way(&desired, &observed) {
            Change::DeleteLink(name).apply_to(&mut lasting);
        }
        let shared: Vec<&RouteKey> =
            desired.routes.keys().filter(|key| lasting.routes.contains_key(*key)).collect();
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
            let kept = desired.addresses.intersection(&lasting.addresses);
            prop_assert!(between.addresses.is_superset(&kept.cloned().collect()));
            prop_assert!(between.rules.is_superset(&(&settled(&desired).rules & &observed.rules)));
        }
    }

    #[test]
    fn the_steps_stand_in_the_promised_order((desired, observed) in pair()) {
        let ranks: Vec<u8> =
            diff(&desired, &observed).iter().map(|change| rank(change, &desired, &observed)).collect();
        prop_assert!(ranks.is_sorted(), "{:?}", ranks);
    }

    #[test]
    fn nothing_is_left_of_us_after_teardown((_, observed) in pair()) {
        let changes = diff(&KernelState::default(), &observed);
        let states = walk(&observed, &changes);
        let last = &states[changes.len()];
        prop_assert!(last.links.values().all(|link| link.kind == LinkKind::Held));
        let links = last.links.clone();
        let settings = last.settings.clone();
        prop_assert_eq!(last, &KernelState { links, settings, ..KernelState::default() });
    }

    #[test]
    fn an_exception_is_there_before_what_it_excepts_from((desired, observed) in pair()) {
        let changes = diff(&desired, &observed);
        let nft = |change: &Change| matches!(change, Change::SetNft(_) | Change::ChangeNftSets { .. });
        let route = |change: &Change| matches!(change, Change::AddRoute(..) | Change::ReplaceRoute(..));
        prop_assert!(changes.iter().filter(|change| nft(change)).count() <= 1);
        let table = changes.iter().position(nft);
        let first_route = changes.iter().position(route);
        prop_assert!(table.is_none() || first_route.is_none() || table < first_route);
    }
}

fn v6_route(metric: u32, source: Option<&str>) -> KernelState {
    let key = RouteKey { metric, ..RouteKey::main("fd01::/16".parse().unwrap()) };
    let source = source.map(|text| text.parse().unwrap());
    let route = Route { link: Some("wl0".parse().unwrap()), source, ..Route::default() };
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
fn who_is_kept_out_is_so_before_there_is_a_way_in_and_until_there_is_none() {
    let way = RouteKey::main("10.73.0.0/24".parse().unwrap());
    let wall = RouteKey { table: 51109, ..way.clone() };
    let into_mesh = Route { link: Some("wl0".parse().unwrap()), ..Route::default() };
    let both = [(way.clone(), into_mesh), (wall.clone(), Route::default())];
    let open = KernelState { routes: both.into(), ..KernelState::default() };
    let closed = KernelState::default();
    for (desired, observed) in [(&open, &closed), (&closed, &open)] {
        for between in walk(observed, &diff(desired, observed)) {
            let is_open = between.routes.contains_key(&way);
            assert!(!is_open || between.routes.contains_key(&wall), "{between:?}");
        }
    }
}

#[test]
fn a_change_reads_like_a_sentence() {
    let key = RouteKey { table: 7, destination: "10.0.0.0/8".parse().unwrap(), metric: 5 };
    let route = Route {
        gateway: Some("10.9.0.1".parse().unwrap()),
        link: Some("wl0".parse().unwrap()),
        source: Some("10.4.0.1".parse().unwrap()),
        mtu: Some(1300),
    };
    assert_eq!(
        Change::AddRoute(key.clone(), route).to_string(),
        "add the route to 10.0.0.0/8 via 10.9.0.1 dev wl0 src 10.4.0.1 mtu 1300 metric 5 table 7"
    );
    assert_eq!(
        Change::DeleteRoute(key).to_string(),
        "delete the route to 10.0.0.0/8 metric 5 table 7"
    );
}

#[test]
fn every_kind_of_change_reads_like_a_sentence() {
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let kind = LinkKind::Vxlan { id: 7, port: 4789, local: [10, 0, 0, 1].into(), mac };
    let wl0 = || "wl0".parse::<InterfaceName>().unwrap();
    let rule = Rule {
        from: Some("10.42.0.0/24".parse().unwrap()),
        input: Some(wl0()),
        mark: Some(Mark { value: 16, mask: 255 }),
        suppress: Some(8),
        ..Rule::all(Family::V4, 500, 1107)
    };
    let set =
        |prefix: &str| BTreeMap::from([(NftSet::Mesh, BTreeSet::from([prefix.parse().unwrap()]))]);
    let prefixes = Change::ChangeNftSets { deleted: set("10.0.0.0/8"), added: set("fd00::/8") };
    for (change, sentence) in [
        (
            Change::AddLink(wl0(), Link { mtu: 1450, up: true, kind }),
            "make the vxlan link wl0, up with MTU 1450",
        ),
        (
            Change::AddRule(rule),
            "add the rule 500: from 10.42.0.0/24 fwmark 0x10/0xff iif wl0 lookup 1107 suppress_prefixlength 8",
        ),
        (prefixes, "take prefixes out of the nftables sets (1) and put others in (1)"),
        (
            Change::SetNeighbour(wl0(), [10, 4, 0, 2].into(), mac),
            "know 10.4.0.2 on wl0 to be 02:00:00:00:00:01",
        ),
        (Change::SetSetting(wl0(), LinkSetting::RpFilter, 2), "set rp_filter of wl0 to 2"),
    ] {
        assert_eq!(change.to_string(), sentence);
    }
}
