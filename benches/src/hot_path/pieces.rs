//! The hot path's steps one by one.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use wireloom_model::Cidr;
use wireloom_packet::checksum::Sum;
use wireloom_packet::{Arena, GsoKind, MergeOffloads, Merger, Outbox, VnetHeader};
use wireloom_tunnel::{EngineKind, Routes, Sealer};

use super::Work;
use super::pair::{BATCH, CLIENT, Pair, open, seal};
use super::samples::{LARGEST, packets, split, super_packet};

/// The addresses that are looked up at once.
pub(super) const LOOKUPS: usize = 4_096;

/// A batch of packets sealed.
pub(super) struct Seal {
    pair: Pair,
    packets: Vec<Vec<u8>>,
    sealer: Sealer,
    outbox: Outbox,
}

impl Seal {
    pub(super) fn new(engine: EngineKind, length: usize) -> Self {
        let (pair, packets) = (Pair::new(engine), packets(length, BATCH));
        Self { pair, packets, sealer: Sealer::default(), outbox: Outbox::default() }
    }
}

impl Work for Seal {
    fn run(&mut self) {
        self.outbox.clear();
        seal(&self.pair.client, black_box(&self.packets), &mut self.sealer, &mut self.outbox);
        assert!(!self.outbox.is_empty());
    }
}

/// A batch of datagrams opened.
pub(super) struct Open {
    sealing: Seal,
    arena: Arena,
    answers: Outbox,
}

impl Open {
    pub(super) fn new(engine: EngineKind, length: usize) -> Self {
        let (arena, answers) = Default::default();
        Self { sealing: Seal::new(engine, length), arena, answers }
    }
}

impl Work for Open {
    /// No datagram is taken twice.
    fn prepare(&mut self) {
        self.sealing.run();
        self.arena.clear();
    }

    fn run(&mut self) {
        let Self { sealing, arena, answers } = self;
        open(&sealing.pair.server, CLIENT, &sealing.outbox, arena, answers);
        assert_eq!(arena.packets().len(), BATCH);
    }
}

/// A super-packet split.
pub(super) struct Split {
    header: VnetHeader,
    packet: Vec<u8>,
    arena: Arena,
}

impl Split {
    pub(super) fn new(gso: GsoKind) -> Self {
        let (header, packet) = super_packet(gso);
        Self { header, packet, arena: Arena::with_capacity(2 * LARGEST) }
    }
}

impl Work for Split {
    fn run(&mut self) {
        self.arena.clear();
        split(self.header, black_box(&self.packet), &mut self.arena);
        assert!(self.arena.packets().len() > 40);
    }
}

/// What was split, merged again.
pub(super) struct Merge {
    split: Split,
    merger: Merger,
}

impl Merge {
    pub(super) fn new(gso: GsoKind) -> Self {
        Self { split: Split::new(gso), merger: Merger::default() }
    }
}

impl Work for Merge {
    /// The headers are rewritten in place.
    fn prepare(&mut self) {
        self.split.run();
    }

    fn run(&mut self) {
        self.merger.merge(&mut self.split.arena, ALL_OFFLOADS);
        assert_eq!(self.merger.runs().len(), 1);
    }
}

pub(super) const ALL_OFFLOADS: MergeOffloads = MergeOffloads { tcp4: true, tcp6: true, udp: true };

/// The checksums of a batch of packets.
pub(super) struct Checksum(Vec<Vec<u8>>);

impl Checksum {
    pub(super) fn new(length: usize) -> Self {
        Self(packets(length, BATCH))
    }
}

impl Work for Checksum {
    fn run(&mut self) {
        for packet in &self.0 {
            black_box(Sum::of(black_box(packet)));
        }
    }
}

/// Addresses looked up among so many allowed IPs.
pub(super) struct Lookup {
    routes: Routes,
    addresses: Vec<IpAddr>,
}

impl Lookup {
    pub(super) fn new(count: u32) -> Self {
        let mut routes = Routes::default();
        let (prefixes, addresses) = prefixes(count);
        for (slot, prefix) in (0..).zip(prefixes) {
            routes.insert(prefix, slot);
        }
        Self { routes, addresses }
    }
}

impl Work for Lookup {
    fn run(&mut self) {
        let found = self.addresses.iter().filter_map(|address| self.routes.lookup(*address));
        assert_eq!(found.map(black_box).count(), LOOKUPS);
    }
}

/// So many prefixes, and addresses that lie in each of them in turn, in an order that caches do not guess.
///
/// # Panics
///
/// If there are more prefixes of 27 bits in 10.0.0.0/8 than there can be.
pub fn prefixes(count: u32) -> (Vec<Cidr>, Vec<IpAddr>) {
    let within = |number: u32, host: u32| Ipv4Addr::from(0x0a00_0000 + (number << 5) + host).into();
    let prefixes = (0..count).map(|number| Cidr::truncated(within(number, 0), 27).unwrap());
    let scattered = (0..LOOKUPS as u32).map(|number| number.wrapping_mul(2_654_435_761) % count);
    (prefixes.collect(), scattered.map(|number| within(number, 7)).collect())
}
