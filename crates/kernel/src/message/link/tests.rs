use netlink_packet_core::{Emitable, NetlinkMessage};

use super::*;

fn mac() -> MacAddress {
    MacAddress([2, 0, 10, 0, 0, 1])
}

/// The request without its netlink header.
fn bytes(request: Option<Request>) -> Vec<u8> {
    let (RouteNetlinkMessage::NewLink(message), flags) = request.unwrap() else {
        panic!("a new link");
    };
    assert_eq!(flags, NLM_F_CREATE | NLM_F_EXCL);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ifinfomsg` of a new link that is up, with MTU, name and group, and more.
fn golden(mtu: u32, name: &str, more: &[Vec<u8>]) -> Vec<u8> {
    let up = 1u32.to_ne_bytes();
    let mut bytes = [[0; 8], [0; 8]].concat();
    bytes[8..12].copy_from_slice(&up);
    bytes[12..16].copy_from_slice(&up);
    bytes.extend(attribute(4, &mtu.to_ne_bytes()));
    bytes.extend(attribute(3, format!("{name}\0").as_bytes()));
    bytes.extend(attribute(27, &107u32.to_ne_bytes()));
    bytes.extend(more.concat());
    bytes
}

#[test]
fn an_ipip_link_has_a_near_end_and_no_far_end() {
    let kind = LinkKind::Ipip { local: [10, 0, 0, 1].into() };
    let link = Link { mtu: 1400, up: true, kind };
    let info = [attribute(1, b"ipip\0"), attribute(2, &attribute(2, &[10, 0, 0, 1]))].concat();
    let golden = golden(1400, "wlipip", &[attribute(18, &info)]);
    assert_eq!(bytes(add_link(&"wlipip".parse().unwrap(), &link)), golden);
}

#[test]
fn a_vxlan_link_is_told_everything_and_learns_nothing() {
    let kind = LinkKind::Vxlan { id: 7, port: 4789, local: [10, 0, 0, 1].into(), mac: mac() };
    let link = Link { mtu: 1450, up: true, kind };
    let data = [
        attribute(1, &7u32.to_ne_bytes()),
        attribute(4, &[10, 0, 0, 1]),
        attribute(15, &4789u16.to_be_bytes()),
        attribute(7, &[0]),
    ];
    let info = [attribute(1, b"vxlan\0"), attribute(2, &data.concat())].concat();
    let golden = golden(1450, "wlvx", &[attribute(1, &mac().0), attribute(18, &info)]);
    assert_eq!(bytes(add_link(&"wlvx".parse().unwrap(), &link)), golden);
}

/// Reads a request as if the kernel told it.
fn heard(kind: &LinkKind, group: u32) -> LinkKind {
    let link = Link { mtu: 1400, up: true, kind: kind.clone() };
    let (request, _) = add_link(&"wl1".parse().unwrap(), &link).unwrap();
    let mut message = NetlinkMessage::from(request);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let told = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
    let netlink_packet_core::NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(mut told)) =
        told.payload
    else {
        panic!("a link");
    };
    for attribute in &mut told.attributes {
        if let LinkAttribute::Group(told) = attribute {
            *told = group;
        }
    }
    super::link(&told).unwrap().made
}

#[test]
fn a_link_of_our_group_is_known_again_and_another_is_not() {
    let kinds = [
        LinkKind::Ipip { local: [10, 0, 0, 1].into() },
        LinkKind::Vxlan { id: 7, port: 1, local: [10, 0, 0, 1].into(), mac: mac() },
        LinkKind::Vxlan { id: 7, port: 1, local: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(), mac: mac() },
        LinkKind::WireGuard,
    ];
    for kind in &kinds {
        assert_eq!(heard(kind, LINK_GROUP), *kind);
        assert_eq!(heard(kind, 0), LinkKind::Held);
    }
    let held = Link::held(1420);
    assert_eq!(add_link(&"wl1".parse().unwrap(), &held), None);
}
