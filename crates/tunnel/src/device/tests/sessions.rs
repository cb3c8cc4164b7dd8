//! Handshakes and what sessions carry.

use proptest::prelude::*;
use wireloom_packet::IpPacket;

use super::*;

#[test]
fn packets_pass_both_ways_in_both_families() {
    let mut world = World::new(2);
    for _ in 0..2 {
        for (from, to, source, destination) in [
            (0, 1, "10.0.0.1", "10.0.1.1"),
            (1, 0, "10.0.1.1", "10.0.0.1"),
            (0, 1, "fd00:0::1", "fd00:1::1"),
            (1, 0, "fd00:1::1", "fd00:0::1"),
        ] {
            world.say(from, source, destination);
            assert_eq!(world.take_delivered(to), [packet(source, destination, 10)]);
        }
    }
    assert_eq!(world.initiations, 1);
    for host in &world.hosts {
        assert_eq!(host.device.drops(), DropCounts::default());
    }
    let now = world.now;
    let [one, other] =
        [0, 1].map(|i| world.hosts[i].peer_status(now, &world.hosts[1 - i].public()));
    assert_eq!((one.tx_bytes, one.rx_bytes), (other.rx_bytes, other.tx_bytes));
    assert_eq!(one.last_handshake, Some(now.since_boot()));
}

#[test]
fn both_ends_may_begin_at_once() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    world.seal(1, &[packet("10.0.1.1", "10.0.0.1", 10)]);
    world.run();
    for (from, to, source, destination) in
        [(0, 1, "10.0.0.1", "10.0.1.1"), (1, 0, "10.0.1.1", "10.0.0.1")]
    {
        assert_eq!(world.take_delivered(to), [packet(source, destination, 10)]);
        world.say(from, source, destination);
        assert_eq!(world.take_delivered(to), [packet(source, destination, 10)]);
    }
    assert_eq!(world.initiations, 2);
}

#[test]
fn packets_wait_for_the_session_in_order_and_the_oldest_make_room() {
    let mut world = World::new(2);
    let packets: Vec<_> = (0..300).map(|i| packet("10.0.0.1", "10.0.1.1", i)).collect();
    packets.chunks(64).for_each(|batch| world.seal(0, batch));
    world.run();
    assert_eq!(world.take_delivered(1), packets[300 - 256..]);
    assert_eq!(world.drops(0, DropReason::Unsent), 300 - 256);
    assert_eq!(world.initiations, 1);
}

#[test]
fn a_responder_waits_for_the_confirmation_instead_of_crossing_it() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let initiation = world.intercept();
    world.deliver(&initiation[0]);
    let response = world.intercept();
    // Host 1 has something to say before host 0 has confirmed.
    world.seal(1, &[packet("10.0.1.1", "10.0.0.1", 20)]);
    assert!(world.wire.is_empty());
    world.deliver(&response[0]);
    world.run();
    assert_eq!(world.take_delivered(0), [packet("10.0.1.1", "10.0.0.1", 20)]);
}

#[test]
fn a_responder_that_is_not_confirmed_begins_after_all() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let initiation = world.intercept();
    world.deliver(&initiation[0]);
    world.intercept();
    world.seal(1, &[packet("10.0.1.1", "10.0.0.1", 20)]);
    let mut kinds = Vec::new();
    let responder = world.hosts[1].address;
    world.pass_with(seconds(5), |datagram| {
        if datagram.from == responder {
            kinds.push(kind(datagram));
        }
        false
    });
    assert_eq!(kinds, [1]);
}

#[test]
fn a_late_response_is_good_and_the_handshake_under_way_goes_on() {
    let mut world = World::new(2);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let first = world.intercept().remove(0);
    world.deliver(&first);
    let late = world.intercept().remove(0);
    world.pass_with(seconds(6), |_| false);
    assert_eq!(world.initiations, 2);
    world.deliver(&late);
    world.run();
    assert_eq!(world.take_delivered(1).len(), 1);
    world.pass(seconds(6));
    assert_eq!(world.initiations, 3);
    world.pass(seconds(60));
    assert_eq!(world.initiations, 3);
    world.say(1, "10.0.1.1", "10.0.0.1");
    assert_eq!(world.take_delivered(0).len(), 1);
}

#[test]
fn a_batch_is_padded_to_16_bytes_but_not_beyond_the_mtu() {
    let mut world = World::pair();
    let lengths = [28, 29, 44, 1408, 1409, 1419, 1420, 1500];
    let packets: Vec<_> =
        lengths.iter().map(|length| packet("10.0.0.1", "10.0.1.1", length - 28)).collect();
    world.seal(0, &packets);
    let sealed: Vec<_> = world.wire.iter().map(|datagram| datagram.bytes.len() - 32).collect();
    assert_eq!(sealed, [32, 32, 48, 1408, 1420, 1420, 1420, 1500]);
    world.run();
    assert_eq!(world.take_delivered(1), packets);
    // The padding is zero, whatever stood in the memory before; it follows the packet in the arena.
    let mut arena = Arena::default();
    arena.slot(4_096).fill(0xee);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 1)]);
    let sent = world.intercept().remove(0);
    let received = Received {
        path: Path { remote: sent.from, local: None },
        ecn: sent.class.ecn(),
        segment: sent.bytes.len(),
        bytes: &sent.bytes,
    };
    let ready =
        world.hosts[1].device.open(world.now, &[received], &mut arena, &mut Outbox::default());
    assert!(ready.is_empty());
    assert_eq!(arena.packets().first(), Some(&(0..29)));
    assert_eq!(arena.slot(3), [0; 3]);
    world.hosts[0].device.set_mtu(1000);
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 995 - 28)]);
    assert_eq!(world.wire[0].bytes.len() - 32, 1000);
}

#[test]
fn a_super_packet_leaves_as_one_transmit() {
    let mut world = World::pair();
    let bytes = packet("10.0.0.1", "10.0.1.1", 40 * 1200);
    let header = VnetHeader {
        needs_checksum: true,
        gso: wireloom_packet::GsoKind::Udp,
        header_bytes: 28,
        segment_bytes: 1200,
        checksum_start: 20,
        checksum_offset: 6,
    };
    let mut outbox = Outbox::default();
    let Host { device, sealer, .. } = &mut world.hosts[0];
    device.seal(world.now, &[Frame { header, packet: &bytes }], sealer, &mut outbox);
    assert_eq!(sealer.refused(), []);
    let transmits: Vec<_> = outbox.transmits().map(|(transmit, _)| transmit.datagrams()).collect();
    assert_eq!(transmits, [40]);
    world.post(0, &outbox);
    world.run();
    let delivered = world.take_delivered(1);
    assert_eq!(delivered.len(), 40);
    assert!(delivered.iter().all(|packet| packet.len() == 1228));
}

/// A packet of this class, IPv6 or IPv4.
fn of_class(v6: bool, class: u8) -> Vec<u8> {
    if v6 {
        let mut packet = packet("fd00:0::1", "fd00:1::1", 10);
        packet[0] |= class >> 4;
        packet[1] = class << 4;
        return packet;
    }
    let mut packet = packet("10.0.0.1", "10.0.1.1", 10);
    packet[1] = class;
    packet
}

/// RFC 6040: the inner bits go out as they are (section 4.1), and what comes back is its figure 4, for every pair of an
/// inner and an outer header, the illegal ones too. The code points stay each in its header.
#[test]
fn congestion_marks_cross_the_tunnel() {
    const CODE_POINT: u8 = 46 << 2;
    let (none, ect0, ect1, ce) = (Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce);
    let table = [
        (none, [Some(none), Some(none), Some(none), None]),
        (ect0, [Some(ect0), Some(ect0), Some(ect1), Some(ce)]),
        (ect1, [Some(ect1), Some(ect1), Some(ect1), Some(ce)]),
        (ce, [Some(ce); 4]),
    ];
    let mut world = World::pair();
    for v6 in [false, true] {
        for (inner, row) in table {
            for (outer, expected) in [none, ect0, ect1, ce].into_iter().zip(row) {
                world.seal(0, &[of_class(v6, CODE_POINT | inner as u8)]);
                let mut sent = world.intercept().remove(0);
                assert_eq!(sent.class, inner.into(), "no code point");
                sent.class = outer.into();
                world.deliver(&sent);
                let delivered = world.take_delivered(1);
                let classes: Vec<_> = delivered
                    .iter()
                    .map(|packet| IpPacket::parse(packet).unwrap().traffic_class())
                    .collect();
                let expected = expected.map(|ecn| CODE_POINT | ecn as u8);
                assert_eq!(classes, Vec::from_iter(expected), "{inner:?} in {outer:?}");
            }
        }
    }
    assert_eq!(world.drops(1, DropReason::Congested), 2);
}

/// As the kernel's own: what keeps the tunnel alive goes before what is in it.
#[test]
fn handshakes_have_a_code_point_and_nothing_else_has() {
    let mut world = World::new(2);
    world.seal(0, &[of_class(false, 46 << 2)]);
    let mut classes = Vec::new();
    while !world.wire.is_empty() {
        for datagram in world.intercept() {
            classes.push((kind(&datagram), datagram.class));
            world.deliver(&datagram);
        }
    }
    let plain = TrafficClass::default();
    let handshake = TrafficClass::HANDSHAKE;
    assert_eq!(classes, [(1, handshake), (2, handshake), (4, plain), (4, plain)]);
}

#[test]
fn a_datagram_passes_once_and_reordering_within_the_window_loses_nothing() {
    let mut world = World::pair();
    let packets: Vec<_> = (0..WINDOW).map(|i| packet("10.0.0.1", "10.0.1.1", i % 100)).collect();
    packets.chunks(64).for_each(|batch| world.seal(0, batch));
    let sent = world.intercept();
    // The first arrives behind all the later ones that the window just holds.
    for datagram in sent[1..].iter().rev().chain(&sent[..1]) {
        world.deliver(datagram);
    }
    assert_eq!(world.take_delivered(1).len(), WINDOW);
    assert_eq!(world.drops(1, DropReason::Replay), 0);
    for datagram in &sent {
        world.deliver(datagram);
    }
    assert_eq!(world.take_delivered(1).len(), 0);
    assert_eq!(world.drops(1, DropReason::Replay), WINDOW as u64);
}

#[test]
fn a_message_behind_the_window_is_refused() {
    let mut world = World::pair();
    let packets: Vec<_> = (0..=WINDOW).map(|_| packet("10.0.0.1", "10.0.1.1", 1)).collect();
    packets.chunks(64).for_each(|batch| world.seal(0, batch));
    let sent = world.intercept();
    sent[1..].iter().for_each(|datagram| world.deliver(datagram));
    world.take_delivered(1);
    world.deliver(&sent[0]);
    assert_eq!(world.drops(1, DropReason::Replay), 1);
}

#[test]
fn a_spoilt_message_brings_nothing() {
    let mut world = World::pair();
    world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    let sent = world.intercept().remove(0);
    for place in 0..sent.bytes.len() {
        let mut spoilt = sent.clone();
        spoilt.bytes[place] ^= 1;
        spoilt.from = "192.0.2.99:1".parse().unwrap();
        world.deliver(&spoilt);
    }
    assert!(world.take_delivered(1).is_empty());
    let status = world.hosts[1].peer_status(world.now, &world.hosts[0].public());
    assert_eq!(status.endpoint, Some(world.hosts[0].address));
    world.deliver(&sent);
    assert_eq!(world.take_delivered(1).len(), 1);
}

#[test]
fn keys_are_renewed_and_refused_by_message_count() {
    let limits = Limits { rekey_after: 10, reject_after: 20 };
    let mut world = World::with_limits(2, limits);
    world.say(0, "10.0.0.1", "10.0.1.1");
    for _ in 0..7 {
        world.say(0, "10.0.0.1", "10.0.1.1");
    }
    assert_eq!((world.initiations, world.take_delivered(1).len()), (1, 8));
    // The tenth message wears the session out; an initiation follows it, though none within five seconds of the last.
    world.pass(seconds(5));
    world.say(0, "10.0.0.1", "10.0.1.1");
    assert_eq!((world.initiations, world.take_delivered(1).len()), (2, 1));

    // While no handshake succeeds, sealing stops at the limit and packets wait.
    world.pass(seconds(5));
    let mut data = 0;
    for _ in 0..30 {
        world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
        world.run_with(|datagram| {
            data += usize::from(kind(datagram) == 4 && datagram.bytes.len() > 32);
            kind(datagram) == 4
        });
    }
    // Of twenty messages one was the keepalive that confirmed the session.
    assert_eq!((data, world.take_delivered(1).len()), (19, 19));
    world.pass(seconds(6));
    assert_eq!(world.take_delivered(1).len(), 11);
}

#[test]
fn a_session_that_wears_out_at_once_is_renewed_as_soon_as_it_may_be() {
    let mut world = World::with_limits(2, Limits { rekey_after: 5, reject_after: 1_000 });
    for _ in 0..6 {
        world.say(0, "10.0.0.1", "10.0.1.1");
    }
    assert_eq!(world.initiations, 1);
    world.pass(seconds(5));
    assert_eq!(world.initiations, 2);
}

#[test]
fn a_message_at_the_limit_is_not_opened() {
    // The sender does not know the limit.
    let mut world = World::with_limits(2, Limits { rekey_after: u64::MAX, reject_after: 3 });
    world.hosts[0].device.limits = Limits::WIREGUARD;
    let again = SetPeer::removal(world.hosts[1].public());
    world.set_peer(0, again);
    let peer = SetPeer {
        endpoint: Some(world.hosts[1].address),
        allowed_ips: [cidr("10.0.1.0/24")].into(),
        ..world.peer(1)
    };
    world.set_peer(0, peer);
    for _ in 0..5 {
        world.say(0, "10.0.0.1", "10.0.1.1");
    }
    // Message 0 is the keepalive; 1 and 2 pass; 3 and above do not.
    assert_eq!(world.take_delivered(1).len(), 2);
    assert_eq!(world.drops(1, DropReason::Expired), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_datagram_is_survived(
        kind in 0u8..6,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        length in prop_oneof![Just(148usize), Just(92), Just(64), Just(32), Just(48), 0..200usize],
        index in any::<bool>(),
    ) {
        let mut world = World::pair();
        world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
        let real = world.intercept().remove(0);
        bytes.resize(length, 7);
        if let Some(header) = bytes.first_chunk_mut() {
            *header = [kind, 0, 0, 0];
        }
        if index && length >= 16 {
            bytes[4..8].copy_from_slice(&real.bytes[4..8]);
        }
        world.deliver(&Datagram { bytes, ..real.clone() });
        prop_assert!(world.take_delivered(1).is_empty());
        world.run();
        world.deliver(&real);
        prop_assert_eq!(world.take_delivered(1).len(), 1);
    }

    #[test]
    fn every_packet_is_delivered_once_in_any_order(order in proptest::collection::vec(0usize..40, 0..120)) {
        let mut world = World::pair();
        let packets: Vec<_> = (0..40).map(|i| packet("10.0.0.1", "10.0.1.1", i)).collect();
        world.seal(0, &packets);
        let sent = world.intercept();
        let mut first = Vec::new();
        for place in order {
            world.deliver(&sent[place]);
            if !first.contains(&packets[place]) {
                first.push(packets[place].clone());
            }
        }
        prop_assert_eq!(world.take_delivered(1), first);
    }
}
