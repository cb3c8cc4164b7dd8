//! Data planes whose devices have several queues, over real devices and sockets in network namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use support::{End, two_ends_with};
use wireloom_dataplane::Counter;
use wireloom_testkit::need;
use wireloom_tunnel::uapi::{SetDevice, SetPeer};

const FLOWS: usize = 16;
/// The datagrams of a flow that are under way at once. All flows' together wait for a handshake where one is made.
const BURST: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);

macro_rules! need_namespaces {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ip");
        need!(program "ping");
    };
}

/// The ends of as many queues as each test has to hold for.
fn every_pair() -> impl Iterator<Item = (End, End)> {
    [2, 4].into_iter().map(|queues| {
        let (a, b) = two_ends_with(NonZeroUsize::new(queues).unwrap());
        assert_eq!((a.dataplane.queues().get(), b.dataplane.queues().get()), (queues, queues));
        (a, b)
    })
}

/// Flows of numbered datagrams from one end to the other.
struct Flows {
    senders: Vec<UdpSocket>,
    receiver: UdpSocket,
    sent: u32,
    /// The number that each flow has next, by its source port.
    next: BTreeMap<u16, u32>,
}

impl Flows {
    /// Between these addresses in the tunnel.
    fn new((from, source): (&End, &str), (to, destination): (&End, &str)) -> Self {
        let [source, destination]: [IpAddr; 2] = [source, destination].map(|a| a.parse().unwrap());
        let far = SocketAddr::from((destination, 9));
        let receiver = to.host.run(move || UdpSocket::bind(far).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let senders = from.host.run(move || {
            let sender = |_| {
                let socket = UdpSocket::bind((source, 0)).unwrap();
                socket.connect(far).unwrap();
                socket
            };
            (0..FLOWS).map(sender).collect()
        });
        Self { senders, receiver, sent: 0, next: BTreeMap::new() }
    }

    /// Sends the next datagrams of every flow.
    fn send(&mut self) {
        for number in self.sent..self.sent + BURST {
            for sender in &self.senders {
                sender.send(&number.to_be_bytes()).unwrap();
            }
        }
        self.sent += BURST;
    }

    /// Receives all that was sent: nothing is lost, nothing comes twice, and no datagram overtakes one of its flow.
    fn receive(&mut self) {
        for _ in 0..FLOWS * BURST as usize {
            let mut number = [0; 5];
            let (length, from) = self.receiver.recv_from(&mut number).unwrap();
            assert_eq!(length, 4);
            let number = u32::from_be_bytes(*number.first_chunk().unwrap());
            let next = self.next.entry(from.port()).or_default();
            assert_eq!(number, *next, "the flow from {from}");
            *next += 1;
        }
    }
}

#[test]
fn flows_stay_in_order_both_ways_in_both_families() {
    need_namespaces!();
    for (a, b) in every_pair() {
        for is_v4 in [true, false] {
            a.add_peer(&b, Some(b.endpoint(is_v4)));
            b.add_peer(&a, Some(a.endpoint(is_v4)));
            a.pings(&b);
            let mut flows = [
                Flows::new((&a, "10.0.0.1"), (&b, "10.0.0.2")),
                Flows::new((&b, "10.0.0.2"), (&a, "10.0.0.1")),
                Flows::new((&a, "fd00::1"), (&b, "fd00::2")),
                Flows::new((&b, "fd00::2"), (&a, "fd00::1")),
            ];
            for _ in 0..50 {
                flows.iter_mut().for_each(Flows::send);
                flows.iter_mut().for_each(Flows::receive);
            }
        }
    }
}

#[test]
fn flows_stay_in_order_while_sessions_begin_and_ends_roam() {
    need_namespaces!();
    for (a, b) in every_pair() {
        a.add_peer(&b, Some(b.endpoint(true)));
        b.add_peer(&a, None);
        let mut flows = Flows::new((&a, "10.0.0.1"), (&b, "10.0.0.2"));
        for round in 0..20 {
            let is_v4 = round % 4 < 2;
            if round % 2 == 0 {
                // A new session, for which the first datagrams wait. An initiation's timestamp counts in 17 ms.
                thread::sleep(Duration::from_millis(20));
                let gone = SetPeer { remove: true, ..SetPeer::new(b.key) };
                let change = SetDevice { peers: vec![gone], ..SetDevice::default() };
                a.dataplane.set(&change).unwrap();
                a.add_peer(&b, Some(b.endpoint(is_v4)));
            } else {
                let change = SetDevice { listen_port: Some(0), ..SetDevice::default() };
                a.dataplane.set(&change).unwrap();
            }
            flows.send();
            flows.receive();
            let status = b.dataplane.status();
            assert_eq!(status.peers[0].endpoint, Some(a.endpoint(is_v4)), "it has roamed");
        }
    }
}

#[test]
fn streams_cross_several_queues() {
    need_namespaces!();
    need!(program "iperf3");
    for (a, b) in every_pair() {
        a.add_peer(&b, Some(b.endpoint(true)));
        b.add_peer(&a, None);
        a.pings(&b);
        for address in ["10.0.0.2", "fd00::2"] {
            let (started, text) = b.host.program("iperf3 -s -1 -D");
            assert!(started, "{text}");
            let asked = std::time::Instant::now();
            loop {
                let (passed, text) =
                    a.host.program(&format!("iperf3 -c {address} -P 4 -n 8M -i 0"));
                if passed {
                    break;
                }
                assert!(asked.elapsed() < PATIENCE && text.contains("onnection refused"), "{text}");
            }
        }
        let counters = b.dataplane.counters();
        assert_eq!(counters.of(Counter::DroppedWriting), 0);
        let per_batch =
            counters.of(Counter::DatagramsReceived) / counters.of(Counter::BatchesReceived).max(1);
        assert!(per_batch > 4, "{per_batch} datagrams a batch");
    }
}

#[test]
fn everything_goes_with_the_last_queue() {
    need_namespaces!();
    for (a, b) in every_pair() {
        a.add_peer(&b, Some(b.endpoint(true)));
        b.add_peer(&a, None);
        a.pings(&b);
        let port = a.dataplane.port();
        a.dataplane.stop();
        let End { host, dataplane, .. } = a;
        assert!(Arc::into_inner(dataplane).is_some(), "nobody else holds it");
        let (exists, _) = host.program("ip link show wl0");
        assert!(!exists, "the device goes with its data plane");
        for any in ["0.0.0.0", "::"] {
            host.run(move || drop(UdpSocket::bind((any, port)).unwrap()));
        }
    }
}
