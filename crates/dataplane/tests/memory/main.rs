//! Two data planes over devices and a network in memory: the whole loop without root.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod offloads;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wireloom_dataplane::{Config, Counter, Dataplane, Ended, Offloads};
use wireloom_io::UnfinishedPackets;
use wireloom_io::memory::{self, MemoryHost, MemoryNetwork};
use wireloom_io::udp::UdpOffloads;
use wireloom_model::{PrivateKey, PublicKey};
use wireloom_packet::checksum::Sum;
use wireloom_packet::{GsoKind, VnetHeader};
use wireloom_testkit::promised;
use wireloom_testkit::sample::Sample;
use wireloom_tunnel::uapi::{SetDevice, SetPeer};
use wireloom_tunnel::{DropReason, EngineKind};

const PATIENCE: Duration = Duration::from_secs(10);

struct End {
    host: MemoryHost,
    dataplane: Dataplane,
    key: PublicKey,
    number: u8,
}

impl End {
    fn new(network: &MemoryNetwork, number: u8) -> Self {
        let udp = UdpOffloads { gso: true, gro: true };
        let tun = UnfinishedPackets { checksum: true, tcp: true, udp: true };
        Self::with_kernel(network, number, tun, udp, Offloads::ALL)
    }

    /// An end whose kernel has these offloads at most, of which these are wanted.
    fn with_kernel(
        network: &MemoryNetwork,
        number: u8,
        reads: UnfinishedPackets,
        udp: UdpOffloads,
        offloads: Offloads,
    ) -> Self {
        let (tun, host) = memory::tun().unwrap();
        host.offer(reads);
        let udp = network.host(IpAddr::from([192, 0, 2, number])).with_offloads(udp);
        let config = Config {
            seed: [number; 32],
            listen_port: 51820,
            fwmark: 0,
            offloads,
            engine: EngineKind::default(),
        };
        let dataplane = Dataplane::start(Arc::new(tun), udp, config).unwrap();
        let private_key = PrivateKey::from_random([number; 32]);
        let key = private_key.public_key();
        let own = SetDevice { private_key: Some(Some(private_key)), ..SetDevice::default() };
        dataplane.set(&own).unwrap();
        Self { host, dataplane, key, number }
    }

    fn add_peer(&self, other: &Self) {
        let mut peer = SetPeer::new(other.key);
        peer.endpoint = Some(([192, 0, 2, other.number], 51820).into());
        let nets = [
            format!("10.0.0.{}/32", other.number),
            format!("10.{}.0.0/16", other.number),
            format!("fd0{}::/64", other.number),
        ];
        peer.allowed_ips = nets.iter().map(|net| net.parse().unwrap()).collect();
        self.dataplane.set(&SetDevice { peers: vec![peer], ..SetDevice::default() }).unwrap();
    }
}

fn two_ends() -> (End, End) {
    let network = MemoryNetwork::default();
    joined(End::new(&network, 1), End::new(&network, 2))
}

fn joined(a: End, b: End) -> (End, End) {
    a.add_peer(&b);
    b.add_peer(&a);
    (a, b)
}

/// An IPv4 UDP datagram between two numbered hosts, with right checksums.
fn datagram(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let length = 28 + payload.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let checksum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend([0x30, 0x39, 0x30, 0x39]);
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend((length - 20).to_be_bytes());
    pseudo.extend(&packet[20..]);
    let checksum = Sum::of(&pseudo).checksum();
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn packets_cross_both_ways_in_order() {
    let (a, b) = two_ends();
    // The first ones wait for the handshake; those that come while it completes do not overtake them.
    for (from, to) in [(&a, &b), (&b, &a)] {
        let sent: Vec<_> = (0..200).map(|n| datagram(from.number, to.number, &[n; 300])).collect();
        sent.iter().for_each(|packet| from.host.send(packet));
        for packet in sent {
            assert_eq!(to.host.receive(PATIENCE), Some(packet));
        }
    }
    let status = a.dataplane.status();
    assert!(status.peers[0].last_handshake.is_some());
    assert_eq!(status.listen_port, 51820);
}

#[test]
fn nothing_overtakes_what_waits_for_a_session_at_either_end() {
    for _ in 0..20 {
        let (a, b) = two_ends();
        let sent = [(&a, &b), (&b, &a)].map(|(from, to)| {
            (0..200).map(|n| datagram(from.number, to.number, &[n; 100])).collect::<Vec<_>>()
        });
        for (one, other) in sent[0].iter().zip(&sent[1]) {
            a.host.send(one);
            b.host.send(other);
        }
        for (to, packets) in [&b, &a].into_iter().zip(sent) {
            for packet in packets {
                assert_eq!(to.host.receive(PATIENCE), Some(packet));
            }
        }
    }
}

#[test]
fn a_super_packet_arrives_as_its_packets() {
    let (a, b) = two_ends();
    let payload: Vec<u8> = (0..3000u16).map(|n| n as u8).collect();
    let mut whole = datagram(1, 2, &payload);
    // The kernel leaves the checksum's completion to whoever cuts: the field holds the pseudo-header's sum.
    let mut pseudo = whole[12..20].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(3008u16.to_be_bytes());
    let partial = !Sum::of(&pseudo).checksum();
    whole[26..28].copy_from_slice(&partial.to_be_bytes());
    let header = VnetHeader {
        needs_checksum: true,
        gso: GsoKind::Udp,
        header_bytes: 28,
        segment_bytes: 1000,
        checksum_start: 20,
        checksum_offset: 6,
    };
    a.host.send_frame(&header, &whole);
    for part in payload.chunks(1000) {
        let packet = b.host.receive(PATIENCE).unwrap();
        assert_eq!(&packet[28..], part);
        assert_eq!(packet[26..28], datagram(1, 2, part)[26..28], "its checksum is complete");
    }
}

#[test]
fn strangers_and_unknown_addresses_are_counted_by_reason() {
    let (a, b) = two_ends();
    a.host.send(&datagram(1, 9, b"to nobody"));
    let answer = a.host.receive(PATIENCE).unwrap();
    assert_eq!((answer[9], answer[20], &answer[16..20]), (1, 3, &[10, 0, 0, 1][..]), "ICMP");
    assert_eq!(a.dataplane.drops().of(DropReason::NoPeer), 1);
    // b takes from a what is a's only.
    a.host.send(&datagram(7, 2, b"in another's name"));
    a.host.send(&datagram(1, 2, b"in its own"));
    assert_eq!(b.host.receive(PATIENCE), Some(datagram(1, 2, b"in its own")));
    assert_eq!(b.dataplane.drops().of(DropReason::WrongSource), 1);
}

#[test]
fn senders_are_told_what_the_path_carries() {
    let network = MemoryNetwork::default();
    let (a, b) = joined(End::new(&network, 1), End::new(&network, 2));
    network.narrow(1300);
    let stream = Sample::new(false, 9).stream(&[1300]);
    let v6 = Sample::new(true, 9).udp(&[7; 1300]);
    // The path is looked at while packets flow, once a second.
    for (packet, next_mtu) in [(&stream[0], [26, 1240_u16]), (&v6, [46, 1280])] {
        let deadline = Instant::now() + PATIENCE;
        let error = loop {
            assert!(Instant::now() < deadline, "nobody is told");
            a.host.send(packet);
            if let Some(error) = a.host.receive(Duration::from_millis(50)) {
                break error;
            }
        };
        let at = usize::from(next_mtu[0]);
        assert_eq!(error[at..at + 2], next_mtu[1].to_be_bytes(), "{error:02x?}");
        let quoted = if packet[0] >> 4 == 4 { 28 } else { 48 };
        assert!(packet.starts_with(&error[quoted..]));
    }
    assert!(a.dataplane.drops().of(DropReason::TooBig) >= 2);
    drop(b);
}

#[test]
fn an_idle_tunnel_makes_no_call() {
    let (a, b) = two_ends();
    a.host.send(&datagram(1, 2, b"hello"));
    b.host.receive(PATIENCE).unwrap();
    b.host.send(&datagram(2, 1, b"hello"));
    a.host.receive(PATIENCE).unwrap();
    // The sender counts a batch when it has gone out, which may be after it arrived.
    assert_eq!(a.host.receive(Duration::from_millis(100)), None);
    let before = (a.dataplane.counters(), b.dataplane.counters());
    assert_eq!(a.host.receive(Duration::from_millis(300)), None);
    assert_eq!((a.dataplane.counters(), b.dataplane.counters()), before);
}

#[test]
fn the_end_is_told_and_stops_at_once() {
    let (a, b) = two_ends();
    a.host.delete();
    assert_eq!(a.dataplane.wait(), Ended::DeviceGone);
    let asked = Instant::now();
    b.dataplane.stop();
    assert_eq!(b.dataplane.wait(), Ended::Stopped);
    assert!(asked.elapsed() < promised(Duration::from_millis(500)));
    assert_eq!(b.dataplane.counters().of(Counter::DroppedWriting), 0);
}
