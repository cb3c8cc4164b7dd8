//! What is tried with each peer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use wireloom_tests::eventually;

use crate::ends::{Devices, Ends, Side, near_host, outside};
use crate::peer::{Engine, Peer};

/// What crosses by TCP, each way.
const TRANSFER: usize = 2_000_000;

/// How long the other end may make a transfer wait.
const STALL: Duration = Duration::from_secs(60);

/// Something that is tried with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Congestion,
    Data,
    Datagrams,
    EcnBits,
    Keepalive,
    OurEndRoams,
    Rekey,
    Sessions,
    TheirEndRoams,
}

impl Case {
    /// All of them, as in the table.
    pub(crate) const ALL: [Self; 9] = [
        Self::Sessions,
        Self::Data,
        Self::Datagrams,
        Self::EcnBits,
        Self::Congestion,
        Self::OurEndRoams,
        Self::TheirEndRoams,
        Self::Keepalive,
        Self::Rekey,
    ];

    /// What the table calls it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Congestion => "congestion that is marked on the wire is told inside (RFC 6040)",
            Self::Datagrams => {
                "UDP both ways, small and full, as a VXLAN in the tunnel; IPv4 and IPv6 inside"
            }
            Self::EcnBits => "the ECN bits of what passes stay as they are",
            Self::Data => {
                "full packets, fragments, TCP both ways with its content compared; IPv4 and IPv6 inside"
            }
            Self::Keepalive => {
                "persistent keepalive of either end begins a session and keeps it in use"
            }
            Self::OurEndRoams => "our end moves to another address, and to the other family",
            Self::Rekey => "either end renews its session after two minutes, and no packet is lost",
            Self::Sessions => {
                "either end begins, over IPv4 and IPv6, with a preshared key and without"
            }
            Self::TheirEndRoams => "their end moves to another address, and to the other family",
        }
    }

    /// The engines of ours that it is tried with.
    pub(crate) const fn engines(self, peer: Peer) -> &'static [Engine] {
        match (self, peer) {
            // It binds a socket for each peer to the address that it had at first.
            (Self::TheirEndRoams, Peer::Boringtun) => &[],
            // Their outer headers have no ECN bits, and they do not read ours.
            (Self::Congestion, Peer::Boringtun | Peer::Gotatun | Peer::WireguardGo) => &[],
            (Self::Rekey, _) => &[Engine::Noise],
            _ => &Engine::ALL,
        }
    }
}

/// Sessions in all ways, and data in each.
pub(crate) fn sessions(peer: Peer) {
    let ends = Ends::start(peer);
    let payload = payload();
    ends.far.write("/run/payload", payload.clone());
    for engine in Engine::ALL {
        let devices = ends.devices(engine, 0);
        for family in [0, 1] {
            for dials in Side::BOTH {
                for preshared in [false, true] {
                    let case = format!("{engine:?}: {dials:?} dials {family}, {preshared}");
                    println!("{}: {case}", peer.name());
                    let key = if preshared { devices.preshared_key() } else { "" };
                    devices.join(dials, &outside(dials.other(), family), key, "");
                    devices.reach(dials, 0);
                    for side in Side::BOTH {
                        let seen = devices.show(side, "endpoints");
                        let true_one = devices.endpoint(&outside(side.other(), family));
                        assert_eq!(seen, true_one, "{case}");
                    }
                    data(&devices, &ends, &payload, usize::from(preshared));
                    devices.part();
                }
            }
        }
    }
}

/// Full packets and fragments of both families, and a transfer by one of them.
fn data(devices: &Devices<'_>, ends: &Ends, payload: &[u8], family: usize) {
    for from in Side::BOTH {
        let [v4, v6] = devices.inside(from.other());
        devices.machine(from).ok(&format!(
            "ping -n -c 2 -i 0.2 -W 20 -M do -s 1392 {v4} && ping -n -c 2 -i 0.2 -W 20 -M do -s 1372 {v6} &&
             ping -n -c 2 -i 0.2 -W 20 -s 8000 {v4} && ping -n -c 2 -i 0.2 -W 20 -s 8000 {v6}"
        ));
    }
    let address = devices.inside(Side::Near)[family].clone();
    let bound = address.clone();
    let bind = move || TcpListener::bind((bound.as_str(), 0)).unwrap();
    let listener = near_host(ends).run(bind).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Holds for accepting, too (socket(7)).
    set_socket_timeout(&listener, Timeout::Recv, Some(STALL)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(listener.accept().unwrap().0, payload));
        ends.far.ok(&format!(
            "busybox nc {address} {port} < /run/payload > /run/received && cmp /run/payload /run/received"
        ));
    });
}

/// Sends the payload, and receives the same.
fn exchange(stream: TcpStream, payload: &[u8]) {
    stream.set_read_timeout(Some(STALL)).unwrap();
    stream.set_write_timeout(Some(STALL)).unwrap();
    let mut received = vec![0; payload.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(payload).unwrap());
        (&stream).read_exact(&mut received).unwrap();
    });
    assert!(received == payload, "what came is not what was sent");
}

/// Bytes without a pattern (Knuth's multiplier for 64 bits, MMIX).
fn payload() -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(TRANSFER).collect()
}

/// Each end that can moves to another address, and then to the other family and back.
pub(crate) fn roaming(peer: Peer) {
    let ends = Ends::start(peer);
    for (side, case) in [(Side::Near, Case::OurEndRoams), (Side::Far, Case::TheirEndRoams)] {
        for engine in case.engines(peer) {
            println!("{}: {engine:?}: {case:?}", peer.name());
            roam(&ends.devices(*engine, 0), side);
        }
    }
}

fn roam(devices: &Devices<'_>, moves: Side) {
    let other = moves.other();
    let (old, new) = (outside(moves, 0), format!("192.0.2.{}", moves.number() + 7));
    devices.join(moves, &outside(other, 0), "", "");
    devices.reach(moves, 0);
    let begun = devices.handshake(moves);
    move_address(devices, moves, &old, &new);
    follows(devices, moves, &new);
    assert_eq!(devices.handshake(moves), begun, "the session has moved along");
    for (to, seen) in [(outside(other, 1), outside(moves, 1)), (outside(other, 0), new.clone())] {
        devices.set(moves, &format!("endpoint {}", devices.endpoint(&to)));
        follows(devices, moves, &seen);
    }
    move_address(devices, moves, &new, &old);
}

/// What a side sends from its new address tells the other where it is now.
fn follows(devices: &Devices<'_>, moves: Side, address: &str) {
    devices.reach(moves, 0);
    assert_eq!(devices.show(moves.other(), "endpoints"), devices.endpoint(address));
    devices.reach(moves.other(), 1);
}

fn move_address(devices: &Devices<'_>, side: Side, old: &str, new: &str) {
    devices
        .machine(side)
        .ok(&format!("ip address delete {old}/24 dev eth0 && ip address add {new}/24 dev eth0"));
}

/// Either end keeps the session alive, and the other learns from it where it is.
pub(crate) fn keepalive(peer: Peer) {
    let ends = Ends::start(peer);
    for engine in Engine::ALL {
        let devices = ends.devices(engine, 0);
        for keeps in Side::BOTH {
            devices.join(keeps, &outside(keeps.other(), 0), "", "persistent-keepalive 1");
            let hears = keeps.other();
            println!("{}: {engine:?}: {keeps:?} keeps the session", peer.name());
            eventually("the keepalive begins a session", || devices.handshake(hears) > 0);
            // An empty message has 32 bytes, which not everybody counts.
            let passed = || {
                if hears == Side::Near || peer.counts_empty_messages() {
                    devices.transfer(hears)[0]
                } else {
                    devices.transfer(keeps)[1]
                }
            };
            let before = passed();
            eventually("keepalives pass", || passed() >= before + 3 * 32);
            devices.reach(hears, 0);
            devices.part();
        }
    }
}

/// For longer than a key may be used, packets flow from the end that began, to all peers at once.
pub(crate) fn rekey(peers: &[Peer]) {
    std::thread::scope(|scope| {
        for peer in peers {
            std::thread::Builder::new()
                .name(peer.name().to_owned())
                .spawn_scoped(scope, || rekey_with(*peer))
                .unwrap();
        }
    });
}

fn rekey_with(peer: Peer) {
    let ends = Ends::start(peer);
    // One pair of devices for each end that begins.
    let pairs = [(Side::Near, 0), (Side::Far, 1)]
        .map(|(dials, layer)| (dials, ends.devices(Engine::Noise, layer)));
    let begun = pairs.each_ref().map(|(dials, devices)| {
        devices.join(*dials, &outside(dials.other(), 0), devices.preshared_key(), "");
        devices.reach(*dials, 0);
        Side::BOTH.map(|side| devices.handshake(side))
    });
    let echoes = std::thread::scope(|scope| {
        let pings = pairs.each_ref().map(|(dials, devices)| {
            let to = &devices.inside(dials.other())[0];
            // REKEY_AFTER_TIME is 120 s (WireGuard paper, section 6.1), and a busy machine may be late.
            let ping = format!("ping -n -q -i 0.5 -c 256 -W 10 {to}");
            scope.spawn(move || devices.machine(*dials).ok_at_length(&ping))
        });
        pings.map(|ping| ping.join().unwrap())
    });
    for (((dials, devices), begun), echoes) in pairs.iter().zip(begun).zip(echoes) {
        let case = format!("{}, {dials:?} began", peer.name());
        assert!(echoes.contains(" 0% packet loss"), "{case}: {echoes}");
        for (side, before) in Side::BOTH.into_iter().zip(begun) {
            if side == Side::Far && !peer.dates_handshakes() {
                continue;
            }
            let age = devices.handshake(side) - before;
            assert!((115..=130).contains(&age), "{case}: {side:?} shook hands again after {age} s");
        }
    }
}
