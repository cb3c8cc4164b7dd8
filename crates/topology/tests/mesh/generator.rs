//! Random meshes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wireloom_model::{
    Cidr, EncapsulateBy, EncapsulateWhen, Encapsulation, Endpoint, Filter, GatewayCount,
    GatewayPreference, InterfaceAddress, Mesh, Node, Overlay, Peer, PublicKey, Snapshot,
};

/// How meshes come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No two claims clash, and every node is healthy.
    Clean,
    /// Small ranges, so that names, keys, addresses and prefixes clash often; some nodes are sick, some held claims
    /// are false.
    Messy,
}

/// What is random about a node.
#[derive(Debug, Clone)]
struct Draft {
    location: u8,
    /// One internal address of IPv4, of IPv6.
    internal: (bool, bool),
    pods: (bool, bool),
    endpoint: u8,
    extra: u8,
    declared: bool,
    weight: u16,
    healthy: bool,
    since: u64,
    keepalive: Option<NonZeroU16>,
    /// Where its addresses lie if they may clash.
    spot: u8,
    overlay: Option<u8>,
    held: Option<(u8, bool)>,
}

fn draft() -> impl Strategy<Value = Draft> {
    let choice = prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))];
    let internal = prop_oneof![6 => choice.clone(), 1 => Just((false, false))];
    let weight = prop_oneof![1 => Just(0u16), 1 => Just(1), 6 => Just(100)];
    (
        (0u8..4, internal, choice, 0u8..6, 0u8..6, prop::bool::weighted(0.2), weight),
        (prop::bool::weighted(0.8), 0u64..4, option::of((1u16..60).prop_map(nonzero)), 1u8..12),
        (option::weighted(0.2, 0u8..16), option::weighted(0.5, (0u8..16, any::<bool>()))),
    )
        .prop_map(|(one, two, (overlay, held))| {
            let (location, internal, pods, endpoint, extra, declared, weight) = one;
            let (healthy, since, keepalive, spot) = two;
            Draft {
                location,
                internal,
                pods,
                endpoint,
                extra,
                declared,
                weight,
                healthy,
                since,
                keepalive,
                spot,
                overlay,
                held,
            }
        })
}

fn nonzero(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// A mesh of up to this many nodes.
pub(crate) fn mesh(kind: Kind, most: usize) -> impl Strategy<Value = Snapshot> {
    let count = prop_oneof![
        Just(GatewayCount::All),
        (1u32..4).prop_map(|k| GatewayCount::AtMost(NonZeroU32::new(k).unwrap()))
    ];
    let small = kind == Kind::Messy;
    let v4 = if small { vec!["10.4.0.0/28", "10.4.0.0/16"] } else { vec!["10.4.0.0/16"] };
    let v6 = if small { vec!["fd44::/124", "fd44::/64"] } else { vec!["fd44::/64"] };
    let [v4, v6] = [v4, v6].map(|ranges| {
        let ranges: Vec<Cidr> = ranges.into_iter().map(|range| range.parse().unwrap()).collect();
        prop::sample::select(ranges)
    });
    let overlay = prop_oneof![
        v4.clone().prop_map(|range| Overlay::new([range]).unwrap()),
        v6.clone().prop_map(|range| Overlay::new([range]).unwrap()),
        (v4, v6).prop_map(|(one, two)| Overlay::new([one, two]).unwrap()),
    ];
    let nodes = vec(draft(), 1..=most);
    let peers = vec((1u8..12, 0u8..3, 0u64..4, option::of((1u16..60).prop_map(nonzero))), 0..3);
    let encapsulation = (
        prop::sample::select(&EncapsulateWhen::ALL[..]),
        prop::sample::select(&EncapsulateBy::ALL[..]),
    );
    (count, overlay, any::<bool>(), encapsulation, nodes, peers).prop_map(
        move |(gateways, overlay, carry_internal_addresses, (when, by), drafts, peers)| {
            let mesh = Mesh {
                overlay,
                gateways,
                port: nonzero(51820),
                mtu: None,
                carry_internal_addresses,
                encapsulation: Encapsulation { when, by },
                filter: Filter::default(),
            };
            let nodes = drafts.iter().enumerate().map(|(at, d)| node(kind, at, d, &mesh)).collect();
            let peers = peers.into_iter().enumerate().map(|(at, draft)| peer(kind, at, draft));
            Snapshot { nodes, peers: peers.collect(), problems: Vec::new(), mesh }
        },
    )
}

/// A node that clashes with none of a clean mesh's first 200.
pub(crate) fn newcomer() -> impl Strategy<Value = Node> {
    let mesh = Mesh {
        overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
        gateways: GatewayCount::All,
        port: nonzero(51820),
        mtu: None,
        carry_internal_addresses: true,
        encapsulation: Encapsulation::default(),
        filter: Filter::default(),
    };
    (draft(), 0u8..6).prop_map(move |(draft, location)| {
        let draft = Draft {
            location,
            declared: false,
            since: 99,
            endpoint: 0,
            extra: 9,
            overlay: None,
            held: None,
            ..draft
        };
        node(Kind::Clean, 222, &draft, &mesh)
    })
}

fn node(kind: Kind, at: usize, draft: &Draft, mesh: &Mesh) -> Node {
    let messy = kind == Kind::Messy;
    // Its number in every range: unique, or from few.
    let number = if messy { draft.spot } else { u8::try_from(at + 1).unwrap() };
    let name = format!("node-{}", if messy && draft.spot == 11 { 0 } else { at });
    let key = if messy && draft.spot == 10 { 0 } else { at };
    let location = format!("loc-{}", draft.location);
    let mut node = Node::new(name.parse().unwrap(), key_of(1, key), location.parse().unwrap());
    // Messy locations share one network in pairs.
    let site = if messy { draft.location / 2 } else { draft.location };
    let (v4, v6) = draft.internal;
    // An address in somebody's pods, as a bridge's is when it is taken for the machine's.
    let four =
        if messy && draft.extra == 4 { [10, 42, number, 7] } else { [10, 100, site, number] };
    let four = v4.then(|| IpAddr::from(four));
    let six =
        v6.then(|| IpAddr::V6(Ipv6Addr::new(0xfd10, 0, 0, site.into(), 0, 0, 0, number.into())));
    // Some take the location for a smaller subnet than others do.
    let internal = [(four, 24), (six, if draft.spot.is_multiple_of(3) { 125 } else { 64 })];
    node.internal_addresses = internal
        .into_iter()
        .filter_map(|(address, length)| InterfaceAddress::new(address?, length))
        .collect();
    node.pod_prefixes = pods(draft, number);
    let endpoint = match draft.endpoint {
        0 => None,
        1 => node.internal_addresses.first().map(|a| Endpoint::at(a.address(), nonzero(51820))),
        2 => Some("gw.example.com:51820".parse().unwrap()),
        3 if messy => Some(Endpoint::at([10, 42, number, 1].into(), nonzero(51820))),
        4 if messy => Some(Endpoint::at([10, 4, 0, number].into(), nonzero(51820))),
        5 => Some(Endpoint::at(
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
            nonzero(1),
        )),
        _ => Some(Endpoint::at([203, 0, 113, number].into(), nonzero(51820))),
    };
    node.endpoint = endpoint;
    let alone = node.internal_addresses.is_empty();
    node.extra_prefixes = match draft.extra {
        // Alone, it is in no location whose network it could share.
        0 | 1 if alone && !messy => Vec::new(),
        // The location's own network, a network behind the whole location, one behind this node alone.
        0 => vec![Cidr::truncated([10, 100, site, 0].into(), 24).unwrap()],
        1 => vec![Cidr::truncated([172, 20, draft.location, 0].into(), 24).unwrap()],
        2 => vec![format!("fd77:0:0:{number}::/64").parse().unwrap()],
        3 if messy => vec!["10.42.0.0/20".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
        _ => Vec::new(),
    };
    node.gateway = GatewayPreference { declared: draft.declared, weight: draft.weight };
    node.persistent_keepalive = draft.keepalive;
    node.since = draft.since;
    node.healthy = !messy || draft.healthy;
    if messy {
        let inside = |offset: u8| -> Vec<IpAddr> {
            mesh.overlay.ranges().map(|range| step(range, offset)).collect()
        };
        node.overlay_addresses = draft.overlay.map(inside).unwrap_or_default();
        if let Some((offset, gateway)) = draft.held {
            node.held.overlay_addresses = inside(offset);
            node.held.gateway = gateway;
            node.held.home = format!("node-{}", offset % 8).parse().ok();
        }
    }
    node
}

fn pods(draft: &Draft, number: u8) -> Vec<Cidr> {
    let mut pods = Vec::new();
    if draft.pods.0 {
        pods.push(Cidr::truncated([10, 42, number, 0].into(), 24).unwrap());
    }
    if draft.pods.1 {
        pods.push(format!("fd42:0:0:{number:x}::/64").parse().unwrap());
    }
    pods
}

fn peer(
    kind: Kind,
    at: usize,
    (spot, endpoint, since, keepalive): (u8, u8, u64, Option<NonZeroU16>),
) -> Peer {
    let messy = kind == Kind::Messy;
    let number = if messy { spot } else { u8::try_from(at + 1).unwrap() };
    let wide = if messy && spot > 9 { 16 } else { 24 };
    let mut allowed_ips = vec![
        Cidr::host([10, 5, 0, number].into()),
        Cidr::host(Ipv6Addr::new(0xfd55, 0, 0, 0, 0, 0, 0, number.into()).into()),
    ];
    if endpoint == 2 {
        allowed_ips.push(Cidr::truncated([10, 60, number, 0].into(), wide).unwrap());
    }
    if messy && spot == 1 {
        allowed_ips.push(Cidr::host([10, 42, 3, 9].into()));
    }
    Peer {
        name: format!("peer-{at}").parse().unwrap(),
        key: if messy && spot == 2 { key_of(1, 0) } else { key_of(2, at) },
        preshared_key: None,
        allowed_ips,
        endpoint: (endpoint > 0).then(|| Endpoint::at([198, 51, 100, number].into(), nonzero(1))),
        persistent_keepalive: keepalive,
        since,
    }
}

fn key_of(kind: u8, at: usize) -> PublicKey {
    let mut bytes = [kind; 32];
    bytes[31] = u8::try_from(at).unwrap();
    PublicKey::from_bytes(bytes)
}

/// The address this far into a range.
pub(crate) fn step(range: Cidr, offset: u8) -> IpAddr {
    match range.address() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + u32::from(offset)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + u128::from(offset)).into(),
    }
}

/// An address inside a prefix that is not its first, if there is one.
pub(crate) fn inside(prefix: Cidr) -> IpAddr {
    if prefix.length() == prefix.family().bits() { prefix.address() } else { step(prefix, 200) }
}
