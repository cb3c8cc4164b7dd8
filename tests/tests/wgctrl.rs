//! `wireloom tunnel` as Kilo's agent finds it with `--create-interface=false`: a device that is there, which it reads and
//! writes through the Go library wgctrl. `tests/wgctrl/` does so by that library as that agent does.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use serde_json::{Value, json};
use wireloom_lab::Host;
use wireloom_testkit::{built, need};
use wireloom_tests::device::tunnel;
use wireloom_tests::{Keys, Pair, SOON, ok, ping};

const PROGRAM: &str = "wgctrl/bin/wgctrl";

/// Has the device of a host brought in line, and returns what it has then.
fn drive(host: &Host, wanted: &Value) -> Value {
    host.write("/run/wanted.json", wanted.to_string()).unwrap();
    let script = format!("{} < /run/wanted.json", built(PROGRAM).display());
    let told = host.exec("sh", ["-c", &script], SOON).unwrap();
    assert!(told.status.success(), "{}", told.stderr);
    serde_json::from_str(&told.stdout).unwrap()
}

/// What an end wants that has the address of this number.
fn wanted(own: &Keys, peers: &[Value]) -> Value {
    json!({ "name": "kilo0", "private_key": own.private.trim(), "listen_port": 51820, "peers": peers })
}

fn peer(other: &Keys, number: u8, endpoint: &str) -> Value {
    json!({
        "public_key": other.public.trim(),
        "endpoint": endpoint,
        "allowed_ips": [format!("10.4.0.{number}/32"), format!("fd10::{number}/128")],
        "keepalive": 0,
    })
}

#[test]
fn kilos_library_finds_what_it_wrote_and_packets_pass() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "ping");
    need!(program "wg");
    need!(built PROGRAM);
    let pair = Pair::start();
    let _devices = [&pair.a, &pair.b].map(|host| tunnel(host, "kilo0"));
    let keys = [Keys::new(), Keys::new(), Keys::new()];
    // The second is behind NAT for all that the first knows.
    let first = wanted(&keys[0], &[peer(&keys[1], 2, "")]);
    let second = wanted(&keys[1], &[peer(&keys[0], 1, "192.0.2.1:51820")]);
    for (host, wanted, number) in [(&pair.a, &first, 1), (&pair.b, &second, 2)] {
        let has = drive(host, wanted);
        assert_eq!((&has["written"], &has["peers"][0]["handshake"]), (&json!(true), &json!(0)));
        for address in [format!("10.4.0.{number}/24"), format!("fd10::{number}/64 nodad")] {
            ok(host, &format!("ip address add {address} dev kilo0"));
        }
        ok(host, "ip link set kilo0 up");
    }
    ping(&pair.b, "10.4.0.1");
    ping(&pair.b, "fd10::1");

    // It is what was asked for, so that no session is disturbed; and it tells where the other was heard.
    let has = drive(&pair.a, &first);
    let heard = &has["peers"][0];
    assert_eq!((&has["written"], &heard["endpoint"]), (&json!(false), &json!("192.0.2.2:51820")));
    assert!(heard["handshake"].as_i64().unwrap() > 0 && heard["received"].as_i64().unwrap() > 0);
    assert_eq!(drive(&pair.b, &second)["written"], false);

    // One more peer: everything is replaced.
    let more = peer(&keys[2], 3, "192.0.2.3:51820");
    let has = drive(&pair.b, &wanted(&keys[1], &[second["peers"][0].clone(), more]));
    assert_eq!((&has["written"], has["peers"].as_array().unwrap().len()), (&json!(true), 2));
    ping(&pair.b, "10.4.0.1");

    let has = drive(&pair.b, &wanted(&keys[1], &[]));
    assert_eq!((&has["written"], &has["peers"]), (&json!(true), &Value::Null));
}
