//! Super-packets split and merged.

use wireloom_packet::{
    Arena, Frame, GsoKind, IpPacket, MergeOffloads, Merger, Segments, VnetHeader, checksum, icmp,
    ip,
};

/// Splits a frame that claims anything of itself: a virtio-net header (10 bytes) and the packet behind it.
///
/// The frame is refused, or all its packets are written: as many as announced, none longer than announced, each as long
/// as its IP header says, and each segment of a super-packet with a right checksum.
pub fn packet_split(data: &[u8]) {
    let Some(header) = VnetHeader::decode(data) else { return };
    let packet = &data[10..];
    if let Ok(view) = IpPacket::parse(packet) {
        let mut buffer = [0; icmp::ERROR_BYTES];
        icmp::error(packet, icmp::Trouble::Unreachable, view.destination(), &mut buffer);
    }
    let _ = split(header, packet);
}

/// Merges packets, each behind a byte that says whether its checksums are made right, and two bytes of length.
///
/// Splitting the runs gives back the packets: all of them, byte for byte but for the id of an IPv4 packet that is never
/// fragmented.
pub fn packet_merge(data: &[u8]) {
    let mut arena = Arena::default();
    let mut before = Vec::new();
    let mut rest = data;
    while let [kind, high, low, packets @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(packets.len());
        let (packet, next) = packets.split_at(length);
        rest = next;
        let mut packet = packet.to_vec();
        if kind & 1 == 1 {
            complete(&mut packet);
        }
        arena.slot(packet.len()).copy_from_slice(&packet);
        arena.commit(packet.len());
        if !packet.is_empty() {
            before.push(comparable(packet));
        }
    }
    let mut merger = Merger::default();
    merger.merge(&mut arena, MergeOffloads { tcp4: true, tcp6: true, udp: true });
    let mut after = Vec::new();
    for run in merger.runs() {
        let packet: Vec<u8> =
            run.parts.iter().flat_map(|part| &arena.bytes()[part.clone()]).copied().collect();
        assert!(packet.len() <= 65_535, "a super-packet of {} bytes", packet.len());
        if run.header == VnetHeader::default() {
            assert_eq!(run.parts.len(), 1, "several packets without a word on how to split them");
            after.push(comparable(packet));
        } else {
            let Some(packets) = split(run.header, &packet) else {
                panic!("{:?} cannot be split again", run.header)
            };
            assert_eq!(packets.len(), run.parts.len());
            after.extend(packets.into_iter().map(comparable));
        }
    }
    before.sort();
    after.sort();
    assert_eq!(before, after);
}

/// The packets of a frame, each checked; `None` if it is refused.
fn split(header: VnetHeader, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut segments = Segments::new(&Frame { header, packet }).ok()?;
    let mut buffer = vec![0; segments.largest()];
    let announced = segments.remaining();
    let mut packets = Vec::new();
    while let Some(length) = segments.next_into(&mut buffer) {
        let view = match IpPacket::parse(&buffer[..length]) {
            Ok(view) => view,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(view.bytes().len(), length);
        if header.gso != GsoKind::None {
            assert!(checksum::header_is_right(&view) && checksum::is_right(&view));
        }
        packets.push(buffer[..length].to_vec());
    }
    assert_eq!(packets.len(), announced);
    Some(packets)
}

/// Makes the checksums of a packet right, where it has any.
fn complete(packet: &mut [u8]) {
    let Ok(view) = IpPacket::parse(packet) else { return };
    let (start, length) = (view.header().len(), view.bytes().len());
    let offset = match view.protocol() {
        ip::TCP => 16,
        ip::UDP => 6,
        _ => return,
    };
    let pseudo = checksum::Sum::of_pseudo_header(view.addresses(), view.protocol(), length - start);
    let v4 = view.version() == wireloom_packet::IpVersion::V4;
    if length - start >= offset + 2 {
        let at = start + offset;
        packet[at..at + 2].fill(0);
        let sum = checksum::Sum::of(&packet[start..length]).and(pseudo);
        packet[at..at + 2].copy_from_slice(&sum.udp_checksum().to_be_bytes());
    }
    if v4 {
        packet[10..12].fill(0);
        let sum = checksum::Sum::of(&packet[..start]);
        packet[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    }
}

/// A packet without the id, if it is never fragmented, and without the header checksum over that.
fn comparable(mut packet: Vec<u8>) -> Vec<u8> {
    let atomic = IpPacket::parse(&packet).is_ok_and(|view| {
        view.version() == wireloom_packet::IpVersion::V4
            && view.header()[6] & 0x40 != 0
            && checksum::header_is_right(&view)
    });
    if atomic {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
