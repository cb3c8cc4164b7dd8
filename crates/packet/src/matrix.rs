//! Each kind of packet with each peculiarity, merged and split again with each set of offloads, by name.

use wireloom_testkit::matrix::{Kind, Peculiarity, stream};

use crate::merge::MergeOffloads;
use crate::samples::{ALL, merge, split};

/// What comes out on the other side of a device with these offloads.
fn crossed(packets: &[Vec<u8>], offloads: MergeOffloads) -> (Vec<Vec<u8>>, Vec<usize>) {
    let (mut out, mut runs) = (Vec::new(), Vec::new());
    for (header, packet, parts) in merge(packets, offloads) {
        runs.push(parts);
        out.extend(split(header, &packet));
    }
    (out, runs)
}

fn survives(kind: Kind, what: Peculiarity) {
    let (packets, together) = stream(kind, what, 64);
    let (out, runs) = crossed(&packets, ALL);
    assert_eq!(runs, together, "{kind:?}, {what:?}: what merges");
    assert!(out == packets, "{kind:?}, {what:?}: merged");
    // Refused from the start, or from then on.
    let refused = match kind {
        Kind::Tcp4 => MergeOffloads { tcp4: false, ..ALL },
        Kind::Tcp6 => MergeOffloads { tcp6: false, ..ALL },
        Kind::Udp4 | Kind::Udp6 => MergeOffloads { udp: false, ..ALL },
    };
    for offloads in [refused, MergeOffloads::default()] {
        let (out, runs) = crossed(&packets, offloads);
        assert!(runs.iter().all(|run| *run == 1), "{kind:?}, {what:?}: {offloads:?}");
        assert!(out == packets, "{kind:?}, {what:?}: {offloads:?}");
    }
}

wireloom_testkit::each_cell!(crate::matrix::survives);
