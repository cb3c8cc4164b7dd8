//! Which peer a packet may go to and come from, and where the peer is.

use super::*;

#[test]
fn a_source_is_let_in_only_by_the_longest_match_over_all_peers() {
    let mut world = World::new(3);
    // Host 2 owns one address inside host 1's prefix.
    let narrow = SetPeer { allowed_ips: [cidr("10.0.1.7/32")].into(), ..world.peer(2) };
    world.set_peer(0, narrow);
    world.say(1, "10.0.1.8", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
    world.say(1, "10.0.1.7", "10.0.0.1");
    world.say(1, "10.0.2.1", "10.0.0.1");
    world.say(1, "192.0.2.200", "10.0.0.1");
    world.say(1, "fd00:2::1", "fd00:0::1");
    assert_eq!(world.take_delivered(0).len(), 0);
    assert_eq!(world.drops(0, DropReason::WrongSource), 4);
    world.say(2, "10.0.1.7", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
}

#[test]
fn packets_of_several_peers_mix_in_a_batch_and_keep_their_order() {
    let mut world = World::new(4);
    let to = |host: u8, payload| packet("10.0.0.1", &format!("10.0.{host}.1"), payload);
    let batch = [to(1, 1), to(2, 2), to(3, 3), to(1, 4), to(2, 5), to(1, 6)];
    for _ in 0..2 {
        world.seal(0, &batch);
        world.run();
        assert_eq!(world.take_delivered(1), [to(1, 1), to(1, 4), to(1, 6)]);
        assert_eq!(world.take_delivered(2), [to(2, 2), to(2, 5)]);
        assert_eq!(world.take_delivered(3), [to(3, 3)]);
    }
}

#[test]
fn several_peers_mix_in_a_received_batch() {
    let mut world = World::new(3);
    world.say(1, "10.0.1.1", "10.0.0.1");
    world.say(2, "10.0.2.1", "10.0.0.1");
    world.take_delivered(0);
    world.seal(1, &[packet("10.0.1.1", "10.0.0.1", 30), packet("10.0.1.1", "10.0.0.1", 30)]);
    world.seal(2, &[packet("10.0.2.1", "10.0.0.1", 30)]);
    let sent = world.intercept();
    let received: Vec<_> = [&sent[0], &sent[2], &sent[1]]
        .iter()
        .map(|datagram| Received {
            path: Path { remote: datagram.from, local: None },
            ecn: Ecn::NotEct,
            segment: datagram.bytes.len(),
            bytes: &datagram.bytes,
        })
        .collect();
    let mut arena = Arena::default();
    let ready =
        world.hosts[0].device.open(world.now, &received, &mut arena, &mut Outbox::default());
    assert!(ready.is_empty());
    let sources: Vec<_> =
        arena.packets().iter().map(|place| arena.bytes()[place.start + 14]).collect();
    assert_eq!(sources, [1, 2, 1]);
}

#[test]
fn what_cannot_be_sent_is_told() {
    let mut world = World::new(2);
    let stranger = PrivateKey::from_random([77; 32]).public_key();
    let nowhere = SetPeer { allowed_ips: [cidr("10.9.0.0/16")].into(), ..SetPeer::new(stranger) };
    world.set_peer(0, nowhere);
    let cut = packet("10.0.0.1", "10.0.1.1", 10)[..30].to_vec();
    let batch = [
        packet("10.0.0.1", "10.0.1.1", 10),
        packet("10.0.0.1", "10.200.0.1", 10),
        packet("10.0.0.1", "10.9.0.1", 10),
        cut,
        vec![0x45],
    ];
    world.seal(0, &batch);
    let mut refused: Vec<_> = world.hosts[0]
        .sealer
        .refused()
        .iter()
        .map(|refusal| (refusal.frame, refusal.reason))
        .collect();
    refused.sort_unstable();
    assert_eq!(
        refused,
        [
            (1, DropReason::NoPeer),
            (2, DropReason::NoEndpoint),
            (3, DropReason::BadPacket),
            (4, DropReason::BadPacket)
        ]
    );
    let _ = world.hosts[0]
        .device
        .set(world.now, &SetDevice { private_key: Some(None), ..SetDevice::default() });
    world.seal(0, &batch[..1]);
    let refusal = Refusal { frame: 0, reason: DropReason::NoKey, most: None };
    assert_eq!(world.hosts[0].sealer.refused(), [refusal]);
}

#[test]
fn what_does_not_fit_the_path_is_refused_unless_it_may_be_fragmented() {
    let mut world = World::new(2);
    let v4 = |length: usize| packet("10.0.0.1", "10.0.1.1", length - 28);
    let whole = |length| {
        let mut packet = v4(length);
        packet[6] = 0x40;
        packet
    };
    let v6 = |length: usize| packet("fd00:0::1", "fd00:1::1", length - 48);
    let look = |world: &World, mtu| {
        let mut asked = Vec::new();
        world.hosts[0].device.look_at_paths(|remote| {
            asked.push(remote);
            Some(mtu)
        });
        asked
    };
    assert_eq!(look(&world, 1300), [], "nobody has sent anything");
    // Before the first handshake, with the peer's lock, and after it, without.
    for _ in 0..2 {
        world.seal(0, &[v4(100)]);
        assert_eq!(look(&world, 1300), [world.hosts[1].address]);
        assert_eq!(look(&world, 1300), [], "nothing was sent since");
        world.run();
        world.take_delivered(1);
        let batch = [whole(1241), whole(1240), v4(1400), v6(1281), v6(1280), v6(1241), whole(1239)];
        world.seal(0, &batch);
        let refused = |frame, most| Refusal { frame, reason: DropReason::TooBig, most: Some(most) };
        assert_eq!(world.hosts[0].sealer.refused(), [refused(0, 1240), refused(3, 1280)]);
        // What fits is not padded beyond the path: 60 bytes are what the tunnel adds.
        let longest = world.wire.iter().map(|datagram| datagram.bytes.len() + 28);
        assert_eq!(longest.filter(|length| *length <= 1300).max(), Some(1300));
        world.run();
        assert_eq!(world.take_delivered(1).len(), 5);
    }
    assert_eq!(world.drops(0, DropReason::TooBig), 4);
    // The path has grown.
    assert_eq!(look(&world, 1500).len(), 1);
    world.seal(0, &[whole(1440), whole(1441)]);
    assert_eq!(world.hosts[0].sealer.refused().len(), 1);
}

/// A datagram as the packet that it is when its route leads into the tunnel.
fn routed(datagram: &Datagram) -> Vec<u8> {
    let ends = (datagram.from.ip().to_string(), datagram.to.ip().to_string());
    let mut packet = packet(&ends.0, &ends.1, datagram.bytes.len());
    packet[20..22].copy_from_slice(&datagram.from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&datagram.to.port().to_be_bytes());
    packet[28..].copy_from_slice(&datagram.bytes);
    packet
}

#[test]
fn a_message_of_our_own_is_not_sealed_again() {
    let mut world = World::new(2);
    let everything = SetPeer { allowed_ips: [cidr("0.0.0.0/0")].into(), ..world.peer(1) };
    world.set_peer(0, everything);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let initiation = world.wire[0].clone();
    world.run();
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 1000)]);
    let data = world.intercept().remove(0);
    world.seal(0, &[routed(&initiation), routed(&data), routed(&data)]);
    assert_eq!((world.wire.len(), world.drops(0, DropReason::Looped)), (0, 3));
    // Its beginning is enough, as in the first of several fragments; what follows is no message.
    let mut fragment = routed(&data)[..500].to_vec();
    fragment[2..4].copy_from_slice(&500_u16.to_be_bytes());
    fragment[6] = 0x20;
    world.seal(0, &[fragment.clone()]);
    assert_eq!((world.wire.len(), world.drops(0, DropReason::Looped)), (0, 4));
    fragment[7] = 9;
    // Another host's messages to the same place are its own affair.
    let mut foreign = data.clone();
    foreign.bytes[5] ^= 1;
    let mut elsewhere = data.clone();
    elsewhere.to.set_port(7);
    world.seal(0, &[fragment, routed(&foreign), routed(&elsewhere)]);
    assert_eq!((world.wire.len(), world.drops(0, DropReason::Looped)), (3, 4));
}

#[test]
fn the_endpoint_moves_with_the_first_data_message_from_elsewhere() {
    let mut world = World::pair();
    let elsewhere = SocketAddr::from(([198, 51, 100, 9], 40_000));
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let before = world.intercept().remove(0);
    world.hosts[0].address = elsewhere;
    world.say(0, "10.0.0.1", "10.0.1.1");
    let status = |world: &World| world.hosts[1].peer_status(world.now, &world.hosts[0].public());
    assert_eq!(status(&world).endpoint, Some(elsewhere));
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
    // An older message that arrives late is let in, and moves nothing.
    world.deliver(&before);
    assert_eq!(world.take_delivered(1).len(), 2);
    assert_eq!(status(&world).endpoint, Some(elsewhere));
}

#[test]
fn the_endpoint_moves_with_a_response() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let initiation = world.intercept().remove(0);
    world.deliver(&initiation);
    let mut response = world.intercept().remove(0);
    response.from = SocketAddr::from(([198, 51, 100, 9], 40_000));
    world.deliver(&response);
    let status = world.hosts[0].peer_status(world.now, &world.hosts[1].public());
    assert_eq!(status.endpoint, Some(response.from));
    assert!(world.wire.iter().all(|datagram| datagram.to == response.from));
}

#[test]
fn our_own_address_follows_the_peers_view_of_it() {
    let mut world = World::pair();
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let sent = world.intercept().remove(0);
    let local = Local { address: "203.0.113.5".parse().unwrap(), interface: 3 };
    let received = Received {
        path: Path { remote: sent.from, local: Some(local) },
        ecn: Ecn::NotEct,
        segment: sent.bytes.len(),
        bytes: &sent.bytes,
    };
    let mut outbox = Outbox::default();
    let ready =
        world.hosts[1].device.open(world.now, &[received], &mut Arena::default(), &mut outbox);
    assert!(ready.is_empty());
    let reply = packet("10.0.1.1", "10.0.0.1", 1);
    let frame = Frame { header: VnetHeader::default(), packet: &reply };
    let Host { device, sealer, .. } = &mut world.hosts[1];
    device.seal(world.now, &[frame], sealer, &mut outbox);
    let locals: Vec<_> = outbox.transmits().map(|(transmit, _)| transmit.path.local).collect();
    assert_eq!(locals, [Some(local)]);
    // With nothing heard back, the next handshake lets the kernel choose again.
    let later = world.now + seconds(16);
    outbox.clear();
    world.hosts[1].device.handle_timeout(later, &mut outbox);
    let paths: Vec<_> = outbox.transmits().map(|(transmit, _)| transmit.path).collect();
    assert_eq!(paths, [Path { remote: sent.from, local: None }]);
}

#[test]
fn a_repeated_initiation_moves_nothing() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let mut initiation = world.wire[0].clone();
    world.run();
    initiation.from = SocketAddr::from(([203, 0, 113, 66], 6));
    world.deliver(&initiation);
    assert_eq!(world.drops(1, DropReason::Replay), 1);
    // Not even when the preshared key is new, and with it boringtun's record of what was seen.
    let set = SetPeer {
        preshared_key: Some(Some(wireloom_model::PresharedKey::from_bytes([9; 32]))),
        ..world.peer(0)
    };
    world.set_peer(1, set);
    world.deliver(&initiation);
    let answers = world.intercept();
    match ENGINE {
        EngineKind::Boringtun => {
            assert_eq!(answers.iter().map(kind).collect::<Vec<_>>(), [2]);
            assert_eq!(answers[0].to, initiation.from);
        }
        EngineKind::Noise => {
            assert!(answers.is_empty());
            assert_eq!(world.drops(1, DropReason::Replay), 2);
        }
    }
    let status = world.hosts[1].peer_status(world.now, &world.hosts[0].public());
    assert_eq!(status.endpoint, Some(world.hosts[0].address));
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
}
