use proptest::prelude::*;
use wireloom_model::{Cidr, PresharedKey, PrivateKey, PublicKey};

use super::*;

const SET: &str = "set=1
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
fwmark=0
listen_port=12912
replace_peers=true
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
replace_allowed_ips=true
allowed_ip=192.168.4.4/32
endpoint=[abcd:23::33%2]:51820
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
update_only=true
replace_allowed_ips=true
allowed_ip=192.168.4.6/24
allowed_ip=fd00::5/64
allowed_ip=-10.0.0.9/16
persistent_keepalive_interval=111
endpoint=182.122.22.19:3233
protocol_version=1
public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58
remove=true

";

const STATUS: &str = "private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
fwmark=51820
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
protocol_version=1
endpoint=[fe80::33%2]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=5
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=111
allowed_ip=192.168.4.4/32
allowed_ip=fd00::/64
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
errno=0

";

fn key(text: &str) -> PublicKey {
    PublicKey::from_bytes(<[u8; 32]>::try_from(hex::decode(text).unwrap()).unwrap())
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn refusal(text: &str) -> String {
    Request::parse(text).unwrap_err().to_string()
}

#[test]
fn a_request_is_read() {
    let Request::Set(set) = Request::parse(SET).unwrap() else { panic!("not a set") };
    assert_eq!(set.private_key.as_ref().unwrap().as_ref().unwrap().as_bytes()[..2], [0xe8, 0x4b]);
    assert_eq!((set.fwmark, set.listen_port, set.replace_peers), (Some(0), Some(12_912), true));
    let expected = [
        SetPeer {
            preshared_key: set.peers[0].preshared_key.clone(),
            replace_allowed_ips: true,
            allowed_ips: [cidr("192.168.4.4/32")].into(),
            endpoint: Some("[abcd:23::33%2]:51820".parse().unwrap()),
            ..SetPeer::new(key("b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33"))
        },
        SetPeer {
            update_only: true,
            replace_allowed_ips: true,
            allowed_ips: [cidr("192.168.4.0/24"), cidr("fd00::/64")].into(),
            removed_allowed_ips: [cidr("10.0.0.0/16")].into(),
            persistent_keepalive: Some(111),
            endpoint: Some("182.122.22.19:3233".parse().unwrap()),
            ..SetPeer::new(key("58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376"))
        },
        SetPeer::removal(key("662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58")),
    ];
    assert_eq!(set.peers, expected);
    assert_eq!(set.peers[0].preshared_key.as_ref().unwrap().as_ref().unwrap().as_bytes()[0], 0x18);
    // What is printed reads back as the same.
    assert_eq!(Request::parse(&set.to_text()).unwrap(), Request::Set(set));
    assert_eq!(Request::parse(get_text()).unwrap(), Request::Get);
}

#[test]
fn a_status_prints_and_reads_as_the_protocol_shows_it() {
    let status = DeviceStatus::parse(STATUS).unwrap();
    assert_eq!(status.peers[0].last_handshake, Some(Duration::new(1_700_000_000, 5)));
    assert_eq!((status.peers[0].tx_bytes, status.peers[0].rx_bytes), (38_333, 2_224));
    assert_eq!(status.peers[1], PeerStatus::new(status.peers[1].key));
    assert_eq!(status.to_text().as_str(), STATUS);
}

#[test]
fn what_only_ours_tells_stands_before_the_peers_and_is_read_again() {
    let path = PathStatus {
        engine: Some("noise".to_owned()),
        offloads: [("gro".to_owned(), false), ("gso".to_owned(), true)].into(),
        drops: [("no_peer".to_owned(), 3)].into(),
    };
    let peers = vec![PeerStatus::new(PublicKey::from_bytes([1; 32]))];
    let status = DeviceStatus { path, peers, ..DeviceStatus::default() };
    let text = status.to_text();
    assert!(text.starts_with(
        "listen_port=0\nwireloom.engine=noise\nwireloom.offload.gro=off\nwireloom.offload.gso=on\n\
         wireloom.drop.no_peer=3\npublic_key=01"
    ));
    assert_eq!(DeviceStatus::parse(&text), Ok(status));
    for bad in ["wireloom.offload.gso=1", "wireloom.drop.no_peer=-1"] {
        assert!(DeviceStatus::parse(&format!("{bad}\nerrno=0\n\n")).is_err(), "{bad}");
    }
    let newer = DeviceStatus::parse("wireloom.else=7\nunheard_of=1\nerrno=0\n\n");
    assert_eq!(newer, Ok(DeviceStatus::default()), "a newer device may say more");
}

#[test]
fn an_ipv4_endpoint_of_a_dual_stack_socket_prints_as_ipv4() {
    let peer = PeerStatus {
        endpoint: Some("[::ffff:192.0.2.1]:5".parse().unwrap()),
        ..PeerStatus::new(PublicKey::from_bytes([1; 32]))
    };
    let status = DeviceStatus { peers: vec![peer], ..DeviceStatus::default() };
    assert!(status.to_text().contains("\nendpoint=192.0.2.1:5\n"));
}

#[test]
fn error_numbers_go_both_ways() {
    assert_eq!(errno_text(0), "errno=0\n\n");
    assert_eq!(errno_text(EINVAL), "errno=-22\n\n");
    assert_eq!(SetDevice::parse_response("errno=0\n\n"), Ok(()));
    for text in ["errno=22\n\n", "errno=-22\n\n"] {
        assert_eq!(SetDevice::parse_response(text), Err(ResponseError::Errno(22)));
        assert_eq!(DeviceStatus::parse(text), Err(ResponseError::Errno(22)));
    }
    assert!(matches!(SetDevice::parse_response(""), Err(ResponseError::Parse(_))));
    assert!(matches!(DeviceStatus::parse("listen_port=1\n\n"), Err(ResponseError::Parse(_))));
}

#[test]
fn keys_that_a_newer_device_prints_are_skipped() {
    let status = DeviceStatus::parse("listen_port=1\nshiny=1\nerrno=0\n\n").unwrap();
    assert_eq!(status.listen_port, 1);
}

#[test]
fn a_wrong_line_is_named() {
    let peer = format!("set=1\npublic_key={}\n", "ab".repeat(32));
    for (line, problem) in [
        ("endpoint=1.2.3.4", r#"line 3: "endpoint" cannot be "1.2.3.4""#),
        ("endpoint=1.2.3.4:0", r#"line 3: "endpoint""#),
        ("endpoint=0.0.0.0:1", r#"line 3: "endpoint""#),
        ("endpoint=gw.example.com:1", r#"line 3: "endpoint""#),
        ("allowed_ip=10.0.0.0", r#"line 3: "allowed_ip""#),
        ("allowed_ip=10.0.0.0/33", r#"line 3: "allowed_ip""#),
        ("allowed_ip=--10.0.0.0/8", r#"line 3: "allowed_ip""#),
        ("persistent_keepalive_interval=65536", r#"line 3: "persistent_keepalive_interval""#),
        ("persistent_keepalive_interval=-1", r#"line 3: "persistent_keepalive_interval""#),
        ("persistent_keepalive_interval=", r#"line 3: "persistent_keepalive_interval""#),
        ("remove=false", r#"line 3: "remove" cannot be "false"; it needs true"#),
        ("protocol_version=2", r#"line 3: "protocol_version""#),
        ("listen_port=1", r#"line 3: "listen_port" is no key of the protocol here"#),
        ("colour=red", r#"line 3: "colour" is no key"#),
        ("junk", r#"line 3: "" is no line of the form key=value"#),
        ("preshared_key=abcd", r#"line 3: "preshared_key" needs 64 hexadecimal digits"#),
    ] {
        let error = refusal(&format!("{peer}{line}\n\n"));
        assert!(error.starts_with(problem), "{line}: {error}");
    }
    for (text, problem) in [
        ("", r#"line 1: "get or set" is missing"#),
        ("set=2\n\n", r#"line 1: "set" cannot be "2""#),
        ("get=1\nlisten_port=1\n\n", r#"line 2: "listen_port" is no key"#),
        ("listen_port=1\n\n", r#"line 1: "listen_port" is no key"#),
        ("set=1\nremove=true\n\n", r#"line 2: "remove" is no key"#),
        ("set=1\nlisten_port=70000\n\n", r#"line 2: "listen_port""#),
    ] {
        let error = refusal(text);
        assert!(error.starts_with(problem), "{text:?}: {error}");
    }
}

#[test]
fn no_error_shows_a_secret() {
    let secret = "s3cr3t".repeat(11);
    for line in [
        format!("private_key={secret}"),
        secret.clone(),
        format!("public_key={}\npreshared_key={secret}", "ab".repeat(32)),
    ] {
        assert!(!refusal(&format!("set=1\n{line}\n\n")).contains("s3cr3t"));
    }
}

#[test]
fn a_links_name_is_resolved_by_the_caller() {
    let text = format!("set=1\npublic_key={}\nendpoint=[fe80::1%eth0]:5\n\n", "ab".repeat(32));
    assert!(Request::parse(&text).is_err());
    let request = Request::parse_with(&text, |name| (name == "eth0").then_some(7)).unwrap();
    let Request::Set(set) = request else { panic!("not a set") };
    assert_eq!(set.peers[0].endpoint, Some("[fe80::1%7]:5".parse().unwrap()));
}

#[test]
fn the_last_word_on_an_allowed_ip_counts() {
    let lines = |lines: &str| {
        let text = format!("set=1\npublic_key={}\n{lines}\n\n", "ab".repeat(32));
        let Request::Set(mut set) = Request::parse(&text).unwrap() else { panic!("not a set") };
        set.peers.remove(0)
    };
    let taken = lines("allowed_ip=10.0.0.0/8\nallowed_ip=-10.0.0.0/8");
    assert!(taken.allowed_ips.is_empty() && taken.removed_allowed_ips.len() == 1);
    let given = lines("allowed_ip=-10.0.0.0/8\nallowed_ip=10.0.0.0/8");
    assert_eq!(given.allowed_ips, [cidr("10.0.0.0/8")].into());
    let replaced = lines("allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=10.1.0.0/16");
    assert_eq!(replaced.allowed_ips, [cidr("10.1.0.0/16")].into());
}

fn any_cidr() -> impl Strategy<Value = Cidr> {
    (any::<u128>(), 0u8..=128, any::<bool>()).prop_map(|(bits, length, is_v4)| {
        let address = match is_v4 {
            true => std::net::IpAddr::V4((bits as u32).into()),
            false => std::net::IpAddr::V6(bits.into()),
        };
        Cidr::truncated(address, if is_v4 { length % 33 } else { length }).unwrap()
    })
}

fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (0x0100_0000u32..0xe000_0000, 1u16..)
            .prop_map(|(bits, port)| SocketAddr::from((bits.to_be_bytes(), port))),
        (1u128..0xff << 120, 1u16..)
            .prop_map(|(bits, port)| SocketAddr::new(std::net::IpAddr::V6(bits.into()), port)),
    ]
}

fn nonzero_bytes() -> impl Strategy<Value = [u8; 32]> {
    any::<[u8; 32]>().prop_filter("all zero is none", |bytes| *bytes != [0; 32])
}

fn any_peer() -> impl Strategy<Value = SetPeer> {
    let prefixes = || proptest::collection::btree_set(any_cidr(), 0..5);
    (
        any::<([u8; 32], bool, bool, bool)>(),
        proptest::option::of(proptest::option::of(nonzero_bytes())),
        proptest::option::of(any_endpoint()),
        any::<Option<u16>>(),
        (prefixes(), prefixes()),
    )
        .prop_map(
            |((bytes, remove, update_only, replaces), preshared, endpoint, interval, ips)| {
                let (allowed_ips, removed_allowed_ips) = ips;
                SetPeer {
                    key: PublicKey::from_bytes(bytes),
                    remove,
                    update_only,
                    preshared_key: preshared.map(|key| key.map(PresharedKey::from_bytes)),
                    endpoint,
                    persistent_keepalive: interval,
                    replace_allowed_ips: replaces,
                    allowed_ips,
                    removed_allowed_ips,
                }
            },
        )
}

proptest! {
    #[test]
    fn requests_go_there_and_back(
        private_key in proptest::option::of(proptest::option::of(nonzero_bytes())),
        listen_port: Option<u16>,
        fwmark: Option<u32>,
        replace_peers: bool,
        peers in proptest::collection::vec(any_peer(), 0..4),
    ) {
        let private_key = private_key.map(|key| key.map(PrivateKey::from_bytes));
        let set = SetDevice { private_key, listen_port, fwmark, replace_peers, peers };
        let text = set.to_text();
        prop_assert_eq!(Request::parse(&text).unwrap(), Request::Set(set));
    }

    #[test]
    fn any_text_is_survived(text in ".{0,200}", lines in "(set=1|[a-z_]{1,12}=[-0-9a-f:./%\\[\\]]{0,64}|\n){0,20}") {
        for text in [text, lines] {
            let _ = Request::parse(&text);
            let _ = DeviceStatus::parse(&text);
            let _ = SetDevice::parse_response(&text);
        }
    }
}
