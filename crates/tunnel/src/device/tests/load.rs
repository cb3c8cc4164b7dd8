//! Floods of handshakes.

use super::*;

/// Initiations of host 0, as many as asked for: each with a right first MAC.
fn initiations(world: &mut World, count: usize) -> Vec<Datagram> {
    let mut taken = Vec::new();
    while taken.len() < count {
        world.now = world.now + seconds(6);
        world.hosts[0].device.resumed(world.now);
        world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 1)]);
        world.pass_with(Duration::ZERO, |datagram| {
            taken.push(datagram.clone());
            false
        });
        taken.extend(world.intercept().into_iter().filter(|datagram| kind(datagram) == 1));
    }
    taken
}

#[test]
fn a_flood_from_one_address_leaves_others_without_cookies() {
    let mut world = World::new(3);
    let flood = initiations(&mut world, 1).remove(0);
    // A spoilt body costs the responder as much as a good one, as long as the first MAC is right; here it is.
    for _ in 0..2_000 {
        world.deliver(&flood);
    }
    let replies = world.intercept();
    let cookies = replies.iter().filter(|datagram| kind(datagram) == 3).count();
    assert!(cookies > 1_900, "{cookies} cookies");
    assert!(world.drops(1, DropReason::UnderLoad) > 1_900);
    world.seal(2, &[packet("10.0.2.1", "10.0.1.1", 5)]);
    let mut kinds = Vec::new();
    world.run_with(|datagram| {
        kinds.push(kind(datagram));
        true
    });
    assert!(!kinds.contains(&3), "{kinds:?}");
    assert_eq!(world.take_delivered(1).len(), 1);
}

#[test]
fn handshakes_below_load_never_meet_a_cookie() {
    let mut world = World::new(2);
    for initiation in initiations(&mut world, 150) {
        world.deliver(&initiation);
        assert!(world.intercept().iter().all(|datagram| kind(datagram) == 2));
        world.now = world.now + Duration::from_millis(100);
    }
    assert_eq!(world.drops(1, DropReason::UnderLoad), 0);
}

#[test]
fn a_source_that_shows_its_cookie_gets_through() {
    let mut world = World::new(2);
    let flood = initiations(&mut world, 1).remove(0);
    // Host 1 answers old initiations with one of its own, in case the clock of host 0 was set back. That is lost here.
    let responder = world.hosts[1].address;
    let is_carried = |datagram: &Datagram| kind(datagram) != 1 || datagram.from != responder;
    for _ in 0..200 {
        world.deliver(&flood);
    }
    world.intercept();
    world.now = world.now + seconds(6);
    // Somebody at host 0's address keeps its budget used up, while host 0 itself wants a handshake.
    world.hosts[0].device.resumed(world.now);
    for _ in 0..200 {
        world.deliver(&flood);
    }
    world.intercept();
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 5)]);
    world.pass_with(Duration::ZERO, is_carried);
    world.run_with(is_carried);
    assert_eq!(world.take_delivered(1).len(), 0);
    for _ in 0..6 {
        world.pass_with(seconds(1), is_carried);
        for _ in 0..200 {
            world.deliver(&flood);
        }
        world.wire.retain(|datagram| kind(datagram) != 3);
    }
    world.run_with(is_carried);
    assert!(!world.take_delivered(1).is_empty());
}

#[test]
fn a_cookie_reply_moves_no_endpoint() {
    let mut world = World::new(2);
    let flood = initiations(&mut world, 1).remove(0);
    for _ in 0..200 {
        world.deliver(&flood);
    }
    let mut cookie = world.intercept().into_iter().rfind(|datagram| kind(datagram) == 3).unwrap();
    cookie.from = SocketAddr::from(([203, 0, 113, 66], 6));
    let read = |world: &World| world.hosts[0].peer_status(world.now, &world.hosts[1].public());
    let before = read(&world);
    world.deliver(&cookie);
    let after = read(&world);
    // It was a good one, so that it counted, and yet the endpoint stays.
    assert_eq!(after.rx_bytes, before.rx_bytes + 64);
    assert_eq!(after.endpoint, before.endpoint);
}

#[test]
fn what_is_not_for_us_is_dropped_before_it_costs_anything() {
    let mut world = World::new(3);
    let mut initiation = initiations(&mut world, 1).remove(0);
    initiation.to = world.hosts[2].address;
    world.deliver(&initiation);
    assert_eq!(world.drops(2, DropReason::BadMac), 1);
    let gone = SetPeer::removal(world.hosts[0].public());
    world.set_peer(1, gone);
    initiation.to = world.hosts[1].address;
    world.deliver(&initiation);
    assert_eq!(world.drops(1, DropReason::UnknownPeer), 1);
    initiation.bytes[3] = 1;
    world.deliver(&initiation);
    assert_eq!(world.drops(1, DropReason::BadMessage), 1);
    assert!(world.wire.is_empty());
}

#[test]
fn responses_that_nobody_awaits_do_not_use_up_the_budget() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 5)]);
    let initiation = world.intercept().remove(0);
    world.deliver(&initiation);
    let response = world.intercept().remove(0);
    let mut stray = response.clone();
    stray.bytes[9] ^= 1;
    for _ in 0..2_000 {
        world.deliver(&stray);
    }
    assert_eq!(world.drops(0, DropReason::UnknownSession), 2_000);
    world.deliver(&response);
    world.run();
    assert_eq!(world.take_delivered(1).len(), 1);
}
