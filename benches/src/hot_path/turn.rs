//! A batch all the way: out of one TUN device, sealed, through the network, opened, into the other TUN device; with
//! devices and network in memory, and in one thread instead of the data plane's own.

use std::num::NonZeroUsize;
use std::time::Duration;

use wireloom_io::memory::{self, MemoryHost, MemoryNetwork, MemoryTun};
use wireloom_io::{
    Binding, FrameBuffer, ReceiveBuffer, Signal, TunDevice as _, TunRead, TunWrite as _,
    UdpBind as _,
};
use wireloom_packet::{Arena, GsoKind, Merger, Outbox, VnetHeader};
use wireloom_tunnel::{EngineKind, Sealer};

use super::Work;
use super::pair::{BATCH, CLIENT, NOW, PORT, Pair, SERVER, address};
use super::pieces::ALL_OFFLOADS;
use super::samples::{packets, super_packet};

/// Both ends of a tunnel, and what one turn of each takes.
pub(super) struct Turn {
    frames: Vec<(VnetHeader, Vec<u8>)>,
    pair: Pair,
    stop: Signal,
    // What the sending thread holds.
    from: MemoryHost,
    reader: Box<dyn TunRead>,
    buffer: FrameBuffer,
    sealer: Sealer,
    outbox: Outbox,
    near: Binding,
    // What the receiving thread holds.
    far: Binding,
    received: ReceiveBuffer,
    arena: Arena,
    answers: Outbox,
    merger: Merger,
    tun: MemoryTun,
    to: MemoryHost,
}

impl Turn {
    pub(super) fn super_packet(gso: GsoKind) -> Self {
        Self::new(vec![super_packet(gso)])
    }

    pub(super) fn singles(length: usize) -> Self {
        let packets = packets(length, BATCH).into_iter();
        Self::new(packets.map(|packet| (VnetHeader::default(), packet)).collect())
    }

    fn new(frames: Vec<(VnetHeader, Vec<u8>)>) -> Self {
        let network = MemoryNetwork::default();
        let bind =
            |place| network.host(address(place).ip()).bind(PORT, 0, NonZeroUsize::MIN).unwrap();
        let (near, from) = memory::tun().unwrap();
        let (tun, to) = memory::tun().unwrap();
        Self {
            frames,
            pair: Pair::new(EngineKind::default()),
            stop: Signal::new().unwrap(),
            from,
            reader: near.readers().remove(0),
            buffer: FrameBuffer::new(),
            sealer: Sealer::default(),
            outbox: Outbox::default(),
            near: bind(CLIENT),
            far: bind(SERVER),
            received: ReceiveBuffer::new(),
            arena: Arena::default(),
            answers: Outbox::default(),
            merger: Merger::default(),
            tun,
            to,
        }
    }
}

impl Work for Turn {
    fn prepare(&mut self) {
        while self.to.receive(Duration::ZERO).is_some() {}
        for (header, packet) in &self.frames {
            self.from.send_frame(header, packet);
        }
    }

    fn run(&mut self) {
        let Self { pair, stop, sealer, outbox, arena, answers, merger, tun, .. } = self;
        self.reader.read(&mut self.buffer, stop).unwrap();
        self.buffer.with(|frames| pair.client.seal(NOW, frames, sealer, outbox));
        self.near.sender.send(0, NOW.since_boot(), outbox);
        outbox.clear();
        self.far.receivers[0][0].receive(&mut self.received, stop).unwrap();
        let ready = self.received.with(|received| pair.server.open(NOW, received, arena, answers));
        assert!(ready.is_empty(), "nothing waits for a session");
        merger.merge(arena, ALL_OFFLOADS);
        assert_eq!(merger.runs().len(), 1, "what left as one flow arrives as one");
        for run in merger.runs() {
            tun.write(0, &run.header, run.parts, arena.bytes()).unwrap();
        }
        arena.clear();
    }
}
