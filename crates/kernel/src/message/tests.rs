use proptest::option;
use proptest::prelude::*;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use wireloom_model::kernel::{MacAddress, Mark, Rule};

use super::*;
use crate::diff::canonical_rule;

proptest! {
    /// What we ask the kernel for reads back as the same route.
    #[test]
    fn a_route_goes_there_and_back(
        bits: u128,
        length in 0u8..=128,
        table: u32,
        metric: u32,
        v6: bool,
        gateway in option::of(any::<u128>()),
        link in option::of(1u32..),
        source in option::of(any::<u128>()),
        mtu in option::of(1u32..),
    ) {
        let ip = |bits: u128| if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
        let destination =
            Cidr::truncated(ip(bits), if v6 { length } else { length.min(32) }).unwrap();
        let key = canonical(&RouteKey { table, destination, metric });
        let name = link.map(|_| "eth0".parse().unwrap());
        let mut wanted = Route { gateway: gateway.map(ip), link: name, source: source.map(ip), mtu };
        let (RouteNetlinkMessage::NewRoute(message), _) = add_route(&key, &wanted, link) else {
            panic!("a new route");
        };
        let heard = route(&message).unwrap();
        prop_assert!(heard.is_ours());
        prop_assert_eq!(heard.key, key);
        prop_assert_eq!(heard.link, link);
        // What leads nowhere has neither a source nor a size.
        if wanted.is_unreachable() {
            wanted = Route::default();
        }
        let heard = Route { gateway: heard.gateway, link: wanted.link.clone(), source: heard.source, mtu: heard.mtu };
        prop_assert_eq!(heard, wanted);
    }
}

proptest! {
    #[test]
    fn a_rule_goes_there_and_back(
        bits: u128,
        lengths in option::of((0u8..=32, 0u8..=32)),
        priority: u32,
        table in 1u32..,
        v6: bool,
        mark in option::of((any::<u32>(), any::<u32>())),
        has_input: bool,
        suppress in option::of(0u8..=128),
    ) {
        let (family, address) = if v6 {
            (Family::V6, IpAddr::V6(bits.into()))
        } else {
            (Family::V4, IpAddr::V4((bits as u32).into()))
        };
        let prefix = |length| Cidr::truncated(address, length).unwrap();
        let wanted = Rule {
            from: lengths.map(|(from, _)| prefix(from)),
            to: lengths.map(|(_, to)| prefix(to)),
            input: has_input.then(|| "wl0".parse().unwrap()),
            mark: mark.map(|(value, mask)| Mark { value, mask }),
            suppress,
            ..Rule::all(family, priority, table)
        };
        let (RouteNetlinkMessage::NewRule(message), _) = add_rule(&wanted) else {
            panic!("a new rule");
        };
        let heard = rule(&message).unwrap();
        prop_assert!(heard.is_ours);
        prop_assert_eq!(heard.rule, canonical_rule(&wanted));
    }
}

#[test]
fn a_bridge_says_no_family_and_a_passing_neighbour_is_none() {
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    for host in [IpAddr::from([10, 0, 0, 1]), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()] {
        let bytes = match host {
            IpAddr::V4(host) => host.octets().to_vec(),
            IpAddr::V6(host) => host.octets().to_vec(),
        };
        let (RouteNetlinkMessage::NewNeighbour(mut message), _) = set_forwarding(7, mac, host)
        else {
            panic!("a new entry");
        };
        for attribute in &mut message.attributes {
            if let NeighbourAttribute::Destination(address) = attribute {
                *address = NeighbourAddress::Other(bytes.clone());
            }
        }
        assert_eq!(end(&message), Some(HeardEnd::Forwarding { link: 7, mac, host }));
        message.header.state = NeighbourState::Reachable;
        assert_eq!(end(&message), None);
    }
}

#[test]
fn a_default_route_has_no_destination_attribute() {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.table = 254;
    let heard = route(&message).unwrap();
    assert_eq!(heard.key, RouteKey::main("::/0".parse().unwrap()));
    assert!(!heard.is_ours());
}

#[test]
fn deletion_names_our_protocol_so_it_hits_no_other() {
    let key = RouteKey::main("10.0.0.0/8".parse().unwrap());
    let (RouteNetlinkMessage::DelRoute(message), _) = delete_route(&key) else {
        panic!("a deletion");
    };
    assert_eq!(u8::from(message.header.protocol), ROUTE_PROTOCOL);
}

#[test]
fn the_near_end_of_a_point_to_point_link_is_its_address() {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.attributes = vec![
        AddressAttribute::Address([10, 0, 0, 2].into()),
        AddressAttribute::Local([10, 0, 0, 1].into()),
    ];
    assert_eq!(address(&message).unwrap().address.to_string(), "10.0.0.1/32");
}

#[test]
fn addresses_for_privacy_or_under_test_do_not_last() {
    let lasting = |family, flags: AddressHeaderFlags| {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.header.flags = flags;
        let address: IpAddr = match family {
            AddressFamily::Inet => [10, 0, 0, 1].into(),
            _ => [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
        };
        message.attributes = vec![AddressAttribute::Address(address)];
        super::address(&message).unwrap().is_lasting
    };
    assert!(lasting(AddressFamily::Inet6, AddressHeaderFlags::Permanent));
    assert!(!lasting(AddressFamily::Inet6, AddressHeaderFlags::Tentative));
    // The same bit means a temporary address in IPv6, and one after the first of its network in IPv4.
    assert!(!lasting(AddressFamily::Inet6, AddressHeaderFlags::Secondary));
    assert!(lasting(AddressFamily::Inet, AddressHeaderFlags::Secondary));
}
