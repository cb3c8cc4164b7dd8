//! Which peer an address belongs to: the longest allowed IP that holds it (cryptokey routing, WireGuard paper, section
//! 2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use prefix_trie::PrefixMap;
use wireloom_model::Cidr;

/// A peer's place in the device's table.
pub(crate) type Slot = u32;

/// The lookup of the hot path. It does not change once it is published.
#[derive(Clone, Default)]
pub struct Routes {
    v4: PrefixMap<Ipv4Network, Slot>,
    v6: PrefixMap<Ipv6Network, Slot>,
}

/// The allowed IPs of all peers: the routes, and what each peer owns of them.
#[derive(Default)]
pub(crate) struct AllowedIps {
    routes: Arc<Routes>,
    owned: BTreeMap<Slot, BTreeSet<Cidr>>,
}

impl Routes {
    /// The peer whose allowed IPs hold this address by the longest prefix.
    pub fn lookup(&self, address: IpAddr) -> Option<Slot> {
        let slot = match address {
            IpAddr::V4(ip) => self.v4.get_lpm(&ip.into())?.1,
            IpAddr::V6(ip) => self.v6.get_lpm(&ip.into())?.1,
        };
        Some(*slot)
    }

    /// Gives a prefix to a peer, and returns the peer that had it.
    pub fn insert(&mut self, prefix: Cidr, slot: Slot) -> Option<Slot> {
        match IpNetwork::from(prefix) {
            IpNetwork::V4(network) => self.v4.insert(network, slot),
            IpNetwork::V6(network) => self.v6.insert(network, slot),
        }
    }

    fn remove(&mut self, prefix: Cidr) {
        match IpNetwork::from(prefix) {
            IpNetwork::V4(network) => self.v4.remove(&network),
            IpNetwork::V6(network) => self.v6.remove(&network),
        };
    }
}

impl AllowedIps {
    /// The lookup as it stands now; later changes do not touch it.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes)
    }

    /// A peer's own.
    pub(crate) fn of(&self, slot: Slot) -> BTreeSet<Cidr> {
        self.owned.get(&slot).cloned().unwrap_or_default()
    }

    /// Gives a prefix to a peer, taking it from another that had it.
    pub(crate) fn insert(&mut self, slot: Slot, prefix: Cidr) {
        if !self.owned.entry(slot).or_default().insert(prefix) {
            return;
        }
        if let Some(former) = Arc::make_mut(&mut self.routes).insert(prefix, slot) {
            self.disown(former, &prefix);
        }
    }

    /// Takes a prefix from a peer, if the peer has it.
    pub(crate) fn remove(&mut self, slot: Slot, prefix: Cidr) {
        if self.disown(slot, &prefix) {
            Arc::make_mut(&mut self.routes).remove(prefix);
        }
    }

    /// Takes everything from a peer but this.
    pub(crate) fn retain(&mut self, slot: Slot, kept: &BTreeSet<Cidr>) {
        let Some(owned) = self.owned.get(&slot) else { return };
        let gone: Vec<Cidr> = owned.difference(kept).copied().collect();
        gone.into_iter().for_each(|prefix| self.remove(slot, prefix));
    }

    fn disown(&mut self, slot: Slot, prefix: &Cidr) -> bool {
        let Some(owned) = self.owned.get_mut(&slot) else { return false };
        let had = owned.remove(prefix);
        if owned.is_empty() {
            self.owned.remove(&slot);
        }
        had
    }
}

#[cfg(test)]
mod tests;
