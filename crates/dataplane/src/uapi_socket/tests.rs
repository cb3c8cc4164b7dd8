use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use wireloom_io::memory::{self, MemoryNetwork};
use wireloom_model::PrivateKey;
use wireloom_tunnel::EngineKind;
use wireloom_tunnel::uapi::{DeviceStatus, SetDevice, SetPeer, get_text};

use super::*;
use crate::{Config, Offloads};

fn dataplane() -> Arc<Dataplane> {
    let (tun, _) = memory::tun().unwrap();
    let udp = MemoryNetwork::default().host(IpAddr::from([192, 0, 2, 1]));
    let config = Config {
        seed: [1; 32],
        listen_port: 51820,
        fwmark: 0,
        offloads: Offloads::ALL,
        engine: EngineKind::default(),
    };
    Arc::new(Dataplane::start(Arc::new(tun), udp, config).unwrap())
}

fn exchange(stream: &mut UnixStream, request: &str) -> String {
    use io::Read as _;
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\n\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(char::from(byte[0]));
    }
    answer
}

#[test]
fn one_connection_makes_several_requests() {
    let directory = tempfile::tempdir().unwrap();
    let dataplane = dataplane();
    let _socket = UapiSocket::bind(directory.path(), "wl0", Arc::clone(&dataplane)).unwrap();
    let mut stream = UnixStream::connect(path(directory.path(), "wl0")).unwrap();
    let key = PrivateKey::from_random([7; 32]);
    let peer = SetPeer::new(PrivateKey::from_random([8; 32]).public_key());
    let change = SetDevice {
        private_key: Some(Some(key.clone())),
        listen_port: Some(0),
        fwmark: Some(0x51),
        peers: vec![peer.clone()],
        ..SetDevice::default()
    };
    let answer = exchange(&mut stream, &change.to_text());
    assert_eq!(SetDevice::parse_response(&answer), Ok(()));
    // Two requests that arrive together, the second in two pieces.
    stream.write_all(get_text().as_bytes()).unwrap();
    let status = DeviceStatus::parse(&exchange(&mut stream, "get=1\n")).unwrap();
    assert_eq!(status.private_key.unwrap().as_bytes(), key.as_bytes());
    assert_eq!((status.listen_port, status.fwmark), (dataplane.port(), 0x51));
    assert_eq!(status.peers[0].key, peer.key);
    assert!(exchange(&mut stream, "\n").starts_with("private_key="));
    assert_eq!(exchange(&mut stream, "set=1\nnonsense=1\n\n"), errno_text(uapi::EINVAL));
    assert!(exchange(&mut stream, get_text()).ends_with("errno=0\n\n"), "the connection lives on");
}

#[test]
fn many_clients_are_served_and_none_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = UapiSocket::bind(directory.path(), "wl0", dataplane()).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 * CONNECTIONS {
            scope.spawn(|| {
                let mut stream = UnixStream::connect(path(directory.path(), "wl0")).unwrap();
                assert!(exchange(&mut stream, get_text()).ends_with("errno=0\n\n"));
            });
        }
    });
    let idle = UnixStream::connect(path(directory.path(), "wl0")).unwrap();
    drop(socket);
    drop(idle);
}

#[test]
fn the_socket_is_private_and_goes_with_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("run");
    let socket = UapiSocket::bind(&inside, "wl0", dataplane()).unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&inside), mode(&path(&inside, "wl0"))), (0o700, 0o600));
    let second = UapiSocket::bind(&inside, "wl0", dataplane()).unwrap_err();
    assert!(matches!(second, UapiSocketError::InUse { .. }), "{second}");
    drop(socket);
    assert!(!path(&inside, "wl0").exists());
}

#[test]
fn what_a_dead_process_left_is_replaced_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let place = path(directory.path(), "wl0");
    drop(UnixListener::bind(&place).unwrap());
    let socket = UapiSocket::bind(directory.path(), "wl0", dataplane()).unwrap();
    // Somebody else takes the place: it is theirs when ours is dropped.
    fs::remove_file(&place).unwrap();
    fs::write(&place, "theirs").unwrap();
    drop(socket);
    assert_eq!(fs::read_to_string(&place).unwrap(), "theirs");
    let refused = UapiSocket::bind(directory.path(), "wl0", dataplane()).unwrap_err();
    assert!(matches!(refused, UapiSocketError::NoSocket { .. }), "{refused}");
}

#[test]
fn a_request_without_an_end_is_given_up() {
    let mut requests = Requests::default();
    assert!(requests.read(&mut &b"set=1\nprivate_key=00"[..]).unwrap());
    assert!(requests.take().is_none());
    assert!(requests.read(&mut &b"\n"[..]).unwrap());
    assert!(requests.take().is_none());
    assert!(requests.read(&mut &b"\nget=1\n\nrest"[..]).unwrap());
    assert_eq!(**requests.take().unwrap(), *b"set=1\nprivate_key=00\n\n");
    assert_eq!(**requests.take().unwrap(), *b"get=1\n\n");
    assert!(requests.take().is_none());
    assert!(!requests.read(&mut io::empty()).unwrap(), "the client has hung up");
}
