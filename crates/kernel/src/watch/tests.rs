use netlink_packet_core::NetlinkHeader;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use wireloom_model::kernel::{ROUTE_PROTOCOL, Route};

use super::*;

fn told(inner: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
    NetlinkMessage::from(inner)
}

fn link_message(index: u32, name: &str, up: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(1420)];
    message
}

fn route_message(protocol: u8) -> netlink_packet_route::route::RouteMessage {
    let key = RouteKey::main("10.0.0.0/8".parse().unwrap());
    let route = Route::default();
    let (RouteNetlinkMessage::NewRoute(mut message), _) = message::add_route(&key, &route, Some(7))
    else {
        panic!("a new route");
    };
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message
}

#[test]
fn a_link_is_news_only_when_it_changes() {
    let mut links = Links::default();
    let new = |name, up| told(RouteNetlinkMessage::NewLink(link_message(7, name, up)));
    let changed = |event| matches!(event, Some(Event::LinkChanged { .. }));
    assert!(changed(links.event(new("wl0", false))));
    assert_eq!(links.event(new("wl0", false)), None);
    assert!(changed(links.event(new("wl0", true))));
    let gone = |name: &str| Some(Event::LinkGone { link: name.parse().unwrap() });
    assert_eq!(links.event(new("renamed", true)), gone("wl0"));
    assert_eq!(links.event(new("wl0", true)), gone("renamed"));
}

#[test]
fn a_link_that_goes_is_named_once_and_a_bridge_port_is_none() {
    let mut links = Links::default();
    links.event(told(RouteNetlinkMessage::NewLink(link_message(7, "wl0", true))));
    let mut port = link_message(7, "wl0", true);
    port.header.interface_family = AddressFamily::Bridge;
    assert_eq!(links.event(told(RouteNetlinkMessage::DelLink(port))), None);
    let gone = || told(RouteNetlinkMessage::DelLink(link_message(7, "wl0", true)));
    assert_eq!(links.event(gone()), Some(Event::LinkGone { link: "wl0".parse().unwrap() }));
    assert_eq!(links.event(gone()), None);
}

#[test]
fn our_routes_are_missed_when_deleted_and_when_displaced() {
    let mut links = Links::default();
    let lost = |event| matches!(event, Some(Event::RouteLost { .. }));
    let deleted = |protocol| told(RouteNetlinkMessage::DelRoute(route_message(protocol)));
    assert!(lost(links.event(deleted(ROUTE_PROTOCOL))));
    assert!(!lost(links.event(deleted(4))));
    let put = |protocol, flags| {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let inner = RouteNetlinkMessage::NewRoute(route_message(protocol));
        NetlinkMessage::new(header, NetlinkPayload::InnerMessage(inner))
    };
    assert!(lost(links.event(put(4, NLM_F_REPLACE))));
    assert!(!lost(links.event(put(4, 0))));
    assert!(!lost(links.event(put(ROUTE_PROTOCOL, NLM_F_REPLACE))));
}

#[test]
fn an_address_is_told_with_its_links_name() {
    let mut links = Links::default();
    let mut message = AddressMessage::default();
    message.header.index = 7;
    message.header.prefix_len = 16;
    message.attributes = vec![AddressAttribute::Local([10, 4, 0, 1].into())];
    let come = || told(RouteNetlinkMessage::NewAddress(message.clone()));
    assert_eq!(links.event(come()), None);
    links.event(told(RouteNetlinkMessage::NewLink(link_message(7, "wl0", true))));
    assert_eq!(
        links.event(come()),
        Some(Event::AddressChanged {
            link: "wl0".parse().unwrap(),
            address: "10.4.0.1/16".parse().unwrap(),
            present: true
        })
    );
}

#[test]
fn lost_events_are_told() {
    let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(vec![]));
    assert_eq!(Links::default().event(overrun), Some(Event::Overrun));
}
