use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use wireloom_packet::{Arena, GsoKind, Merger, Segments};
use wireloom_testkit::{in_new_network, ip, need, until_ok, wait_for_address};

use super::*;
use crate::buffer::FrameBuffer;
use crate::seam::TunWrite;
use crate::signal::{Signal, Wake};

fn create(name: &str) -> Result<Tun, TunError> {
    Tun::create(&TunConfig { name: name.to_owned(), mtu: DEFAULT_MTU })
}

/// A device that is up, with an address and a neighbourhood in each family, and silent.
fn device() -> Tun {
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    let tun = create("wl0").unwrap();
    ip("address add 10.9.0.1/24 dev wl0");
    ip("link set wl0 up");
    ip("address add fd09::1/64 dev wl0 nodad");
    wait_for_address("fd09::1");
    tun
}

/// Reads until this many bytes of packets for UDP port 9 came: what the host says on its own is passed over.
fn read_packets(tun: &Tun, count: usize) -> (Vec<Vec<u8>>, usize) {
    let (stop, mut frames) = (Signal::new().unwrap(), FrameBuffer::new());
    let (mut packets, mut supers) = (Vec::new(), 0);
    let mut reader = tun.reader();
    while packets.len() < count {
        reader.read(&mut frames, &stop).unwrap();
        frames.with(|frames| {
            for frame in frames {
                let mut segments = Segments::new(frame).unwrap();
                let mut packet = vec![0; segments.largest()];
                supers += usize::from(frame.header.gso != GsoKind::None);
                while let Some(length) = segments.next_into(&mut packet) {
                    let packet = &packet[..length];
                    let port_at = if packet[0] >> 4 == 4 { 22 } else { 42 };
                    if packet.get(port_at..port_at + 2) == Some(&9u16.to_be_bytes()) {
                        packets.push(packet.to_vec());
                    }
                }
            }
        });
    }
    (packets, supers)
}

/// Sends one batch of datagrams to port 9 with UDP GSO, so that the device hands out a super-packet.
fn send_batch(address: SocketAddr, size: usize, count: usize) {
    use crate::seam::{UdpBind, UdpSend};
    let binding = crate::udp::UdpBinder::new().bind(0, 0).unwrap();
    let mut outbox = wireloom_packet::Outbox::default();
    let path = wireloom_packet::Path { remote: address, local: None };
    (0..count).for_each(|n| outbox.push(&vec![n as u8; size], &path, wireloom_packet::Ecn::NotEct));
    let report = UdpSend::send(&*binding.sender, Duration::ZERO, &outbox);
    assert_eq!((report.sent, report.unbatched), (count as u64, 0));
}

#[test]
fn super_packets_are_read_and_written() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let tun = device();
        assert_eq!(tun.mtu().unwrap(), DEFAULT_MTU);
        assert_eq!(tun.reads(), UnfinishedPackets { checksum: true, tcp: true, udp: true });
        for (far, near) in [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")] {
            let socket = UdpSocket::bind((near, 9)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            send_batch((far.parse::<std::net::IpAddr>().unwrap(), 9).into(), 1000, 20);
            let (mut packets, supers) = read_packets(&tun, 20);
            assert_eq!(supers, 1, "the batch came as one super-packet");
            // Back as if the far end had sent them: both addresses change places, which no checksum notices.
            let (source, length) = if near.contains(':') { (8, 16) } else { (12, 4) };
            let mut arena = Arena::default();
            for packet in &mut packets {
                let (a, b) = packet[source..source + 2 * length].split_at_mut(length);
                a.swap_with_slice(b);
                arena.slot(packet.len()).copy_from_slice(packet);
                arena.commit(packet.len());
            }
            let mut merger = Merger::default();
            merger.merge(&mut arena, tun.writes());
            assert_eq!(merger.runs().len(), 1, "merged into one super-packet");
            for run in merger.runs() {
                tun.write(&run.header, run.parts, arena.bytes()).unwrap();
            }
            for number in 0..20 {
                let mut datagram = [0; 2000];
                assert_eq!(socket.recv(&mut datagram).unwrap(), 1000);
                assert_eq!(datagram[..1000], [number; 1000]);
            }
        }
        assert_eq!((tun.refused(), tun.writes().udp), (0, true));
    });
}

#[test]
fn a_refused_super_packet_is_written_as_packets_and_its_kind_switched_off() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let tun = device();
        let socket = UdpSocket::bind("10.9.0.1:9").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        send_batch("10.9.0.2:9".parse().unwrap(), 500, 4);
        let (packets, _) = read_packets(&tun, 4);
        let mut arena = Arena::default();
        for mut packet in packets {
            packet[12..20].rotate_left(4);
            arena.slot(packet.len()).copy_from_slice(&packet);
            arena.commit(packet.len());
        }
        let mut merger = Merger::default();
        merger.merge(&mut arena, tun.writes());
        let run = merger.runs().next().unwrap();
        // A checksum outside of the packet is what the kernel refuses (EINVAL); splitting does not need the field.
        let header = VnetHeader { checksum_start: 60_000, ..run.header };
        tun.write(&header, run.parts, arena.bytes()).unwrap();
        for number in 0..4 {
            let mut datagram = [0; 600];
            assert_eq!(socket.recv(&mut datagram).unwrap(), 500);
            assert_eq!(datagram[..500], [number; 500]);
        }
        assert_eq!(tun.refused(), 1);
        assert_eq!(tun.writes(), MergeOffloads { tcp4: true, tcp6: true, udp: false });
        // A device that is down takes nothing, which says nothing of super-packets.
        ip("link set wl0 down");
        tun.set_writes(MergeOffloads { tcp4: true, tcp6: true, udp: true });
        assert!(tun.write(&header, run.parts, arena.bytes()).is_err());
        assert_eq!((tun.refused(), tun.writes().udp), (1, true));
    });
}

#[test]
fn reads_can_be_switched_at_run_time() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let tun = device();
        let wanted = UnfinishedPackets { checksum: true, tcp: true, udp: false };
        tun.set_reads(wanted);
        assert_eq!(tun.reads(), wanted);
        send_batch("10.9.0.2:9".parse().unwrap(), 1000, 6);
        assert_eq!(read_packets(&tun, 6).1, 0);
        tun.set_reads(UnfinishedPackets { udp: true, ..wanted });
        send_batch("10.9.0.2:9".parse().unwrap(), 1000, 6);
        assert_eq!(read_packets(&tun, 6).1, 1);
    });
}

#[test]
fn a_taken_name_is_refused_and_its_owner_named() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        ip("link add dummy type veth peer name other");
        let foreign = create("dummy").unwrap_err();
        assert!(matches!(&foreign, TunError::Foreign { driver, .. } if driver == "veth"));
        let held = create("wlheld0").unwrap();
        let busy = create("wlheld0").unwrap_err();
        let pid = format!("(pid {})", std::process::id());
        assert!(matches!(&busy, TunError::Busy { holder, .. } if holder.contains(&pid)), "{busy}");
        drop(held);
        until_ok(|| create("wlheld0"));
    });
}

#[test]
fn names_that_no_interface_can_have_are_refused() {
    for name in ["", "sixteen-letters-", "a b", "a/b", "a:b", "wg%d", "..", "é"] {
        assert!(matches!(create(name), Err(TunError::Name { .. })), "{name:?}");
    }
}

#[test]
fn a_given_descriptor_is_adopted_if_it_is_of_our_kind() {
    need!(root);
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let made = create("wl0").unwrap();
        let adopted = Tun::adopt(made.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(adopted.name(), "wl0");
        let fd = rustix::fs::open(CLONE_DEVICE, OFlags::RDWR, Mode::empty()).unwrap();
        let mut name = [0; libc::IFNAMSIZ];
        name[..3].copy_from_slice(b"wl1");
        sys::tun_set_interface(fd.as_fd(), &name, libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
        assert!(matches!(Tun::adopt(fd), Err(TunError::Adopted { .. })));
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        assert!(matches!(Tun::adopt(null), Err(TunError::System { .. })));
    });
}

#[test]
fn a_blocked_reader_wakes_for_a_stop_and_for_a_deleted_device() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let tun = device();
        let stop = Signal::new().unwrap();
        let (mut reader, mut frames) = (tun.reader(), FrameBuffer::new());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                loop {
                    let wake = reader.read(&mut frames, &stop).unwrap();
                    if wake == Wake::Stopped {
                        return;
                    }
                }
            });
            let raised = Instant::now();
            stop.raise();
            waiting.join().unwrap();
            assert!(raised.elapsed() < Duration::from_millis(100));
        });
        let never = Signal::new().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                loop {
                    if let Err(error) = reader.read(&mut frames, &never) {
                        return error;
                    }
                }
            });
            ip("link delete wl0");
            let error = waiting.join().unwrap();
            assert!(is_gone(&error), "{error}");
        });
    });
}
