//! Where those are whose endpoints move (`updateEndpoint` and `discoverNATEndpoints` in Kilo).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;

use wireloom_model::{Endpoint, Node, PublicKey, Snapshot};

use super::{Part, Seen, View};

/// What a node publishes of where its device heard others: of nodes that keep their tunnels open, as those behind NAT
/// do, and of all peers. `heard` is the device's word on everybody that it had a handshake with.
pub fn discoveries(
    snapshot: &Snapshot,
    heard: impl IntoIterator<Item = (PublicKey, SocketAddr)>,
) -> BTreeMap<PublicKey, SocketAddr> {
    let moving = snapshot.nodes.iter().filter(|node| node.persistent_keepalive.is_some());
    let keys = moving.map(|node| node.key).chain(snapshot.peers.iter().map(|peer| peer.key));
    let keys: BTreeSet<PublicKey> = keys.collect();
    heard.into_iter().filter(|(key, _)| keys.contains(key)).collect()
}

/// What is known of everybody: the own word first, then that of the others in the order of segments and names.
pub(super) fn gather(
    parts: &[Part<'_>],
    own: Option<&Node>,
    seen: &Seen,
) -> BTreeMap<PublicKey, SocketAddr> {
    let own = own.map(|node| seen.heard.as_ref().unwrap_or(&node.discovered_endpoints));
    let mut all = own.cloned().unwrap_or_default();
    for node in parts.iter().flat_map(|part| &part.nodes) {
        for (key, address) in &node.discovered_endpoints {
            all.entry(*key).or_insert(*address);
        }
    }
    all
}

impl View<'_> {
    /// Where somebody is dialled: where it was heard, if it keeps its tunnels open and so may move.
    pub(super) fn endpoint_of(
        &self,
        key: PublicKey,
        endpoint: Option<&Endpoint>,
        keepalive: Option<NonZeroU16>,
    ) -> Option<Endpoint> {
        let heard = keepalive.and_then(|_| self.discovered.get(&key));
        let heard = heard.and_then(|at| Some(Endpoint::at(at.ip(), NonZeroU16::new(at.port())?)));
        heard.or_else(|| endpoint.cloned())
    }

    /// Where a segment's leader is dialled.
    pub(super) fn leader_endpoint(&self, part: &Part<'_>) -> Option<Endpoint> {
        let leader = part.leader();
        self.endpoint_of(leader.key, leader.endpoint.as_ref(), leader.persistent_keepalive)
    }
}
