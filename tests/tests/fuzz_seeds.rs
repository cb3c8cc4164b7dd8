//! Where seeds of the fuzz targets come from: each one here is made by name, and stands in the corpus as it is made.
//!
//! `WIRELOOM_SEEDS=write cargo test -p wireloom-tests --test fuzz_seeds` writes them anew.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

use std::path::Path;

use wireloom_testkit::sample::{ACK, FIN, PSH, Sample, bytes, fragments};

/// A seed: its target, its name and its bytes.
type Seed = (&'static str, String, Vec<u8>);

#[test]
fn every_seed_stands_as_it_is_made() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, name, seed) in packets().into_iter().chain(answers()).chain(datagrams()) {
        let path = corpus.join(target).join(name);
        if std::env::var("WIRELOOM_SEEDS").is_ok_and(|value| value == "write") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &seed).unwrap();
        }
        assert_eq!(std::fs::read(&path).ok(), Some(seed), "{}: write it anew", path.display());
    }
}

/// A packet of each kind and form, small.
fn packets() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for flow in Sample::both() {
        let version = if flow.v6 { 6 } else { 4 };
        let options = Sample { ip_options: true, ..flow };
        let marked = Sample { traffic_class: 0b1011_1011, label: 0xfffff, ..flow };
        let udp = flow.udp(&bytes(24));
        let pieces = fragments(&udp, 16);
        let stamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 9];
        let mut padded = udp.clone();
        padded.resize(udp.len().next_multiple_of(16), 0);
        let mut unsummed = udp.clone();
        let at = if flow.v6 { 46 } else { 26 };
        unsummed[at..at + 2].fill(0);
        let mut icmp = flow.udp(&bytes(8));
        icmp[if flow.v6 { 6 } else { 9 }] = if flow.v6 { 58 } else { 1 };
        let mut broadcast = udp.clone();
        let to = if flow.v6 { 24..40 } else { 16..20 };
        broadcast[to].fill(0xff);
        for (name, packet) in [
            ("tcp", flow.tcp(u32::MAX - 3, ACK | PSH | FIN, &stamps, &bytes(9))),
            ("udp", udp),
            ("marked", marked.udp(&bytes(3))),
            ("options", options.udp(&bytes(8))),
            ("first_fragment", pieces[0].clone()),
            ("last_fragment", pieces[1].clone()),
            ("padded", padded),
            ("no_checksum", unsummed),
            ("icmp", icmp),
            ("to_many", broadcast),
        ] {
            seeds.push(("packet_view", format!("{name}{version}"), packet));
        }
    }
    seeds
}

/// An input of records, each behind its flags and its length.
fn records(records: &[(u8, &[u8])]) -> Vec<u8> {
    let record = |(flags, bytes): &(u8, &[u8])| {
        [&[*flags][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
    };
    records.iter().flat_map(record).collect()
}

/// Keys that no secret can be agreed on with: of order 1, 2 and 8, and the largest number.
fn bad_keys() -> [[u8; 32]; 4] {
    let mut one = [0; 32];
    one[0] = 1;
    let mut eight = [0; 32];
    let known = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    for (place, byte) in eight.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&known[2 * place..2 * place + 2], 16).unwrap();
    }
    [[0; 32], one, eight, [0xff; 32]]
}

/// Responses and cookie replies to an initiation.
fn answers() -> Vec<Seed> {
    let response = |key: [u8; 32]| [&[0; 12][..], &key, &bytes(16), &[0; 32]].concat();
    let keys = bad_keys().map(response);
    let responses: Vec<(u8, &[u8])> = keys.iter().map(|response| (0, &response[..])).collect();
    let cookie = bytes(64);
    let flood = vec![(0, &keys[3][..]); 60];
    [
        ("responses", records(&responses)),
        ("cookies", records(&[(1, &cookie), (1, &[]), (1, &cookie[..40])])),
        ("cookie_then_response", records(&[(1, &cookie), (0, &keys[2])])),
        ("flood", records(&flood)),
        ("short", records(&[(0, &[]), (1, &[]), (0xff, &[2])])),
    ]
    .map(|(name, seed)| ("tunnel_answer", name.to_owned(), seed))
    .into()
}

/// Handshake messages whose first MAC is right, so that they pass the gate.
fn datagrams() -> Vec<Seed> {
    let initiation = |key: [u8; 32]| [&[1, 0, 0, 0, 9, 9, 9, 9][..], &key, &bytes(108)].concat();
    let keys = bad_keys().map(initiation);
    let initiations: Vec<(u8, &[u8])> = keys.iter().map(|message| (12, &message[..])).collect();
    let mut response = vec![0; 92];
    response[0] = 2;
    let empty = [0; 148];
    [
        ("signed_initiations", records(&initiations)),
        ("signed_repetition", records(&[(2 | 4 | 8, &empty), (2 | 4 | 8, &bytes(148))])),
        ("signed_response", records(&[(8, &response)])),
        ("data_of_a_session", records(&[(1, &[0; 32]), (1, &bytes(33)), (1, &bytes(1452))])),
    ]
    .map(|(name, seed)| ("tunnel_datagram", name.to_owned(), seed))
    .into()
}
