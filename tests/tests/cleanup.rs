//! `wireloom cleanup`: what a dead agent or Kilo left goes, and not a byte of anything else.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fs;

use serde_json::Value;
use wireloom_lab::Host;
use wireloom_testkit::{need, wireloom_binary};
use wireloom_tests::foreign::{make_foreign, nft};
use wireloom_tests::mesh::Mesh;
use wireloom_tests::{NetworkState, Pair, eventually, ok, run};

macro_rules! need_all {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "nft");
    };
}

/// Everything on the host, once the kernel is done with what it does by itself.
fn everything(host: &Host) -> (NetworkState, String) {
    eventually("all link-local addresses are proven", || {
        !ok(host, "ip address").contains("tentative")
    });
    (NetworkState::of(host), ok(host, "nft list ruleset"))
}

fn assert_same(after: (NetworkState, String), before: &(NetworkState, String)) {
    // A bridge's timer runs.
    let kept = |state: &NetworkState| state.clone().without(&["gc_timer"]);
    kept(&after.0).assert_same(&kept(&before.0));
    assert_eq!(after.1, before.1);
}

fn removed(host: &Host, line: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(&ok(host, &format!("{line} -o json"))).unwrap();
    assert_eq!(report["failed"], serde_json::json!([]), "{report}");
    let removed = report["removed"].as_array().unwrap();
    removed.iter().map(|thing| thing.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_killed_agent_left_goes_and_nothing_else() {
    need_all!();
    let mesh = Mesh::new();
    let host = &mesh.pair.a;
    make_foreign(host);
    let before = everything(host);
    drop(mesh.up("a")); // SIGKILL
    // More than this agent makes: of an older one, in any table and of any kind.
    for line in [
        "ip route add 10.66.0.0/24 via 192.0.2.2 proto 107",
        "ip route add 10.67.0.0/24 via 192.0.2.2 table 77 proto 107 metric 5",
        "ip -6 route add fd66::/48 via 2001:db8::2 table 77 proto 107",
        "ip rule add from 10.66.0.0/24 table 77 protocol 107",
        "ip -6 rule add to fd66::/48 table 77 protocol 107",
        "ip link add wlx type vxlan id 7 dstport 4789 local 192.0.2.1",
        "ip link set wlx group 107",
        "ip link set wlx up",
        "ip address add 10.68.0.1/24 dev wlx",
    ] {
        ok(host, line);
    }
    nft(
        host,
        "table inet wireloom {
             set s { type ipv4_addr; }
             chain c { type filter hook forward priority 0; }
         }",
    );
    host.write("/run/wireloom/wl0.heard", "{}").unwrap();
    let removed = removed(host, "wireloom cleanup");
    for thing in [
        "the route to 10.66.0.0/24",
        "the route to 10.67.0.0/24 metric 5 table 77",
        "the route to fd66::/48 table 77",
        "the link wlx",
        "the nftables table",
        "the forwarding that wl0 needed",
        "where peers were heard, /run/wireloom/wl0.heard",
        "the socket /run/wireloom/wl0.sock",
        "the socket /var/run/wireguard/wl0.sock",
    ] {
        assert!(removed.contains(&thing.to_owned()), "{thing} is not among {removed:#?}");
    }
    assert_eq!(removed.iter().filter(|thing| thing.starts_with("the rule")).count(), 2);
    assert_same(everything(host), &before);
    assert_eq!(ok(host, "wireloom cleanup").trim(), "nothing to remove");
    assert_same(everything(host), &before);
    // Nothing that the next agent needs went with it.
    let next = mesh.up("a");
    assert!(next.stop(wireloom_tests::SOON).unwrap().status.success());
}

#[test]
fn while_an_agent_runs_nothing_is_touched() {
    need_all!();
    let mesh = Mesh::new();
    let a = mesh.up("a");
    let before = everything(&mesh.pair.a);
    for line in ["wireloom cleanup", "wireloom cleanup wl7"] {
        let refused = run(&mesh.pair.a, line);
        assert!(!refused.status.success());
        let pid = format!("(process {})", a.id());
        for part in ["wl0", &pid, "wireloom down wl0"] {
            assert!(refused.stderr.contains(part), "{part} is not in {}", refused.stderr);
        }
    }
    let after = everything(&mesh.pair.a);
    after.0.assert_same(&before.0);
    assert_eq!(after.1, before.1);
}

/// What Kilo has on a leader with `--encapsulate=always`, without its chains.
fn make_kilo(host: &Host) {
    for line in [
        "ip tuntap add dev kilo0 mode tun",
        "ip address add 10.4.0.1/16 dev kilo0",
        "ip link set kilo0 up",
        "ip route add 10.42.2.0/24 via 10.4.0.2 dev kilo0 onlink proto static",
        "ip route add 192.168.1.50/32 dev kilo0 proto static",
        "ip -6 route add fd42::/64 dev kilo0 proto static",
        "ip route add 10.0.0.2/32 via 192.0.2.2 dev eth0 proto static table 1107",
        "ip rule add from 10.42.0.0/24 to 10.0.0.2/32 table 1107",
        "ip rule add to 10.0.0.2/32 iif kilo0 table 1107",
    ] {
        ok(host, line);
    }
}

/// Its chains, by this iptables program.
fn make_chains(host: &Host, iptables: &str, source: &str) {
    for line in [
        "-t nat -N KILO-NAT".to_owned(),
        format!("-t nat -I POSTROUTING -s {source} -j KILO-NAT"),
        "-t nat -A KILO-NAT -j MASQUERADE".to_owned(),
        "-t filter -N KILO-IPIP".to_owned(),
        "-t filter -A INPUT -p 4 -j KILO-IPIP".to_owned(),
        format!("-t filter -A KILO-IPIP -s {source} -j ACCEPT"),
    ] {
        ok(host, &format!("{iptables} {line}"));
    }
}

#[test]
fn what_kilo_left_goes_and_nothing_else() {
    need_all!();
    need!(program "iptables-nft");
    let pair = Pair::start();
    let host = &pair.a;
    make_foreign(host);
    // An iptables rule of somebody else, in tables that Kilo's chains come to as well.
    ok(host, "nft delete table ip nat");
    ok(host, "nft delete table ip filter");
    ok(host, "iptables-nft -t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE");
    ok(host, "iptables-nft -A INPUT -p 4 -j DROP");
    // The program leaves a chain that it once made, and so does cleanup.
    ok(host, "iptables-nft -P FORWARD ACCEPT");
    ok(host, "ip6tables-nft -t nat -A POSTROUTING -s fd01::/64 -j MASQUERADE");
    ok(host, "ip6tables-nft -A INPUT -p tcp -j ACCEPT");
    let before = everything(host);
    make_kilo(host);
    make_chains(host, "iptables-nft", "10.42.0.0/24");
    make_chains(host, "ip6tables-nft", "fd42::/64");
    host.write("/run/rules", SIGNED).unwrap();
    ok(host, "iptables-nft-restore --noflush /run/rules");
    let removed = removed(host, "wireloom cleanup --kilo --cni-path /run/none");
    for thing in ["the link kilo0", "the chain nat KILO-NAT", "the chain filter KILO-IPIP"] {
        assert!(removed.contains(&thing.to_owned()), "{thing} is not among {removed:#?}");
    }
    assert_same(everything(host), &before);
    let again = ok(host, "wireloom cleanup --kilo --cni-path /run/none");
    assert_eq!(again.trim(), "nothing to remove");
    assert_same(everything(host), &before);
}

#[test]
fn kilos_chains_in_the_older_iptables_go_too() {
    need_all!();
    need!(program "iptables-legacy");
    let pair = Pair::start();
    let host = &pair.a;
    let saved = || {
        let tables = ["iptables-legacy-save -t nat", "iptables-legacy-save -t filter"];
        let all = tables.map(|save| ok(host, save) + &ok(host, &format!("ip6{}", &save[2..])));
        // Times and counters come in comments and brackets.
        let lines = all.concat();
        let lines = lines.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" [").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for iptables in ["iptables-legacy", "ip6tables-legacy"] {
        let others = if iptables == "iptables-legacy" { "10.1.0.0/16" } else { "fd01::/64" };
        ok(host, &format!("{iptables} -t nat -A POSTROUTING -s {others} -j MASQUERADE"));
        ok(host, &format!("{iptables} -A FORWARD -s {others} -j ACCEPT"));
    }
    let before = saved();
    make_chains(host, "iptables-legacy", "10.42.0.0/24");
    make_chains(host, "ip6tables-legacy", "fd42::/64");
    host.write("/run/rules", SIGNED).unwrap();
    ok(host, "iptables-legacy-restore --noflush /run/rules");
    assert_ne!(saved(), before);
    // As in the agent's image, which has no iptables.
    let binary = wireloom_binary();
    let blind = format!("env PATH=/none {} cleanup --kilo --cni-path /run/none", binary.display());
    let said = ok(host, &blind);
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        assert!(said.contains(&format!("kept what is in the tables of {program}")), "{said}");
    }
    let removed = removed(host, "wireloom cleanup --kilo --cni-path /run/none");
    // Two chains and two jumps of each family, and what is signed.
    assert_eq!(removed.len(), 8 + 3, "{removed:#?}");
    assert_eq!(saved(), before);
}

/// Rules that jump nowhere, yet say whose they are.
const SIGNED: &str = "*filter
-A FORWARD -s 10.42.0.0/24 -m comment --comment \"Kilo: allow forwarded traffic\" -j ACCEPT
-A FORWARD -d 10.42.0.0/24 -m comment --comment \"Kilo: allow forwarded traffic\" -j ACCEPT
-A INPUT -p 4 -m comment --comment \"Kilo: reject other IPIP traffic\" -j DROP
COMMIT
";

#[test]
fn kilos_chains_are_seen_without_iptables_too() {
    need_all!();
    let pair = Pair::start();
    let host = &pair.a;
    make_foreign(host);
    let before = everything(host);
    nft(
        host,
        "table ip nat {
             chain KILO-NAT { masquerade; }
             chain POSTROUTING {
                 ip saddr 10.42.0.0/24 jump KILO-NAT comment \"Kilo: jump to KILO-NAT chain\";
             }
         }
         table ip filter {
             chain KILO-IPIP { ip saddr 10.0.0.2 accept; }
             chain INPUT { ip protocol 4 jump KILO-IPIP; ip protocol 4 drop; }
         }",
    );
    // A machine that has nft and nothing else.
    let programs = tempfile::tempdir().unwrap();
    let path = ok(host, "which nft");
    std::os::unix::fs::symlink(path.trim(), programs.path().join("nft")).unwrap();
    let wireloom = wireloom_binary();
    let line = format!(
        "env PATH={} {} cleanup --kilo --cni-path /run/none",
        programs.path().display(),
        wireloom.display()
    );
    let removed = removed(host, &line);
    assert_eq!(removed.len(), 5, "{removed:#?}");
    assert_same(everything(host), &before);
}

#[test]
fn kilos_cni_configuration_goes_when_asked() {
    need_all!();
    let pair = Pair::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("10-kilo.conflist");
    fs::write(&file, "{}").unwrap();
    let line = format!("wireloom cleanup --kilo --cni-path {}", file.display());
    let told = ok(&pair.a, &line);
    assert!(told.contains("kept the CNI configuration") && told.contains("--cni"), "{told}");
    assert!(file.exists());
    assert!(ok(&pair.a, &format!("{line} --cni")).contains("removed the CNI configuration"));
    assert!(!file.exists());
}
