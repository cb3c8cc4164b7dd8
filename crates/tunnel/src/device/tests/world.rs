//! Devices joined in memory, on a clock that the test moves.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wireloom_model::{Cidr, PrivateKey, PublicKey};
use wireloom_packet::{Arena, Ecn, Frame, Outbox, Path, Received, TrafficClass, VnetHeader};

use super::*;
use crate::drops::DropReason;
use crate::uapi::{SetDevice, SetPeer};

mod config;
mod load;
mod routing;
mod sessions;
mod threads;
mod time;
mod weather;

/// A datagram on the wire.
#[derive(Debug, Clone)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    class: TrafficClass,
    bytes: Vec<u8>,
}

/// A device with its address, and what came out of it.
struct Host {
    device: Device,
    key: PrivateKey,
    address: SocketAddr,
    sealer: Sealer,
    delivered: Vec<Vec<u8>>,
}

/// Hosts that reach each other, and the datagrams under way.
struct World {
    now: Moment,
    hosts: Vec<Host>,
    wire: VecDeque<Datagram>,
    /// How many initiations were ever sent.
    initiations: usize,
}

const START: Moment = Moment::new(Duration::from_secs(1_000));

/// Everybody's wall clock.
fn wall(now: Moment) -> Duration {
    Duration::from_secs(1_700_000_000) + now.since_boot()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// A UDP packet with this much payload.
fn packet(source: &str, destination: &str, payload: usize) -> Vec<u8> {
    let udp = 8 + payload;
    let mut packet = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + udp).unwrap().to_be_bytes();
            let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(udp).unwrap().to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], 17, 64];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => panic!("both ends are of one family"),
    };
    packet.extend((0..udp).map(|at| u8::try_from(at % 251).unwrap()));
    packet
}

fn kind(datagram: &Datagram) -> u8 {
    datagram.bytes[0]
}

impl Host {
    fn public(&self) -> PublicKey {
        self.key.public_key()
    }

    fn path_to(&self, other: SocketAddr) -> Path {
        Path { remote: other, local: None }
    }

    fn peer_status(&self, now: Moment, key: &PublicKey) -> PeerStatus {
        let status = self.device.status(now, now.since_boot());
        status.peers.into_iter().find(|peer| peer.key == *key).unwrap()
    }
}

impl World {
    /// Hosts 0 to n-1. Host i is at 192.0.2.(i+1), has 10.0.i.0/24 and fd00:i::/64, and knows all others and where they
    /// are.
    fn new(count: u8) -> Self {
        Self::with_limits(count, Limits::WIREGUARD)
    }

    fn with_limits(count: u8, limits: Limits) -> Self {
        let hosts: Vec<Host> = (0..count)
            .map(|i| Host {
                device: Device::with_limits([i + 1; 32], ENGINE, limits, wall),
                key: PrivateKey::from_random([i + 101; 32]),
                address: SocketAddr::from(([192, 0, 2, i + 1], 51820)),
                sealer: Sealer::default(),
                delivered: Vec::new(),
            })
            .collect();
        let world = Self { now: START, hosts, wire: VecDeque::new(), initiations: 0 };
        for (i, host) in world.hosts.iter().enumerate() {
            let others = world.hosts.iter().enumerate().filter(|(j, _)| i != *j);
            let peers = others.map(|(j, other)| SetPeer {
                endpoint: Some(other.address),
                allowed_ips: [cidr(&format!("10.0.{j}.0/24")), cidr(&format!("fd00:{j}::/64"))]
                    .into(),
                ..SetPeer::new(other.public())
            });
            let set = SetDevice {
                private_key: Some(Some(host.key.clone())),
                peers: peers.collect(),
                ..SetDevice::default()
            };
            assert_eq!(host.device.set(world.now, &set), Effects::default());
        }
        world
    }

    /// Two hosts that have a session, made by host 0.
    fn pair() -> Self {
        let mut world = Self::new(2);
        world.say(0, "10.0.0.1", "10.0.1.1");
        assert_eq!(world.take_delivered(1), [packet("10.0.0.1", "10.0.1.1", 10)]);
        world
    }

    fn set_peer(&mut self, host: usize, peer: SetPeer) {
        let set = SetDevice { peers: vec![peer], ..SetDevice::default() };
        let _ = self.hosts[host].device.set(self.now, &set);
    }

    /// The change of the peer that another host is.
    fn peer(&self, of: usize) -> SetPeer {
        SetPeer::new(self.hosts[of].public())
    }

    /// Seals packets at a host; the datagrams are then on the wire.
    fn seal(&mut self, host: usize, packets: &[Vec<u8>]) {
        let frames: Vec<Frame<'_>> =
            packets.iter().map(|packet| Frame { header: VnetHeader::default(), packet }).collect();
        let mut outbox = Outbox::default();
        let Host { device, sealer, .. } = &mut self.hosts[host];
        device.seal(self.now, &frames, sealer, &mut outbox);
        self.post(host, &outbox);
    }

    /// Puts what a host wants to send on the wire.
    fn post(&mut self, host: usize, outbox: &Outbox) {
        for (transmit, bytes) in outbox.transmits() {
            for datagram in bytes.chunks(transmit.segment) {
                let datagram = Datagram {
                    from: self.hosts[host].address,
                    to: transmit.path.remote,
                    class: transmit.class,
                    bytes: datagram.to_vec(),
                };
                self.initiations += usize::from(kind(&datagram) == 1);
                self.wire.push_back(datagram);
            }
        }
    }

    /// Hands a datagram to the host that it is for, if there is one.
    fn deliver(&mut self, datagram: &Datagram) {
        let place = self.hosts.iter().position(|host| host.address == datagram.to);
        let Some(place) = place else { return };
        let mut arena = Arena::default();
        let mut outbox = Outbox::default();
        let host = &mut self.hosts[place];
        let received = Received {
            path: host.path_to(datagram.from),
            ecn: datagram.class.ecn(),
            segment: datagram.bytes.len(),
            bytes: &datagram.bytes,
        };
        let ready = host.device.open(self.now, &[received], &mut arena, &mut outbox);
        host.device.release(self.now, &ready, &mut outbox);
        let packets = arena.packets().iter().map(|place| arena.bytes()[place.clone()].to_vec());
        host.delivered.extend(packets);
        self.post(place, &outbox);
    }

    /// Delivers until nothing is under way.
    fn run(&mut self) {
        self.run_with(|_| true);
    }

    /// The same; datagrams that the filter refuses are lost.
    fn run_with(&mut self, mut passes: impl FnMut(&Datagram) -> bool) {
        while let Some(datagram) = self.wire.pop_front() {
            if passes(&datagram) {
                self.deliver(&datagram);
            }
        }
    }

    /// Sends a small packet and lets everything that follows from it happen.
    fn say(&mut self, host: usize, source: &str, destination: &str) {
        self.seal(host, &[packet(source, destination, 10)]);
        self.run();
    }

    /// Lets time pass, with every timer on its own time.
    fn pass(&mut self, span: Duration) {
        self.pass_with(span, |_| true);
    }

    fn pass_with(&mut self, span: Duration, mut passes: impl FnMut(&Datagram) -> bool) {
        let end = self.now + span;
        while let Some((at, host)) = self.next_timer().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            let mut outbox = Outbox::default();
            self.hosts[host].device.handle_timeout(self.now, &mut outbox);
            self.post(host, &outbox);
            self.run_with(&mut passes);
        }
        self.now = end;
    }

    fn next_timer(&self) -> Option<(Moment, usize)> {
        let timers = self.hosts.iter().enumerate();
        timers.filter_map(|(place, host)| Some((host.device.poll_timeout()?, place))).min()
    }

    fn take_delivered(&mut self, host: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hosts[host].delivered)
    }

    fn drops(&self, host: usize, reason: DropReason) -> u64 {
        self.hosts[host].device.drops().of(reason)
    }

    /// Takes the datagrams under way off the wire.
    fn intercept(&mut self) -> Vec<Datagram> {
        self.wire.drain(..).collect()
    }
}
