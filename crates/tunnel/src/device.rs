//! The device: peers, the table that finds them, and the batches that pass through.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand_chacha::{ChaCha8Rng, ChaCha20Rng};
use rand_core::{RngCore as _, SeedableRng as _};
use wireloom_model::PublicKey;
use wireloom_packet::{Local, Outbox};

use crate::allowed_ips::{Routes, Slot};
use crate::cookie::Macs;
use crate::drops::{DropCounts, Drops};
use crate::engine::{EngineKind, Identity, Limits, Wall};
use crate::gate::Gate;
use crate::moment::{Moment, wall_clock};
use crate::peer::Peer;
use crate::uapi::{DeviceStatus, PathStatus, PeerStatus};

use configure::Control;
pub use configure::Effects;
pub use inbound::Ready;
pub use outbound::{Refusal, Sealer};

mod configure;
mod inbound;
mod outbound;

/// The largest packet that is padded: the tunnel's MTU unless [`Device::set_mtu`] says otherwise (1,500 bytes less
/// 80 for the outer IPv6 and UDP headers and the message's own).
const DEFAULT_MTU: u16 = 1_420;
/// A WireGuard device: any number of threads may seal, open, tick and configure it at the same time. Packets of one flow
/// stay in order if one thread seals them, and those of one peer if one thread opens them: the second lowest byte of the
/// receiver's index in a message counts up from peer to peer, by which messages can be shared out among threads.
///
/// It holds no socket and no clock. Whoever drives it passes the time as `now`, sends what an [`Outbox`] holds after
/// each call, and calls [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says so.
pub struct Device {
    table: ArcSwap<Table>,
    control: Mutex<Control>,
    gate: Mutex<Gate>,
    drops: Drops,
    mtu: AtomicU16,
    /// When the first peer's timers are due, or earlier; in nanoseconds since boot, `u64::MAX` for never.
    next: AtomicU64,
    kind: EngineKind,
    limits: Limits,
    wall: Wall,
}

/// What the hot path looks things up in. It is replaced as a whole.
#[derive(Clone, Default)]
struct Table {
    own: Option<Arc<Own>>,
    peers: Vec<Option<Arc<Peer>>>,
    by_key: HashMap<PublicKey, Slot>,
    /// By the upper 24 bits of the receiver's index.
    by_index: HashMap<u32, Slot>,
    routes: Arc<Routes>,
}

/// Who we are, and the MACs that go with it.
struct Own {
    identity: Identity,
    macs: Macs,
}

impl Table {
    fn peer(&self, slot: Slot) -> Option<&Peer> {
        self.peers.get(slot as usize)?.as_deref()
    }
}

impl Device {
    /// A device without a key and without peers, with the engine that is chosen by default. All its randomness but the
    /// ephemeral keys' comes from the seed, which must be secret.
    pub fn new(seed: [u8; 32]) -> Self {
        Self::with_engine(seed, EngineKind::default())
    }

    /// The same with this engine.
    pub fn with_engine(seed: [u8; 32], kind: EngineKind) -> Self {
        Self::with_limits(seed, kind, Limits::WIREGUARD, wall_clock)
    }

    fn with_limits(seed: [u8; 32], kind: EngineKind, limits: Limits, wall: Wall) -> Self {
        let mut random = ChaCha20Rng::from_seed(seed);
        let gate = Gate::new(fork(&mut random));
        Self {
            table: ArcSwap::default(),
            control: Mutex::new(Control::new(random)),
            gate: Mutex::new(gate),
            drops: Drops::default(),
            mtu: AtomicU16::new(DEFAULT_MTU),
            next: AtomicU64::new(u64::MAX),
            kind,
            limits,
            wall,
        }
    }

    /// Which engine the device uses.
    pub const fn engine(&self) -> EngineKind {
        self.kind
    }

    /// Tells the MTU of the tunnel interface in bytes: no packet is padded beyond it.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Learns how long outer packets to the peers' endpoints may be, IP header included, by asking for each peer that frames
    /// came for since this was called last. A longer packet that may not be fragmented is refused from then on
    /// ([`DropReason::TooBig`](crate::DropReason::TooBig)); others go out all the same, in outer fragments.
    pub fn look_at_paths(&self, mut mtu: impl FnMut(SocketAddr) -> Option<u32>) {
        let table = self.table.load();
        table.peers.iter().flatten().for_each(|peer| peer.look_at_path(&mut mtu));
    }

    /// Gives up, at peers that are answered from the address that they addressed, those source addresses that `stays` does
    /// not stand by: their routes have moved. The next datagram that comes in says what to answer from.
    pub fn look_at_sources(&self, mut stays: impl FnMut(SocketAddr, Local) -> bool) {
        let table = self.table.load();
        table.peers.iter().flatten().for_each(|peer| peer.look_at_source(&mut stays));
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; `None` while nothing is pending. It may be early,
    /// never late. Costs one atomic load: a thread that has sealed, opened or configured compares it with what the
    /// timer's thread waits for, and wakes that one if it has moved earlier.
    pub fn poll_timeout(&self) -> Option<Moment> {
        match self.next.load(Ordering::SeqCst) {
            u64::MAX => None,
            nanos => Some(Moment::from_nanos(nanos)),
        }
    }

    /// Does what is due: handshakes, repeated or renewed, keepalives, and forgetting.
    pub fn handle_timeout(&self, now: Moment, outbox: &mut Outbox) {
        let table = self.table.load();
        let mut drops = DropCounts::default();
        // What others arm from here on stays; what they armed before is found at the peers.
        self.next.store(u64::MAX, Ordering::SeqCst);
        for peer in table.peers.iter().flatten() {
            if peer.deadline() <= now.nanos() {
                let mut turn = peer.turn(now);
                turn.tick(outbox, &mut drops);
                turn.end(outbox);
            }
            self.next.fetch_min(peer.deadline(), Ordering::SeqCst);
        }
        self.drops.add(&drops);
    }

    /// Tells that the host was suspended: what lies between us and the peers may have forgotten us. Peers that are kept
    /// alive, or that packets wait for, are called at once, the others on their first packet.
    pub fn resumed(&self, now: Moment) {
        let table = self.table.load();
        for peer in table.peers.iter().flatten() {
            let mut turn = peer.turn(now);
            turn.state.doubt(now);
            self.arm(turn.park());
        }
    }

    /// The device's state as `get=1` shows it. `wall` is the time since the Unix epoch. The listen port, the mark
    /// and the path are to be filled in by whoever moves the packets.
    pub fn status(&self, now: Moment, wall: Duration) -> DeviceStatus {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.table.load();
        let peers = control.peers().filter_map(|(key, entry)| {
            let state = table.peer(entry.slot)?.state();
            Some(PeerStatus {
                key: *key,
                preshared_key: entry.preshared_key.clone(),
                endpoint: state.path.map(|path| path.remote),
                last_handshake: state.last_handshake.map(|at| wall.saturating_sub(now.since(at))),
                tx_bytes: state.tx_bytes,
                rx_bytes: state.rx_bytes,
                persistent_keepalive: entry.persistent_keepalive,
                allowed_ips: control.allowed_ips().of(entry.slot),
            })
        });
        DeviceStatus {
            private_key: control.private_key().cloned(),
            listen_port: 0,
            fwmark: 0,
            peers: peers.collect(),
            path: PathStatus::default(),
        }
    }

    /// What was dropped since the device was made.
    pub fn drops(&self) -> DropCounts {
        self.drops.read()
    }

    fn arm(&self, deadline: Option<Moment>) {
        if let Some(deadline) = deadline {
            self.next.fetch_min(deadline.nanos(), Ordering::SeqCst);
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("drops", &self.drops()).finish_non_exhaustive()
    }
}

/// A generator of its own for a part of the device.
fn fork(random: &mut ChaCha20Rng) -> ChaCha8Rng {
    let mut seed = [0; 32];
    random.fill_bytes(&mut seed);
    ChaCha8Rng::from_seed(seed)
}

#[cfg(test)]
mod tests;
