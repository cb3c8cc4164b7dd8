//! Threads that share a device.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;

use super::*;

#[test]
fn a_device_may_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Device>();
}

/// One thread seals, one opens, and a third changes everything else meanwhile.
#[test]
fn sealing_opening_and_configuring_do_not_disturb_each_other() {
    const BATCHES: usize = 200;
    let mut world = World::pair();
    let now = world.now;
    let third = PrivateKey::from_random([90; 32]).public_key();
    let [client, server] = &mut world.hosts[..] else { panic!("two hosts") };
    let (client_key, from) = (client.public(), client.address);
    let (client_device, sealer) = (&client.device, &mut client.sealer);
    let server_device = &server.device;
    let (sender, receiver) = mpsc::channel::<Vec<Vec<u8>>>();
    let sizes: Vec<usize> = thread::scope(|scope| {
        scope.spawn(move || {
            for batch in 0..BATCHES {
                let packets: Vec<_> =
                    (0..16).map(|i| packet("10.0.0.1", "10.0.1.1", batch * 4 + i)).collect();
                let frames: Vec<_> = packets
                    .iter()
                    .map(|packet| Frame { header: VnetHeader::default(), packet })
                    .collect();
                let mut outbox = Outbox::default();
                client_device.seal(now, &frames, sealer, &mut outbox);
                sender.send(datagrams(&outbox)).unwrap();
            }
        });
        let configure = scope.spawn(|| {
            for round in 0..200u16 {
                for device in [client_device, server_device] {
                    let peer = SetPeer {
                        endpoint: Some(SocketAddr::from(([203, 0, 113, 1], round + 1))),
                        persistent_keepalive: Some(round % 3),
                        allowed_ips: [cidr("10.99.0.0/16")].into(),
                        remove: round % 2 == 1,
                        ..SetPeer::new(third)
                    };
                    let set = SetDevice { peers: vec![peer], ..SetDevice::default() };
                    let _ = device.set(now, &set);
                    device.handle_timeout(now, &mut Outbox::default());
                    assert!(!device.status(now, now.since_boot()).peers.is_empty());
                }
            }
        });
        let mut sizes = Vec::new();
        for datagrams in receiver {
            let received: Vec<_> = datagrams
                .iter()
                .map(|bytes| Received {
                    path: Path { remote: from, local: None },
                    ecn: Ecn::NotEct,
                    segment: bytes.len(),
                    bytes,
                })
                .collect();
            let mut arena = Arena::default();
            let ready = server_device.open(now, &received, &mut arena, &mut Outbox::default());
            assert!(ready.is_empty());
            sizes.extend(arena.packets().iter().map(|place| place.len() - 28));
        }
        configure.join().unwrap();
        sizes
    });
    let sent: Vec<usize> =
        (0..BATCHES).flat_map(|batch| (0..16).map(move |i| batch * 4 + i)).collect();
    assert_eq!(sizes, sent);
    assert_eq!(server.peer_status(now, &client_key).endpoint, Some(from));
}

/// What two threads seal and a third opens, while the other direction does the same.
#[test]
fn several_threads_of_one_peer_use_no_number_twice_and_lose_nothing() {
    const BATCHES: usize = 60;
    const BATCH: usize = 16;
    let world = World::pair();
    let now = world.now;
    let hosts = &world.hosts;
    thread::scope(|scope| {
        for from in 0..2 {
            let (sender, receiver) = mpsc::channel::<Vec<Vec<u8>>>();
            let addresses = [0, 1].map(|host: usize| format!("10.0.{host}.{}", 7 + from));
            for part in 0..2 {
                let (sender, addresses) = (sender.clone(), addresses.clone());
                scope.spawn(move || {
                    let mut sealer = Sealer::default();
                    for batch in 0..BATCHES {
                        let number = |i: usize| (part * BATCHES + batch) * BATCH + i;
                        let packets: Vec<_> = (0..BATCH)
                            .map(|i| {
                                let mut packet = packet(&addresses[from], &addresses[1 - from], 40);
                                let number = u32::try_from(number(i)).unwrap();
                                packet[28..32].copy_from_slice(&number.to_be_bytes());
                                packet
                            })
                            .collect();
                        let frames: Vec<_> = packets
                            .iter()
                            .map(|packet| Frame { header: VnetHeader::default(), packet })
                            .collect();
                        let mut outbox = Outbox::default();
                        hosts[from].device.seal(now, &frames, &mut sealer, &mut outbox);
                        sender.send(datagrams(&outbox)).unwrap();
                    }
                });
            }
            drop(sender);
            scope.spawn(move || {
                let mut nonces = BTreeSet::new();
                let mut numbers = BTreeSet::new();
                for datagrams in receiver {
                    let mut arena = Arena::default();
                    for bytes in &datagrams {
                        assert!(nonces.insert(bytes[4..16].to_vec()), "a number was used twice");
                    }
                    let received: Vec<_> = datagrams
                        .iter()
                        .map(|bytes| Received {
                            path: Path { remote: hosts[from].address, local: None },
                            ecn: Ecn::NotEct,
                            segment: bytes.len(),
                            bytes,
                        })
                        .collect();
                    let mut outbox = Outbox::default();
                    let ready =
                        hosts[1 - from].device.open(now, &received, &mut arena, &mut outbox);
                    assert!(ready.is_empty());
                    for place in arena.packets() {
                        let packet = &arena.bytes()[place.clone()];
                        let number = u32::from_be_bytes(packet[28..32].try_into().unwrap());
                        assert!(numbers.insert(number), "packet {number} came twice");
                    }
                }
                assert_eq!(numbers.len(), 2 * BATCHES * BATCH);
            });
        }
    });
    for host in hosts {
        assert_eq!(host.device.drops(), DropCounts::default());
    }
}

/// While packets that waited for a session are about to leave, another thread seals more, at either end of the handshake.
#[test]
fn what_waited_leaves_before_what_comes_meanwhile() {
    for place in [0, 1] {
        let addresses = [0, 1].map(|host| format!("10.0.{host}.1"));
        let numbered = |size| packet(&addresses[place], &addresses[1 - place], size);
        let mut world = World::new(2);
        world.seal(0, &[packet(&addresses[0], &addresses[1], 1)]);
        let initiation = world.intercept().remove(0);
        world.deliver(&initiation);
        let mut completing = world.intercept().remove(0);
        if place == 1 {
            world.seal(1, &[numbered(1)]);
            assert!(world.wire.is_empty(), "it waits for the first message of the session");
            world.deliver(&completing);
            completing = world.intercept().remove(0);
        }
        let (mut arena, mut outbox) = (Arena::default(), Outbox::default());
        let host = &world.hosts[place];
        let received = Received {
            path: host.path_to(completing.from),
            ecn: completing.class.ecn(),
            segment: completing.bytes.len(),
            bytes: &completing.bytes,
        };
        let ready = host.device.open(world.now, &[received], &mut arena, &mut outbox);
        assert!(!ready.is_empty());
        world.seal(place, &[numbered(2)]);
        world.post(place, &outbox);
        outbox.clear();
        world.hosts[place].device.release(world.now, &ready, &mut outbox);
        world.post(place, &outbox);
        world.seal(place, &[numbered(3)]);
        world.run();
        assert_eq!(world.take_delivered(1 - place), [1, 2, 3].map(numbered));
        assert_eq!(world.initiations, 1, "the session that is there will do");
    }
}

fn datagrams(outbox: &Outbox) -> Vec<Vec<u8>> {
    let transmits = outbox.transmits();
    transmits
        .flat_map(|(transmit, bytes)| bytes.chunks(transmit.segment))
        .map(<[u8]>::to_vec)
        .collect()
}
