//! Every fuzz target over its committed corpus, on the stable compiler. The targets themselves are in `fuzz/`.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

use std::fs;
use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut seeds: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} holds no seed: add one", folder.display());
    for seed in seeds {
        println!("{}", seed.display());
        body(&fs::read(&seed).unwrap());
    }
}

#[test]
fn io_control() {
    replay("io_control", wireloom_fuzz::io_control);
}

#[test]
fn packet_split() {
    replay("packet_split", wireloom_fuzz::packet_split);
}

#[test]
fn packet_merge() {
    replay("packet_merge", wireloom_fuzz::packet_merge);
}

#[test]
fn packet_view() {
    replay("packet_view", wireloom_fuzz::packet_view);
}

#[test]
fn tunnel_answer() {
    replay("tunnel_answer", wireloom_fuzz::tunnel_answer);
}

#[test]
fn tunnel_datagram() {
    replay("tunnel_datagram", wireloom_fuzz::tunnel_datagram);
}

#[test]
fn tunnel_uapi() {
    replay("tunnel_uapi", wireloom_fuzz::tunnel_uapi);
}
