//! Configurations of any size, and keys that change.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use wireloom_model::PublicKey;
use wireloom_testkit::promised;
use wireloom_tests::device::{Device, configuration, tunnel};
use wireloom_tests::{Keys, Pair, eventually, ok, ping};

use crate::need_all;

/// How long anything of a giant configuration may take, also unoptimised and on a busy machine.
const QUICK: Duration = Duration::from_secs(10);

fn timed<T>(what: &str, deed: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = deed();
    println!("{what}: {:.2?}", start.elapsed());
    assert!(start.elapsed() < promised(QUICK), "{what} took {:.2?}", start.elapsed());
    result
}

#[test]
fn a_giant_list_of_allowed_ips_at_once() {
    need_all!();
    const COUNT: u32 = 130_561;
    let pair = Pair::start();
    let _device = tunnel(&pair.a, "wg0");
    let (own, peer, second) = (Keys::new(), Keys::new(), Keys::new());
    let mut text = format!("[Interface]\nPrivateKey = {}\n", own.private);
    writeln!(text, "[Peer]\nPublicKey = {}", peer.public).unwrap();
    for number in 0..COUNT {
        let [_, high, middle, low] = number.to_be_bytes();
        let address = if number % 2 == 0 {
            format!("10.{high}.{middle}.{low}/32")
        } else {
            format!("fd77:{high:x}::{middle:x}:{low:x}/128")
        };
        writeln!(text, "AllowedIPs = {address}").unwrap();
    }
    let file = configuration(&pair.a, &text);
    timed("setconf", || ok(&pair.a, &format!("wg setconf wg0 {file}")));
    let shown = || timed("show", || ok(&pair.a, "wg show wg0 allowed-ips"));
    assert_eq!(shown().split_ascii_whitespace().count(), COUNT as usize + 1);
    // One prefix changes hands.
    timed("set", || {
        ok(&pair.a, &format!("wg set wg0 peer {} allowed-ips 10.0.0.2/32", second.public))
    });
    let text = shown();
    let of = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert_eq!(of(&peer.public).split_ascii_whitespace().count(), COUNT as usize);
    assert!(of(&second.public).ends_with("\t10.0.0.2/32"));
    timed("setconf again", || ok(&pair.a, &format!("wg setconf wg0 {file}")));
    assert_eq!(shown().split_ascii_whitespace().count(), COUNT as usize + 1);
}

#[test]
fn thousands_of_peers_at_once() {
    need_all!();
    const COUNT: u16 = 2_500;
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    b.dial(&a, "192.0.2.1");
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", a.keys.private);
    for number in 1..=COUNT {
        let [high, low] = number.to_be_bytes();
        let mut key = [7; 32];
        key[..2].copy_from_slice(&[high, low]);
        let key = PublicKey::from_bytes(key);
        writeln!(text, "[Peer]\nPublicKey = {key}\nEndpoint = 192.0.2.77:{number}").unwrap();
        writeln!(text, "AllowedIPs = 10.77.{high}.{low}/32, fd77::{number:x}/128").unwrap();
    }
    let live = format!("[Peer]\nPublicKey = {}\nAllowedIPs = {}\n", b.keys.public, b.allowed_ips());
    let file = configuration(&pair.a, &format!("{text}{live}"));
    timed("setconf", || ok(&pair.a, &format!("wg setconf wg0 {file}")));
    ping(&pair.b, "10.9.0.1");
    let show = || timed("show", || ok(&pair.a, "wg show wg0 dump"));
    // The first line is the device's.
    assert_eq!(show().lines().count(), usize::from(COUNT) + 2);
    // One peer changes, and the others' sessions do not notice.
    let handshake = a.show(&b, "latest-handshakes");
    let changed = PublicKey::from_bytes([8; 32]);
    timed("set", || ok(&pair.a, &format!("wg set wg0 peer {changed} allowed-ips 10.78.0.0/16")));
    let file = configuration(&pair.a, &format!("{text}{live}"));
    timed("syncconf", || ok(&pair.a, &format!("wg syncconf wg0 {file}")));
    assert!(!show().contains("10.78.0.0/16"));
    ok(&pair.a, "ping -n -c 1 -W 1 10.9.0.2");
    assert_eq!(a.show(&b, "latest-handshakes"), handshake);
    // All but that one go.
    let head = format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", a.keys.private);
    let file = configuration(&pair.a, &format!("{head}{live}"));
    timed("syncconf to one", || ok(&pair.a, &format!("wg syncconf wg0 {file}")));
    assert_eq!(show().lines().count(), 2);
    ok(&pair.b, "ping -n -c 1 -W 1 10.9.0.1");
}

#[test]
fn a_new_private_key_is_shown_to_the_peers_at_once() {
    need_all!();
    let pair = Pair::start();
    let (mut a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    // Nothing else is due for long.
    a.set(&b, "persistent-keepalive 600");
    ping(&pair.a, "10.9.0.2");
    let old = std::mem::take(&mut a.keys);
    b.await_dial(&a);
    let key = configuration(&pair.a, &a.keys.private);
    ok(&pair.a, &format!("wg set wg0 private-key {key}"));
    eventually("they shake hands", || b.show(&a, "latest-handshakes") != "0");
    ok(&pair.a, "ping -n -c 1 -W 1 10.9.0.2");
    ok(&pair.b, "ping -n -c 1 -W 1 fd09::1");
    let former = ok(&pair.b, "wg show wg0 allowed-ips");
    assert!(former.contains(&format!("{}\t(none)", old.public)), "{former}");
}

#[test]
fn nobody_is_a_peer_of_itself() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    let peers = || ok(&pair.a, "wg show wg0 peers");
    a.set(&a, "allowed-ips 10.77.0.0/16");
    assert_eq!(peers().trim(), b.keys.public, "its own key is passed over");
    let key = configuration(&pair.a, &b.keys.private);
    ok(&pair.a, &format!("wg set wg0 private-key {key}"));
    assert_eq!(peers().trim(), "", "the peer whose key it took is gone");
    let key = configuration(&pair.a, &a.keys.private);
    ok(&pair.a, &format!("wg set wg0 private-key {key}"));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    ping(&pair.a, "10.9.0.2");
}
