//! The tunnel's device under strangers, and the text by which it is configured.

use std::time::Duration;

use wireloom_model::PrivateKey;
use wireloom_packet::{Arena, Ecn, Frame, Outbox, Path, Received, VnetHeader};
use wireloom_tunnel::uapi::{DeviceStatus, Request, SetDevice, SetPeer};
use wireloom_tunnel::{Device, EngineKind, Moment, Sealer};

const NOW: Moment = Moment::new(Duration::from_secs(1_000));
const SERVER: Path = Path { remote: address(1), local: None };
const CLIENT: Path = Path { remote: address(2), local: None };
/// An empty UDP datagram from 10.0.0.1 to 10.0.0.2.
const PACKET: [u8; 28] =
    [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 1, 0, 8, 0, 0];

const fn address(host: u8) -> std::net::SocketAddr {
    let ip = std::net::Ipv4Addr::new(192, 0, 2, host);
    std::net::SocketAddr::V4(std::net::SocketAddrV4::new(ip, 51820))
}

/// Opens datagrams, each behind a byte of flags and two bytes of length. Flag 1 puts the header of a message of the live
/// session in front, flag 2 the first bytes of a real initiation, and flag 4 makes the length that of its type.
///
/// Nothing is opened, and the live session goes on.
///
/// Both engines run, each with itself.
pub fn tunnel_datagram(data: &[u8]) {
    EngineKind::ALL.into_iter().for_each(|engine| datagrams(engine, data));
}

fn datagrams(engine: EngineKind, data: &[u8]) {
    let keys = [1, 2].map(|byte| PrivateKey::from_random([byte; 32]));
    let [server, client] =
        [0, 1].map(|place| device(engine, &keys[place], &keys[1 - place], place));
    let mut outbox = Outbox::default();
    seal(&client, &mut outbox);
    let initiation = taken(&mut outbox);
    open(&server, &initiation, CLIENT, &mut outbox);
    let response = taken(&mut outbox);
    open(&client, &response, SERVER, &mut outbox);
    for (_, confirmation) in std::mem::take(&mut outbox).transmits() {
        open(&server, confirmation, CLIENT, &mut outbox);
    }
    seal(&client, &mut outbox);
    let message = taken(&mut outbox);

    let mut rest = data;
    while let [flags, high, low, bytes @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
        let (datagram, next) = bytes.split_at(length);
        rest = next;
        let mut datagram = datagram.to_vec();
        for (flag, head) in [(1, &message[..16]), (2, &initiation[..116])] {
            if flags & flag != 0 {
                let length = head.len().min(datagram.len());
                datagram[..length].copy_from_slice(&head[..length]);
            }
        }
        if flags & 4 != 0 {
            let length = match datagram.first() {
                Some(1) => 148,
                Some(2) => 92,
                Some(3) => 64,
                _ => 48,
            };
            datagram.resize(length, 0);
        }
        if datagram != initiation && datagram != message {
            assert_eq!(open(&server, &datagram, SERVER, &mut outbox), 0, "a stranger got in");
        }
    }
    assert_eq!(open(&server, &message, CLIENT, &mut outbox), 1, "the session is gone");
}

/// Reads bytes as a request and as a status.
///
/// What is understood prints as a text that reads as the same, and a device takes it.
pub fn tunnel_uapi(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(request) = Request::parse(&text) {
        assert_eq!(Request::parse(&request.to_text()), Ok(request.clone()));
        if let Request::Set(set) = request {
            let device = Device::new([3; 32]);
            let _ = device.set(NOW, &set);
            let _ = device.set(NOW, &set);
            let status = device.status(NOW, NOW.since_boot());
            let read = DeviceStatus::parse(&status.to_text());
            assert_eq!(read.map(|read| read.to_text()), Ok(status.to_text()));
            device.handle_timeout(NOW, &mut Outbox::default());
        }
    }
    if let Ok(status) = DeviceStatus::parse(&text) {
        let printed = status.to_text();
        assert_eq!(DeviceStatus::parse(&printed).map(|read| read.to_text()), Ok(printed));
    }
    let _ = SetDevice::parse_response(&text);
}

fn device(engine: EngineKind, own: &PrivateKey, other: &PrivateKey, place: usize) -> Device {
    let device = Device::with_engine([7; 32], engine);
    let peer = SetPeer {
        endpoint: Some([CLIENT, SERVER][place].remote),
        allowed_ips: ["10.0.0.0/24".parse(), "fd00::/64".parse()].into_iter().flatten().collect(),
        ..SetPeer::new(other.public_key())
    };
    let set = SetDevice {
        private_key: Some(Some(own.clone())),
        peers: vec![peer],
        ..SetDevice::default()
    };
    let _ = device.set(NOW, &set);
    device
}

fn seal(device: &Device, outbox: &mut Outbox) {
    let frame = Frame { header: VnetHeader::default(), packet: &PACKET };
    device.seal(NOW, &[frame], &mut Sealer::default(), outbox);
}

/// Opens one datagram and returns how many packets came out.
fn open(device: &Device, datagram: &[u8], path: Path, outbox: &mut Outbox) -> usize {
    let mut arena = Arena::default();
    let segment = datagram.len().max(1);
    let received = Received { path, ecn: Ecn::NotEct, segment, bytes: datagram };
    device.open(NOW, &[received], &mut arena, outbox);
    arena.packets().len()
}

/// The only datagram that waits to be sent.
fn taken(outbox: &mut Outbox) -> Vec<u8> {
    let all: Vec<u8> = outbox.transmits().flat_map(|(_, bytes)| bytes).copied().collect();
    outbox.clear();
    all
}
