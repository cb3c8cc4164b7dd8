//! What happens when nothing or not enough happens.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;

use super::*;

fn keepalive(world: &World, of: usize, interval: u16) -> SetPeer {
    SetPeer { persistent_keepalive: Some(interval), ..world.peer(of) }
}

#[test]
fn an_idle_device_has_no_timer() {
    let mut world = World::new(2);
    assert_eq!(world.next_timer(), None);
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert!(world.next_timer().is_some());
    world.pass(seconds(600));
    assert_eq!(world.next_timer(), None);
    // One keepalive answered the data, and that was all.
    let status = world.hosts[1].peer_status(world.now, &world.hosts[0].public());
    assert_eq!(status.tx_bytes, 92 + 32);
    assert_eq!(world.initiations, 1);
}

#[test]
fn data_is_answered_within_ten_seconds() {
    let mut world = World::pair();
    let mut sent = Vec::new();
    world.pass_with(seconds(9), |datagram| {
        sent.push(datagram.from);
        true
    });
    assert_eq!(sent, []);
    world.pass_with(seconds(2), |datagram| {
        sent.push(datagram.from);
        true
    });
    assert_eq!(sent, [world.hosts[1].address]);
}

#[test]
fn silence_after_data_starts_a_handshake() {
    let mut world = World::pair();
    world.pass(seconds(20));
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    world.run_with(|_| false);
    world.pass_with(seconds(14), |_| false);
    assert_eq!(world.initiations, 1);
    world.pass_with(seconds(2), |_| false);
    assert_eq!(world.initiations, 2);
}

#[test]
fn a_handshake_is_repeated_with_jitter_and_given_up_after_90_seconds() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let mut times = vec![world.now];
    world.run_with(|_| false);
    for _ in 0..120 * 50 {
        let before = world.initiations;
        world.pass_with(Duration::from_millis(20), |_| false);
        if world.initiations > before {
            times.push(world.now);
        }
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert!((16..=18).contains(&gaps.len()), "{gaps:?}");
    for gap in &gaps {
        assert!((seconds(5)..=Duration::from_millis(5_360)).contains(gap), "{gap:?}");
    }
    assert!(gaps.iter().any(|gap| *gap > Duration::from_millis(5_050)), "no jitter: {gaps:?}");
    assert_eq!(world.drops(0, DropReason::Unsent), 1);
    // Counted as sent, they tell a peer that is called in vain from one that nobody wants.
    let status = world.hosts[0].peer_status(world.now, &world.hosts[1].public());
    assert_eq!(status.tx_bytes, 148 * times.len() as u64);
    // The next packet begins anew.
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert_eq!(world.take_delivered(1).len(), 1);
}

#[test]
fn a_steady_stream_renews_its_keys_every_two_minutes_without_loss() {
    let mut world = World::new(2);
    for second in 0..3_600 {
        world.say(0, "10.0.0.1", "10.0.1.1");
        if second % 3 == 0 {
            world.say(1, "10.0.1.1", "10.0.0.1");
        }
        world.pass(seconds(1));
    }
    assert_eq!(world.take_delivered(1).len(), 3_600);
    assert_eq!(world.take_delivered(0).len(), 1_200);
    assert!((29..=31).contains(&world.initiations), "{} initiations", world.initiations);
}

/// Whichever of its three messages is lost, and more than once.
#[test]
fn a_renewal_whose_messages_are_lost_loses_nothing_else() {
    let lost: [fn(&Datagram) -> bool; 3] =
        [|d| kind(d) == 1, |d| kind(d) == 2, |d| kind(d) == 4 && d.bytes.len() == 32];
    for (place, is_victim) in lost.into_iter().enumerate() {
        // boringtun has room for eight sessions, and every answer takes one.
        for most in [1, 2, 6] {
            let mut world = World::pair();
            let mut victims = 0;
            let mut passes = |datagram: &Datagram| {
                let dies = victims < most && is_victim(datagram);
                victims += usize::from(dies);
                !dies
            };
            while world.now < START + seconds(200) {
                let to_and_fro =
                    [packet("10.0.0.1", "10.0.1.1", 9), packet("10.0.1.1", "10.0.0.1", 9)];
                for (from, packet) in to_and_fro.into_iter().enumerate() {
                    world.seal(from, std::slice::from_ref(&packet));
                    world.run_with(&mut passes);
                    let age = world.now.since(START);
                    assert_eq!(world.take_delivered(1 - from), [packet], "{place} after {age:?}");
                }
                world.pass_with(Duration::from_millis(100), &mut passes);
            }
            // A lost confirmation is made up for by the next packet, so there is one in a renewal.
            assert_eq!(victims, if place == 2 { 1 } else { most });
        }
    }
}

#[test]
fn an_hour_of_loss_has_no_gap_and_no_storm() {
    let mut world = World::new(2);
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut passes = move |_: &Datagram| random.next_u32() % 10 != 0;
    let mut last = world.now;
    for _ in 0..36_000 {
        for (from, source, destination) in
            [(0, "10.0.0.1", "10.0.1.1"), (1, "10.0.1.1", "10.0.0.1")]
        {
            world.seal(from, &[packet(source, destination, 10)]);
        }
        world.run_with(&mut passes);
        world.pass_with(Duration::from_millis(100), &mut passes);
        if !world.take_delivered(1).is_empty() && !world.take_delivered(0).is_empty() {
            last = world.now;
        }
        assert!(world.now.since(last) <= seconds(5), "a gap at {:?}", world.now);
    }
    // One a period and side, and the repetitions of those that were lost.
    assert!(world.initiations <= 60 + 20, "{} initiations", world.initiations);
}

#[test]
fn keys_older_than_180_seconds_are_not_used() {
    let mut world = World::pair();
    world.pass(seconds(20));
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let late = world.intercept();
    world.pass_with(seconds(160), |_| false);
    late.iter().for_each(|datagram| world.deliver(datagram));
    assert_eq!(world.take_delivered(1).len(), 0);
    assert_eq!(world.drops(1, DropReason::Expired), 1);
    world.seal(1, &[packet("10.0.1.1", "10.0.0.1", 10)]);
    assert_eq!(world.wire.iter().map(kind).collect::<Vec<_>>(), [1]);
    world.run();
    assert_eq!(world.take_delivered(0).len(), 1);
}

#[test]
fn keepalives_are_sent_at_once_when_switched_on_and_then_by_the_interval() {
    let mut world = World::pair();
    world.pass(seconds(30));
    let set = keepalive(&world, 1, 25);
    world.set_peer(0, set.clone());
    assert_eq!(world.next_timer(), Some((world.now, 0)));
    let mut times = Vec::new();
    for _ in 0..80 {
        let mut sent = 0;
        world.pass_with(seconds(1), |_| {
            sent += 1;
            true
        });
        times.extend(std::iter::repeat_n(world.now.since(START).as_secs(), sent));
    }
    assert_eq!(times, [31, 55, 80, 105]);
    // The same again changes nothing, zero switches off.
    let next = world.next_timer();
    world.set_peer(0, set);
    assert_eq!(world.next_timer(), next);
    let off = keepalive(&world, 1, 0);
    world.set_peer(0, off);
    world.pass(seconds(600));
    assert_eq!(world.next_timer(), None);
}

#[test]
fn two_ends_with_keepalives_do_not_fight() {
    let mut world = World::new(2);
    for (host, other) in [(0, 1), (1, 0)] {
        let set = keepalive(&world, other, 25);
        world.set_peer(host, set);
    }
    world.pass(seconds(1));
    let first = world.initiations;
    assert!((1..=2).contains(&first));
    world.pass(seconds(3_600));
    let later = world.initiations - first;
    // One end renews. Its keepalives come every 25 s, so every fifth is the first after two minutes.
    assert!((24..=30).contains(&later), "{later} initiations");
    let now = world.now;
    let age = now.since_boot()
        - world.hosts[0].peer_status(now, &world.hosts[1].public()).last_handshake.unwrap();
    assert!(age < seconds(180), "{age:?}");
}

#[test]
fn the_initiator_renews_on_what_it_receives_as_well() {
    let mut world = World::new(2);
    // Host 1 has begun, and only host 0 ever sends.
    world.say(1, "10.0.1.1", "10.0.0.1");
    let set = keepalive(&world, 1, 10);
    world.set_peer(0, set);
    let key = world.hosts[1].public();
    for _ in 0..600 {
        world.pass(seconds(1));
        let status = world.hosts[0].peer_status(world.now, &key);
        let age = world.now.since_boot() - status.last_handshake.unwrap();
        assert!(age < seconds(180), "{age:?}");
    }
    assert!((4..=5).contains(&world.initiations), "{} initiations", world.initiations);
}

#[test]
fn of_two_ends_that_wake_up_together_one_calls() {
    let mut world = World::new(2);
    for (host, other) in [(0, 1), (1, 0)] {
        let set = keepalive(&world, other, 250);
        world.set_peer(host, set);
    }
    world.pass(seconds(1));
    let before = world.initiations;
    // Both wake up before either has heard of the other.
    world.now = world.now + seconds(250);
    for host in 0..2 {
        let mut outbox = Outbox::default();
        world.hosts[host].device.handle_timeout(world.now, &mut outbox);
        world.post(host, &outbox);
    }
    assert_eq!(world.initiations - before, 1);
    world.run();
    world.pass(seconds(10));
    assert_eq!(world.initiations - before, 1);
    // The one that waits calls all the same if it hears nothing.
    world.now = world.now + seconds(250);
    for host in 0..2 {
        world.hosts[host].device.handle_timeout(world.now, &mut Outbox::default());
    }
    let mut callers = BTreeSet::new();
    world.pass_with(seconds(2), |datagram| {
        callers.insert(datagram.from);
        false
    });
    assert_eq!(callers.len(), 1);
}

#[test]
fn two_initiators_renew_once() {
    let mut world = World::new(2);
    let both = |world: &mut World| {
        world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
        world.seal(1, &[packet("10.0.1.1", "10.0.0.1", 10)]);
        world.run();
        world.pass(Duration::from_millis(500));
    };
    both(&mut world);
    assert_eq!(world.initiations, 2);
    (0..250).for_each(|_| both(&mut world));
    assert_eq!(world.initiations, 3);
}

#[test]
fn packets_wait_as_long_as_others_follow_them() {
    let mut world = World::new(2);
    for _ in 0..20 {
        world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
        world.run_with(|_| false);
        world.pass_with(seconds(10), |_| false);
    }
    assert_eq!(world.drops(0, DropReason::Unsent), 0);
    world.pass_with(seconds(90), |_| false);
    assert_eq!(world.drops(0, DropReason::Unsent), 20);
}

#[test]
fn keepalives_come_back_by_themselves_after_an_outage() {
    let mut world = World::new(2);
    for (host, other) in [(0, 1), (1, 0)] {
        let set = keepalive(&world, other, 10);
        world.set_peer(host, set);
    }
    world.pass(seconds(60));
    world.pass_with(seconds(3_600), |_| false);
    let before = world.initiations;
    world.pass(seconds(8));
    let back = world.initiations - before;
    assert!((1..=2).contains(&back), "{back} initiations");
    let now = world.now;
    let status = world.hosts[0].peer_status(now, &world.hosts[1].public());
    assert!(now.since_boot() - status.last_handshake.unwrap() < seconds(8));
}

#[test]
fn the_first_packet_after_a_long_suspend_starts_a_handshake() {
    let mut world = World::pair();
    // The clock jumps; no timer ran meanwhile.
    world.now = world.now + seconds(600);
    world.hosts[0].device.resumed(world.now);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    assert_eq!(world.wire.iter().map(kind).collect::<Vec<_>>(), [1]);
    world.run();
    assert_eq!(world.take_delivered(1).len(), 1);
}

#[test]
fn a_short_suspend_keeps_the_session_and_renews_it_with_the_next_packet() {
    let mut world = World::pair();
    world.pass(seconds(11));
    world.now = world.now + seconds(60);
    world.hosts[0].device.resumed(world.now);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    assert_eq!(world.wire.iter().map(kind).collect::<Vec<_>>(), [4, 1]);
    world.run();
    assert_eq!(world.take_delivered(1).len(), 1);
    // Once is enough.
    world.pass(seconds(6));
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert_eq!(world.initiations, 2);
}

#[test]
fn a_peer_that_is_kept_alive_is_called_at_once_after_a_suspend() {
    let mut world = World::pair();
    let set = keepalive(&world, 1, 25);
    world.set_peer(0, set);
    world.pass(seconds(12));
    world.now = world.now + seconds(5);
    world.hosts[0].device.resumed(world.now);
    assert!(world.hosts[0].device.poll_timeout().unwrap() <= world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.initiations, 2);
}

#[test]
fn a_peer_whose_clock_was_set_back_gets_a_session_from_the_other_end() {
    let mut world = World::pair();
    // It starts again, and its initiations look like old ones: the other end has seen later timestamps.
    let yesterday: Wall = |now| wall(now) - seconds(86_400);
    let key = Some(Some(world.hosts[0].key.clone()));
    let device = Device::with_limits([9; 32], ENGINE, Limits::WIREGUARD, yesterday);
    let other = SetPeer {
        endpoint: Some(world.hosts[1].address),
        allowed_ips: [cidr("10.0.1.0/24")].into(),
        ..world.peer(1)
    };
    let set = SetDevice { private_key: key, peers: vec![other], ..SetDevice::default() };
    assert_eq!(device.set(world.now, &set), Effects::default());
    world.hosts[0].device = device;
    world.pass(seconds(10));
    world.say(0, "10.0.0.1", "10.0.1.1");
    world.pass(seconds(1));
    assert_eq!(world.take_delivered(1), [packet("10.0.0.1", "10.0.1.1", 10)]);
}

#[test]
fn whoever_repeats_an_old_initiation_gets_nothing_and_the_peer_little() {
    let mut world = World::new(2);
    let mut old = Vec::new();
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    world.run_with(|datagram| {
        old.extend((kind(datagram) == 1).then(|| datagram.clone()));
        true
    });
    let attacker: SocketAddr = "192.0.2.66:1".parse().unwrap();
    let old = Datagram { from: attacker, ..old.remove(0) };
    let before = world.initiations;
    for _ in 0..10 {
        world.deliver(&old);
    }
    world.run();
    assert_eq!(world.initiations, before, "right after the handshake it was only late");

    // Later, all that is sent goes to the peer.
    let mut sent_to = BTreeSet::new();
    for _ in 0..200 {
        world.deliver(&old);
        world.pass_with(Duration::from_millis(100), |datagram| {
            sent_to.insert(datagram.to);
            kind(datagram) != 1
        });
    }
    assert!(!sent_to.contains(&attacker));
    assert!((1..=4).contains(&(world.initiations - before)), "{}", world.initiations - before);
}

#[test]
fn an_initiation_that_comes_twice_before_its_session_is_confirmed_begins_no_other() {
    let mut world = World::new(2);
    let mut first = Vec::new();
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    // The answer is lost, so that nothing confirms the session.
    world.run_with(|datagram| {
        first.extend((kind(datagram) == 1).then(|| datagram.clone()));
        kind(datagram) == 1
    });
    let before = world.initiations;
    world.deliver(&first[0]);
    world.run_with(|_| false);
    assert_eq!(world.initiations, before);
}
