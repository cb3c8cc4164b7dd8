use wireloom_model::Family;
use wireloom_model::kernel::{MAIN_TABLE, RouteKey};

use super::*;

fn link(name: &str, kind: &str, up: bool) -> HostLink {
    let name = name.parse().unwrap();
    HostLink { index: 9, name, mtu: 1480, up, carrier: up, kind: Some(kind.to_owned()) }
}

fn route(to: &str, link: &str, table: u32, protocol: u8) -> OthersRoute {
    OthersRoute {
        key: RouteKey { table, ..RouteKey::main(to.parse().unwrap()) },
        gateway: None,
        link: Some(link.parse().unwrap()),
        protocol,
    }
}

fn told(observed: &Observed, has_chains: bool) -> Vec<String> {
    removals(observed, has_chains).iter().map(ToString::to_string).collect()
}

/// A leader with `--encapsulate=always`, as in Kilo's own example of three nodes, beside an admin's routes and rules.
#[test]
fn a_leaders_leavings_are_found_and_nobody_elses() {
    let rule = |priority, to: &str, table| Rule {
        to: Some(to.parse().unwrap()),
        ..Rule::all(Family::V4, priority, table)
    };
    let observed = Observed {
        links: vec![
            link("eth0", "veth", true),
            link("tunl0", "ipip", true),
            link("kilo0", "wireguard", true),
            link("kube-bridge", "bridge", true),
        ],
        addresses: vec![Address {
            link: "kilo0".parse().unwrap(),
            address: "10.4.0.1/16".parse().unwrap(),
        }],
        routes: vec![
            route("10.4.0.0/16", "kilo0", MAIN_TABLE, KERNEL),
            route("10.42.1.0/24", "tunl0", MAIN_TABLE, STATIC),
            route("10.42.2.0/24", "kilo0", MAIN_TABLE, STATIC),
            route("10.99.0.0/24", "eth0", MAIN_TABLE, STATIC),
            route("10.0.0.2/32", "tunl0", TABLE, STATIC),
            route("10.0.0.9/32", "eth0", TABLE, 186),
        ],
        rules: vec![rule(32764, "10.0.0.2/32", TABLE), rule(32765, "10.0.0.3/32", 99)],
        in_use: Vec::new(),
    };
    assert_eq!(
        told(&observed, false),
        [
            "the rule 32764: from all IPv4 to 10.0.0.2/32 lookup 1107",
            "the route to 10.42.1.0/24 dev tunl0",
            "the route to 10.42.2.0/24 dev kilo0",
            "the route to 10.0.0.2/32 dev tunl0 table 1107",
            "the link kilo0",
            "the link tunl0",
        ]
    );
}

#[test]
fn a_device_that_ours_goes_on_with_stays_and_kilos_routes_out_of_it_go() {
    let mut observed = Observed {
        links: vec![link("kilo0", "wireguard", true), link("tunl0", "ipip", true)],
        routes: vec![route("10.42.2.0/24", "kilo0", MAIN_TABLE, STATIC)],
        in_use: vec!["kilo0".parse().unwrap()],
        ..Observed::default()
    };
    assert_eq!(told(&observed, false), ["the route to 10.42.2.0/24 dev kilo0"]);
    observed.in_use = vec!["wl0".parse().unwrap()];
    let all = ["the route to 10.42.2.0/24 dev kilo0", "the link kilo0", "the link tunl0"];
    assert_eq!(told(&observed, false), all);
}

#[test]
fn a_link_that_only_has_kilos_name_stays() {
    for kind in ["dummy", "bridge", "vlan"] {
        let observed = Observed { links: vec![link("kilo0", kind, true)], ..Observed::default() };
        assert_eq!(told(&observed, true), [] as [&str; 0], "{kind}");
    }
}

#[test]
fn an_ipip_link_of_others_stays() {
    let with = |link: HostLink, routes, addresses| Observed {
        links: vec![link],
        routes,
        addresses,
        ..Observed::default()
    };
    let own =
        Address { link: "tunl0".parse().unwrap(), address: "192.168.7.1/32".parse().unwrap() };
    let tunnel = || link("tunl0", "ipip", true);
    let of_kilo = || vec![route("10.42.1.0/24", "tunl0", MAIN_TABLE, STATIC)];
    let of_calico = vec![route("10.42.1.0/24", "tunl0", MAIN_TABLE, 80)];
    for (observed, has_chains, goes) in [
        (with(tunnel(), of_kilo(), vec![]), false, true),
        (with(tunnel(), vec![], vec![]), true, true),
        // What the module brings along.
        (with(link("tunl0", "ipip", false), vec![], vec![]), true, false),
        (with(tunnel(), vec![], vec![]), false, false),
        (with(tunnel(), of_kilo(), vec![own]), true, false),
        (with(tunnel(), of_calico, vec![]), true, false),
    ] {
        let told = told(&observed, has_chains);
        assert_eq!(told.contains(&"the link tunl0".to_owned()), goes, "{observed:?}");
    }
}
