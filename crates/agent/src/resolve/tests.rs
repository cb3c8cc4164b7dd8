//! Answers that come, stay out or change their order, and what is dialled by them.

use wireloom_model::PublicKey;
use wireloom_topology::TunnelPeerName;
use wireloom_tunnel::uapi::PeerStatus;

use super::*;
use crate::dial::{Dialler, Moment};

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn name(endpoint: &Endpoint) -> DnsName {
    let Host::Name(name) = &endpoint.host else { unreachable!() };
    name.clone()
}

fn answer(addresses: &[&str]) -> Answer {
    Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

/// A name server that is silent on one name, does not know another, and has two addresses for all others.
fn serve(name: DnsName) -> BoxFuture<'static, Answer> {
    Box::pin(async move {
        match name.as_str() {
            "slow.example" => std::future::pending::<Answer>().await,
            "gone.example" => Err("no such name".to_owned()),
            _ => answer(&["2001:db8::1", "192.0.2.1"]),
        }
    })
}

fn resolver() -> Resolver {
    Resolver { lookup: serve, ..Resolver::default() }
}

fn peer(at: &str, alternatives: &[&str]) -> TunnelPeer {
    TunnelPeer {
        key: PublicKey::from_bytes([7; 32]),
        name: TunnelPeerName::Peer("p".parse().unwrap()),
        endpoint: Some(endpoint(at)),
        alternatives: alternatives.iter().map(|at| endpoint(at)).collect(),
        allowed_ips: BTreeSet::new(),
        persistent_keepalive: None,
        preshared_key: None,
    }
}

/// Where a peer may be reached, the best first.
fn places(resolver: &Resolver, peer: &TunnelPeer, in_use: Option<&str>) -> Vec<String> {
    let in_use = in_use.map(|address| address.parse().unwrap());
    resolver.places(peer, in_use).all().map(|address| address.to_string()).collect()
}

#[test]
fn addresses_need_no_lookup() {
    let resolver = Resolver::default();
    for text in ["[2001:db8::1]:51820", "[fe80::1%7]:51820"] {
        assert!(!resolver.is_awaited(&endpoint(text)));
        assert_eq!(resolver.address(&endpoint(text), None).unwrap().to_string(), text);
    }
}

#[tokio::test]
async fn an_unresolvable_name_is_said() {
    let mut resolver = Resolver::default();
    let gone = endpoint("gone.invalid:51820");
    resolver.refresh([&gone].into_iter()).await;
    assert!(resolver.failures().contains_key(&name(&gone)));
    assert_eq!(resolver.address(&gone, None), None);
}

#[tokio::test]
async fn the_last_answer_stays_until_the_name_is_out_of_use() {
    let mut resolver = resolver();
    let gone = endpoint("gone.example:51820");
    resolver.follow([&gone].into_iter());
    assert!(resolver.take(name(&gone), answer(&["192.0.2.1"])));
    resolver.turn().await;
    assert_eq!(resolver.failures()[&name(&gone)], "no such name");
    assert_eq!(resolver.address(&gone, None).unwrap().to_string(), "192.0.2.1:51820");
    resolver.follow(std::iter::empty());
    assert!(resolver.failures().is_empty());
    assert_eq!(resolver.address(&gone, None), None);
}

#[tokio::test]
async fn a_name_without_an_answer_keeps_nobody_waiting() {
    let mut resolver = resolver();
    let [slow, quick] = ["slow.example:51820", "quick.example:51820"].map(endpoint);
    let began = Instant::now();
    resolver.follow([&slow, &quick].into_iter());
    assert!(resolver.is_awaited(&slow) && resolver.is_awaited(&quick));
    resolver.turn().await;
    assert!(began.elapsed() < LOOKUP);
    assert!(resolver.is_awaited(&slow) && !resolver.is_awaited(&quick));
    let address = resolver.address(&quick, None).unwrap();
    assert_eq!(address.to_string(), "[2001:db8::1]:51820");
}

#[tokio::test]
async fn a_late_answer_is_waited_for_once_and_taken_all_the_same() {
    let mut resolver = resolver();
    let slow = endpoint("slow.example:51820");
    resolver.follow([&slow].into_iter());
    let asked = Instant::now();
    assert!(resolver.tick(asked + LOOKUP));
    assert!(!resolver.is_awaited(&slow), "nobody knows when it comes");
    assert_eq!(resolver.failures()[&name(&slow)], "no answer within 5 s");
    for round in 1..=2 {
        assert!(!resolver.tick(asked + PERIOD * round), "it is said already");
        assert_eq!(resolver.lookups.len(), 1, "one look-up of a name at a time");
    }
    // Out of use and in use again, it is waited for anew.
    resolver.follow(std::iter::empty());
    resolver.follow([&slow].into_iter());
    assert!(resolver.is_awaited(&slow) && resolver.lookups.len() == 1);
    assert!(resolver.tick(Instant::now() + LOOKUP));
    assert!(resolver.take(name(&slow), answer(&["192.0.2.1"])));
    assert!(resolver.failures().is_empty() && resolver.problems().next().is_none());
}

#[tokio::test]
async fn all_addresses_of_a_name_are_places_and_begin_at_the_one_in_use() {
    let mut resolver = resolver();
    let peer = peer("two.example:51820", &["192.0.2.1:51820", "198.51.100.1:51820"]);
    let heard = ["192.0.2.1:51820", "198.51.100.1:51820"];
    assert_eq!(places(&resolver, &peer, None), heard);
    assert_eq!(resolver.places(&peer, None).planned, None);
    resolver.refresh(peer.places()).await;
    let all = ["[2001:db8::1]:51820", "192.0.2.1:51820", "198.51.100.1:51820"];
    assert_eq!(places(&resolver, &peer, None), all);
    assert_eq!(places(&resolver, &peer, Some("198.51.100.1:51820")), all);
    assert_eq!(places(&resolver, &peer, Some("203.0.113.9:51820")), all);
    let begins_there = ["192.0.2.1:51820", "198.51.100.1:51820", "[2001:db8::1]:51820"];
    assert_eq!(places(&resolver, &peer, Some("192.0.2.1:40000")), begins_there);
    let planned = resolver.places(&peer, Some("192.0.2.1:40000".parse().unwrap())).planned;
    assert_eq!(planned.unwrap().to_string(), begins_there[0]);
}

#[tokio::test]
async fn a_silent_address_of_a_name_is_left_for_another_and_the_order_of_answers_is_nothing() {
    let mut resolver = resolver();
    let peer = peer("two.example:51820", &["198.51.100.1:51820"]);
    resolver.refresh(peer.places()).await;
    let two = name(&endpoint("two.example:51820"));
    let wall = Duration::from_secs(1_800_000_000);
    let (mut dialler, mut status) = (Dialler::default(), PeerStatus::new(peer.key));
    let mut dials = |resolver: &Resolver, second, handshake: Option<u64>| {
        let moment = |second| wall + Duration::from_secs(second);
        status.last_handshake = handshake.map(moment);
        let addresses: Vec<SocketAddr> = resolver.places(&peer, status.endpoint).all().collect();
        let now = Duration::from_secs(second);
        let moment = Moment { now, wall: moment(second) };
        status.endpoint = dialler.choose(peer.key, &addresses, Some(&status), moment);
        status.tx_bytes += 148;
        status.endpoint.unwrap().to_string()
    };

    // Nobody answers, and each comes in turn.
    let mut dialled: Vec<String> = (0..=40).map(|second| dials(&resolver, second, None)).collect();
    dialled.dedup();
    let [v6, v4, heard] = ["[2001:db8::1]:51820", "192.0.2.1:51820", "198.51.100.1:51820"];
    assert_eq!(dialled, [v6, v4, heard, v6, v4]);

    // The second does.
    let orders = [["192.0.2.1", "2001:db8::1"], ["2001:db8::1", "192.0.2.1"]];
    for (second, order) in (41..=100).zip(orders.iter().cycle()) {
        assert!(!resolver.take(two.clone(), answer(order)), "the same in another order");
        assert_eq!(dials(&resolver, second, Some(41)), v4);
    }
    // One that goes is missed only if it is in use.
    assert!(resolver.take(two.clone(), answer(&["192.0.2.7", "192.0.2.1"])));
    assert_eq!(dials(&resolver, 101, Some(41)), v4);
    assert!(resolver.take(two, answer(&["192.0.2.7"])));
    assert_eq!(dials(&resolver, 102, Some(41)), "192.0.2.7:51820");
}
