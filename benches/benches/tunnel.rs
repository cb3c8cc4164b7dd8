//! Batches sealed and opened, and the lookup of allowed IPs beside that of another table.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot run has nothing to say")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table::IpNetworkTable;
use wireloom_model::{Cidr, PrivateKey};
use wireloom_packet::{Arena, Ecn, Frame, Outbox, Path, Received, VnetHeader};
use wireloom_tunnel::uapi::{SetDevice, SetPeer};
use wireloom_tunnel::{Device, EngineKind, Moment, Routes, Sealer};

const BATCH: usize = 64;
const NOW: Moment = Moment::new(Duration::from_secs(1_000));

/// Two devices with a session.
struct Pair {
    client: Device,
    server: Device,
    sealer: Sealer,
}

impl Pair {
    fn new(engine: EngineKind) -> Self {
        let keys = [1, 2].map(|byte| PrivateKey::from_random([byte; 32]));
        let [client, server] = [0, 1].map(|place| {
            let device = Device::with_engine([place as u8; 32], engine);
            let peer = SetPeer {
                endpoint: Some(path(place).remote),
                allowed_ips: ["0.0.0.0/0".parse().unwrap()].into(),
                ..SetPeer::new(keys[1 - place].public_key())
            };
            let private_key = Some(Some(keys[place].clone()));
            let set = SetDevice { private_key, peers: vec![peer], ..SetDevice::default() };
            let _ = device.set(NOW, &set);
            device
        });
        let mut pair = Self { client, server, sealer: Sealer::default() };
        let (mut out, mut back, mut arena) = Default::default();
        seal(&pair.client, &[packet(64)], &mut pair.sealer, &mut out);
        open(&pair.server, &out, &mut arena, &mut back);
        out.clear();
        open(&pair.client, &back, &mut arena, &mut out);
        open(&pair.server, &out, &mut arena, &mut back);
        pair
    }
}

fn seal(device: &Device, packets: &[Vec<u8>], sealer: &mut Sealer, outbox: &mut Outbox) {
    let frames: Vec<Frame<'_>> =
        packets.iter().map(|packet| Frame { header: VnetHeader::default(), packet }).collect();
    device.seal(NOW, &frames, sealer, outbox);
}

fn path(place: usize) -> Path {
    Path { remote: ([192, 0, 2, place as u8], 51820).into(), local: None }
}

fn packet(length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

fn open(device: &Device, from: &Outbox, arena: &mut Arena, answers: &mut Outbox) {
    let received: Vec<Received<'_>> = from
        .transmits()
        .map(|(transmit, bytes)| Received {
            path: path(0),
            ecn: Ecn::NotEct,
            segment: transmit.segment,
            bytes,
        })
        .collect();
    device.open(NOW, &received, arena, answers);
}

fn batches(criterion: &mut Criterion) {
    for (length, engine) in [1_420, 64].into_iter().flat_map(|l| EngineKind::ALL.map(|e| (l, e))) {
        let name = format!("tunnel/{BATCH}x{length}/{engine}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes((BATCH * length) as u64));
        let packets = vec![packet(length); BATCH];
        let mut pair = Pair::new(engine);
        let mut outbox = Outbox::default();
        group.bench_function("seal", |bencher| {
            bencher.iter(|| {
                outbox.clear();
                seal(&pair.client, black_box(&packets), &mut pair.sealer, &mut outbox);
            });
        });
        assert!(!outbox.is_empty());
        let mut arena = Arena::default();
        group.bench_function("open", |bencher| {
            bencher.iter_batched(
                || {
                    let mut outbox = Outbox::default();
                    seal(&pair.client, &packets, &mut pair.sealer, &mut outbox);
                    outbox
                },
                |outbox| {
                    arena.clear();
                    open(&pair.server, &outbox, &mut arena, &mut Outbox::default());
                    outbox
                },
                BatchSize::SmallInput,
            );
        });
        assert_eq!(arena.packets().len(), BATCH);
        group.bench_function("both", |bencher| {
            bencher.iter_custom(|batches| both_ways(&mut pair, &packets, batches));
        });
        group.finish();
    }
}

/// How long the client takes to seal so many batches while it opens as many: what one direction costs the other.
fn both_ways(pair: &mut Pair, packets: &[Vec<u8>], batches: u64) -> Duration {
    /// The batches that are sealed beforehand, to be opened; not more, for the memory's sake.
    const AT_ONCE: u64 = 40;
    let mut sum = Duration::ZERO;
    for done in (0..batches).step_by(AT_ONCE as usize) {
        let batches = AT_ONCE.min(batches - done);
        let came: Vec<Outbox> = (0..batches)
            .map(|_| {
                let mut outbox = Outbox::default();
                seal(&pair.server, packets, &mut pair.sealer, &mut outbox);
                outbox
            })
            .collect();
        let client = &pair.client;
        let start_line = Barrier::new(2);
        let span = |work: &mut dyn FnMut()| {
            start_line.wait();
            let start = Instant::now();
            work();
            (start, Instant::now())
        };
        sum += thread::scope(|scope| {
            let sealing = scope.spawn(|| {
                let (mut sealer, mut outbox) = (Sealer::default(), Outbox::default());
                span(&mut || {
                    for _ in 0..batches {
                        outbox.clear();
                        seal(client, packets, &mut sealer, &mut outbox);
                    }
                })
            });
            let (mut arena, mut answers) = (Arena::default(), Outbox::default());
            let opened = span(&mut || {
                for outbox in &came {
                    arena.clear();
                    open(client, outbox, &mut arena, &mut answers);
                }
            });
            assert_eq!(arena.packets().len(), BATCH);
            let sealed = sealing.join().unwrap();
            sealed.1.max(opened.1) - sealed.0.min(opened.0)
        });
    }
    sum
}

fn lookups(criterion: &mut Criterion) {
    for count in [10u32, 1_000, 100_000] {
        let mut group = criterion.benchmark_group(format!("allowed_ips/{count}"));
        let prefixes: Vec<Cidr> = (0..count)
            .map(|i| Cidr::truncated(Ipv4Addr::from(0x0a00_0000 + (i << 5)).into(), 27).unwrap())
            .collect();
        let mut ours = Routes::default();
        let mut other = IpNetworkTable::new();
        for (slot, prefix) in (0..).zip(&prefixes) {
            ours.insert(*prefix, slot);
            let network = ip_network::IpNetwork::new(prefix.address(), prefix.length()).unwrap();
            other.insert(network, slot);
        }
        // An address in every prefix in turn, in an order that caches do not guess.
        let addresses: Vec<IpAddr> = (0..4_096u32)
            .map(|i| Ipv4Addr::from(0x0a00_0007 + ((i.wrapping_mul(2_654_435_761) % count) << 5)))
            .map(IpAddr::V4)
            .collect();
        group.throughput(Throughput::Elements(addresses.len() as u64));
        group.bench_function("prefix-trie", |bencher| {
            bencher.iter(|| {
                addresses
                    .iter()
                    .filter_map(|address| ours.lookup(*address))
                    .map(u64::from)
                    .sum::<u64>()
            });
        });
        group.bench_function("ip_network_table", |bencher| {
            bencher.iter(|| {
                let found = addresses.iter().filter_map(|address| other.longest_match(*address));
                found.map(|(_, slot)| u64::from(*slot)).sum::<u64>()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, batches, lookups);
criterion_main!(benches);
