use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::Emitable as _;
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr as IpAttribute, WireguardAttribute as Attribute,
    WireguardDeviceFlags, WireguardMessage, WireguardPeer, WireguardPeerAttribute as PeerAttribute,
    WireguardPeerFlags, WireguardTimeSpec,
};
use proptest::prelude::*;
use wireloom_model::{Cidr, InterfaceName, PresharedKey, PrivateKey, PublicKey};
use wireloom_tunnel::uapi::{DeviceStatus, PeerStatus, SetDevice, SetPeer};

use super::message::{changes, status, takes_away_allowed_ips, with_whole_lists};

fn interface() -> InterfaceName {
    "wl0".parse().unwrap()
}

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

fn prefixes(count: u16) -> BTreeSet<Cidr> {
    (0..count)
        .map(|number| Cidr::host(IpAddr::from([10, 0, number.to_be_bytes()[0], number as u8])))
        .collect()
}

/// The kernel's side: what `wg_set_device` makes of each message (`drivers/net/wireguard/netlink.c`).
#[derive(Default)]
struct Kernel {
    device: DeviceStatus,
    peers: BTreeMap<PublicKey, PeerStatus>,
}

impl Kernel {
    fn take(&mut self, message: &WireguardMessage) {
        assert!(message.attributes.as_slice().buffer_len() < usize::from(u16::MAX));
        for attribute in &message.attributes {
            match attribute {
                Attribute::PrivateKey(bytes) => {
                    let key = (*bytes != [0; 32]).then(|| PrivateKey::from_bytes(*bytes));
                    self.device.private_key = key;
                }
                Attribute::ListenPort(port) => self.device.listen_port = *port,
                Attribute::Fwmark(mark) => self.device.fwmark = *mark,
                Attribute::Flags(flags) if *flags == WireguardDeviceFlags::ReplacePeers => {
                    self.peers.clear();
                }
                Attribute::Peers(list) => list.iter().for_each(|peer| self.take_peer(peer)),
                _ => {}
            }
        }
    }

    fn take_peer(&mut self, told: &WireguardPeer) {
        let Some(PeerAttribute::PublicKey(bytes)) = told.first() else { panic!("a peer's name") };
        let key = PublicKey::from_bytes(*bytes);
        let flags = told.iter().find_map(|attribute| match attribute {
            PeerAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
        let flags = flags.unwrap_or(WireguardPeerFlags::empty());
        if flags.contains(WireguardPeerFlags::RemoveMe) {
            self.peers.remove(&key);
            return;
        }
        if flags.contains(WireguardPeerFlags::UpdateOnly) && !self.peers.contains_key(&key) {
            return;
        }
        let peer = self.peers.entry(key).or_insert_with(|| PeerStatus::new(key));
        if flags.contains(WireguardPeerFlags::ReplaceAllowedIps) {
            peer.allowed_ips.clear();
        }
        let mut moved = BTreeSet::new();
        for attribute in told.iter() {
            match attribute {
                PeerAttribute::PresharedKey(bytes) => {
                    let key = (*bytes != [0; 32]).then(|| PresharedKey::from_bytes(*bytes));
                    peer.preshared_key = key;
                }
                PeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
                PeerAttribute::PersistentKeepalive(seconds) => peer.persistent_keepalive = *seconds,
                PeerAttribute::AllowedIps(list) => moved.extend(list.iter().map(prefix)),
                _ => {}
            }
        }
        for other in self.peers.values_mut() {
            other.allowed_ips.retain(|prefix| !moved.contains(prefix));
        }
        self.peers.entry(key).and_modify(|peer| peer.allowed_ips.extend(moved));
    }
}

fn prefix(told: &WireguardAllowedIp) -> Cidr {
    match told.0.as_slice() {
        [IpAttribute::Family(_), IpAttribute::IpAddr(address), IpAttribute::Cidr(length)] => {
            Cidr::new(*address, *length).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// The same by the words of the UAPI.
fn carried_out(request: &SetDevice, before: &BTreeMap<PublicKey, PeerStatus>) -> Kernel {
    let mut kernel = Kernel { peers: before.clone(), ..Kernel::default() };
    if let Some(key) = &request.private_key {
        kernel.device.private_key.clone_from(key);
    }
    kernel.device.listen_port = request.listen_port.unwrap_or_default();
    kernel.device.fwmark = request.fwmark.unwrap_or_default();
    if request.replace_peers {
        kernel.peers.clear();
    }
    for set in &request.peers {
        if set.remove {
            kernel.peers.remove(&set.key);
            continue;
        }
        if set.update_only && !kernel.peers.contains_key(&set.key) {
            continue;
        }
        for other in kernel.peers.values_mut() {
            other.allowed_ips.retain(|prefix| !set.allowed_ips.contains(prefix));
        }
        let peer = kernel.peers.entry(set.key).or_insert_with(|| PeerStatus::new(set.key));
        if set.replace_allowed_ips {
            peer.allowed_ips.clear();
        }
        peer.allowed_ips.retain(|prefix| !set.removed_allowed_ips.contains(prefix));
        peer.allowed_ips.extend(set.allowed_ips.iter().copied());
        if let Some(key) = &set.preshared_key {
            peer.preshared_key.clone_from(key);
        }
        peer.endpoint = set.endpoint.or(peer.endpoint);
        peer.persistent_keepalive = set.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
    }
    kernel
}

fn a_prefix() -> impl Strategy<Value = Cidr> {
    prop_oneof![
        any::<u8>().prop_map(|byte| Cidr::truncated([10, byte, 0, 0].into(), 16).unwrap()),
        any::<u8>().prop_map(|byte| {
            let address = [0xfd00, byte.into(), 0, 0, 0, 0, 0, 0];
            Cidr::truncated(IpAddr::from(address), 32).unwrap()
        }),
    ]
}

fn some_prefixes() -> impl Strategy<Value = BTreeSet<Cidr>> {
    proptest::collection::btree_set(a_prefix(), 0..12)
}

fn a_change() -> impl Strategy<Value = SetPeer> {
    let keys = (0..6u8).prop_map(key);
    let preshared = proptest::option::of(proptest::option::of(
        (1..9u8).prop_map(|byte| PresharedKey::from_bytes([byte; 32])),
    ));
    let endpoint = proptest::option::of(
        any::<([u8; 4], u16)>().prop_map(|(address, port)| SocketAddr::from((address, port))),
    );
    let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.2));
    (
        keys,
        preshared,
        endpoint,
        proptest::option::of(any::<u16>()),
        some_prefixes(),
        some_prefixes(),
        flags,
    )
        .prop_map(
            |(key, preshared_key, endpoint, persistent_keepalive, allowed_ips, removed, flags)| {
                let (update_only, replace_allowed_ips, remove) = flags;
                let removed_allowed_ips = removed.difference(&allowed_ips).copied().collect();
                SetPeer {
                    remove,
                    update_only,
                    preshared_key,
                    endpoint,
                    persistent_keepalive,
                    replace_allowed_ips,
                    allowed_ips,
                    removed_allowed_ips,
                    ..SetPeer::new(key)
                }
            },
        )
}

fn a_request() -> impl Strategy<Value = SetDevice> {
    // One change a peer, as the agent asks: what a list says of a peer is looked up once.
    let peers = proptest::collection::vec(a_change(), 0..6).prop_map(|peers| {
        let peers: BTreeMap<PublicKey, SetPeer> =
            peers.into_iter().map(|peer| (peer.key, peer)).collect();
        peers.into_values().collect()
    });
    (proptest::option::of(1..9u8), any::<Option<u16>>(), any::<Option<u32>>(), any::<bool>(), peers)
        .prop_map(|(private_key, listen_port, fwmark, replace_peers, peers)| SetDevice {
            private_key: private_key.map(|byte| Some(PrivateKey::from_random([byte; 32]))),
            listen_port,
            fwmark,
            replace_peers,
            peers,
        })
}

proptest! {
    #[test]
    fn the_kernel_is_told_what_the_uapi_says(mut first in a_request(), second in a_request()) {
        let mut kernel = Kernel::default();
        for peer in &mut first.peers {
            peer.removed_allowed_ips.clear();
        }
        changes(&interface(), &first).iter().for_each(|message| kernel.take(message));
        let expected = carried_out(&first, &BTreeMap::new());
        prop_assert_eq!(&kernel.peers, &expected.peers);
        prop_assert_eq!(&kernel.device, &expected.device);

        // Prefixes that a peer gains in the same request are not known yet when a list is made whole.
        let expected = carried_out(&second, &kernel.peers).peers;
        let observed = DeviceStatus {
            peers: kernel.peers.values().cloned().collect(),
            ..DeviceStatus::default()
        };
        let whole = with_whole_lists(&second, &observed);
        prop_assert!(!takes_away_allowed_ips(&whole));
        changes(&interface(), &whole).iter().for_each(|message| kernel.take(message));
        let owners = |peers: &BTreeMap<PublicKey, PeerStatus>| -> BTreeSet<(PublicKey, Cidr)> {
            peers.iter().flat_map(|(key, peer)| peer.allowed_ips.iter().map(|ip| (*key, *ip))).collect()
        };
        if second.peers.iter().all(|peer| peer.removed_allowed_ips.is_empty()) {
            prop_assert_eq!(owners(&kernel.peers), owners(&expected));
        }
        prop_assert_eq!(kernel.peers.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    }
}

#[test]
fn nothing_to_change_is_no_message() {
    assert_eq!(changes(&interface(), &SetDevice::default()), []);
}

#[test]
fn a_long_list_goes_out_in_parts_and_arrives_whole() {
    let allowed_ips = prefixes(5_000);
    let peer = SetPeer {
        replace_allowed_ips: true,
        allowed_ips: allowed_ips.clone(),
        preshared_key: Some(Some(PresharedKey::from_bytes([7; 32]))),
        ..SetPeer::new(key(1))
    };
    let others = (2..200).map(|byte| SetPeer::new(key(byte)));
    let request = SetDevice {
        listen_port: Some(51820),
        replace_peers: true,
        peers: std::iter::once(peer).chain(others).collect(),
        ..SetDevice::default()
    };
    let messages = changes(&interface(), &request);
    assert!(messages.len() > 3, "{}", messages.len());
    let mut kernel = Kernel::default();
    messages.iter().for_each(|message| kernel.take(message));
    assert_eq!(kernel.device.listen_port, 51820);
    assert_eq!(kernel.peers.len(), 199);
    assert_eq!(kernel.peers[&key(1)].allowed_ips, allowed_ips);
}

#[test]
fn a_single_allowed_ip_is_taken_away_by_the_rest_of_the_list() {
    let [gone, kept, new]: [Cidr; 3] =
        ["10.1.0.0/16", "10.2.0.0/16", "fd00:3::/32"].map(|text| text.parse().unwrap());
    let status = DeviceStatus {
        peers: vec![PeerStatus {
            allowed_ips: BTreeSet::from([gone, kept]),
            ..PeerStatus::new(key(1))
        }],
        ..DeviceStatus::default()
    };
    let request = SetDevice {
        peers: vec![SetPeer {
            allowed_ips: BTreeSet::from([new]),
            removed_allowed_ips: BTreeSet::from([gone]),
            ..SetPeer::new(key(1))
        }],
        ..SetDevice::default()
    };
    assert!(takes_away_allowed_ips(&request));
    let whole = &with_whole_lists(&request, &status).peers[0];
    assert!(whole.replace_allowed_ips && whole.removed_allowed_ips.is_empty());
    assert_eq!(whole.allowed_ips, BTreeSet::from([kept, new]));
}

#[test]
fn a_peer_that_goes_on_in_the_next_part_is_one_peer() {
    let address = |byte| {
        WireguardAllowedIp(vec![
            IpAttribute::IpAddr(IpAddr::from([10, 0, 0, byte])),
            IpAttribute::Cidr(32),
        ])
    };
    let part = |byte, time| {
        Attribute::Peers(vec![WireguardPeer(vec![
            PeerAttribute::PublicKey([1; 32]),
            PeerAttribute::PresharedKey([0; 32]),
            PeerAttribute::LastHandshake(WireguardTimeSpec { seconds: time, nano_seconds: 0 }),
            PeerAttribute::AllowedIps(vec![address(byte)]),
        ])])
    };
    let status = status([vec![Attribute::ListenPort(7), part(1, 0)], vec![part(2, 0)]]);
    assert_eq!(status.listen_port, 7);
    let [peer] = status.peers.as_slice() else { panic!("{:?}", status.peers) };
    assert_eq!((&peer.preshared_key, peer.last_handshake), (&None, None));
    assert_eq!(peer.allowed_ips.len(), 2);
}
