//! Each kind of packet with each peculiarity through two kernels and the tunnel between them: into one host, through
//! the tunnel, and out of the other host, each side a device that shows every packet as it is. The hosts' kernels make,
//! check, forward and cut the super-packets.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod support;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use support::{End, Host, two_ends};
use wireloom_dataplane::{Counter, Offloads};
use wireloom_io::{
    FrameBuffer, Signal, Tun, TunConfig, TunDevice as _, TunWrite as _, UnfinishedPackets, Wake,
};
use wireloom_packet::{Arena, IpPacket, MergeOffloads, Merger, VnetHeader};
use wireloom_testkit::matrix::{Kind, Peculiarity, stream};
use wireloom_testkit::sample::DESTINATION;
use wireloom_testkit::{ip, need};

const PATIENCE: Duration = Duration::from_secs(10);

/// A device of a host beside its tunnel, and the packets for [`DESTINATION`] that the host sends there.
struct Leaf {
    tun: Arc<Tun>,
    packets: mpsc::Receiver<Vec<u8>>,
    stop: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Leaf {
    fn new(host: &Host) -> Self {
        let tun = host.run(|| {
            let (name, queues) = ("leaf".to_owned(), NonZeroUsize::MIN);
            let tun = Tun::create(&TunConfig { name, mtu: 1420, queues }).unwrap();
            tun.set_reads(UnfinishedPackets::default());
            ip("link set leaf up");
            for (setting, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/wl0/rp_filter", "0"),
                ("ipv4/conf/leaf/rp_filter", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
            }
            Arc::new(tun)
        });
        let stop = Arc::new(Signal::new().unwrap());
        let (sender, packets) = mpsc::channel();
        let (reader, stopped) = (tun.readers().remove(0), Arc::clone(&stop));
        let thread = Some(thread::spawn(move || read(reader, &stopped, &sender)));
        Self { tun, packets, stop, thread }
    }
}

fn read(mut tun: Box<dyn wireloom_io::TunRead>, stop: &Signal, packets: &mpsc::Sender<Vec<u8>>) {
    let mut frames = FrameBuffer::new();
    while tun.read(&mut frames, stop).unwrap() == Wake::Ready {
        frames.with(|frames| {
            for frame in frames {
                assert_eq!(frame.header, VnetHeader::default(), "the host cuts and completes");
                let packet = IpPacket::parse(frame.packet).unwrap();
                if DESTINATION.contains(&packet.destination()) {
                    let _ = packets.send(frame.packet.to_vec());
                }
            }
        });
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.stop.raise();
        // A panic of the reader was printed when it happened, and packets are missing then.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Two hosts with a tunnel between them and a leaf each.
struct Rig {
    a: End,
    b: End,
    from: Leaf,
    to: Leaf,
}

impl Rig {
    fn new() -> Self {
        let (a, b) = two_ends();
        a.add_peer(&b, Some(b.endpoint(true)));
        b.add_peer(&a, None);
        let (from, to) = (Leaf::new(&a.host), Leaf::new(&b.host));
        for (host, link) in [(&a.host, "wl0"), (&b.host, "leaf")] {
            host.ip(&format!("route add 10.2.0.0/16 dev {link}"));
            host.ip(&format!("-6 route add fd02::/64 dev {link}"));
        }
        a.pings(&b);
        Self { a, b, from, to }
    }

    /// Sends a stream of each cell, as packets and as super-packets, and checks what comes out: each packet as it was,
    /// but for the two hops.
    fn carries_all(&self) {
        for kind in Kind::ALL {
            for what in Peculiarity::ALL {
                let (sent, _) = stream(kind, what, 64);
                let (expected, _) = stream(kind, what, 62);
                for offloads in [NO_MERGE, ALL_MERGE] {
                    self.send(&sent, offloads);
                    for (place, packet) in expected.iter().enumerate() {
                        let out = self.to.packets.recv_timeout(PATIENCE).ok();
                        assert!(
                            out.as_ref() == Some(packet),
                            "{kind:?}, {what:?}, {offloads:?}: packet {place}: {packet:02x?} became {out:02x?}"
                        );
                    }
                }
            }
        }
        assert_eq!(self.to.packets.try_recv().ok(), None, "nothing twice");
        for end in [&self.a, &self.b] {
            let counters = end.dataplane.counters();
            assert!(counters.iter().all(|(counter, count)| !counter.is_drop() || count == 0));
        }
    }

    fn send(&self, packets: &[Vec<u8>], offloads: MergeOffloads) {
        let mut arena = Arena::default();
        for packet in packets {
            arena.slot(packet.len()).copy_from_slice(packet);
            arena.commit(packet.len());
        }
        let mut merger = Merger::default();
        merger.merge(&mut arena, offloads);
        for run in merger.runs() {
            let parts: &[Range<usize>] = run.parts;
            self.from.tun.write(0, &run.header, parts, arena.bytes()).unwrap();
        }
        assert_eq!(self.from.tun.refused(), 0, "the host takes what is sent");
    }

    fn switch(&self, offloads: Offloads) {
        for end in [&self.a, &self.b] {
            end.dataplane.set_offloads(offloads);
            assert_eq!(end.dataplane.offloads(), offloads, "what is wanted is in use");
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.a.dataplane.counters().of(counter) + self.b.dataplane.counters().of(counter)
    }
}

const ALL_MERGE: MergeOffloads = MergeOffloads { tcp4: true, tcp6: true, udp: true };
const NO_MERGE: MergeOffloads = MergeOffloads { tcp4: false, tcp6: false, udp: false };

macro_rules! need_namespaces {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ip");
        need!(program "ping");
    };
}

#[test]
fn everything_crosses_with_all_offloads() {
    need_namespaces!();
    let rig = Rig::new();
    rig.carries_all();
    let refused = rig.a.dataplane.refused_super_packets() + rig.b.dataplane.refused_super_packets();
    assert_eq!((refused, rig.count(Counter::Unbatched)), (0, 0));
    let [read, sent, batches, received, written] = [
        Counter::FramesRead,
        Counter::DatagramsSent,
        Counter::BatchesReceived,
        Counter::DatagramsReceived,
        Counter::FramesWritten,
    ]
    .map(|counter| rig.count(counter));
    assert!(read < sent && batches < received && written < received, "batches are in use");
}

#[test]
fn everything_crosses_with_any_offload_off() {
    need_namespaces!();
    let rig = Rig::new();
    let on = Offloads::ALL;
    for offloads in [
        Offloads { tcp_read: false, ..on },
        Offloads { udp_read: false, ..on },
        Offloads { tcp_write: false, ..on },
        Offloads { udp_write: false, ..on },
        Offloads { gso: false, ..on },
        Offloads { gro: false, ..on },
        Offloads::NONE,
    ] {
        rig.switch(offloads);
        rig.carries_all();
    }
}

/// Segments that are larger than the wire: the kernel takes no batch of them, and each goes out in fragments.
#[test]
fn everything_crosses_where_the_kernel_refuses_batches() {
    need_namespaces!();
    let rig = Rig::new();
    for end in [&rig.a, &rig.b] {
        end.host.ip("link set eth0 mtu 1000");
    }
    rig.carries_all();
    assert!(rig.count(Counter::Unbatched) > 0);
}
