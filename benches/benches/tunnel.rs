//! One engine beside the other, and the lookup of allowed IPs beside that of another table.
//!
//! `cargo bench -p wireloom-benches --bench tunnel`

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot run has nothing to say")]

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table::IpNetworkTable;
use wireloom_benches::hot_path::{BATCH, CLIENT, Pair, SERVER, open, packets, prefixes, seal};
use wireloom_packet::{Arena, Outbox};
use wireloom_tunnel::{EngineKind, Routes, Sealer};

fn batches(criterion: &mut Criterion) {
    for (length, engine) in [1_420, 64].into_iter().flat_map(|l| EngineKind::ALL.map(|e| (l, e))) {
        let name = format!("tunnel/{BATCH}x{length}/{engine}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes((BATCH * length) as u64));
        let packets = packets(length, BATCH);
        let pair = Pair::new(engine);
        let (mut sealer, mut outbox) = (Sealer::default(), Outbox::default());
        group.bench_function("seal", |bencher| {
            bencher.iter(|| {
                outbox.clear();
                seal(&pair.client, black_box(&packets), &mut sealer, &mut outbox);
            });
        });
        assert!(!outbox.is_empty());
        let mut arena = Arena::default();
        group.bench_function("open", |bencher| {
            bencher.iter_batched(
                || {
                    let mut outbox = Outbox::default();
                    seal(&pair.client, &packets, &mut sealer, &mut outbox);
                    outbox
                },
                |outbox| {
                    arena.clear();
                    open(&pair.server, CLIENT, &outbox, &mut arena, &mut Outbox::default());
                    outbox
                },
                BatchSize::SmallInput,
            );
        });
        assert_eq!(arena.packets().len(), BATCH);
        group.bench_function("both", |bencher| {
            bencher.iter_custom(|batches| both_ways(&pair, &packets, batches));
        });
        group.finish();
    }
}

/// How long the client takes to seal so many batches while it opens as many: what one direction costs the other.
fn both_ways(pair: &Pair, packets: &[Vec<u8>], batches: u64) -> Duration {
    /// The batches that are sealed beforehand, to be opened; not more, for the memory's sake.
    const AT_ONCE: u64 = 40;
    let (mut sum, mut sealer) = (Duration::ZERO, Sealer::default());
    for done in (0..batches).step_by(AT_ONCE as usize) {
        let batches = AT_ONCE.min(batches - done);
        let came: Vec<Outbox> = (0..batches)
            .map(|_| {
                let mut outbox = Outbox::default();
                seal(&pair.server, packets, &mut sealer, &mut outbox);
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
                    open(client, SERVER, outbox, &mut arena, &mut answers);
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
        let (prefixes, addresses) = prefixes(count);
        let mut ours = Routes::default();
        let mut other = IpNetworkTable::new();
        for (slot, prefix) in (0..).zip(&prefixes) {
            ours.insert(*prefix, slot);
            let network = ip_network::IpNetwork::new(prefix.address(), prefix.length()).unwrap();
            other.insert(network, slot);
        }
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
