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
    create_with(name, 1)
}

fn create_with(name: &str, queues: usize) -> Result<Tun, TunError> {
    let queues = NonZeroUsize::new(queues).unwrap();
    Tun::create(&TunConfig { name: name.to_owned(), mtu: DEFAULT_MTU, queues })
}

/// A device that is up, with an address and a neighbourhood in each family, and silent.
fn device() -> Tun {
    device_with(1)
}

fn device_with(queues: usize) -> Tun {
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    let tun = create_with("wl0", queues).unwrap();
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
    let mut reader = tun.readers().remove(0);
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
    let binding = crate::udp::UdpBinder::new().bind(0, 0, NonZeroUsize::MIN).unwrap();
    let mut outbox = wireloom_packet::Outbox::default();
    let path = wireloom_packet::Path { remote: address, local: None };
    (0..count).for_each(|n| outbox.push(&vec![n as u8; size], &path, wireloom_packet::Ecn::NotEct));
    let report = UdpSend::send(&*binding.sender, 0, Duration::ZERO, &outbox);
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
                tun.write(0, &run.header, run.parts, arena.bytes()).unwrap();
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
        tun.write(0, &header, run.parts, arena.bytes()).unwrap();
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
        assert!(tun.write(0, &header, run.parts, arena.bytes()).is_err());
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

/// A frame for UDP port 9, by the flow's source port and the number in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbered {
    queue: usize,
    port: u16,
    number: u8,
}

/// Reads what the host sends to UDP port 9 of an IPv4 host, from every queue, until so many packets have come.
fn read_numbered(tun: &Tun, count: usize) -> Vec<Numbered> {
    let stop = Signal::new().unwrap();
    let (found, numbered) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for (queue, mut reader) in tun.readers().into_iter().enumerate() {
            let (found, stop) = (found.clone(), &stop);
            scope.spawn(move || {
                let mut frames = FrameBuffer::new();
                while reader.read(&mut frames, stop).unwrap() == Wake::Ready {
                    frames.with(|frames| {
                        for packet in frames.iter().map(|frame| frame.packet) {
                            if packet[0] == 0x45 && packet[22..24] == 9u16.to_be_bytes() {
                                let port = u16::from_be_bytes([packet[20], packet[21]]);
                                found.send(Numbered { queue, port, number: packet[28] }).unwrap();
                            }
                        }
                    });
                }
            });
        }
        let patience = Duration::from_secs(10);
        let all = (0..count).map(|_| numbered.recv_timeout(patience).expect("a packet")).collect();
        stop.raise();
        all
    })
}

#[test]
fn a_flow_comes_out_of_the_queue_that_its_answers_went_in_by() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let tun = device_with(4);
        let socket = || UdpSocket::bind("10.9.0.1:0").unwrap();
        let flows: Vec<UdpSocket> = (0..32).map(|_| socket()).collect();
        let send_all = || {
            for number in 0..8 {
                flows.iter().for_each(|flow| {
                    flow.send_to(&[number], "10.9.0.2:9").unwrap();
                });
            }
            read_numbered(&tun, 8 * flows.len())
        };
        let of = |numbered: &[Numbered], flow: &UdpSocket| -> Vec<Numbered> {
            let port = flow.local_addr().unwrap().port();
            numbered.iter().filter(|one| one.port == port).copied().collect()
        };
        let first = send_all();
        let mut used = [false; 4];
        for flow in &flows {
            let frames = of(&first, flow);
            let numbers: Vec<u8> = frames.iter().map(|one| one.number).collect();
            assert_eq!(numbers, (0..8).collect::<Vec<_>>(), "in order");
            assert!(frames.iter().all(|one| one.queue == frames[0].queue), "out of one queue");
            used[frames[0].queue] = true;
        }
        assert!(used.iter().filter(|used| **used).count() > 1, "flows spread: {used:?}");
        for (number, flow) in flows.iter().enumerate() {
            let port = flow.local_addr().unwrap().port().to_be_bytes();
            let mut answer = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
            answer.extend([10, 9, 0, 2, 10, 9, 0, 1, 0, 9, port[0], port[1], 0, 9, 0, 0, 7]);
            let sum = wireloom_packet::checksum::Sum::of(&answer[..20]).checksum();
            answer[10..12].copy_from_slice(&sum.to_be_bytes());
            tun.write(number % 4, &VnetHeader::default(), &[0..20, 20..29], &answer).unwrap();
            flow.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(flow.recv(&mut [0; 9]).unwrap(), 1, "the answer came");
        }
        let second = send_all();
        for (number, flow) in flows.iter().enumerate() {
            let queues = of(&second, flow).iter().map(|one| one.queue).collect::<Vec<_>>();
            assert_eq!(queues, [number % 4; 8]);
        }
    });
}

#[test]
fn all_queues_go_with_the_device() {
    need!(root);
    need!(program "ip");
    need!(device "/dev/net/tun");
    in_new_network(|| {
        let tun = create_with("wl0", 4).unwrap();
        let shown = ip("-d link show wl0");
        assert!(shown.contains("numqueues 4 ") && tun.readers().len() == 4, "{shown}");
        drop(tun);
        until_ok(|| create("wl0"));
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
        let adopted = Tun::adopt(made.hand_over().unwrap()).unwrap();
        assert_eq!(adopted.name(), "wl0");
        let fd = rustix::fs::open(CLONE_DEVICE, OFlags::RDWR, Mode::empty()).unwrap();
        let mut name = [0; libc::IFNAMSIZ];
        name[..3].copy_from_slice(b"wl1");
        sys::tun_set_interface(fd.as_fd(), &name, libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
        assert!(matches!(Tun::adopt([fd]), Err(TunError::Adopted { .. })));
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        assert!(matches!(Tun::adopt([null]), Err(TunError::System { .. })));
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
        let (mut reader, mut frames) = (tun.readers().remove(0), FrameBuffer::new());
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
