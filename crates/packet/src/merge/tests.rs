use proptest::prelude::*;
use wireloom_testkit::sample::{ACK, FIN, PSH, Sample, assert_valid, bytes};

use super::*;
use crate::checksum::Sum;
use crate::ip::{IpPacket, put_word};
use crate::samples::{ALL, merge, run_lengths, split, superpacket};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Makes the checksums of a changed packet right again.
fn complete(packet: &mut [u8]) {
    let parsed = IpPacket::parse(packet).unwrap();
    let (at, protocol, length) = (parsed.header().len(), parsed.protocol(), parsed.payload().len());
    let offset = at + if protocol == 6 { 16 } else { 6 };
    let addresses = parsed.addresses().to_vec();
    put_word(packet, offset, 0);
    let sum = Sum::of_pseudo_header(&addresses, protocol, length).and(Sum::of(&packet[at..]));
    put_word(packet, offset, sum.checksum());
    if packet[0] >> 4 == 4 {
        put_word(packet, 10, 0);
        let checksum = Sum::of(&packet[..at]).checksum();
        put_word(packet, 10, checksum);
    }
}

/// The runs when the second of three packets of a stream is changed (and its checksums are right again).
fn with_second_changed(flow: Sample, change: impl Fn(&mut Vec<u8>)) -> Vec<usize> {
    let mut packets = flow.stream(&[100, 100, 100]);
    change(&mut packets[1]);
    complete(&mut packets[1]);
    run_lengths(&packets)
}

#[test]
fn a_stream_becomes_one_super_packet_as_the_kernel_makes_them() {
    for flow in Sample::both() {
        let runs = merge(&flow.stream(&[100, 100, 50]), ALL);
        let whole =
            flow.tcp(u32::MAX - 150, ACK, &[], &[bytes(100), bytes(100), bytes(50)].concat());
        let (header, packet) = superpacket(whole, 100);
        assert_eq!(runs, [(header, packet, 3)]);
    }
}

#[test]
fn datagrams_become_one_super_packet_as_the_kernel_makes_them() {
    for flow in Sample::both() {
        let runs = merge(&flow.datagrams(&[100, 100, 50]), ALL);
        let whole = flow.udp(&[bytes(100), bytes(100), bytes(50)].concat());
        let (header, packet) = superpacket(whole, 100);
        assert_eq!(runs, [(header, packet, 3)]);
    }
}

#[test]
fn a_packet_alone_goes_out_as_it_came() {
    let flow = Sample::new(false, 80);
    let packets = [flow.udp(&bytes(9)), vec![0x60], vec![0; 70], flow.tcp(1, SYN, &[], &[])];
    let runs = merge(&packets, ALL);
    assert_eq!(runs, packets.map(|packet| (VnetHeader::default(), packet, 1)));
}

#[test]
fn each_offload_has_its_switch() {
    let none = MergeOffloads::default();
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let flow = Sample::new(v6, 80);
        let packets = if tcp { flow.stream(&[9, 9]) } else { flow.datagrams(&[9, 9]) };
        let own = MergeOffloads { tcp4: tcp && !v6, tcp6: tcp && v6, udp: !tcp };
        let others = MergeOffloads { tcp4: !own.tcp4, tcp6: !own.tcp6, udp: !own.udp };
        for (offloads, runs) in [(none, 2), (own, 1), (others, 2), (ALL, 1)] {
            assert_eq!(merge(&packets, offloads).len(), runs, "{offloads:?}");
        }
    }
}

#[test]
fn flows_that_alternate_merge_each_for_itself() {
    let flows: Vec<_> = (0..8).map(|port| Sample::new(port % 2 == 0, port)).collect();
    let streams: Vec<_> = flows.iter().map(|flow| flow.stream(&[100; 5])).collect();
    let packets: Vec<_> =
        (0..5).flat_map(|at| streams.iter().map(move |stream| stream[at].clone())).collect();
    assert_eq!(run_lengths(&packets), [5; 8]);
}

#[test]
fn more_flows_than_open_runs_still_come_out_in_order() {
    let flows: Vec<_> = (0..40).map(|port| Sample::new(false, port)).collect();
    let streams: Vec<_> = flows.iter().map(|flow| flow.stream(&[100; 2])).collect();
    let packets: Vec<_> =
        (0..2).flat_map(|at| streams.iter().map(move |stream| stream[at].clone())).collect();
    assert_eq!(run_lengths(&packets), [1; 80]);
}

/// Fault D24: headers that differ never merge.
#[test]
fn headers_that_differ_never_merge() {
    for flow in Sample::both() {
        let t = if flow.v6 { 40 } else { 20 };
        assert_eq!(with_second_changed(flow, |_| {}), [3]);
        // Acknowledgement, window, urgent pointer, ECE.
        for at in [t + 11, t + 15, t + 19] {
            assert_eq!(with_second_changed(flow, |packet| packet[at] ^= 1), [1, 1, 1], "{at}");
        }
        assert_eq!(with_second_changed(flow, |packet| packet[t + 13] |= ECE), [1, 1, 1]);
        // Hop limit or time to live; traffic class with and without the ECN bits.
        let hops = if flow.v6 { 7 } else { 8 };
        assert_eq!(with_second_changed(flow, |packet| packet[hops] -= 1), [1, 1, 1]);
        for bit in if flow.v6 { [0x40, 0x10] } else { [0x04, 0x01] } {
            assert_eq!(with_second_changed(flow, |packet| packet[1] ^= bit), [1, 1, 1]);
        }
    }
    let [v4, v6] = Sample::both();
    assert_eq!(with_second_changed(v4, |packet| packet[6] ^= 0x40), [1, 1, 1], "DF");
    assert_eq!(with_second_changed(v6, |packet| packet[3] ^= 1), [1, 1, 1], "flow label");
}

/// Fault D24: what no split would make again never merges.
#[test]
fn flags_with_a_meaning_of_their_own_never_merge() {
    for flow in Sample::both() {
        let t = if flow.v6 { 40 } else { 20 };
        for flag in [SYN, RST, URG, CWR] {
            assert_eq!(with_second_changed(flow, |packet| packet[t + 13] |= flag), [1, 1, 1]);
        }
        assert_eq!(with_second_changed(flow, |packet| packet[t + 13] = 0), [1, 1, 1]);
    }
}

#[test]
fn a_push_or_the_end_of_a_stream_ends_the_run() {
    for flow in Sample::both() {
        let t = if flow.v6 { 40 } else { 20 };
        for flag in [PSH, FIN, PSH | FIN] {
            assert_eq!(with_second_changed(flow, |packet| packet[t + 13] |= flag), [2, 1]);
            let mut packets = flow.stream(&[100, 100]);
            packets[1][t + 13] |= flag;
            complete(&mut packets[1]);
            let runs = merge(&packets, ALL);
            assert_eq!(runs[0].1[t + 13], ACK | flag, "the super-packet keeps it");
        }
    }
}

#[test]
fn options_merge_only_if_they_are_equal() {
    for flow in Sample::both() {
        let stamps = |value| [1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 9];
        let second = Sample { id: flow.id.wrapping_add(1), ..flow };
        for (value, runs) in [(1, vec![2]), (2, vec![1, 1])] {
            let first = flow.tcp(1, ACK, &stamps(1), &bytes(100));
            let second = second.tcp(101, ACK, &stamps(value), &bytes(100));
            assert_eq!(run_lengths(&[first, second]), runs);
        }
        let first = flow.tcp(1, ACK, &stamps(1), &bytes(100));
        let second = second.tcp(101, ACK, &[], &bytes(100));
        assert_eq!(run_lengths(&[first, second]), [1, 1]);
    }
}

#[test]
fn only_what_continues_the_sequence_merges() {
    for flow in Sample::both() {
        let stream = flow.stream(&[100, 100, 100]);
        let order = |order: [usize; 3]| run_lengths(&order.map(|at| stream[at].clone()));
        assert_eq!(order([0, 2, 1]), [1, 1, 1], "a gap");
        assert_eq!(order([0, 0, 1]), [1, 2], "a repetition");
        assert_eq!(order([1, 0, 1]), [1, 2], "backwards");
    }
}

#[test]
fn only_the_last_payload_may_be_shorter() {
    for flow in Sample::both() {
        for (payloads, runs) in [
            (&[100, 100, 99, 99][..], &[3, 1][..]),
            (&[99, 100, 100], &[1, 2]),
            (&[100, 101], &[1, 1]),
            (&[100, 0, 100], &[1, 1, 1]),
        ] {
            assert_eq!(run_lengths(&flow.stream(payloads)), runs, "{payloads:?}");
            assert_eq!(run_lengths(&flow.datagrams(payloads)), runs, "{payloads:?}");
        }
    }
}

#[test]
fn a_super_packet_stays_below_its_limits() {
    for flow in Sample::both() {
        let most = (65_535 - if flow.v6 { 60 } else { 40 }) / 1380;
        assert_eq!(run_lengths(&flow.stream(&[1380; 60])), [most, 60 - most]);
        assert_eq!(run_lengths(&flow.stream(&[1; 600])), [512, 88]);
        assert_eq!(run_lengths(&flow.datagrams(&[10; 70])), [64, 6]);
    }
}

#[test]
fn ids_count_or_stand_still_where_they_mean_nothing() {
    let flow = |id, df| Sample { id, df, ..Sample::new(false, 80) };
    let run = |ids: [u16; 3], df| run_lengths(&ids.map(|id| flow(id, df).udp(&bytes(100))));
    assert_eq!(run([0xffff, 0, 1], false), [3]);
    assert_eq!(run([5, 5, 5], true), [3], "never fragmented, RFC 6864");
    assert_eq!(run([5, 5, 5], false), [1, 1, 1]);
    assert_eq!(run([5, 5, 6], true), [2, 1]);
    assert_eq!(run([5, 6, 6], true), [2, 1]);
    assert_eq!(run([5, 7, 9], true), [1, 1, 1]);
}

/// Fault D24: IP options and fragments never merge.
#[test]
fn ip_options_and_fragments_never_merge() {
    let flow = Sample::new(false, 80);
    let options = |packet: &mut Vec<u8>| {
        packet.splice(20..20, [1, 1, 1, 0]);
        packet[0] = 0x46;
        let length = packet.len() as u16;
        put_word(packet, 2, length);
    };
    assert_eq!(with_second_changed(flow, options), [1, 1, 1]);
    let mut packets = flow.stream(&[100, 100]);
    packets.iter_mut().for_each(|packet| {
        options(packet);
        complete(packet);
    });
    assert_eq!(run_lengths(&packets), [1, 1]);
    for fragment in [0x2000, 0x0001] {
        let change = |packet: &mut Vec<u8>| put_word(packet, 6, fragment);
        assert_eq!(with_second_changed(flow, change), [1, 1, 1]);
    }
}

/// Fault D35: an extension header hides the ports, so such a packet may belong to any flow between its addresses.
#[test]
fn a_packet_whose_ports_are_out_of_sight_closes_all_between_its_addresses() {
    for next in [0, 43, 44, 60] {
        let hide = |packet: &mut Vec<u8>| packet[6] = next;
        let mut packets = Sample::new(true, 80).stream(&[100, 100]);
        let mut hidden = Sample::new(true, 81).udp(&bytes(9));
        hide(&mut hidden);
        packets.insert(1, hidden);
        assert_eq!(run_lengths(&packets), [1, 1, 1], "next header {next}");
        packets[1][8] ^= 1;
        assert_eq!(run_lengths(&packets), [2, 1], "another source");
    }
}

/// It may have been one of any flow; the tunnel lets none through, but the merger does not count on that.
#[test]
fn a_packet_that_lies_about_its_length_closes_all() {
    for flow in Sample::both() {
        let mut packets = flow.datagrams(&[100, 100, 100]);
        packets[1][if flow.v6 { 4 } else { 2 }] ^= 1;
        packets[2] = Sample { id: flow.id.wrapping_add(1), ..flow }.udp(&bytes(100));
        assert_eq!(run_lengths(&packets), [1, 1, 1]);
    }
}

/// The kernel takes a run with CWR only with an offload of its own.
#[test]
fn a_reduced_window_never_merges() {
    for flow in Sample::both() {
        let mut packets = flow.stream(&[100, 100]);
        for packet in &mut packets {
            packet[if flow.v6 { 53 } else { 33 }] |= CWR;
            complete(packet);
        }
        assert_eq!(run_lengths(&packets), [1, 1]);
    }
}

/// A tunnel's ports, whose receiver in the kernel handles super-packets badly (fault D20).
#[test]
fn datagrams_to_an_overlays_port_never_merge() {
    for flow in Sample::both() {
        let at = if flow.v6 { 42 } else { 22 };
        for (port, runs) in
            [(4789, vec![1, 1]), (8472, vec![1, 1]), (6081, vec![1, 1]), (53, vec![2])]
        {
            let mut packets = flow.datagrams(&[100, 100]);
            for packet in &mut packets {
                put_word(packet, at, port);
                complete(packet);
            }
            assert_eq!(run_lengths(&packets), runs, "port {port}");
        }
    }
}

#[test]
fn datagrams_without_a_checksum_or_of_another_length_never_merge() {
    for flow in Sample::both() {
        let t = if flow.v6 { 40 } else { 20 };
        let mut packets = flow.datagrams(&[100, 100, 100]);
        put_word(&mut packets[1], t + 6, 0);
        assert_eq!(run_lengths(&packets), [1, 1, 1]);
        let mut packets = flow.datagrams(&[100, 100, 100]);
        put_word(&mut packets[1], t + 4, 107);
        complete(&mut packets[1]);
        assert_eq!(run_lengths(&packets), [1, 1, 1]);
    }
}

/// Merging blindly would tell the kernel that a spoilt packet is right.
#[test]
fn a_spoilt_packet_arrives_spoilt() {
    for flow in Sample::both() {
        for packets in [flow.stream(&[100; 3]), flow.datagrams(&[100; 3])] {
            for at in 0..packets[1].len() {
                let mut packets = packets.clone();
                packets[1][at] ^= 0x10;
                let runs = merge(&packets, ALL);
                let spoilt = (VnetHeader::default(), packets[1].clone(), 1);
                assert!(runs.contains(&spoilt), "byte {at}");
            }
        }
    }
}

#[test]
fn an_unmergeable_packet_closes_its_flow_and_no_other() {
    let (one, other) = (Sample::new(false, 80), Sample::new(false, 81));
    let (mut packets, others) = (one.stream(&[100; 4]), other.stream(&[100; 4]));
    packets[1][60] ^= 1;
    let mixed: Vec<_> =
        packets.iter().zip(&others).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    assert_eq!(run_lengths(&mixed), [1, 4, 1, 2]);
}

#[test]
fn a_merger_used_again_remembers_nothing() {
    let flow = Sample::new(true, 80);
    let mut merger = Merger::new(&[]);
    let mut arena = Arena::default();
    for packet in flow.stream(&[100; 3]) {
        arena.slot(packet.len()).copy_from_slice(&packet);
        arena.commit(packet.len());
        merger.merge(&mut arena, ALL);
        assert_eq!(merger.runs().len(), 1);
        assert_eq!(merger.runs().next().unwrap().parts.len(), 1);
        arena.clear();
    }
    merger.merge(&mut arena, ALL);
    assert_eq!(merger.runs().len(), 0);
}

/// What happens to one packet on its way into the merger.
#[derive(Debug, Clone)]
struct Step {
    flow: usize,
    payload: usize,
    flags: u8,
    gap: u32,
    id_gap: u16,
    traffic_class: u8,
    spoil: Option<(usize, u8)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rare = |weight, value| prop_oneof![weight => Just(0_u32), 1 => value];
    let step = (
        0_usize..6,
        prop_oneof![8 => Just(100_usize), 1 => Just(101), 1 => Just(7), 1 => Just(0)],
        prop_oneof![12 => Just(ACK), 1 => Just(ACK | PSH), 1 => Just(ACK | FIN), 1 => any::<u8>()],
        rare(15, 1_u32..300),
        rare(15, 1_u32..3),
        rare(15, 1_u32..256),
        proptest::option::weighted(0.07, (any::<usize>(), 1_u8..)),
    );
    let step = step.prop_map(|(flow, payload, flags, gap, id_gap, class, spoil)| Step {
        flow,
        payload,
        flags,
        gap,
        id_gap: id_gap as u16,
        traffic_class: class as u8,
        spoil,
    });
    proptest::collection::vec(step, 0..80)
}

/// The packets of six flows that interleave: TCP, TCP that never fragments, and UDP, of each version.
fn packets(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut flows: Vec<_> = (0..6)
        .map(|flow| {
            let sample = Sample { df: flow % 3 == 1, ..Sample::new(flow < 3, 80 + flow as u16) };
            (sample, u32::MAX - 350)
        })
        .collect();
    let mut packets = Vec::new();
    for step in steps {
        let (sample, sequence) = &mut flows[step.flow];
        *sequence = sequence.wrapping_add(step.gap);
        sample.id = sample.id.wrapping_add(step.id_gap);
        let sample_now = Sample { traffic_class: step.traffic_class, ..*sample };
        let payload = bytes(step.payload);
        let mut packet = if step.flow % 3 == 2 {
            sample_now.udp(&payload)
        } else {
            sample_now.tcp(*sequence, step.flags, &[1, 1, 1, 1], &payload)
        };
        *sequence = sequence.wrapping_add(step.payload as u32);
        sample.id = sample.id.wrapping_add(1);
        if let Some((at, bits)) = step.spoil {
            let at = at % packet.len();
            packet[at] ^= bits;
        }
        packets.push(packet);
    }
    packets
}

/// A flow as a receiver would see it, of bytes that may be spoilt.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    let (protocol, ends) = if packet[0] >> 4 == 4 { (9, 12..24) } else { (6, 8..44) };
    let ends = &packet[ends.start..ends.end.min(packet.len())];
    [&[packet[0] >> 4, packet[protocol]], ends].concat()
}

proptest! {
    #[test]
    fn a_split_gives_back_what_was_merged_in_each_flows_order(steps in steps()) {
        let before = packets(&steps);
        let mut after = Vec::new();
        for (header, packet, parts) in merge(&before, ALL) {
            prop_assert!(packet.len() <= 65_535);
            if parts == 1 {
                prop_assert_eq!(header, VnetHeader::default());
                after.push(packet);
            } else {
                let together = split(header, &packet);
                prop_assert_eq!(together.len(), parts);
                together.iter().for_each(|packet| assert_valid(packet));
                after.extend(together);
            }
        }
        prop_assert_eq!(after.len(), before.len());
        for packet in &before {
            let flow = flow_of(packet);
            let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| flow_of(packet) == flow).cloned().collect()
            };
            prop_assert_eq!(of(&before), of(&after));
        }
    }

    #[test]
    fn a_merge_gives_back_what_was_split(
        v6: bool,
        tcp: bool,
        sequence: u32,
        flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | FIN), Just(ACK | ECE)],
        options in 0_usize..=10,
        segment in 100_usize..3000,
        segments in 2_usize..20,
        missing in 0_usize..100,
        id: u16,
    ) {
        let flow = Sample { id, ..Sample::new(v6, 80) };
        let payload = bytes(segment * segments - missing);
        let options = vec![1; 4 * options];
        let packet = if tcp { flow.tcp(sequence, flags, &options, &payload) } else { flow.udp(&payload) };
        let (header, packet) = superpacket(packet, segment);
        let merged = merge(&split(header, &packet), ALL);
        prop_assert_eq!(merged, [(header, packet, segments)]);
    }

    #[test]
    fn any_bytes_pass_through(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..90), 0..20),
        start in prop_oneof![Just(0x45_u8), Just(0x60)],
    ) {
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            packet[0] = start;
            packet
        }).collect();
        let runs = merge(&packets, ALL);
        let expected: Vec<_> =
            packets.into_iter().map(|packet| (VnetHeader::default(), packet, 1)).collect();
        prop_assert_eq!(runs, expected);
    }
}
