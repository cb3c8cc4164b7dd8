//! Packets of one flow merged into super-packets, which the TUN device takes in one write.
//!
//! What merges is what Linux's own receive offload merges (`net/core/gro.c`, `net/ipv4/tcp_offload.c`,
//! `net/ipv4/udp_offload.c`): packets whose headers differ only in length, id and checksum, in sequence. A packet's
//! checksums are verified before it merges, because the super-packet tells the kernel that they are right; one that
//! fails, like any other packet that may not merge, passes as it is, and ends the run of its flow. So no packet
//! overtakes another of its flow, and splitting the super-packet gives back what was merged.

mod flow;
mod pending;

use std::ops::Range;

use self::flow::Flow;
use self::pending::Pending;
use crate::batch::Arena;
use crate::vnet::VnetHeader;

/// The UDP destination ports whose datagrams are never merged unless told otherwise: VXLAN (4789, and 8472 as Linux had
/// it first) and Geneve (6081). Their receivers in the kernel handle super-packets badly.
pub const UNMERGED_UDP_PORTS: [u16; 3] = [4789, 6081, 8472];

/// The runs that may be open at once; when one more opens, the one opened first is closed.
const OPEN_RUNS: usize = 16;

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
    /// Places in the arena's bytes: the first packet whole, then the payloads of the packets that follow it. Never
    /// empty, and at most 512.
    pub parts: &'a [Range<usize>],
}

/// Merges the packets of an arena. Its memory is reused from batch to batch.
#[derive(Debug)]
pub struct Merger {
    unmerged_udp_ports: Vec<u16>,
    /// One for each run, in the order of their first packets.
    runs: Vec<Pending>,
    /// The runs that may still grow.
    open: Vec<Open>,
    /// For each packet in order, its run and what it adds to it.
    joins: Vec<(usize, Range<usize>)>,
    /// The same, run by run.
    parts: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Open {
    flow: Flow,
    run: usize,
}

impl Default for Merger {
    fn default() -> Self {
        Self::new(&UNMERGED_UDP_PORTS)
    }
}

impl Merger {
    /// A merger that leaves alone UDP datagrams to these ports.
    pub fn new(unmerged_udp_ports: &[u16]) -> Self {
        Self {
            unmerged_udp_ports: unmerged_udp_ports.to_vec(),
            runs: Vec::new(),
            open: Vec::with_capacity(OPEN_RUNS),
            joins: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Merges the arena's packets and rewrites the headers of those that start a run of several. The
    /// [`runs`](Self::runs) stand until the next call.
    pub fn merge(&mut self, arena: &mut Arena, offloads: MergeOffloads) {
        self.runs.clear();
        self.open.clear();
        self.joins.clear();
        let (packets, bytes) = arena.parts_mut();
        for range in packets {
            self.place(bytes, range.clone(), offloads);
        }
        self.gather(bytes);
    }

    /// The runs of the last [`merge`](Self::merge), in the order of their first packets.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run<'_>> {
        self.runs
            .iter()
            .map(|run| Run { header: run.header(), parts: &self.parts[run.parts.clone()] })
    }

    /// Finds the run that a packet joins, or starts one.
    fn place(&mut self, bytes: &[u8], range: Range<usize>, offloads: MergeOffloads) {
        let packet = &bytes[range.clone()];
        let (flow, segment) = flow::classify(packet, offloads, &self.unmerged_udp_ports);
        let mut opens = None;
        match (flow, segment) {
            (Some(flow), Some(segment)) => {
                if let Some(at) = self.open.iter().rposition(|open| open.flow == flow) {
                    let run = self.open[at].run;
                    let pending = &mut self.runs[run];
                    if pending.takes(bytes, packet, &segment) {
                        pending.join(bytes, packet, &segment);
                        if pending.is_complete() {
                            self.open.remove(at);
                        }
                        self.joins.push((run, range.start + segment.headers..range.end));
                        return;
                    }
                    self.open.remove(at);
                }
                opens = Some((flow, segment));
            }
            (Some(flow), None) => self.open.retain(|open| !open.flow.may_hold(&flow)),
            // Bytes that are no IP packet may have been one of any flow.
            (None, _) => self.open.clear(),
        }
        let run = self.runs.len();
        self.joins.push((run, range.clone()));
        let Some((flow, segment)) = opens else {
            self.runs.push(Pending::alone(range));
            return;
        };
        let pending = Pending::start(packet, range, segment);
        if !pending.is_complete() {
            if self.open.len() == OPEN_RUNS {
                self.open.remove(0);
            }
            self.open.push(Open { flow, run });
        }
        self.runs.push(pending);
    }

    /// Brings each run's parts together and finishes the headers.
    fn gather(&mut self, bytes: &mut [u8]) {
        let mut next = 0;
        for run in &mut self.runs {
            run.parts = next..next;
            next += run.packets();
            run.finish(bytes);
        }
        self.parts.clear();
        self.parts.resize(next, 0..0);
        for (run, part) in &self.joins {
            let parts = &mut self.runs[*run].parts;
            self.parts[parts.end] = part.clone();
            parts.end += 1;
        }
    }
}

#[cfg(test)]
mod tests;
