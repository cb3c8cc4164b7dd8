//! The tunnel's device under strangers, and the text by which it is configured.

use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, Mac as KeyedHash};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use wireloom_model::{PrivateKey, PublicKey};
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
/// session in front, flag 2 the first bytes of a real initiation, flag 4 makes the length that of its type, and flag 8
/// the first MAC of a handshake message right.
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

    for (flags, mut datagram) in records(data) {
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
        if flags & 8 != 0 {
            sign(&mut datagram, &keys[0].public_key());
        }
        if datagram != initiation && datagram != message {
            assert_eq!(open(&server, &datagram, SERVER, &mut outbox), 0, "a stranger got in");
        }
    }
    assert_eq!(open(&server, &message, CLIENT, &mut outbox), 1, "the session is gone");
}

/// Answers an initiation with anything, each answer behind a byte of flags and two bytes of length: a response, or with
/// flag 1 a cookie reply, of which everything is given but its type, the index that it answers, and the first MAC.
///
/// No answer completes the handshake, draws data out of the device or stands in the way of the real answer, which comes
/// when the load has passed.
///
/// Both engines run, each with itself.
pub fn tunnel_answer(data: &[u8]) {
    EngineKind::ALL.into_iter().for_each(|engine| answers(engine, data));
}

fn answers(engine: EngineKind, data: &[u8]) {
    const LATER: Moment = Moment::new(Duration::from_secs(1_004));
    let keys = [1, 2].map(|byte| PrivateKey::from_random([byte; 32]));
    let [server, client] =
        [0, 1].map(|place| device(engine, &keys[place], &keys[1 - place], place));
    let mut outbox = Outbox::default();
    seal(&client, &mut outbox);
    let initiation = taken(&mut outbox);
    open(&server, &initiation, CLIENT, &mut outbox);
    let response = taken(&mut outbox);
    for (flags, mut answer) in records(data) {
        let (kind, length, at) = if flags & 1 == 0 { (2, 92, 8) } else { (3, 64, 4) };
        answer.resize(length, 0);
        answer[..4].copy_from_slice(&[kind, 0, 0, 0]);
        answer[at..at + 4].copy_from_slice(&initiation[4..8]);
        if kind == 2 {
            sign(&mut answer, &keys[1].public_key());
        }
        if answer == response {
            continue;
        }
        assert_eq!(open(&client, &answer, SERVER, &mut outbox), 0, "a stranger got in");
        // Above the load a cookie is asked for, and nothing else is ever said.
        let said = taken(&mut outbox);
        assert!(said.is_empty() || said.len() == 64 && said[0] == 3, "a stranger got an answer");
    }
    open_at(LATER, &client, &response, SERVER, &mut outbox);
    let sent: Vec<Vec<u8>> = outbox
        .transmits()
        .flat_map(|(transmit, bytes)| bytes.chunks(transmit.segment).map(<[u8]>::to_vec))
        .collect();
    outbox.clear();
    let arrived: usize =
        sent.iter().map(|sent| open_at(LATER, &server, sent, CLIENT, &mut outbox)).sum();
    assert_eq!(arrived, 1, "the packet that waited for the handshake is lost");
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
    open_at(NOW, device, datagram, path, outbox)
}

fn open_at(
    now: Moment,
    device: &Device,
    datagram: &[u8],
    path: Path,
    outbox: &mut Outbox,
) -> usize {
    let mut arena = Arena::default();
    let segment = datagram.len().max(1);
    let received = Received { path, ecn: Ecn::NotEct, segment, bytes: datagram };
    let ready = device.open(now, &[received], &mut arena, outbox);
    device.release(now, &ready, outbox);
    arena.packets().len()
}

/// The only datagram that waits to be sent.
fn taken(outbox: &mut Outbox) -> Vec<u8> {
    let all: Vec<u8> = outbox.transmits().flat_map(|(_, bytes)| bytes).copied().collect();
    outbox.clear();
    all
}

/// The byte strings of the input, each behind a byte of flags and two bytes of length.
fn records(data: &[u8]) -> impl Iterator<Item = (u8, Vec<u8>)> + '_ {
    let mut rest = data;
    std::iter::from_fn(move || {
        let [flags, high, low, bytes @ ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
        let (record, next) = bytes.split_at(length);
        rest = next;
        Some((*flags, record.to_vec()))
    })
}

/// Makes the first MAC of a handshake message right for its receiver (WireGuard paper, section 5.4.4).
fn sign(message: &mut [u8], receiver: &PublicKey) {
    let Some(end) = message.len().checked_sub(16) else { return };
    let Some((body, mac)) = message[..end].split_last_chunk_mut::<16>() else { return };
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes());
    let Ok(mut keyed) = <Blake2sMac<U16> as KeyedHash>::new_from_slice(&key.finalize()) else {
        return;
    };
    KeyedHash::update(&mut keyed, body);
    *mac = keyed.finalize_fixed().into();
}
