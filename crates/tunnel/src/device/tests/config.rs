//! Changes while sessions live.

use wireloom_model::PresharedKey;

use super::*;

/// The receiver's index of the data messages that a host sends.
fn index(world: &mut World, host: usize, destination: &str) -> Vec<u8> {
    let source = format!("10.0.{host}.1");
    world.seal(host, &[packet(&source, destination, 10)]);
    let sent = world.intercept().remove(0);
    assert_eq!(kind(&sent), 4, "no session to {destination}");
    sent.bytes[4..8].to_vec()
}

fn preshared(byte: u8) -> Option<Option<PresharedKey>> {
    Some(Some(PresharedKey::from_bytes([byte; 32])))
}

#[test]
fn the_second_byte_of_an_index_counts_up_from_peer_to_peer_and_stays() {
    let mut world = World::new(6);
    let bytes = |world: &mut World| -> Vec<u8> {
        (1..6)
            .map(|other| {
                world.say(0, "10.0.0.1", &format!("10.0.{other}.1"));
                index(world, other, "10.0.0.1")[1]
            })
            .collect()
    };
    let first = bytes(&mut world);
    let next: Vec<u8> = (0..5).map(|peer| first[0].wrapping_add(peer)).collect();
    assert_eq!(first, next);
    // Other keys bring other sessions; the peer's share of the messages stays where it is.
    for other in 1..6 {
        let key = preshared(7);
        world.set_peer(0, SetPeer { preshared_key: key.clone(), ..world.peer(other) });
        world.set_peer(other, SetPeer { preshared_key: key, ..world.peer(0) });
    }
    world.pass(seconds(200));
    assert_eq!(bytes(&mut world), first);
}

#[test]
fn a_change_leaves_other_peers_alone() {
    let mut world = World::new(3);
    world.say(0, "10.0.0.1", "10.0.1.1");
    world.say(0, "10.0.0.1", "10.0.2.1");
    let before = index(&mut world, 0, "10.0.1.1");
    let table = world.hosts[0].device.table.load_full();
    // A change of nothing does not even replace the table.
    let same = SetPeer {
        endpoint: Some(world.hosts[1].address),
        replace_allowed_ips: true,
        allowed_ips: [cidr("10.0.1.0/24"), cidr("fd00:1::/64")].into(),
        preshared_key: Some(None),
        persistent_keepalive: Some(0),
        ..world.peer(1)
    };
    world.set_peer(0, same);
    assert!(Arc::ptr_eq(&table, &world.hosts[0].device.table.load_full()));
    let other = SetPeer {
        replace_allowed_ips: true,
        allowed_ips: [cidr("10.7.0.0/16")].into(),
        preshared_key: preshared(3),
        endpoint: Some("192.0.2.77:7".parse().unwrap()),
        persistent_keepalive: Some(9),
        ..world.peer(2)
    };
    world.set_peer(0, other);
    let gone = SetPeer::removal(PrivateKey::from_random([50; 32]).public_key());
    world.set_peer(0, gone);
    assert_eq!(index(&mut world, 0, "10.0.1.1"), before);
    let status = world.hosts[0].peer_status(world.now, &world.hosts[2].public());
    assert_eq!(status.allowed_ips, [cidr("10.7.0.0/16")].into());
    assert_eq!(status.preshared_key, preshared(3).unwrap());
    assert_eq!(status.persistent_keepalive, 9);
    assert_eq!(status.endpoint, Some("192.0.2.77:7".parse().unwrap()));
}

#[test]
fn an_allowed_ip_moves_to_the_peer_that_asks_for_it() {
    let mut world = World::new(3);
    let taker = SetPeer { allowed_ips: [cidr("10.0.1.0/24")].into(), ..world.peer(2) };
    world.set_peer(0, taker);
    let of = |world: &World, i: usize| {
        world.hosts[0].peer_status(world.now, &world.hosts[i].public()).allowed_ips
    };
    assert_eq!(of(&world, 1), [cidr("fd00:1::/64")].into());
    assert!(of(&world, 2).contains(&cidr("10.0.1.0/24")));
    // A removal by a peer that does not have it is none.
    let stranger = SetPeer { removed_allowed_ips: [cidr("10.0.1.0/24")].into(), ..world.peer(1) };
    world.set_peer(0, stranger);
    assert!(of(&world, 2).contains(&cidr("10.0.1.0/24")));
    let owner = SetPeer { removed_allowed_ips: [cidr("10.0.1.0/24")].into(), ..world.peer(2) };
    world.set_peer(0, owner);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 1)]);
    assert_eq!(world.hosts[0].sealer.refused().len(), 1);
}

#[test]
fn a_removed_peer_is_gone_and_a_new_one_takes_its_place() {
    let mut world = World::new(3);
    world.say(0, "10.0.0.1", "10.0.1.1");
    world.take_delivered(1);
    let gone = SetPeer::removal(world.hosts[1].public());
    world.set_peer(0, gone);
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 0);
    assert_eq!(world.drops(0, DropReason::UnknownSession), 1);
    let absent = SetPeer { update_only: true, ..world.peer(1) };
    world.set_peer(0, absent);
    assert_eq!(world.hosts[0].device.status(world.now, seconds(0)).peers.len(), 1);
    let again = SetPeer {
        allowed_ips: [cidr("10.0.1.0/24")].into(),
        endpoint: Some(world.hosts[1].address),
        ..world.peer(1)
    };
    world.set_peer(0, again);
    // The other end knows us still, and takes no second initiation of the same time.
    world.pass(seconds(1));
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert_eq!(world.take_delivered(1).len(), 1);
}

#[test]
fn replacing_all_peers_keeps_the_sessions_of_those_that_stay() {
    let mut world = World::new(3);
    world.say(0, "10.0.0.1", "10.0.1.1");
    let before = index(&mut world, 0, "10.0.1.1");
    let kept = SetPeer { allowed_ips: [cidr("10.0.1.0/25")].into(), ..world.peer(1) };
    let set = SetDevice { replace_peers: true, peers: vec![kept], ..SetDevice::default() };
    let _ = world.hosts[0].device.set(world.now, &set);
    assert_eq!(index(&mut world, 0, "10.0.1.1"), before);
    let status = world.hosts[0].device.status(world.now, seconds(0));
    assert_eq!(status.peers.len(), 1);
    assert_eq!(status.peers[0].allowed_ips, [cidr("10.0.1.0/25")].into());
}

#[test]
fn a_new_preshared_key_lets_the_live_session_flow_until_both_have_it() {
    let mut world = World::pair();
    let before = index(&mut world, 0, "10.0.1.1");
    let new = SetPeer { preshared_key: preshared(8), ..world.peer(1) };
    world.set_peer(0, new);
    // The old session still carries both ways.
    assert_eq!(index(&mut world, 0, "10.0.1.1"), before);
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
    // A handshake with one key on each side fails, and the old session goes on.
    world.pass(seconds(121));
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert_eq!(world.take_delivered(1).len(), 1);
    assert!(world.drops(0, DropReason::BadHandshake) >= 1);
    let new = SetPeer { preshared_key: preshared(8), ..world.peer(0) };
    world.set_peer(1, new);
    world.pass(seconds(6));
    assert_ne!(index(&mut world, 0, "10.0.1.1"), before);
    world.say(0, "10.0.0.1", "10.0.1.1");
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!((world.take_delivered(1).len(), world.take_delivered(0).len()), (1, 1));
}

#[test]
fn a_preshared_key_that_changes_twice_does_not_lose_the_session() {
    let mut world = World::pair();
    let before = index(&mut world, 0, "10.0.1.1");
    for byte in [1, 2, 3] {
        let new = SetPeer { preshared_key: preshared(byte), ..world.peer(1) };
        world.set_peer(0, new);
    }
    assert_eq!(index(&mut world, 0, "10.0.1.1"), before);
    let retired = |world: &World| {
        let table = world.hosts[0].device.table.load();
        table.peer(0).unwrap().state().retired.is_some()
    };
    assert!(retired(&world));
    world.pass_with(seconds(1_000), |_| false);
    assert!(!retired(&world), "old keys are kept for ever");
}

#[test]
fn a_new_private_key_drops_sessions_and_calls_at_once() {
    let mut world = World::pair();
    let alive = SetPeer { persistent_keepalive: Some(25), ..world.peer(1) };
    world.set_peer(0, alive);
    world.pass(seconds(1));
    let old = world.hosts[0].public();
    let key = PrivateKey::from_random([200; 32]);
    let other =
        SetPeer { allowed_ips: [cidr("10.0.0.0/24")].into(), ..SetPeer::new(key.public_key()) };
    world.set_peer(1, SetPeer::removal(old));
    world.set_peer(1, other);
    let set = SetDevice { private_key: Some(Some(key.clone())), ..SetDevice::default() };
    let _ = world.hosts[0].device.set(world.now, &set);
    world.hosts[0].key = key;
    let before = world.initiations;
    world.pass(Duration::ZERO);
    assert_eq!(world.initiations, before + 1);
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
    // The same key again keeps the session.
    let before = index(&mut world, 0, "10.0.1.1");
    let _ = world.hosts[0].device.set(world.now, &set);
    assert_eq!(index(&mut world, 0, "10.0.1.1"), before);
}

#[test]
fn nobody_is_a_peer_of_itself() {
    let mut world = World::new(2);
    let own = world.peer(0);
    world.set_peer(0, own);
    assert_eq!(world.hosts[0].device.status(world.now, seconds(0)).peers.len(), 1);
    // Taking a peer's private key for our own removes that peer.
    let key = world.hosts[1].key.clone();
    let set = SetDevice { private_key: Some(Some(key)), ..SetDevice::default() };
    let _ = world.hosts[0].device.set(world.now, &set);
    assert_eq!(world.hosts[0].device.status(world.now, seconds(0)).peers.len(), 0);
}

#[test]
fn a_corrected_endpoint_is_called_at_once_if_packets_wait() {
    let mut world = World::new(2);
    let wrong = SetPeer { endpoint: Some("203.0.113.1:1".parse().unwrap()), ..world.peer(1) };
    world.set_peer(0, wrong);
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert_eq!(world.take_delivered(1).len(), 0);
    let right = SetPeer { endpoint: Some(world.hosts[1].address), ..world.peer(1) };
    world.set_peer(0, right);
    world.pass(Duration::ZERO);
    assert_eq!(world.take_delivered(1).len(), 1);
}

#[test]
fn a_hundred_thousand_allowed_ips_are_one_quick_request() {
    let mut world = World::new(2);
    let prefix = |i: u32| Cidr::host(IpAddr::V4((0x0b00_0000 + i).into()));
    let many = SetPeer { allowed_ips: (0..130_561).map(prefix).collect(), ..world.peer(1) };
    world.set_peer(0, many.clone());
    let table = world.hosts[0].device.table.load_full();
    assert_eq!(table.routes.lookup("11.1.0.0".parse().unwrap()), Some(0));
    let fewer = SetPeer { replace_allowed_ips: true, ..many };
    world.set_peer(0, fewer);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 1)]);
    assert_eq!(world.hosts[0].sealer.refused().len(), 1);
}
