//! Two devices with a session between them.

use std::net::SocketAddr;
use std::time::Duration;

use wireloom_model::PrivateKey;
use wireloom_packet::{Arena, Ecn, Frame, Outbox, Path, Received, VnetHeader};
use wireloom_tunnel::uapi::{SetDevice, SetPeer};
use wireloom_tunnel::{Device, EngineKind, Moment, Sealer};

use super::samples::packets;

/// The packets of a batch.
pub const BATCH: usize = 64;

/// The moment at which everything happens.
pub(super) const NOW: Moment = Moment::new(Duration::from_secs(1_000));

/// The place of the device that called, in its address.
pub const CLIENT: usize = 0;

/// The place of the one that answered.
pub const SERVER: usize = 1;

/// The port of both devices.
pub(super) const PORT: u16 = 51_820;

/// Two devices with a session between them.
#[derive(Debug)]
pub struct Pair {
    /// The one that called.
    pub client: Device,
    /// The one that answered.
    pub server: Device,
}

impl Pair {
    /// Makes the devices and lets them shake hands.
    pub fn new(engine: EngineKind) -> Self {
        let keys = [1, 2].map(|byte| PrivateKey::from_random([byte; 32]));
        let [client, server] = [CLIENT, SERVER].map(|place| {
            let device = Device::with_engine([place as u8; 32], engine);
            let families = ["0.0.0.0/0", "::/0"].map(|all| all.parse().unwrap());
            let peer = SetPeer {
                endpoint: Some(address(1 - place)),
                allowed_ips: families.into_iter().collect(),
                ..SetPeer::new(keys[1 - place].public_key())
            };
            let private_key = Some(Some(keys[place].clone()));
            let set = SetDevice { private_key, peers: vec![peer], ..SetDevice::default() };
            let _ = device.set(NOW, &set);
            device
        });
        let pair = Self { client, server };
        let (mut sealer, mut out, mut back, mut arena) = Default::default();
        seal(&pair.client, &packets(64, 1), &mut sealer, &mut out);
        open(&pair.server, CLIENT, &out, &mut arena, &mut back);
        out.clear();
        open(&pair.client, SERVER, &back, &mut arena, &mut out);
        open(&pair.server, CLIENT, &out, &mut arena, &mut back);
        assert_eq!(arena.packets().len(), 1, "the first packet passed");
        pair
    }
}

/// Where the device at a place is reached.
pub(super) fn address(place: usize) -> SocketAddr {
    ([192, 0, 2, place as u8 + 1], PORT).into()
}

/// Seals plain packets as one batch.
pub fn seal(device: &Device, packets: &[Vec<u8>], sealer: &mut Sealer, outbox: &mut Outbox) {
    let frames: Vec<Frame<'_>> =
        packets.iter().map(|packet| Frame { header: VnetHeader::default(), packet }).collect();
    device.seal(NOW, &frames, sealer, outbox);
}

/// Opens what the device at the place `from` sent.
pub fn open(device: &Device, from: usize, sent: &Outbox, arena: &mut Arena, answers: &mut Outbox) {
    let received: Vec<Received<'_>> = sent
        .transmits()
        .map(|(transmit, bytes)| Received {
            path: Path { remote: address(from), local: None },
            ecn: Ecn::NotEct,
            segment: transmit.segment,
            bytes,
        })
        .collect();
    let ready = device.open(NOW, &received, arena, answers);
    device.release(NOW, &ready, answers);
}
