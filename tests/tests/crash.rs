//! An agent that is killed, at whatever moment, is followed by one that ends in the right state.

use std::thread::sleep;
use std::time::Instant;

use wireloom_lab::Host;
use wireloom_testkit::need;
use wireloom_tests::mesh::{Mesh, routes};
use wireloom_tests::{NetworkState, SOON, ok, wireloom};

/// How many moments of the first apply are tried.
const ROUNDS: u32 = 10;

/// Prefixes of a node that vanishes with the agent: enough of them that a kill falls among them.
fn vanishing() -> String {
    let v4 = (0..100).map(|n| format!("\"10.77.{n}.0/24\""));
    let v6 = (0..100).map(|n| format!("\"fd77:{n:x}::/32\""));
    format!("prefixes = [{}]", v4.chain(v6).collect::<Vec<_>>().join(", "))
}

/// All routes and rules of ours, in all tables and of both families.
fn ours(host: &Host) -> String {
    ["ip route show table all proto 107", "ip -6 route show table all proto 107"]
        .map(|list| ok(host, list))
        .concat()
}

#[test]
fn killed_at_any_moment_of_its_first_apply_it_leaves_nothing_that_the_next_one_keeps() {
    need!(root);
    need!(device "/dev/net/tun");
    let mesh = Mesh::new();
    let host = &mesh.pair.a;
    let forget = ["forward", "anycast", "accept_redirects"];
    let before = NetworkState::of(host).without(&forget);

    // How a start that nobody disturbs ends, and how long it takes.
    let with = mesh.text("", &vanishing());
    let without = mesh.text("", "");
    let a = mesh.up("a");
    let right = (routes(host), ours(host));
    assert!(a.stop(SOON).unwrap().status.success());
    mesh.write(&with);
    let started = Instant::now();
    let a = mesh.up("a");
    let whole = started.elapsed();
    assert!(ours(host).contains("10.77.99.0/24"));
    assert!(a.stop(SOON).unwrap().status.success());

    let mut cut_short = 0;
    for round in 0..ROUNDS {
        mesh.write(&with);
        let killed = wireloom(host, &format!("up {}", mesh.args("a")));
        sleep(whole * round / ROUNDS);
        drop(killed); // SIGKILL
        let left = ours(host).lines().count();
        cut_short += u32::from(left < 200);
        mesh.write(&without);
        let next = mesh.up("a");
        assert_eq!((routes(host), ours(host)), right, "round {round}, {left} routes left");
        assert!(next.stop(SOON).unwrap().status.success());
        NetworkState::of(host).without(&forget).assert_same(&before);
    }
    assert!(cut_short > 0, "no kill came before the end of the apply: it proves nothing");
}
