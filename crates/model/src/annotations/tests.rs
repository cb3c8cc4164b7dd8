use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::encapsulation::Encapsulation;
use crate::name::{NodeName, PeerName};
use crate::problem::{Problem, Severity};
use crate::snapshot::{Filter, Overlay};

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn node() -> NodeName {
    "n1".parse().unwrap()
}

fn read(annotations: &[(&str, &str)]) -> (NodeAnnotations, Vec<Problem>) {
    let annotations =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    NodeAnnotations::read(&node(), &annotations)
}

/// What is read where nothing is wrong.
fn clean(annotations: &[(&str, &str)]) -> NodeAnnotations {
    let (read, problems) = read(annotations);
    assert_eq!(problems, []);
    read
}

fn address(text: &str) -> InterfaceAddress {
    text.parse().unwrap()
}

#[test]
fn a_node_as_kilo_writes_it() {
    let read = clean(&[
        ("kilo.squat.ai/endpoint", "203.0.113.1:51820"),
        ("kilo.squat.ai/internal-ip", "10.0.0.1/24"),
        ("kilo.squat.ai/key", KEY),
        ("kilo.squat.ai/last-seen", "1795597200"),
        ("kilo.squat.ai/wireguard-ip", "10.4.0.1/16"),
        (
            "kilo.squat.ai/discovered-endpoints",
            r#"{"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=":{"IP":"198.51.100.7","Port":40000,"Zone":""}}"#,
        ),
        ("kilo.squat.ai/granularity", "location"),
        ("kilo.squat.ai/cni-compatibility-ip", ""),
        ("unrelated.example.com/key", "?"),
    ]);
    let told = Told {
        endpoints: vec!["203.0.113.1:51820".parse().unwrap()],
        internal_addresses: vec![address("10.0.0.1/24")],
        key: Some(KEY.parse().unwrap()),
        last_seen: Some(1_795_597_200),
        wireguard_ip: Some(address("10.4.0.1/16")),
        discovered_endpoints: BTreeMap::from([(
            KEY.parse().unwrap(),
            "198.51.100.7:40000".parse().unwrap(),
        )]),
        granularity: Some(Granularity::Location),
        ..Told::default()
    };
    assert_eq!(read, NodeAnnotations { asked: Asked::default(), told });
    assert_eq!(read.algorithm(), Algorithm::Kilo);
}

#[test]
fn what_is_written_is_what_kilo_writes() {
    let told = Told {
        endpoints: vec!["203.0.113.1:51820".parse().unwrap()],
        key: Some(KEY.parse().unwrap()),
        discovered_endpoints: BTreeMap::from([(
            KEY.parse().unwrap(),
            "198.51.100.7:40000".parse().unwrap(),
        )]),
        granularity: Some(Granularity::Full),
        algorithm: Some(Algorithm::Wireloom),
        held: Some(Held {
            gateway: true,
            home: Some(node()),
            overlay_addresses: vec!["10.4.0.1".parse().unwrap()],
            ..Held::default()
        }),
        ..Told::default()
    };
    let written = told.write();
    let written: Vec<_> =
        written.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        written,
        [
            (
                "kilo.squat.ai/discovered-endpoints",
                r#"{"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=":{"IP":"198.51.100.7","Port":40000,"Zone":""}}"#
            ),
            ("kilo.squat.ai/endpoint", "203.0.113.1:51820"),
            ("kilo.squat.ai/granularity", "full"),
            ("kilo.squat.ai/internal-ip", ""),
            ("kilo.squat.ai/key", KEY),
            ("kilo.squat.ai/wireguard-ip", ""),
            ("wireloom.dev/algorithm", "wireloom"),
            (
                "wireloom.dev/held",
                r#"{"overlay-addresses":["10.4.0.1"],"gateway":true,"home":"n1"}"#
            ),
        ]
    );
}

#[test]
fn nothing_known_is_an_empty_map_for_kilo() {
    assert_eq!(Told::default().write()["kilo.squat.ai/discovered-endpoints"], "{}");
}

/// Kilo's rules for what people write, each with what it makes of it and how many words we say about it.
#[test]
fn bad_values_are_skipped_as_kilo_skips_them_and_reported() {
    let found = ("kilo.squat.ai/endpoint", "192.0.2.1:51820");
    for bad in [
        "192.0.2.9",
        "192.0.2.9:0",
        "192.0.2.9:65536",
        "GW.example.com:51820",
        "a_b:51820",
        "gw.example.com.:51820",
        " 192.0.2.9:51820",
        "",
    ] {
        let (read, problems) = read(&[("kilo.squat.ai/force-endpoint", bad), found]);
        assert_eq!(read.endpoint().unwrap().to_string(), found.1, "{bad:?}");
        assert_eq!(problems.len(), 1, "{bad:?}");
        let said = problems[0].to_string();
        assert!(
            said.contains("node n1: annotation kilo.squat.ai/force-endpoint")
                && said.contains(&format!("{bad:?}")),
            "{said}"
        );
    }

    let found = ("kilo.squat.ai/internal-ip", "10.0.0.1/24");
    let (bare, problems) = read(&[("kilo.squat.ai/force-internal-ip", "10.0.0.9"), found]);
    assert_eq!(bare.internal_addresses(), [address(found.1)]);
    assert!(problems[0].message.contains("as in 10.0.0.5/24"), "{problems:?}");

    for bad in ["25s", "", "-1", "65536", "1e3", " 25"] {
        let (read, problems) = read(&[("kilo.squat.ai/persistent-keepalive", bad)]);
        assert_eq!((read.asked.persistent_keepalive, problems.len()), (None, 1), "{bad:?}");
    }

    let (bad_key, problems) = read(&[("kilo.squat.ai/key", "foo")]);
    assert_eq!((bad_key.told.key, problems.len()), (None, 1));
}

#[test]
fn good_values_beat_what_the_agent_found() {
    let read = clean(&[
        ("kilo.squat.ai/endpoint", "192.0.2.1:51820"),
        ("kilo.squat.ai/force-endpoint", "[2001:db8::1]:4500"),
        ("kilo.squat.ai/internal-ip", "10.0.0.1/24"),
        ("kilo.squat.ai/force-internal-ip", "10.9.0.1/24"),
        ("kilo.squat.ai/persistent-keepalive", "+25"),
        ("kilo.squat.ai/location", ""),
    ]);
    assert_eq!(read.endpoint().unwrap().to_string(), "[2001:db8::1]:4500");
    assert_eq!(read.internal_addresses(), [address("10.9.0.1/24")]);
    assert_eq!(read.asked.persistent_keepalive, NonZeroU16::new(25));
    assert_eq!(read.asked.location, Some("".parse().unwrap()), "empty is a location, not none");
}

#[test]
fn an_internal_address_can_be_denied() {
    let found = ("kilo.squat.ai/internal-ip", "10.0.0.1/24");
    for denial in ["", "-"] {
        let read = clean(&[("kilo.squat.ai/force-internal-ip", denial), found]);
        assert_eq!(read.internal_addresses(), []);
    }
    assert_eq!(clean(&[("kilo.squat.ai/internal-ip", "")]).internal_addresses(), []);
}

#[test]
fn an_endpoint_can_be_denied() {
    let read = clean(&[
        ("kilo.squat.ai/endpoint", "192.0.2.1:51820"),
        ("kilo.squat.ai/force-endpoint", "-"),
    ]);
    assert_eq!(read.endpoint(), None);
}

#[test]
fn addresses_of_the_other_family_stand_beside_the_forced_one() {
    let found = [
        ("kilo.squat.ai/internal-ip", "10.0.0.1/24"),
        ("wireloom.dev/internal-ips", "10.0.0.1/24,fd00::1/64"),
    ];
    assert_eq!(clean(&found).internal_addresses(), [address("10.0.0.1/24"), address("fd00::1/64")]);
    let forced = [found[0], found[1], ("kilo.squat.ai/force-internal-ip", "10.9.0.1/16")];
    assert_eq!(
        clean(&forced).internal_addresses(),
        [address("10.9.0.1/16"), address("fd00::1/64")]
    );
    let all = [found[0], found[1], ("wireloom.dev/force-internal-ips", "fd07::1/64,10.7.0.1/24")];
    assert_eq!(clean(&all).internal_addresses(), [address("fd07::1/64"), address("10.7.0.1/24")]);
    let none = [found[0], found[1], ("wireloom.dev/force-internal-ips", "-")];
    assert_eq!(clean(&none).internal_addresses(), []);
}

/// An agent of Kilo's that took a node over rewrites its own annotation and knows nothing of ours.
#[test]
fn kilos_own_annotation_is_the_first() {
    let read = clean(&[
        ("kilo.squat.ai/endpoint", "198.51.100.1:51820"),
        ("wireloom.dev/endpoints", "192.0.2.1:51820,[2001:db8::1]:51820"),
    ]);
    assert_eq!(read.endpoint().unwrap().to_string(), "198.51.100.1:51820");
    let gone = clean(&[("wireloom.dev/endpoints", "192.0.2.1:51820,[2001:db8::1]:51820")]);
    assert_eq!(gone.endpoint(), None);
}

#[test]
fn location_prefixes_are_taken_one_by_one() {
    let (read, problems) = read(&[(
        "kilo.squat.ai/allowed-location-ips",
        "192.168.1.50/32, 10.1.0.0/16,10.9.0.5/8,foo,,fd00:1::/64",
    )]);
    let prefixes: Vec<String> =
        read.asked.allowed_location_ips.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["192.168.1.50/32", "10.0.0.0/8", "fd00:1::/64"]);
    let said: Vec<_> = problems.iter().map(|p| (p.severity, p.message.as_str())).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].1.contains("no blanks") && said[0].0 == Severity::Error);
    assert!(said[1].1.contains("10.0.0.0/8") && said[1].0 == Severity::Warning);
}

#[test]
fn a_leader_that_says_false_is_one_and_is_told_so() {
    let (read, problems) = read(&[("kilo.squat.ai/leader", "false")]);
    assert!(read.asked.leader);
    assert_eq!(problems[0].severity, Severity::Warning);
    for value in ["", "true"] {
        assert!(clean(&[("kilo.squat.ai/leader", value)]).asked.leader);
    }
}

#[test]
fn misspelt_annotations_are_named() {
    let (_, problems) = read(&[
        ("kilo.squat.ai/force-endpont", "192.0.2.1:51820"),
        ("wireloom.dev/gateway", "true"),
    ]);
    assert_eq!(problems.len(), 2);
    assert!(problems[0].message.contains("kilo.squat.ai/force-endpont"));
}

#[test]
fn our_own_wishes_are_read() {
    let read = clean(&[
        ("wireloom.dev/force-overlay-ips", "10.4.0.7,fd04::7"),
        ("wireloom.dev/gateway-weight", "0"),
    ]);
    let addresses: Vec<IpAddr> = vec!["10.4.0.7".parse().unwrap(), "fd04::7".parse().unwrap()];
    assert_eq!(read.asked.overlay_addresses, addresses);
    assert_eq!(read.asked.gateway_weight, Some(0));
    let (two, problems) = self::read(&[("wireloom.dev/force-overlay-ips", "10.4.0.7,10.4.0.8")]);
    assert_eq!((two.asked.overlay_addresses.len(), problems.len()), (1, 1));
}

#[test]
fn a_newer_agent_knows_all_that_we_do() {
    let (read, problems) = read(&[
        ("wireloom.dev/algorithm", "jacquard"),
        ("wireloom.dev/held", r#"{"gateway":true,"threads":7}"#),
    ]);
    assert_eq!(read.algorithm(), Algorithm::default());
    assert!(read.told.held.unwrap().gateway);
    assert_eq!(problems.len(), 1);
}

#[test]
fn one_bad_sighting_leaves_the_others() {
    let text = format!(
        r#"{{"{KEY}":{{"IP":"2001:db8::9","Port":1,"Zone":""}},"foo":{{"IP":"192.0.2.1","Port":1,"Zone":""}},"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=":null}}"#
    );
    let (read, problems) = read(&[("kilo.squat.ai/discovered-endpoints", &text)]);
    assert_eq!(read.told.discovered_endpoints.len(), 1);
    assert_eq!(problems.len(), 2);
    let (none, problems) = self::read(&[("kilo.squat.ai/discovered-endpoints", "{")]);
    assert_eq!((none.told.discovered_endpoints.len(), problems.len()), (0, 1));
}

fn an_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)]
}

fn an_address() -> impl Strategy<Value = InterfaceAddress> {
    (an_ip(), 0u8..=32)
        .prop_map(|(address, length)| InterfaceAddress::new(address, length).unwrap())
}

fn a_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

fn an_endpoint() -> impl Strategy<Value = Endpoint> {
    let addresses = (an_ip(), 1u16..).prop_map(|(address, port)| match address {
        IpAddr::V4(_) => format!("{address}:{port}"),
        IpAddr::V6(_) => format!("[{address}]:{port}"),
    });
    let names = ("[a-z][a-z0-9]{0,8}(\\.[a-z]{1,3}){0,2}", 1u16..)
        .prop_map(|(name, port)| format!("{name}:{port}"));
    prop_oneof![addresses, names].prop_filter_map("not of one host", |text| text.parse().ok())
}

fn a_held() -> impl Strategy<Value = Held> {
    let name = "[a-z]{1,5}";
    let prefix =
        (an_ip(), 0u8..=32).prop_map(|(address, length)| Cidr::truncated(address, length).unwrap());
    let known = option::of(proptest::sample::select(&Algorithm::ALL[..]));
    (
        vec(an_ip(), 0..2),
        any::<bool>(),
        option::of(name.prop_map(|name: String| name.parse().unwrap())),
        btree_set(name.prop_map(|name: String| name.parse::<PeerName>().unwrap()), 0..3),
        btree_set(prefix, 0..3),
        known,
        btree_set(an_ip(), 0..3),
        btree_set(name.prop_map(|name: String| name.parse().unwrap()), 0..3),
    )
        .prop_map(
            |(
                overlay_addresses,
                gateway,
                home,
                anchors,
                owns,
                algorithm,
                pod_addresses,
                unserved_by,
            )| Held {
                overlay_addresses,
                gateway,
                home,
                anchors,
                owns,
                algorithm,
                pod_addresses,
                unserved_by,
            },
        )
}

prop_compose! {
    fn a_mesh()(
        range in proptest::sample::select(&["10.4.0.0/16", "fd04::/64"][..]),
        gateways in proptest::sample::select(&["1", "3", "all"][..]),
        port in any::<NonZeroU16>(),
        mtu in option::of(any::<NonZeroU16>()),
        carry_internal_addresses in any::<bool>(),
    ) -> Mesh {
        Mesh {
            overlay: Overlay::new([range.parse().unwrap()]).unwrap(),
            gateways: gateways.parse().unwrap(),
            port,
            mtu,
            carry_internal_addresses,
            encapsulation: Encapsulation::default(),
            filter: Filter::default(),
        }
    }
}

prop_compose! {
    fn a_told()(
        mut endpoints in vec(an_endpoint(), 0..3),
        mut internal_addresses in vec(an_address(), 0..3),
        key in option::of(a_key()),
        last_seen in option::of(any::<u64>()),
        wireguard_ip in option::of(an_address()),
        discovered in btree_map(a_key(), (an_ip(), 1u16..), 0..3),
        full in option::of(any::<bool>()),
        cni_address in option::of(an_address()),
        algorithm in option::of(proptest::sample::select(&Algorithm::ALL[..])),
        held in option::of(a_held()),
        mesh in option::of(a_mesh()),
    ) -> Told {
        endpoints.sort();
        endpoints.dedup();
        internal_addresses.sort();
        internal_addresses.dedup();
        Told {
            endpoints,
            internal_addresses,
            key,
            last_seen,
            wireguard_ip,
            discovered_endpoints: discovered
                .into_iter()
                .map(|(key, (address, port))| (key, SocketAddr::new(address, port)))
                .collect(),
            granularity: full.map(|full| if full { Granularity::Full } else { Granularity::Location }),
            cni_address,
            algorithm,
            held,
            mesh,
        }
    }
}

proptest! {
    #[test]
    fn what_is_told_is_read_back(told in a_told()) {
        let (read, problems) = NodeAnnotations::read(&node(), &told.write());
        prop_assert_eq!(problems, vec![]);
        prop_assert_eq!(read, NodeAnnotations { asked: Asked::default(), told });
    }

    #[test]
    fn any_text_is_read_or_reported(values in vec(".{0,40}", key::ALL.len())) {
        let annotations = key::ALL.iter().map(|key| (*key).to_owned()).zip(values).collect();
        NodeAnnotations::read(&node(), &annotations);
    }
}
