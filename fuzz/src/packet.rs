//! Super-packets split and merged.

use wireloom_packet::{
    Arena, Ecn, Frame, GsoKind, IpPacket, IpVersion, MergeOffloads, Merger, Segments, VnetHeader,
    checksum, ecn, icmp, ip,
};

/// Splits a frame that claims anything of itself: a virtio-net header (10 bytes) and the packet behind it.
///
/// The frame is refused, or all its packets are written: as many as announced, none longer than announced, each as long
/// as its IP header says, and each segment of a super-packet with a right checksum.
pub fn packet_split(data: &[u8]) {
    let Some(header) = VnetHeader::decode(data) else { return };
    assert_eq!(VnetHeader::decode(&header.encode()), Some(header));
    let _ = split(header, &data[10..]);
}

/// Reads bytes as a packet, and does with it what a tunnel does.
///
/// The views agree with each other. ECN bits change nothing else, and a second time nothing. An ICMP error is a packet
/// with right checksums to the source, which quotes what it is about, and no error is sent about an error.
pub fn packet_view(data: &[u8]) {
    let Ok(view) = IpPacket::parse(data) else {
        let mut copy = data.to_vec();
        assert!(ecn::leave(&mut copy, Ecn::Ce), "bytes that are no packet go on");
        assert_eq!(copy, data);
        assert!(ip::Ends::of(data).is_err());
        return;
    };
    assert!(data.starts_with(view.bytes()));
    assert_eq!([view.header(), view.payload()].concat(), view.bytes());
    let ends = ip::Ends::of(data).ok();
    let same = ip::Ends {
        source: view.source(),
        destination: view.destination(),
        length: view.bytes().len(),
    };
    assert_eq!(ends, Some(same));
    assert!(!view.is_later_fragment() || view.is_fragment());
    assert!(!view.is_fragment() || !checksum::is_right(&view), "nobody can vouch for a fragment");
    outer_bits(data, &view);
    for trouble in [
        icmp::Trouble::NoRoute,
        icmp::Trouble::Prohibited,
        icmp::Trouble::TooBig { mtu: 1280 },
        icmp::Trouble::Unreachable,
    ] {
        told(data, &view, trouble);
    }
}

/// Gives a packet each of the outer header's ECN bits.
fn outer_bits(data: &[u8], view: &IpPacket<'_>) {
    for outer in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
        let mut copy = data.to_vec();
        if !ecn::leave(&mut copy, outer) {
            assert_eq!((view.ecn(), outer), (Ecn::NotEct, Ecn::Ce));
            continue;
        }
        let mut again = copy.clone();
        assert!(ecn::leave(&mut again, outer));
        assert_eq!(again, copy);
        let Ok(after) = IpPacket::parse(&copy) else { panic!("it is no packet any more") };
        assert_eq!(after.traffic_class() & !0b11, view.traffic_class() & !0b11);
        assert_eq!(checksum::header_is_right(&after), checksum::header_is_right(view));
        assert_eq!(after.payload(), view.payload());
        assert_eq!(after.addresses(), view.addresses());
    }
}

/// Makes the error about a packet, if there is one, and looks at it.
fn told(data: &[u8], view: &IpPacket<'_>, trouble: icmp::Trouble) {
    let mut buffer = [0; icmp::ERROR_BYTES];
    let Some(length) = icmp::error(data, trouble, view.destination(), &mut buffer) else { return };
    let Ok(error) = IpPacket::parse(&buffer[..length]) else { panic!("the error is no packet") };
    assert_eq!(error.bytes().len(), length);
    assert_eq!((error.source(), error.destination()), (view.destination(), view.source()));
    assert!(checksum::header_is_right(&error));
    assert!(view.bytes().starts_with(&error.payload()[8..]), "it quotes something else");
    let sum = checksum::Sum::of(error.payload());
    let pseudo = match error.version() {
        IpVersion::V4 => checksum::Sum::default(),
        IpVersion::V6 => {
            checksum::Sum::of_pseudo_header(error.addresses(), ip::ICMPV6, error.payload().len())
        }
    };
    assert!(sum.and(pseudo).adds_up());
    let from = error.destination();
    assert_eq!(icmp::error(&buffer[..length].to_vec(), trouble, from, &mut buffer), None);
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
    let v4 = view.version() == IpVersion::V4;
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
        view.version() == IpVersion::V4
            && view.header()[6] & 0x40 != 0
            && checksum::header_is_right(&view)
    });
    if atomic {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
