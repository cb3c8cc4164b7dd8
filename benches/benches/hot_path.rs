//! The pieces of the hot path, timed.
//!
//! `cargo bench -p wireloom-benches --bench hot_path`

#![allow(missing_docs, reason = "criterion's macros make public items without")]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wireloom_benches::hot_path::{Amount, CASES};

fn pieces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hot_path");
    for case in CASES {
        group.throughput(match case.amount {
            Amount::Bytes(bytes) => Throughput::Bytes(bytes as u64),
            Amount::Lookups(lookups) => Throughput::Elements(lookups as u64),
        });
        let mut work = case.warm();
        group.bench_function(case.name, |bencher| {
            bencher.iter_custom(|turns| {
                let mut sum = Duration::ZERO;
                // What is warm is prepared.
                for _ in 0..turns {
                    let start = Instant::now();
                    work.run();
                    sum += start.elapsed();
                    work.prepare();
                }
                sum
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pieces);
criterion_main!(benches);
