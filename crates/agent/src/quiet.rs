//! Which peers are to be asked whether they are still there, of those to whom this node keeps its tunnels open. Pure.
//!
//! Whoever can't be dialled is reached by the sessions that it began. A peer that has started anew knows nothing of them,
//! and keepalives get no answer: the device finds out when it renews its keys, after REKEY_AFTER_TIME, which is 120 s.
//! Data gets an answer, or another handshake within 15 s (WireGuard paper, sections 6.1 and 6.5).

use std::collections::BTreeMap;
use std::time::Duration;

use wireloom_model::PublicKey;
use wireloom_topology::TunnelPeer;
use wireloom_tunnel::uapi::DeviceStatus;

/// Since when nothing comes from each peer, on any monotonic clock, and how much had come by then.
#[derive(Debug, Default)]
pub(crate) struct Quiet(BTreeMap<PublicKey, (Duration, u64)>);

impl Quiet {
    /// Those of whom nothing has come for as long as a keepalive takes.
    pub(crate) fn ask(
        &mut self,
        now: Duration,
        peers: &[TunnelPeer],
        device: &DeviceStatus,
    ) -> Vec<PublicKey> {
        let received: BTreeMap<PublicKey, u64> =
            device.peers.iter().map(|peer| (peer.key, peer.rx_bytes)).collect();
        let mut before = std::mem::take(&mut self.0);
        let mut quiet = Vec::new();
        for peer in peers {
            let Some(keepalive) = peer.persistent_keepalive else { continue };
            let Some(&received) = received.get(&peer.key) else { continue };
            let same = before.remove(&peer.key).filter(|(_, then)| *then == received);
            let (since, _) =
                *self.0.entry(peer.key).or_insert_with(|| same.unwrap_or((now, received)));
            if now.saturating_sub(since) >= Duration::from_secs(keepalive.get().into()) {
                quiet.push(peer.key);
            }
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use wireloom_topology::TunnelPeerName;
    use wireloom_tunnel::uapi::PeerStatus;

    use super::*;

    #[test]
    fn whoever_is_silent_for_as_long_as_a_keepalive_takes_is_asked_until_it_is_not() {
        let keys = [1, 2].map(|byte| PublicKey::from_bytes([byte; 32]));
        let peer = |key, keepalive| TunnelPeer {
            key,
            name: TunnelPeerName::Node("n".parse().unwrap()),
            endpoint: None,
            alternatives: Vec::new(),
            allowed_ips: std::collections::BTreeSet::new(),
            persistent_keepalive: NonZeroU16::new(keepalive),
            preshared_key: None,
        };
        // The second does not need it.
        let peers = [peer(keys[0], 25), peer(keys[1], 0)];
        let mut quiet = Quiet::default();
        let mut ask = |second, rx_bytes| {
            let status = |key| PeerStatus { rx_bytes, ..PeerStatus::new(key) };
            let device =
                DeviceStatus { peers: keys.map(status).to_vec(), ..DeviceStatus::default() };
            quiet.ask(Duration::from_secs(second), &peers, &device)
        };
        let asked: Vec<u64> = (0..=60).step_by(10).filter(|at| !ask(*at, 100).is_empty()).collect();
        assert_eq!(asked, [30, 40, 50, 60]);
        assert_eq!(ask(61, 132), []);
        assert_eq!(ask(85, 132), []);
        assert_eq!(ask(86, 132), [keys[0]]);
    }
}
