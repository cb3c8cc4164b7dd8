//! Where nodes may be dialled beside their endpoints: where others hear them, and their further endpoints.
//!
//! A node behind NAT is known to the world by an address that its router chose, and others see: each node publishes where
//! its device hears those that keep their tunnels open. Two such nodes reach each other if both dial each other there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;

use wireloom_model::reach::is_of_one_host;
use wireloom_model::{Endpoint, Overlay, PublicKey, Snapshot};

use crate::resolve::{Member, keepalive};

/// The most places of one node that are tried beside its endpoint.
const MOST: usize = 4;

/// The most of them where others hear it, if it says more itself.
const MOST_HEARD: usize = 2;

/// Where healthy members hear others, by key, in the order of the names of those that hear them.
pub(crate) struct Elsewhere {
    heard: BTreeMap<PublicKey, Vec<Endpoint>>,
    overlay: Overlay,
}

impl Elsewhere {
    pub(crate) fn of(members: &[Member<'_>], overlay: Overlay) -> Self {
        let moving: BTreeSet<PublicKey> =
            members.iter().filter(|m| m.keepalive().is_some()).map(|m| m.node.key).collect();
        let mut heard = BTreeMap::<PublicKey, Vec<Endpoint>>::new();
        // What a dead one heard last may be long ago.
        let hearers = members.iter().filter(|member| member.node.healthy);
        for (key, at) in hearers.flat_map(|member| &member.node.discovered_endpoints) {
            if moving.contains(key) && is_of_one_host(at.ip()) {
                let port = NonZeroU16::new(at.port());
                let places = heard.entry(*key).or_default();
                places.extend(port.map(|port| Endpoint::at(at.ip(), port)));
            }
        }
        Self { heard, overlay }
    }

    /// Whether a member is heard by another address than that of its endpoint.
    pub(crate) fn has_heard(&self, member: &Member<'_>) -> bool {
        let endpoint = member.endpoint.and_then(Endpoint::address);
        let heard = self.heard.get(&member.node.key).into_iter().flatten();
        heard.filter_map(Endpoint::address).any(|address| Some(address) != endpoint)
    }

    /// Where a member may be dialled beside its endpoint, the best first.
    pub(crate) fn places(&self, member: &Member<'_>) -> Vec<Endpoint> {
        let distinct = |all: &[Endpoint], besides: &[Endpoint]| {
            let mut places: Vec<Endpoint> = Vec::new();
            for place in all {
                let is_inside = place.address().is_some_and(|at| self.overlay.contains(at));
                let is_known = places.contains(place)
                    || besides.contains(place)
                    || member.endpoint == Some(place);
                if !is_inside && !is_known {
                    places.push(place.clone());
                }
            }
            places
        };
        let mut places =
            distinct(self.heard.get(&member.node.key).map_or(&[][..], Vec::as_slice), &[]);
        let said = distinct(&member.node.more_endpoints, &places);
        places.truncate(MOST_HEARD.max(MOST.saturating_sub(said.len())));
        places.extend(said);
        places.truncate(MOST);
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
