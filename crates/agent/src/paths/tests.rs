use std::path::Path as FilePath;

use wireloom_kernel::HostLink;
use wireloom_model::PrivateKey;
use wireloom_topology::kilo::Seen;

use super::*;
use crate::agent::Identity;
use crate::place::Place;
use crate::planner::Planner;

fn key(node: u8) -> PublicKey {
    PrivateKey::from_random([node; 32]).public_key()
}

/// The plan of node 1 of a full mesh of three.
fn plan() -> Plan {
    let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\", \"fd04::/64\"]\n".to_owned();
    for node in 1..=3 {
        let key = key(node);
        text += &format!(
            "[[node]]\nname = \"n{node}\"\npublic-key = \"{key}\"\nendpoint = \"192.0.2.{node}\"\n"
        );
    }
    let snapshot = wireloom_file::parse(&text, FilePath::new("mesh.toml")).unwrap();
    Place::of(&Planner::default(), &Seen::default(), &snapshot, &Identity::Key, key(1))
        .unwrap()
        .plan
}

fn way(link: u32, mtu: u32) -> Way {
    let name = "eth0".parse().unwrap();
    let link = HostLink { index: 2, name, mtu: link, up: true, carrier: true, kind: None };
    Way { link, mtu }
}

/// What follows for node 1 if nodes 2 and 3 are at these addresses and their paths are these.
fn derived(
    mesh_mtu: Option<u32>,
    paths: [Option<(&str, Way)>; 2],
    found: &[(u8, u32)],
) -> (Underlay, Vec<String>) {
    let mut endpoints = BTreeMap::new();
    let mut ways = BTreeMap::new();
    for (node, (address, way)) in (2..).zip(paths).filter_map(|(node, path)| Some((node, path?))) {
        let address: IpAddr = address.parse().unwrap();
        endpoints.insert(key(node), SocketAddr::new(address, 51820));
        ways.insert(address, way);
    }
    let found = found.iter().map(|(node, mtu)| (key(*node), *mtu)).collect();
    let places = BTreeMap::new();
    let (endpoints, places, found) = (&endpoints, &places, &found);
    let paths = Paths { mesh_mtu, endpoints, places, found, mark: 0x20, metric: 0 };
    let (underlay, problems) = paths.underlay(&plan(), |address| ways.get(&address));
    (underlay, problems.iter().map(ToString::to_string).collect())
}

fn narrow(underlay: &Underlay) -> Vec<(u8, u32)> {
    let of = |node| Some((node, *underlay.narrow.get(&key(node))?));
    (2..=3).filter_map(of).collect()
}

const V4: [&str; 2] = ["192.0.2.2", "192.0.2.3"];
const V6: [&str; 2] = ["2001:db8::2", "2001:db8::3"];

#[test]
fn each_layer_is_taken_off() {
    for (addresses, overhead) in [(V4, 60), (V6, 80)] {
        let paths = addresses.map(|address| Some((address, way(1500, 1500))));
        let (underlay, problems) = derived(None, paths, &[]);
        assert_eq!(underlay.tunnel_mtu, 1500 - overhead);
        assert_eq!((narrow(&underlay), problems), (vec![], vec![]));
        assert_eq!(underlay.endpoints, addresses.map(|address| address.parse().unwrap()).into());
    }
}

#[test]
fn the_other_family_outside_makes_a_route_smaller_and_is_nothing_to_report() {
    let paths = [Some((V4[0], way(1500, 1500))), Some((V6[1], way(1500, 1500)))];
    let (underlay, problems) = derived(None, paths, &[]);
    assert_eq!((underlay.tunnel_mtu, narrow(&underlay)), (1440, vec![(3, 1408)]));
    assert_eq!(problems, [] as [&str; 0]);
}

#[test]
fn nobody_in_reach_is_the_usual_and_so_is_a_peer_that_has_to_come() {
    let (underlay, problems) = derived(None, [None, None], &[]);
    assert_eq!((underlay.tunnel_mtu, narrow(&underlay), problems.len()), (USUAL_MTU, vec![], 0));
    let (underlay, _) = derived(None, [Some((V4[0], way(9000, 9000))), None], &[]);
    assert_eq!((underlay.tunnel_mtu, narrow(&underlay)), (8940, vec![(3, 1408)]));
}

#[test]
fn a_narrow_path_is_reported_with_both_numbers() {
    // Known to the kernel, or seen by what arrived; the smaller counts.
    for (mtu, found) in [(1300, None), (1500, Some(1232)), (1300, Some(1392)), (1400, Some(1232))] {
        let paths = [Some((V4[0], way(1500, 1500))), Some((V4[1], way(1500, mtu)))];
        let found: Vec<_> = found.map(|found| (3, found)).into_iter().collect();
        let (underlay, problems) = derived(None, paths, &found);
        assert_eq!((underlay.tunnel_mtu, narrow(&underlay)), (1440, vec![(3, 1232)]));
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        for part in ["node n3", "192.0.2.3:51820", " 1232 ", " 1440", "IPv6 works with 1280"] {
            assert!(problem.contains(part), "{problem}");
        }
    }
}

#[test]
fn what_the_mesh_sets_stands_and_is_compared() {
    let paths = || V4.map(|address| Some((address, way(1500, 1500))));
    let (underlay, problems) = derived(Some(1400), paths(), &[]);
    assert_eq!((underlay.tunnel_mtu, narrow(&underlay), problems.len()), (1400, vec![], 0));
    let (underlay, problems) = derived(Some(1441), paths(), &[]);
    assert_eq!((underlay.tunnel_mtu, narrow(&underlay)), (1441, vec![(2, 1440), (3, 1440)]));
    assert!(problems[1].contains("1440") && problems[1].contains("1441"), "{problems:?}");
}

#[test]
fn ends_of_any_link_make_a_device_that_can_be() {
    let (underlay, _) = derived(None, [Some((V4[0], way(65_536, 65_536))), None], &[]);
    assert_eq!(underlay.tunnel_mtu, 65_476);
    let (underlay, problems) = derived(None, [Some((V4[0], way(1000, 1000))), None], &[]);
    assert_eq!((underlay.tunnel_mtu, narrow(&underlay)), (1280, vec![(2, 928)]));
    assert_eq!(problems.len(), 1);
}

/// Before the first packet goes there: it would take the tunnel's own route.
#[test]
fn every_place_where_a_peer_may_be_dialled_is_an_end() {
    let [in_use, planned, other] =
        ["198.51.100.7:40000", "192.168.1.3:51820", "[2001:db8::3]:51820"]
            .map(|place| place.parse::<SocketAddr>().unwrap());
    let endpoints = BTreeMap::from([(key(2), in_use)]);
    let of_peer = Places { planned: Some(planned), alternatives: vec![other] };
    let places = BTreeMap::from([(key(2), of_peer)]);
    let found = BTreeMap::new();
    let (endpoints, places, found) = (&endpoints, &places, &found);
    let paths = Paths { mesh_mtu: None, endpoints, places, found, mark: 0x20, metric: 0 };
    let (underlay, _) = paths.underlay(&plan(), |_| None);
    assert_eq!(underlay.endpoints, [in_use, planned, other].map(|end| end.ip()).into());
}
