//! Where nodes may be dialled beside their endpoints: where others hear them, and their further endpoints.
//!
//! A node behind NAT is known to the world by an address that its router chose, and others see: each node publishes where
//! its device hears those that keep their tunnels open. Two such nodes reach each other if both dial each other there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use wireloom_model::{Endpoint, Overlay, PublicKey, Snapshot};

use crate::resolve::{Member, keepalive};

/// The most places of one node that are tried beside its endpoint.
const MOST: usize = 4;

/// Where members were heard, by key, in the order of the names of those that heard them.
pub(crate) struct Elsewhere {
    heard: BTreeMap<PublicKey, Vec<Endpoint>>,
    overlay: Overlay,
}

impl Elsewhere {
    pub(crate) fn of(members: &[Member<'_>], overlay: Overlay) -> Self {
        let moving: BTreeSet<PublicKey> =
            members.iter().filter(|m| m.keepalive().is_some()).map(|m| m.node.key).collect();
        let mut heard = BTreeMap::<PublicKey, Vec<Endpoint>>::new();
        for (key, at) in members.iter().flat_map(|member| &member.node.discovered_endpoints) {
            if moving.contains(key) && !is_link_local(at.ip()) {
                let port = NonZeroU16::new(at.port());
                let places = heard.entry(*key).or_default();
                places.extend(port.map(|port| Endpoint::at(at.ip(), port)));
            }
        }
        Self { heard, overlay }
    }

    /// Where a member may be dialled beside its endpoint, the best first.
    pub(crate) fn places(&self, member: &Member<'_>) -> Vec<Endpoint> {
        let heard = self.heard.get(&member.node.key).into_iter().flatten();
        let mut places: Vec<Endpoint> = Vec::new();
        for place in heard.chain(&member.node.more_endpoints) {
            let is_inside = place.address().is_some_and(|address| self.overlay.contains(address));
            let is_known = places.contains(place) || member.endpoint == Some(place);
            if !is_inside && !is_known && places.len() < MOST {
                places.push(place.clone());
            }
        }
        places
    }
}

/// What a node publishes of where its device hears others: of the nodes that keep their tunnels open. `heard` is the
/// device's word.
pub fn sightings(
    snapshot: &Snapshot,
    heard: impl IntoIterator<Item = (PublicKey, SocketAddr)>,
) -> BTreeMap<PublicKey, SocketAddr> {
    let moving = snapshot.nodes.iter();
    let moving = moving.filter(|node| keepalive(node, node.endpoint.as_ref()).is_some());
    let keys: BTreeSet<PublicKey> = moving.map(|node| node.key).collect();
    heard.into_iter().filter(|(key, _)| keys.contains(key)).collect()
}

/// Whether an address means something on one link alone, and so to the one that heard it alone.
const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
