//! The instructions that the pieces of the hot path take, counted by callgrind. Its clock is no clock: the same build
//! gives the same count on a busy machine.
//!
//! `cargo xtask instructions` runs it and compares with `benches/instructions.toml`.

#![allow(missing_docs, reason = "gungraun's macros make public items without")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use wireloom_benches::hot_path::{CASES, Case, Work};

fn warm(name: &str) -> Box<dyn Work> {
    Case::named(name).warm()
}

/// Only `run` is counted: what goes in is made before, and what comes out is dropped after.
macro_rules! count {
    ($($name:ident)*) => {
        #[library_benchmark]
        $(#[bench::$name(args = (stringify!($name)), setup = warm)])*
        fn count(mut work: Box<dyn Work>) -> Box<dyn Work> {
            work.run();
            work
        }

        const _: () = assert!([$(stringify!($name)),*].len() == CASES.len(), "a case is missing");
    };
}

count! {
    seal_64x1420 seal_64x64 open_64x1420 open_64x64
    split_tcp4 split_tcp6 split_udp4 merge_tcp4 merge_tcp6 merge_udp4
    checksum_64x1420 checksum_64x64
    lookup_10 lookup_1000 lookup_100000
    turn_tcp4 turn_tcp6 turn_udp4 turn_64x64
}

library_benchmark_group!(name = hot_path, benchmarks = count);
main!(library_benchmark_groups = hot_path);
