//! Changes of the device: the authoritative configuration, and how it becomes the table of the hot path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use wireloom_model::{PresharedKey, PrivateKey, PublicKey};

use super::{Device, Own, Table, fork};
use crate::allowed_ips::{AllowedIps, Slot};
use crate::cookie::Macs;
use crate::engine::{Engine, Identity};
use crate::moment::Moment;
use crate::peer::Peer;
use crate::uapi::{SetDevice, SetPeer};

/// What a change asks of whoever owns the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "the socket's owner has to do what the device can't"]
pub struct Effects {
    /// The port to listen on; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// The mark of outer packets; 0 is none.
    pub fwmark: Option<u32>,
}

/// The configuration.
pub(super) struct Control {
    private_key: Option<PrivateKey>,
    peers: BTreeMap<PublicKey, Entry>,
    allowed_ips: AllowedIps,
    /// What the indexes of the first peer end with, so that they do not tell how many there are.
    first_byte: u32,
    random: ChaCha20Rng,
}

/// A peer's configuration.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    pub(super) preshared_key: Option<PresharedKey>,
    /// In seconds; 0 is off.
    pub(super) persistent_keepalive: u16,
}

/// A change under way: the table as it will be.
struct Draft<'a> {
    now: Moment,
    device: &'a Device,
    control: &'a mut Control,
    table: Table,
    is_new: bool,
}

impl Control {
    pub(super) fn new(mut random: ChaCha20Rng) -> Self {
        Self {
            private_key: None,
            peers: BTreeMap::new(),
            allowed_ips: AllowedIps::default(),
            first_byte: random.next_u32(),
            random,
        }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (&PublicKey, &Entry)> {
        self.peers.iter()
    }

    pub(super) const fn allowed_ips(&self) -> &AllowedIps {
        &self.allowed_ips
    }

    pub(super) const fn private_key(&self) -> Option<&PrivateKey> {
        self.private_key.as_ref()
    }
}

impl Device {
    /// Changes the configuration. What the request does not name stays as it is: sessions, endpoints and timers of
    /// other peers do not notice, and a change of nothing changes nothing. Nothing is sent from here; what is to be
    /// sent is due at once ([`poll_timeout`](Self::poll_timeout)).
    pub fn set(&self, now: Moment, request: &SetDevice) -> Effects {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let table = Table::clone(&self.table.load());
        let mut draft = Draft { now, device: self, control: &mut control, table, is_new: false };
        if let Some(key) = &request.private_key {
            draft.set_private_key(key.as_ref());
        }
        if request.replace_peers {
            draft.keep_only(request);
        }
        for peer in &request.peers {
            draft.set_peer(peer, request.replace_peers);
        }
        draft.publish();
        Effects { listen_port: request.listen_port, fwmark: request.fwmark }
    }
}

impl Draft<'_> {
    fn set_private_key(&mut self, key: Option<&PrivateKey>) {
        if key.map(PrivateKey::as_bytes) == self.control.private_key().map(PrivateKey::as_bytes) {
            return;
        }
        self.is_new = true;
        self.control.private_key = key.cloned();
        let kind = self.device.kind;
        self.table.own = key.map(|key| {
            let identity = Identity::new(kind, key);
            let macs = Macs::new(&identity.public_key());
            Arc::new(Own { identity, macs })
        });
        if let Some(own) = self.own_key() {
            self.remove(&own);
        }
        let keys: Vec<PublicKey> = self.control.peers.keys().copied().collect();
        for key in keys {
            let engine = self.engine(&key);
            let own = self.own_key();
            if let Some(peer) = self.peer(&key) {
                let mut turn = peer.turn(self.now);
                turn.state.is_higher = own.is_some_and(|own| own > key);
                turn.state.reset_engine(self.now, engine);
                self.device.arm(turn.park());
            }
        }
    }

    fn keep_only(&mut self, request: &SetDevice) {
        let named: BTreeSet<PublicKey> = request.peers.iter().map(|peer| peer.key).collect();
        let gone = self.control.peers.keys().filter(|key| !named.contains(key));
        let gone: Vec<PublicKey> = gone.copied().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    fn set_peer(&mut self, set: &SetPeer, replaces: bool) {
        if set.remove {
            return self.remove(&set.key);
        }
        // Nobody is a peer of itself; Linux passes over it as well.
        if self.own_key() == Some(set.key) {
            return;
        }
        let is_known = self.control.peers.contains_key(&set.key);
        if !is_known {
            if set.update_only {
                return;
            }
            self.add(set.key);
        }
        let preshared_key = set.preshared_key.clone().or_else(|| replaces.then_some(None));
        if let Some(preshared_key) = preshared_key {
            self.set_preshared_key(&set.key, preshared_key);
        }
        self.set_allowed_ips(set, replaces);
        let keepalive = set.persistent_keepalive.or_else(|| replaces.then_some(0));
        let Some(entry) = self.control.peers.get_mut(&set.key) else { return };
        entry.persistent_keepalive = keepalive.unwrap_or(entry.persistent_keepalive);
        let interval = entry.persistent_keepalive;
        if let Some(peer) = self.peer(&set.key) {
            let mut turn = peer.turn(self.now);
            turn.state.timers.set_interval(self.now, interval);
            if let Some(endpoint) = set.endpoint {
                turn.state.point_at(self.now, endpoint);
            }
            self.device.arm(turn.park());
        }
    }

    fn set_preshared_key(&mut self, key: &PublicKey, preshared_key: Option<PresharedKey>) {
        let Some(entry) = self.control.peers.get_mut(key) else { return };
        if entry.preshared_key == preshared_key {
            return;
        }
        entry.preshared_key = preshared_key;
        if let (Some(engine), Some(peer)) = (self.engine(key), self.peer(key)) {
            peer.turn(self.now).state.replace_engine(self.now, engine);
            self.is_new = true;
        }
    }

    fn set_allowed_ips(&mut self, set: &SetPeer, replaces: bool) {
        let Some(slot) = self.control.peers.get(&set.key).map(|entry| entry.slot) else { return };
        let allowed_ips = &mut self.control.allowed_ips;
        if replaces || set.replace_allowed_ips {
            allowed_ips.retain(slot, &set.allowed_ips);
        }
        for prefix in &set.removed_allowed_ips {
            allowed_ips.remove(slot, *prefix);
        }
        for prefix in &set.allowed_ips {
            allowed_ips.insert(slot, *prefix);
        }
    }

    fn add(&mut self, key: PublicKey) {
        let peers = &mut self.table.peers;
        let place = peers.iter().position(Option::is_none).unwrap_or(peers.len());
        // 2^32 peers do not fit into memory.
        let slot = Slot::try_from(place).unwrap_or(Slot::MAX);
        let peer = Arc::new(Peer::new(slot, fork(&mut self.control.random)));
        if place == peers.len() {
            peers.push(None);
        }
        peers[place] = Some(Arc::clone(&peer));
        self.table.by_key.insert(key, slot);
        self.control.peers.insert(key, Entry { slot, ..Entry::default() });
        let engine = self.engine(&key);
        let mut state = peer.state();
        state.is_higher = self.own_key().is_some_and(|own| own > key);
        state.engine = engine;
        self.is_new = true;
    }

    fn remove(&mut self, key: &PublicKey) {
        let Some(entry) = self.control.peers.remove(key) else { return };
        self.control.allowed_ips.retain(entry.slot, &BTreeSet::new());
        self.table.by_key.remove(key);
        if let Some(place) = self.table.peers.get_mut(entry.slot as usize) {
            *place = None;
        }
        self.is_new = true;
    }

    /// An engine for a peer's keys as they are configured now, under an index that nobody else has. Its lowest byte is the
    /// peer's and the rest random: see [`Device`].
    fn engine(&mut self, key: &PublicKey) -> Option<Engine> {
        let own = Arc::clone(self.table.own.as_ref()?);
        let entry = self.control.peers.get(key)?;
        let byte = entry.slot.wrapping_add(self.control.first_byte) & 0xff;
        let index = loop {
            let index = (self.control.random.next_u32() >> 8) & !0xff | byte;
            if !self.table.by_index.contains_key(&index) {
                break index;
            }
        };
        self.table.by_index.insert(index, entry.slot);
        let preshared_key = entry.preshared_key.as_ref();
        let Device { limits, wall, .. } = self.device;
        Some(Engine::new(&own.identity, key, preshared_key, index, *limits, *wall))
    }

    fn peer(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        let slot = self.control.peers.get(key)?.slot;
        self.table.peers.get(slot as usize)?.clone()
    }

    fn own_key(&self) -> Option<PublicKey> {
        self.table.own.as_ref().map(|own| own.identity.public_key())
    }

    fn publish(mut self) {
        let routes = self.control.allowed_ips.routes();
        if !self.is_new && Arc::ptr_eq(&routes, &self.table.routes) {
            return;
        }
        self.table.routes = routes;
        self.table.by_index.clear();
        for peer in self.table.peers.iter().flatten() {
            for index in peer.state().indexes() {
                self.table.by_index.insert(index, peer.slot);
            }
        }
        self.device.table.store(Arc::new(self.table));
    }
}
