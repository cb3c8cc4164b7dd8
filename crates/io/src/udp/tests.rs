use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use wireloom_packet::{Ecn, Outbox, Path};
use wireloom_testkit::{in_new_network, ip, need, until_ok, wait_for_address};

use super::*;
use crate::buffer::ReceiveBuffer;
use crate::signal::{Signal, Wake};

const NOW: Duration = Duration::from_secs(1000);
const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// One super-datagram as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrived {
    path: Path,
    ecn: Ecn,
    sizes: Vec<usize>,
}

/// Receives until this many datagrams came, or nothing comes for two seconds.
fn receive(receiver: &mut dyn UdpReceive, datagrams: usize) -> Vec<Arrived> {
    let (stop, mut buffer) = (Signal::new().unwrap(), ReceiveBuffer::new());
    let mut arrived: Vec<Arrived> = Vec::new();
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let _ = is_done.recv_timeout(Duration::from_secs(2));
            stop.raise();
        });
        while arrived.iter().map(|a| a.sizes.len()).sum::<usize>() < datagrams
            && receiver.receive(&mut buffer, stop).unwrap() == Wake::Ready
        {
            buffer.with(|received| {
                arrived.extend(received.iter().map(|r| Arrived {
                    path: r.path,
                    ecn: r.ecn,
                    sizes: r.datagrams().map(<[u8]>::len).collect(),
                }));
            });
        }
        drop(done);
    });
    arrived
}

fn outbox(remote: SocketAddr, local: Option<IpAddr>, sizes: &[usize], ecn: Ecn) -> Outbox {
    let local = local.map(|address| wireloom_packet::Local { address, interface: 0 });
    let mut outbox = Outbox::default();
    sizes.iter().for_each(|size| outbox.push(&vec![7; *size], &Path { remote, local }, ecn));
    outbox
}

fn total(arrived: &[Arrived]) -> usize {
    arrived.iter().map(|a| a.sizes.len()).sum()
}

#[test]
fn versions_are_read_from_release_names() {
    assert_eq!(version("6.18.44-fc\n"), Some((6, 18)));
    assert_eq!(version("5.12-rc1"), Some((5, 12)));
    assert_eq!(version("linux"), None);
    assert!((5, 4) < (5, 12) && (5, 12) <= (6, 0));
}

#[test]
fn batches_cross_both_families_whole_with_their_source_and_ecn() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        ip("link set lo up");
        assert_eq!(probe(), UdpOffloads { gso: true, gro: true });
        let from = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let mut to = UdpBinder::new().bind(0, 0, ONE).unwrap();
        assert_eq!(from.sender.offloads(), (true, true));
        for (number, loopback) in ["127.0.0.1", "::1"].into_iter().enumerate() {
            let address: IpAddr = loopback.parse().unwrap();
            let batch = outbox((address, to.port).into(), None, &[1000, 1000, 1000, 300], Ecn::Ce);
            let report = from.sender.send(0, NOW, &batch);
            assert_eq!((report.sent, report.sent_bytes), (4, 3300));
            assert_eq!((report.dropped, report.unbatched), (0, 0));
            let arrived = receive(&mut *to.receivers[0][number], 4);
            let [one] = &arrived[..] else { panic!("not one super-datagram: {arrived:?}") };
            assert_eq!(one.sizes, [1000, 1000, 1000, 300]);
            assert_eq!(one.ecn, Ecn::Ce);
            assert_eq!(one.path.remote, (address, from.port).into());
            let local = one.path.local.unwrap();
            assert_eq!((local.address, local.interface), (address, 1));
        }
    });
}

#[test]
fn without_offloads_the_same_datagrams_arrive_one_by_one() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        ip("link set lo up");
        let from = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let mut to = UdpBinder::new().bind(0, 0, ONE).unwrap();
        from.sender.set_offloads(false, false);
        to.sender.set_offloads(false, false);
        assert_eq!(from.sender.offloads(), (false, false));
        let batch = outbox(([127, 0, 0, 1], to.port).into(), None, &[500; 64], Ecn::NotEct);
        assert_eq!(from.sender.send(0, NOW, &batch).sent, 64);
        let arrived = receive(&mut *to.receivers[0][0], 64);
        assert_eq!(arrived.len(), 64);
        assert!(arrived.iter().all(|a| a.sizes == [500]));
    });
}

#[test]
fn segments_above_the_mtu_go_out_one_by_one_and_none_is_lost() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        ip("link set lo up mtu 1400");
        let from = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let mut to = UdpBinder::new().bind(0, 0, ONE).unwrap();
        for (number, loopback) in ["127.0.0.1", "::1"].into_iter().enumerate() {
            let remote = (loopback.parse::<IpAddr>().unwrap(), to.port).into();
            let batch = outbox(remote, None, &[1452; 20], Ecn::NotEct);
            let first = from.sender.send(0, NOW, &batch);
            assert_eq!((first.sent, first.dropped, first.unbatched), (20, 0, 1), "{loopback}");
            // The destination is remembered: no second attempt costs a call, until its time is over.
            let second = from.sender.send(0, NOW + Duration::from_secs(59), &batch);
            assert_eq!((second.sent, second.unbatched), (20, 0));
            let third = from.sender.send(0, NOW + Duration::from_secs(60), &batch);
            assert_eq!((third.sent, third.unbatched), (20, 1));
            let arrived = receive(&mut *to.receivers[0][number], 60);
            assert_eq!(total(&arrived), 60);
            assert!(arrived.iter().flat_map(|a| &a.sizes).all(|size| *size == 1452));
        }
    });
}

#[test]
fn what_cannot_go_out_is_counted_and_does_not_hold_up_the_rest() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        ip("link set lo up");
        let from = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let mut to = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let good: SocketAddr = ([127, 0, 0, 1], to.port).into();
        let bad: SocketAddr = ([192, 0, 2, 1], 1).into();
        let mut mixed = Outbox::default();
        for (remote, size) in [(good, 100), (bad, 200), (good, 300), (bad, 100), (good, 60_000)] {
            (0..3).for_each(|_| {
                mixed.push(&vec![1; size], &Path { remote, local: None }, Ecn::NotEct)
            });
        }
        let report = from.sender.send(0, NOW, &mixed);
        assert_eq!((report.sent, report.dropped), (9, 6));
        assert_eq!(report.error, Some(libc::ENETUNREACH));
        assert_eq!(report.unbatched, 0, "a missing route is no fault of the batch");
        assert_eq!(total(&receive(&mut *to.receivers[0][0], 9)), 9);
    });
}

#[test]
fn a_source_address_sticks_until_it_is_gone() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        ip("link set lo up");
        for address in ["192.0.2.7/32", "2001:db8::7/128 nodad", "2001:db8::1/128 nodad"] {
            ip(&format!("address add {address} dev lo"));
        }
        wait_for_address("2001:db8::7");
        wait_for_address("2001:db8::1");
        let from = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let mut to = UdpBinder::new().bind(0, 0, ONE).unwrap();
        for (number, remote, source, prefix) in
            [(0, "127.0.0.1", "192.0.2.7", 32), (1, "2001:db8::1", "2001:db8::7", 128)]
        {
            let (remote, source): (IpAddr, IpAddr) =
                (remote.parse().unwrap(), source.parse().unwrap());
            let batch = outbox((remote, to.port).into(), Some(source), &[900; 5], Ecn::NotEct);
            assert_eq!(from.sender.send(0, NOW, &batch).unsourced, 0);
            let arrived = receive(&mut *to.receivers[0][number], 5);
            assert_eq!(arrived[0].path.remote, (source, from.port).into());
            ip(&format!("address del {source}/{prefix} dev lo"));
            let report = from.sender.send(0, NOW, &batch);
            assert_eq!((report.sent, report.dropped, report.unsourced), (5, 0, 5));
            assert_eq!(report.unbatched, 0, "a missing source is no fault of the batch");
            let arrived = receive(&mut *to.receivers[0][number], 5);
            assert_ne!(arrived[0].path.remote.ip(), source);
        }
    });
}

#[test]
fn a_port_in_use_is_named() {
    need!(root);
    in_new_network(|| {
        let first = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let error = UdpBinder::new().bind(first.port, 0, ONE).err().unwrap();
        assert!(matches!(error, BindError::PortInUse { .. }));
        assert!(error.to_string().contains(&first.port.to_string()), "{error}");
        let port = first.port;
        drop(first);
        let marked = until_ok(|| UdpBinder::new().bind(port, 0x77, ONE));
        assert_eq!(marked.port, port, "with a mark");
    });
}

#[test]
fn messages_arrive_at_the_queue_of_their_receiver() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        ip("link set lo up");
        let queues = NonZeroUsize::new(3).unwrap();
        let mut from = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let mut to = UdpBinder::new().bind(0, 0, queues).unwrap();
        assert_eq!(to.receivers.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        for (family, loopback) in ["127.0.0.1", "::1"].into_iter().enumerate() {
            let address: IpAddr = loopback.parse().unwrap();
            let mut arrives = |bytes: &[u8], count: usize, queue: usize| {
                let mut outbox = Outbox::default();
                let path = Path { remote: (address, to.port).into(), local: None };
                (0..count).for_each(|_| outbox.push(bytes, &path, Ecn::NotEct));
                assert_eq!(from.sender.send(0, NOW, &outbox).sent, count as u64);
                let arrived = receive(&mut *to.receivers[queue][family], count);
                assert_eq!(total(&arrived), count, "{:?} at queue {queue}", &bytes[..1]);
            };
            for peer in 0..6u8 {
                let queue = usize::from(peer % 3);
                // An initiation has the other end's index where others have the receiver's, and a response before it.
                for (kind, index_at) in [(1, None), (2, Some(8)), (3, Some(4)), (4, Some(4))] {
                    let mut message = [0x5b; 148];
                    message[0] = kind;
                    if let Some(at) = index_at {
                        message[at..at + 4].copy_from_slice(&[0xcd, peer, 0x02, 0xab]);
                    }
                    arrives(&message, 1, index_at.map_or(0, |_| queue));
                    arrives(&message, 40, index_at.map_or(0, |_| queue));
                }
            }
            arrives(&[4], 1, 0);
            // Every queue answers from the same port.
            let back = outbox((address, from.port).into(), None, &[500; 4], Ecn::NotEct);
            for queue in 0..3 {
                assert_eq!(to.sender.send(queue, NOW, &back).sent, 4);
                let arrived = receive(&mut *from.receivers[0][family], 4);
                assert_eq!(arrived[0].path.remote, (address, to.port).into());
            }
        }
        for others in [ONE, queues] {
            let again = UdpBinder::new().bind(to.port, 0, others).err();
            assert!(matches!(again, Some(BindError::PortInUse { .. })), "{again:?}");
        }
    });
}

#[test]
fn without_loopback_the_kernels_word_counts() {
    need!(root);
    in_new_network(|| assert!(probe().gso));
}

#[test]
fn stopping_wakes_a_blocked_receiver() {
    need!(root);
    in_new_network(|| {
        let mut binding = UdpBinder::new().bind(0, 0, ONE).unwrap();
        let stop = Signal::new().unwrap();
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| binding.receivers[0][0].receive(&mut ReceiveBuffer::new(), &stop));
            let raised = Instant::now();
            stop.raise();
            assert_eq!(waiting.join().unwrap().unwrap(), Wake::Stopped);
            assert!(raised.elapsed() < Duration::from_millis(100));
        });
    });
}

#[test]
fn sockets_are_bound_where_the_binder_was_made() {
    need!(root);
    let (binder, held) = in_new_network(|| {
        let binder = UdpBinder::new();
        let held = binder.bind(0, 0, ONE).unwrap();
        (binder, held)
    });
    let again = binder.bind(held.port, 0, ONE).err();
    assert!(matches!(again, Some(BindError::PortInUse { .. })), "{again:?}");
    in_new_network(|| assert!(UdpBinder::new().bind(held.port, 0, ONE).is_ok()));
}
