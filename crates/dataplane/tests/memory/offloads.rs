//! Each kind of packet with each peculiarity, from one device to another: what comes out is what went in, with all
//! offloads, without those that the kernel lacks, and while it refuses them.

use wireloom_packet::{Arena, MergeOffloads, Merger, VnetHeader};
use wireloom_testkit::matrix::{Kind, Peculiarity, stream};
use wireloom_testkit::until_ok;

use super::*;

const NO_READS: UnfinishedPackets = UnfinishedPackets { checksum: true, tcp: false, udp: false };
const NO_UDP: UdpOffloads = UdpOffloads { gso: false, gro: false };

/// Two ends with a session, which have counted all that it took.
fn acquainted(a: End, b: End) -> (End, End) {
    let (a, b) = joined(a, b);
    a.host.send(&datagram(1, 2, b"hello"));
    assert_eq!(b.host.receive(PATIENCE), Some(datagram(1, 2, b"hello")));
    until_ok(|| {
        let (sent, written) = (a.dataplane.counters(), b.dataplane.counters());
        // An initiation, the keepalive that confirms the session, and the packet.
        let now = [sent.of(Counter::DatagramsSent), written.of(Counter::FramesWritten)];
        if now == [3, 1] { Ok(()) } else { Err(now) }
    });
    (a, b)
}

/// Sends packets that are there all at once, checks what comes out, and waits until both ends have counted it.
fn crosses(a: &End, b: &End, packets: &[Vec<u8>]) {
    let counted = || {
        let (sent, received) = (a.dataplane.counters(), b.dataplane.counters());
        [sent.of(Counter::DatagramsSent), received.of(Counter::DatagramsReceived)]
    };
    let all = counted().map(|count| count + packets.len() as u64);
    a.host.send_frames(packets.iter().map(|packet| (VnetHeader::default(), &packet[..])));
    arrives(b, packets);
    until_ok(|| {
        let now = counted();
        if now[0] >= all[0] && now[1] >= all[1] { Ok(()) } else { Err(now) }
    });
}

fn arrives(b: &End, packets: &[Vec<u8>]) {
    for (place, packet) in packets.iter().enumerate() {
        let out = b.host.receive(PATIENCE);
        assert!(out.as_ref() == Some(packet), "packet {place}: {packet:02x?} became {out:02x?}");
    }
}

/// The packets as a host hands them over whose kernel makes super-packets.
fn super_packets(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut arena = Arena::default();
    for packet in packets {
        arena.slot(packet.len()).copy_from_slice(packet);
        arena.commit(packet.len());
    }
    let mut merger = Merger::default();
    merger.merge(&mut arena, MergeOffloads { tcp4: true, tcp6: true, udp: true });
    let bytes = |part: &std::ops::Range<usize>| arena.bytes()[part.clone()].to_vec();
    merger.runs().map(|run| (run.header, run.parts.iter().flat_map(bytes).collect())).collect()
}

fn is_written(end: &End, kind: Kind) -> bool {
    let offloads = end.dataplane.offloads();
    if kind.is_tcp() { offloads.tcp_write } else { offloads.udp_write }
}

mod all {
    use super::*;

    fn survives(kind: Kind, what: Peculiarity) {
        let (a, b) = two_ends();
        let (a, b) = acquainted(a, b);
        let (packets, runs) = stream(kind, what, 64);
        let frames = b.dataplane.counters().of(Counter::FramesWritten);
        crosses(&a, &b, &packets);
        let frames = b.dataplane.counters().of(Counter::FramesWritten) - frames;
        assert!(frames < packets.len() as u64, "{frames} frames where {runs:?} merge");
        let whole = super_packets(&packets);
        a.host.send_frames(whole.iter().map(|(header, packet)| (*header, &packet[..])));
        arrives(&b, &packets);
        assert_eq!(b.dataplane.refused_super_packets(), 0);
        assert_eq!(a.dataplane.counters().of(Counter::Unbatched), 0);
    }

    wireloom_testkit::each_cell!(super::survives);
}

mod refused_at_set_up {
    use super::*;

    fn survives(kind: Kind, what: Peculiarity) {
        let network = MemoryNetwork::default();
        let wanted = Offloads { tcp_write: false, udp_write: false, ..Offloads::ALL };
        let end = |number| End::with_kernel(&network, number, NO_READS, NO_UDP, wanted);
        let (a, b) = acquainted(end(1), end(2));
        assert_eq!(a.dataplane.offloads(), Offloads::NONE, "what is not there is not in use");
        let (packets, _) = stream(kind, what, 64);
        let before = b.dataplane.counters();
        crosses(&a, &b, &packets);
        let after = b.dataplane.counters();
        for counter in [Counter::FramesWritten, Counter::BatchesReceived] {
            assert_eq!(after.of(counter) - before.of(counter), packets.len() as u64, "{counter:?}");
        }
    }

    wireloom_testkit::each_cell!(super::survives);
}

mod refused_at_run_time {
    use rustix::io::Errno;

    use super::*;

    fn survives(kind: Kind, what: Peculiarity) {
        for errno in [Errno::INVAL, Errno::IO, Errno::MSGSIZE] {
            let network = MemoryNetwork::default();
            let (a, b) = acquainted(End::new(&network, 1), End::new(&network, 2));
            let (packets, _) = stream(kind, what, 64);
            // The device refuses first, while batches still come in; then the network.
            b.host.refuse(errno.raw_os_error());
            crosses(&a, &b, &packets);
            let refused = b.dataplane.refused_super_packets();
            assert!(refused > 0 && !is_written(&b, kind), "{errno:?}");
            crosses(&a, &b, &packets);
            assert_eq!(b.dataplane.refused_super_packets(), refused, "{errno:?}: not tried again");
            network.refuse(errno.raw_os_error());
            crosses(&a, &b, &packets);
            let unbatched = a.dataplane.counters().of(Counter::Unbatched);
            assert!(unbatched > 0, "{errno:?}");
            crosses(&a, &b, &packets);
            let again = a.dataplane.counters().of(Counter::Unbatched);
            assert_eq!(again, unbatched, "{errno:?}: remembered for this destination");
            assert_eq!(a.dataplane.counters().of(Counter::DroppedSending), 0);
            assert_eq!(b.dataplane.counters().of(Counter::DroppedWriting), 0);
        }
    }

    wireloom_testkit::each_cell!(super::survives);
}
