//! Which batches the kernel is asked for, each with a switch.

use wireloom_io::{TunDevice, UdpSend, UnfinishedPackets};
use wireloom_packet::MergeOffloads;

/// The offloads, as wanted or as in use. What the kernel lacks or refused is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// The TUN device hands out TCP super-packets.
    pub tcp_read: bool,
    /// The TUN device hands out UDP super-packets (Linux 6.2).
    pub udp_read: bool,
    /// TCP packets are merged before they are written to the TUN device.
    pub tcp_write: bool,
    /// UDP packets are merged before they are written to the TUN device (Linux 6.2).
    pub udp_write: bool,
    /// Outer datagrams are sent in batches (UDP GSO).
    pub gso: bool,
    /// Outer datagrams are received in batches (UDP GRO).
    pub gro: bool,
}

impl Offloads {
    /// Everything that the kernel has.
    pub const ALL: Self = Self {
        tcp_read: true,
        udp_read: true,
        tcp_write: true,
        udp_write: true,
        gso: true,
        gro: true,
    };

    /// Nothing: every packet by itself.
    pub const NONE: Self = Self {
        tcp_read: false,
        udp_read: false,
        tcp_write: false,
        udp_write: false,
        gso: false,
        gro: false,
    };

    /// Each offload by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("tcp_read", self.tcp_read),
            ("udp_read", self.udp_read),
            ("tcp_write", self.tcp_write),
            ("udp_write", self.udp_write),
            ("gso", self.gso),
            ("gro", self.gro),
        ]
        .into_iter()
    }

    pub(crate) fn apply(&self, tun: &dyn TunDevice, udp: &dyn UdpSend) {
        tun.set_reads(UnfinishedPackets { checksum: true, tcp: self.tcp_read, udp: self.udp_read });
        let (tcp4, tcp6) = (self.tcp_write, self.tcp_write);
        tun.set_writes(MergeOffloads { tcp4, tcp6, udp: self.udp_write });
        udp.set_offloads(self.gso, self.gro);
    }

    pub(crate) fn in_use(tun: &dyn TunDevice, udp: &dyn UdpSend) -> Self {
        let (reads, writes, (gso, gro)) = (tun.reads(), tun.writes(), udp.offloads());
        Self {
            tcp_read: reads.tcp,
            udp_read: reads.udp,
            tcp_write: writes.tcp4 && writes.tcp6,
            udp_write: writes.udp,
            gso,
            gro,
        }
    }
}

impl Default for Offloads {
    fn default() -> Self {
        Self::ALL
    }
}
