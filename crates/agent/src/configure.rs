//! What to ask of a WireGuard device so that it does what a plan says: as little as possible, and nothing when
//! nothing differs. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use wireloom_model::{Cidr, PresharedKey, PrivateKey, PublicKey};
use wireloom_tunnel::uapi::{DeviceStatus, PeerStatus, SetDevice, SetPeer};

/// A peer as the device shall have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPeer {
    /// Its key.
    pub key: PublicKey,
    /// The symmetric key mixed into its handshakes.
    pub preshared_key: Option<PresharedKey>,
    /// Where to dial it, if anywhere.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is off.
    pub persistent_keepalive: u16,
    /// What is sent to it and accepted from it.
    pub allowed_ips: BTreeSet<Cidr>,
}

/// A device as it shall be.
#[derive(Debug, Clone)]
pub struct DesiredDevice {
    /// This node's key.
    pub private_key: PrivateKey,
    /// The UDP port that it listens on.
    pub listen_port: u16,
    /// The mark of outer packets; 0 is none.
    pub fwmark: u32,
    /// All of its peers.
    pub peers: Vec<DesiredPeer>,
}

/// A handshake older than this means that the peer is not reached: REJECT_AFTER_TIME (WireGuard paper, section 6.1)
/// and one more attempt.
const LOST: Duration = Duration::from_secs(190);

/// Whether a peer is out of reach, or idle for long, at `wall`, the time since the Unix epoch.
pub(crate) fn is_lost(peer: &PeerStatus, wall: Duration) -> bool {
    peer.last_handshake.is_none_or(|at| wall.saturating_sub(at) > LOST)
}

/// The request that turns the observed device into the desired one, or `None` when nothing differs.
///
/// Only what differs is written, peer by peer, so no other session notices. An endpoint is written when the peer has
/// none, when the wish changed since it was written last (`dialled`), or when the peer is lost at `wall`, the time since
/// the Unix epoch: an endpoint that the device learnt from its peer's packets is never overwritten while it works.
pub fn request(
    desired: &DesiredDevice,
    observed: &DeviceStatus,
    dialled: &BTreeMap<PublicKey, SocketAddr>,
    wall: Duration,
) -> Option<SetDevice> {
    let mut request = SetDevice::default();
    let bytes = |key: &PrivateKey| *key.as_bytes();
    if observed.private_key.as_ref().map(bytes) != Some(bytes(&desired.private_key)) {
        request.private_key = Some(Some(desired.private_key.clone()));
    }
    if observed.listen_port != desired.listen_port {
        request.listen_port = Some(desired.listen_port);
    }
    if observed.fwmark != desired.fwmark {
        request.fwmark = Some(desired.fwmark);
    }
    let present: BTreeMap<PublicKey, &PeerStatus> =
        observed.peers.iter().map(|peer| (peer.key, peer)).collect();
    let wanted: BTreeSet<PublicKey> = desired.peers.iter().map(|peer| peer.key).collect();
    for key in present.keys().filter(|key| !wanted.contains(key)) {
        request.peers.push(SetPeer::removal(*key));
    }
    for peer in &desired.peers {
        request.peers.extend(match present.get(&peer.key) {
            Some(status) => {
                change(peer, status, dialled.get(&peer.key).copied(), is_lost(status, wall))
            }
            None => Some(whole(peer)),
        });
    }
    (request != SetDevice::default()).then_some(request)
}

/// The request that points the device at peers where they are. It finds out anew by which address of this machine each is
/// reached, even if it was pointed there before. `None` without any.
pub fn pointing(endpoints: &BTreeMap<PublicKey, SocketAddr>) -> Option<SetDevice> {
    let peers: Vec<SetPeer> = endpoints
        .iter()
        .map(|(key, endpoint)| SetPeer {
            update_only: true,
            endpoint: Some(*endpoint),
            ..SetPeer::new(*key)
        })
        .collect();
    (!peers.is_empty()).then(|| SetDevice { peers, ..SetDevice::default() })
}

/// The request that takes everything back from a device that somebody else goes on with.
pub fn release() -> SetDevice {
    SetDevice {
        private_key: Some(None),
        fwmark: Some(0),
        replace_peers: true,
        ..SetDevice::default()
    }
}

fn whole(peer: &DesiredPeer) -> SetPeer {
    SetPeer {
        preshared_key: peer.preshared_key.clone().map(Some),
        endpoint: peer.endpoint,
        persistent_keepalive: Some(peer.persistent_keepalive),
        replace_allowed_ips: true,
        allowed_ips: peer.allowed_ips.clone(),
        ..SetPeer::new(peer.key)
    }
}

fn change(
    peer: &DesiredPeer,
    status: &PeerStatus,
    dialled: Option<SocketAddr>,
    lost: bool,
) -> Option<SetPeer> {
    let untouched = SetPeer { update_only: true, ..SetPeer::new(peer.key) };
    let mut set = untouched.clone();
    if status.preshared_key != peer.preshared_key {
        set.preshared_key = Some(peer.preshared_key.clone());
    }
    if status.persistent_keepalive != peer.persistent_keepalive {
        set.persistent_keepalive = Some(peer.persistent_keepalive);
    }
    let rewished = dialled.is_some() && peer.endpoint != dialled;
    let differs = peer.endpoint.is_some() && peer.endpoint != status.endpoint;
    if differs && (status.endpoint.is_none() || rewished || lost) {
        set.endpoint = peer.endpoint;
    }
    set.allowed_ips = peer.allowed_ips.difference(&status.allowed_ips).copied().collect();
    if !status.allowed_ips.is_subset(&peer.allowed_ips) {
        set.replace_allowed_ips = true;
        set.allowed_ips.clone_from(&peer.allowed_ips);
    }
    (set != untouched).then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_secs(1_800_000_000);

    fn peer(byte: u8) -> DesiredPeer {
        DesiredPeer {
            key: PublicKey::from_bytes([byte; 32]),
            preshared_key: None,
            endpoint: Some(SocketAddr::from(([192, 0, 2, byte], 51820))),
            persistent_keepalive: 0,
            allowed_ips: BTreeSet::from([format!("10.0.{byte}.0/24").parse().unwrap()]),
        }
    }

    fn desired(peers: Vec<DesiredPeer>) -> DesiredDevice {
        DesiredDevice {
            private_key: PrivateKey::from_random([9; 32]),
            listen_port: 51820,
            fwmark: 0x20,
            peers,
        }
    }

    /// The device that has taken the request, every peer with a fresh handshake.
    fn device(desired: &DesiredDevice) -> DeviceStatus {
        DeviceStatus {
            private_key: Some(desired.private_key.clone()),
            listen_port: desired.listen_port,
            fwmark: desired.fwmark,
            peers: desired
                .peers
                .iter()
                .map(|peer| PeerStatus {
                    preshared_key: peer.preshared_key.clone(),
                    endpoint: peer.endpoint,
                    last_handshake: Some(WALL),
                    persistent_keepalive: peer.persistent_keepalive,
                    allowed_ips: peer.allowed_ips.clone(),
                    ..PeerStatus::new(peer.key)
                })
                .collect(),
            ..DeviceStatus::default()
        }
    }

    fn dialled(desired: &DesiredDevice) -> BTreeMap<PublicKey, SocketAddr> {
        desired.peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))).collect()
    }

    #[test]
    fn an_empty_device_gets_everything_and_a_second_time_nothing() {
        let desired = desired(vec![peer(1), peer(2)]);
        let first = request(&desired, &DeviceStatus::default(), &BTreeMap::new(), WALL).unwrap();
        assert_eq!((first.listen_port, first.fwmark), (Some(51820), Some(0x20)));
        assert!(first.private_key.is_some() && !first.replace_peers);
        assert_eq!(first.peers, [whole(&peer(1)), whole(&peer(2))]);
        assert_eq!(request(&desired, &device(&desired), &dialled(&desired), WALL), None);
    }

    #[test]
    fn one_changed_peer_is_the_only_one_named() {
        let before = desired(vec![peer(1), peer(2), peer(3)]);
        let mut after = before.clone();
        after.peers[1].allowed_ips.insert("10.9.0.0/24".parse().unwrap());
        after.peers.remove(2);
        let request = request(&after, &device(&before), &dialled(&before), WALL).unwrap();
        assert_eq!(request.peers.len(), 2);
        assert_eq!(request.peers[0], SetPeer::removal(peer(3).key));
        let changed = &request.peers[1];
        assert!(changed.update_only && !changed.replace_allowed_ips && changed.endpoint.is_none());
        assert_eq!(changed.allowed_ips, BTreeSet::from(["10.9.0.0/24".parse().unwrap()]));
    }

    #[test]
    fn a_lost_allowed_ip_replaces_that_peers_list() {
        let before = desired(vec![peer(1)]);
        let mut after = before.clone();
        after.peers[0].allowed_ips = BTreeSet::from(["10.9.0.0/24".parse().unwrap()]);
        let request = request(&after, &device(&before), &dialled(&before), WALL).unwrap();
        assert!(request.peers[0].replace_allowed_ips);
        assert_eq!(request.peers[0].allowed_ips, after.peers[0].allowed_ips);
    }

    #[test]
    fn a_learnt_endpoint_stays_while_it_works() {
        let desired = desired(vec![peer(1)]);
        let mut roamed = device(&desired);
        roamed.peers[0].endpoint = Some("198.51.100.7:40000".parse().unwrap());
        assert_eq!(request(&desired, &roamed, &dialled(&desired), WALL), None);
        assert_eq!(request(&desired, &roamed, &BTreeMap::new(), WALL), None, "nor after a restart");

        let later = WALL + LOST + Duration::from_secs(1);
        let lost = request(&desired, &roamed, &dialled(&desired), later).unwrap();
        assert_eq!(lost.peers[0].endpoint, peer(1).endpoint);

        let moved = BTreeMap::from([(peer(1).key, "192.0.2.99:1".parse().unwrap())]);
        let rewished = request(&desired, &roamed, &moved, WALL).unwrap();
        assert_eq!(rewished.peers[0].endpoint, peer(1).endpoint);
    }

    #[test]
    fn a_peer_that_dials_in_is_left_alone() {
        let mut dials_in = peer(1);
        dials_in.endpoint = None;
        let desired = desired(vec![dials_in]);
        let mut heard = device(&desired);
        heard.peers[0].endpoint = Some("198.51.100.7:40000".parse().unwrap());
        heard.peers[0].last_handshake = None;
        for _ in 0..10 {
            assert_eq!(request(&desired, &heard, &BTreeMap::new(), WALL), None);
        }
    }

    #[test]
    fn keys_and_keepalive_are_compared() {
        let before = desired(vec![peer(1)]);
        let mut after = before.clone();
        after.peers[0].preshared_key = Some(PresharedKey::from_bytes([3; 32]));
        after.peers[0].persistent_keepalive = 25;
        let set = request(&after, &device(&before), &dialled(&before), WALL).unwrap();
        assert_eq!(set.peers[0].preshared_key, Some(after.peers[0].preshared_key.clone()));
        assert_eq!(set.peers[0].persistent_keepalive, Some(25));
        let back = request(&before, &device(&after), &dialled(&before), WALL).unwrap();
        assert_eq!(back.peers[0].preshared_key, Some(None));
        assert_eq!(back.peers[0].persistent_keepalive, Some(0));
    }
}
