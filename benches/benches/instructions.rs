//! The instructions that the pieces of the hot path take, counted by callgrind. Its clock is no clock: the same build
//! gives the same count on a busy machine.
//!
//! `cargo xtask instructions` runs it and compares with `benches/instructions.toml`.

#![allow(missing_docs, reason = "gungraun's macros make public items without")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use wireloom_benches::hot_path::{Case, Work};

fn warm(name: &str) -> Box<dyn Work> {
    Case::named(name).warm()
}

// Only `run` is counted: what goes in is made before, and what comes out is dropped after.
#[library_benchmark(setup = warm)]
#[bench::seal_64x1420("seal_64x1420")]
#[bench::seal_64x64("seal_64x64")]
#[bench::open_64x1420("open_64x1420")]
#[bench::open_64x64("open_64x64")]
#[bench::split_tcp4("split_tcp4")]
#[bench::split_tcp6("split_tcp6")]
#[bench::split_udp4("split_udp4")]
#[bench::merge_tcp4("merge_tcp4")]
#[bench::merge_tcp6("merge_tcp6")]
#[bench::merge_udp4("merge_udp4")]
#[bench::checksum_64x1420("checksum_64x1420")]
#[bench::checksum_64x64("checksum_64x64")]
#[bench::lookup_10("lookup_10")]
#[bench::lookup_1000("lookup_1000")]
#[bench::lookup_100000("lookup_100000")]
#[bench::turn_tcp4("turn_tcp4")]
#[bench::turn_tcp6("turn_tcp6")]
#[bench::turn_udp4("turn_udp4")]
#[bench::turn_64x64("turn_64x64")]
fn count(mut work: Box<dyn Work>) -> Box<dyn Work> {
    work.run();
    work
}

library_benchmark_group!(name = hot_path, benchmarks = count);
main!(library_benchmark_groups = hot_path);
