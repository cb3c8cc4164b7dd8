//! The configurations that kgctl prints (`Topology.Conf`, `PeerConf` and `AsPeer` in Kilo).

use std::num::NonZeroU16;

use wireloom_model::{Cidr, NodeName, Peer, PeerName, Subject};

use super::{Outsider, Part, View};
use crate::conf::{Conf, ConfPeer};
use crate::plan::PlanError;

impl View<'_> {
    /// The configuration of a node's device. `None` for one that leads no segment, and so has none.
    pub fn conf_of_node(
        &self,
        node: &NodeName,
        port: NonZeroU16,
    ) -> Result<Option<Conf>, PlanError> {
        let Some((part, me)) = self.led_by(node)? else { return Ok(None) };
        let keepalive = part.nodes[me].persistent_keepalive;
        let others = self.parts.iter().filter(|other| other.name != part.name);
        let leaders = others.map(|other| self.leader_conf(other, keepalive));
        let outside = self.peers.iter().map(|outsider| ConfPeer {
            preshared_key: outsider.peer.preshared_key.clone(),
            ..self.outsider_conf(outsider, keepalive)
        });
        Ok(Some(Conf { listen_port: Some(port), peers: leaders.chain(outside).collect() }))
    }

    /// The configuration of an outside peer's device: the leader of each segment, then the other peers. The first leader in
    /// the order of names carries `more` besides.
    pub fn conf_of_peer(&self, peer: &PeerName, more: &[Cidr]) -> Result<Conf, PlanError> {
        let own = self.outsider(peer)?;
        let keepalive = own.persistent_keepalive;
        let leaders = self.parts.iter().map(|part| ConfPeer {
            preshared_key: own.preshared_key.clone(),
            ..self.leader_conf(part, keepalive)
        });
        let others = self.peers.iter().filter(|outsider| outsider.peer.name != own.name);
        let others = others.map(|outsider| self.outsider_conf(outsider, keepalive));
        let mut conf = Conf { listen_port: None, peers: leaders.chain(others).collect() };
        let by_name = self.parts.iter().enumerate().min_by_key(|(_, part)| &part.leader().name);
        if let Some((first, _)) = by_name {
            conf.carry(first, more);
        }
        Ok(conf)
    }

    /// The node's segment as a peer of a device elsewhere, without the networks behind it. `None` for a node that does
    /// not lead it.
    pub fn node_as_peer(&self, node: &NodeName) -> Result<Option<ConfPeer>, PlanError> {
        let Some((part, _)) = self.led_by(node)? else { return Ok(None) };
        let leader = part.leader();
        Ok(Some(ConfPeer {
            allowed_ips: part.allowed_ips(),
            endpoint: leader.endpoint.clone(),
            persistent_keepalive: None,
            preshared_key: None,
            public_key: leader.key,
        }))
    }

    fn outsider(&self, peer: &PeerName) -> Result<&Peer, PlanError> {
        let found = self.peers.iter().find(|outsider| outsider.peer.name == *peer);
        found.map(|outsider| outsider.peer).ok_or_else(|| self.refusal(Subject::Peer(peer.clone())))
    }

    fn led_by(&self, node: &NodeName) -> Result<Option<(&Part<'_>, usize)>, PlanError> {
        let found = self.find(node).ok_or_else(|| self.refusal(Subject::Node(node.clone())))?;
        let part = &self.parts[found.0];
        Ok((part.leader == found.1).then_some((part, found.1)))
    }

    fn leader_conf(&self, part: &Part<'_>, keepalive: Option<NonZeroU16>) -> ConfPeer {
        ConfPeer {
            allowed_ips: part.reached().collect(),
            endpoint: self.leader_endpoint(part),
            persistent_keepalive: keepalive,
            preshared_key: None,
            public_key: part.leader().key,
        }
    }

    fn outsider_conf(
        &self,
        Outsider { peer, allowed_ips }: &Outsider<'_>,
        keepalive: Option<NonZeroU16>,
    ) -> ConfPeer {
        ConfPeer {
            allowed_ips: allowed_ips.clone(),
            endpoint: self.endpoint_of(peer.key, peer.endpoint.as_ref(), peer.persistent_keepalive),
            persistent_keepalive: keepalive,
            preshared_key: None,
            public_key: peer.key,
        }
    }
}
