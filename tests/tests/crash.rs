//! An agent that is killed, after whatever step, is followed by one that ends in the right state.

#![cfg(debug_assertions)] // Other builds of the program can't be killed after a step.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::collections::BTreeSet;

use wireloom_lab::{Child, Host};
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::mesh::{Mesh, one_location};
use wireloom_tests::{NetworkState, SOON, eventually, run};

/// What a killed process can't put back: whether the host forwarded before, and what follows from that.
const FORGOTTEN: [&str; 3] = ["forward", "anycast", "accept_redirects"];

/// All that is ours on a host, with a name or a mark.
fn ours(host: &Host) -> String {
    let lists = [
        "ip -d link show group 107",
        "ip address show dev wl0 scope global",
        "ip route show table all proto 107",
        "ip -6 route show table all proto 107",
        "ip rule",
        "ip -6 rule",
        "ip neighbour show nud permanent",
        "ip -6 neighbour show nud permanent",
        "bridge fdb show dev wl0-v4",
        "bridge fdb show dev wl0-v6",
        "nft list table inet wireloom",
    ];
    let all = lists.map(|list| run(host, list).stdout).concat();
    // A link made anew has another number, and is named by it.
    let number =
        |word: &str| word.ends_with(':') && word.trim_end_matches(':').parse::<u32>().is_ok();
    let words = all.lines().map(|line| line.split(' ').filter(|w| !number(w)).collect::<Vec<_>>());
    words.map(|words| words.join(" ") + "\n").collect()
}

/// Starts a's agent, to be killed after this many changes to the host.
fn up_until(mesh: &Mesh, changes: u32) -> Child {
    let args = mesh.args("a");
    let line = format!("WIRELOOM_KILL_AFTER={changes} {} up {args}", wireloom_binary().display());
    mesh.pair.a.spawn("env", line.split(' ')).unwrap()
}

#[test]
fn killed_after_any_step_it_leaves_nothing_that_the_next_one_keeps() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "nft");
    let mesh = Mesh::new();
    let host = &mesh.pair.a;
    // Everything that can be wrapped is.
    let text = |more_b: &str| {
        one_location(&mesh, "encapsulation = \"always\"\nmasquerade = true", "24", more_b)
    };
    let with = text("prefixes = [\"10.72.0.0/24\", \"fd72::/64\"]");
    let changed = text("prefixes = [\"10.73.0.0/24\"]");
    let without = text("");
    let before = NetworkState::of(host).without(&FORGOTTEN);

    mesh.write(&without);
    let undisturbed = mesh.up("a");
    let right = ours(host);
    assert!(undisturbed.stop(SOON).unwrap().status.success());

    // Each round goes further: through the first apply, through a change, through the end.
    let mut deaths = [0; 3];
    for step in 1.. {
        mesh.write(&with);
        let mut agent = up_until(&mesh, step);
        let mut phase = 0;
        for (next, mark) in [(&changed, "10.72.0.0/24"), (&changed, "10.73.0.0/24")] {
            eventually("the agent dies, or has applied the mesh", || {
                agent.has_ended().unwrap() || ours(host).contains(mark) && is_settled(host)
            });
            if agent.has_ended().unwrap() {
                break;
            }
            phase += 1;
            mesh.write(next);
        }
        let end = agent.stop(SOON).unwrap();
        if end.status.success() {
            break;
        }
        deaths[phase] += 1;

        mesh.write(&without);
        let next = mesh.up("a");
        let now = ours(host);
        let differ = diff(&right, &now);
        assert!(differ.is_empty(), "after step {step}, in phase {phase}: {differ:#?}");
        assert!(next.stop(SOON).unwrap().status.success());
        NetworkState::of(host).without(&FORGOTTEN).assert_same(&before);
    }
    assert!(deaths.iter().all(|deaths| *deaths > 2), "{deaths:?}");
    assert!(deaths[0] > 20, "{deaths:?}");
}

/// The lines that only one of the two has.
fn diff<'a>(before: &'a str, after: &'a str) -> Vec<&'a str> {
    let [before, after] = [before, after].map(|text| text.lines().collect::<BTreeSet<_>>());
    before.symmetric_difference(&after).copied().collect()
}

/// Whether the agent has told that its last pass is over and nothing is wrong.
fn is_settled(host: &Host) -> bool {
    let status = run(host, "wireloom status -o json");
    status.status.success() && status.stdout.contains("\"problems\": []")
}
