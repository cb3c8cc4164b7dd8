//! Streams of packets with everything that has broken segmentation offloads: each kind of packet with each peculiarity.

use crate::sample::{ACK, PSH, Sample, bytes, fragments};

const CE: u8 = 0b11;
const ECT0: u8 = 0b10;
const ECT1: u8 = 0b01;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// The payload of a packet that is no tail, in bytes.
const PAYLOAD: usize = 1000;
/// What a fragment carries but the last, in bytes.
const FRAGMENT: usize = 800;

/// A kind of packets that the kernel has an offload for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];

    /// Whether it is TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    /// Whether it is IPv6.
    pub const fn is_v6(self) -> bool {
        matches!(self, Self::Tcp6 | Self::Udp6)
    }
}

/// What is peculiar of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peculiarity {
    /// A checksum of 0: none in UDP, a wrong one in TCP.
    ChecksumZero,
    /// ECN bits that change, and TCP's flags about them.
    Ecn,
    /// Fragments among whole packets.
    Fragments,
    /// DF and the id of IPv4, or the flow label of IPv6.
    Identity,
    /// Options of TCP that change, or of IP in UDP.
    Options,
    /// Data that is pushed in the middle. A datagram always is.
    Push,
    /// Packets shorter than those before them.
    ShortTail,
}

impl Peculiarity {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ChecksumZero,
        Self::Ecn,
        Self::Fragments,
        Self::Identity,
        Self::Options,
        Self::Push,
        Self::ShortTail,
    ];
}

/// A stream while it is written.
struct Stream {
    flow: Sample,
    tcp: bool,
    sequence: u32,
    packets: Vec<Vec<u8>>,
}

impl Stream {
    fn send(&mut self, length: usize) {
        self.send_with(length, ACK, &[]);
    }

    fn send_with(&mut self, length: usize, flags: u8, options: &[u8]) {
        let payload = bytes(length);
        self.packets.push(if self.tcp {
            self.flow.tcp(self.sequence, flags, options, &payload)
        } else {
            self.flow.udp(&payload)
        });
        self.sequence = self.sequence.wrapping_add(length as u32);
        self.flow.id = self.flow.id.wrapping_add(1);
    }

    /// Packets that are alike.
    fn alike(&mut self, count: usize) {
        (0..count).for_each(|_| self.send(PAYLOAD));
    }

    /// The last packet's checksum becomes 0.
    fn clear_checksum(&mut self) {
        let packet = self.packets.last_mut().unwrap();
        let ip = if self.flow.v6 { 40 } else { 20 };
        let at = ip + if self.tcp { 16 } else { 6 };
        packet[at..at + 2].fill(0);
    }

    fn cut_last(&mut self) {
        let packet = self.packets.pop().unwrap();
        self.packets.extend(fragments(&packet, FRAGMENT));
    }
}

/// A stream of a kind with a peculiarity whose packets set out with so many hops, and how many of them at a time may
/// become one super-packet.
///
/// # Panics
///
/// Never for what it is asked to make.
pub fn stream(kind: Kind, what: Peculiarity, hops: u8) -> (Vec<Vec<u8>>, Vec<usize>) {
    let flow = Sample { hops, df: false, ..Sample::new(kind.is_v6(), 5001) };
    let tcp = kind.is_tcp();
    // The sequence number and the id wrap around on the way.
    let mut stream = Stream { flow, tcp, sequence: u32::MAX - 2500, packets: Vec::new() };
    let runs: &[usize] = match what {
        Peculiarity::ChecksumZero => {
            stream.alike(2);
            for _ in 0..2 {
                stream.send(PAYLOAD);
                stream.clear_checksum();
            }
            stream.alike(2);
            &[2, 1, 1, 2]
        }
        Peculiarity::Ecn => {
            for class in [ECT0, ECT0, CE, CE, ECT1, 0, ECT0] {
                stream.flow.traffic_class = class;
                stream.send(PAYLOAD);
            }
            for flags in [ACK | ECE, ACK | ECE, ACK | CWR, ACK].into_iter().filter(|_| tcp) {
                stream.send_with(PAYLOAD, flags, &[]);
            }
            if tcp { &[2, 2, 1, 1, 1, 2, 1, 1] } else { &[2, 2, 1, 1, 1] }
        }
        Peculiarity::Fragments => {
            stream.alike(2);
            stream.cut_last();
            stream.alike(2);
            stream.send(2 * FRAGMENT + 100);
            stream.cut_last();
            stream.alike(1);
            &[1, 1, 1, 2, 1, 1, 1, 1]
        }
        Peculiarity::Identity if kind.is_v6() => {
            for label in [1, 1, 2, 2, 1, 0xfffff] {
                stream.flow.label = label;
                stream.send(PAYLOAD);
            }
            &[2, 2, 1, 1]
        }
        Peculiarity::Identity => {
            // In order, repeated, with DF, and with a gap.
            stream.alike(3);
            stream.flow.id -= 1;
            stream.alike(1);
            stream.flow.df = true;
            stream.alike(2);
            stream.flow.id += 9;
            stream.alike(2);
            &[3, 1, 2, 2]
        }
        Peculiarity::Options if tcp => {
            for stamp in [1, 1, 2, 2, 2, 1] {
                let options = [1, 1, 8, 10, 0, 0, 0, stamp, 0, 0, 0, 9];
                stream.send_with(PAYLOAD, ACK, &options);
            }
            stream.alike(2);
            &[2, 3, 1, 2]
        }
        Peculiarity::Options => {
            stream.alike(2);
            stream.flow.ip_options = true;
            stream.alike(2);
            stream.flow.ip_options = false;
            stream.alike(2);
            &[2, 1, 1, 2]
        }
        Peculiarity::Push if tcp => {
            for push in [0, PSH, 0, 0, PSH, PSH, 0] {
                stream.send_with(PAYLOAD, ACK | push, &[]);
            }
            &[2, 3, 1, 1]
        }
        Peculiarity::Push => {
            stream.alike(3);
            &[3]
        }
        Peculiarity::ShortTail => {
            for length in [PAYLOAD, PAYLOAD, PAYLOAD, 7, PAYLOAD, PAYLOAD, 1, 999, 998] {
                stream.send(length);
            }
            &[4, 3, 2]
        }
    };
    (stream.packets, runs.to_vec())
}

/// Makes a test of each cell, each named `PECULIARITY::KIND`, that calls a function of a [`Kind`] and a [`Peculiarity`].
#[macro_export]
macro_rules! each_cell {
    ($check:path) => {
        $crate::each_cell! {
            @ $check:
            checksum_zero ChecksumZero, ecn Ecn, fragments Fragments, identity Identity, options Options, push Push,
            short_tail ShortTail
        }
    };
    (@ $check:path: $($name:ident $what:ident),*) => {
        $(mod $name {
            use $crate::matrix::{Kind, Peculiarity};

            #[test]
            fn tcp4() {
                $check(Kind::Tcp4, Peculiarity::$what);
            }

            #[test]
            fn tcp6() {
                $check(Kind::Tcp6, Peculiarity::$what);
            }

            #[test]
            fn udp4() {
                $check(Kind::Udp4, Peculiarity::$what);
            }

            #[test]
            fn udp6() {
                $check(Kind::Udp6, Peculiarity::$what);
            }
        })*
    };
}
