//! Super-packets of 64 KiB split and merged, and the checksum of one packet.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot run has nothing to say")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use wireloom_packet::checksum::Sum;
use wireloom_packet::{Arena, Frame, GsoKind, MergeOffloads, Merger, Segments, VnetHeader};

/// The payload of a TCP segment at an MTU of 1420, with timestamps.
const SEGMENT: u16 = 1368;
const LARGEST: usize = 65_535;

/// A super-packet as the kernel hands it over.
fn superpacket(gso: GsoKind) -> (VnetHeader, Vec<u8>) {
    let six = gso == GsoKind::Tcp6;
    let start: usize = if six { 40 } else { 20 };
    let (protocol, transport, checksum_offset) = match gso {
        GsoKind::Udp => (17, 8, 6),
        _ => (6, 32, 16),
    };
    let mut packet: Vec<u8> = (0..LARGEST).map(|at| (at * 31) as u8).collect();
    packet[..start].fill(0);
    if six {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((LARGEST - 40) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, 64]);
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(LARGEST as u16).to_be_bytes());
        packet[6..10].copy_from_slice(&[0x40, 0, 64, protocol]);
    }
    if protocol == 6 {
        packet[start + 12..start + 14].copy_from_slice(&[0x80, 0x10]);
    }
    let header = VnetHeader {
        needs_checksum: true,
        gso,
        header_bytes: (start + transport) as u16,
        segment_bytes: SEGMENT,
        checksum_start: start as u16,
        checksum_offset,
    };
    (header, packet)
}

/// Splits a frame into the arena, as the tunnel splits it into the outbox.
fn split(header: VnetHeader, packet: &[u8], arena: &mut Arena) {
    let mut segments = Segments::new(&Frame { header, packet }).unwrap();
    while segments.remaining() > 0 {
        let length = segments.next_into(arena.slot(segments.largest())).unwrap();
        arena.commit(length);
    }
}

fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet");
    group.throughput(Throughput::Bytes(LARGEST as u64));
    for (name, gso) in [("tcp4", GsoKind::Tcp4), ("tcp6", GsoKind::Tcp6), ("udp4", GsoKind::Udp)] {
        let (header, packet) = superpacket(gso);
        let mut arena = Arena::with_capacity(2 * LARGEST);
        group.bench_function(format!("split/{name}"), |bencher| {
            bencher.iter(|| {
                arena.clear();
                split(header, black_box(&packet), &mut arena);
                arena.packets().len()
            });
        });
        let mut merger = Merger::default();
        let offloads = MergeOffloads { tcp4: true, tcp6: true, udp: true };
        group.bench_function(format!("merge/{name}"), |bencher| {
            // The headers are rewritten in place, so each turn needs fresh packets.
            let fresh = || {
                let mut arena = Arena::with_capacity(2 * LARGEST);
                split(header, &packet, &mut arena);
                arena
            };
            bencher.iter_batched_ref(
                fresh,
                |arena| {
                    merger.merge(arena, offloads);
                    assert_eq!(merger.runs().len(), 1);
                },
                BatchSize::SmallInput,
            );
        });
    }
    let packet: Vec<u8> = (0..1420).map(|at| at as u8).collect();
    group.throughput(Throughput::Bytes(1420));
    group.bench_function("checksum/1420", |bencher| bencher.iter(|| Sum::of(black_box(&packet))));
    group.finish();
}

criterion_group!(benches, packets);
criterion_main!(benches);
