//! What is left of a device that ended.

use rustix::process::{Pid, Signal, kill_process};
use wireloom_tests::device::Device;
use wireloom_tests::{NetworkState, Pair, SOON, eventually, ok, ping, run};

use crate::need_all;

/// Starts both ends, uses them, ends a's by this means, and looks for what is left.
fn end(by: impl FnOnce(Device<'_>)) -> Pair {
    let pair = Pair::start();
    let before = NetworkState::of(&pair.a);
    let b = Device::start(&pair.b, 2);
    let a = Device::start(&pair.a, 1);
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    ok(&pair.a, "ip route add 10.77.0.0/16 dev wg0");
    ok(&pair.a, "ip route add 10.78.0.0/16 dev wg0 table 100");
    ping(&pair.a, "10.9.0.2");
    let process = format!("/proc/{}", a.process.id());
    by(a);
    eventually("the process is gone", || !std::fs::exists(&process).unwrap());
    assert!(!run(&pair.a, "ip link show wg0").status.success());
    assert_eq!(ok(&pair.a, "ss -Hlun").trim(), "", "no socket listens");
    NetworkState::of(&pair.a).assert_same(&before);
    drop(b);
    pair
}

#[test]
fn a_stopped_device_leaves_nothing() {
    need_all!();
    let pair = end(|device| {
        let end = device.process.stop(SOON).unwrap();
        assert!(end.status.success(), "{}", end.stderr);
    });
    assert!(!run(&pair.a, "ls /var/run/wireguard/wg0.sock").status.success());
}

#[test]
fn a_deleted_device_leaves_nothing() {
    need_all!();
    let pair = end(|device| {
        ok(device.host, "ip link delete wg0");
        let end = device.process.wait(SOON).unwrap();
        assert!(end.status.success(), "{}", end.stderr);
    });
    assert!(!run(&pair.a, "ls /var/run/wireguard/wg0.sock").status.success());
}

#[test]
fn a_killed_device_leaves_a_dead_socket_that_the_next_one_replaces() {
    need_all!();
    let pair = end(|device| {
        let process = Pid::from_raw(device.process.id().try_into().unwrap()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
        assert!(!device.process.wait(SOON).unwrap().status.success());
    });
    ok(&pair.a, "ls /var/run/wireguard/wg0.sock");
    assert_eq!(ok(&pair.a, "wg show interfaces").trim(), "");
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    a.dial(&b, "192.0.2.2");
    b.await_dial(&a);
    ping(&pair.a, "10.9.0.2");
}
