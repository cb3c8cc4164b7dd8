//! Our rule in chains of others that drop what a host passes on.

use std::process::Command;

use wireloom_kernel::{Cached, Event, Host};
use wireloom_model::kernel::{KernelState, Nft, NftSet};
use wireloom_testkit::need;

use crate::support::*;

fn accepting(bits: u32) -> KernelState {
    let passed = prefixes(&["10.4.0.0/16", "10.42.0.0/16", "fd04::/16", "fd42::/16"]);
    let sets = if bits == 0 { [].into() } else { [(NftSet::Passed, passed)].into() };
    KernelState {
        nft: Some(Nft { sets, accept: bits, ..Nft::default() }),
        ..KernelState::default()
    }
}

/// What others have: chains that drop by policy or by their last rule, and chains that are no concern of ours.
const OTHERS: [&str; 16] = [
    "add table ip filter",
    "add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }",
    "add chain ip filter INPUT { type filter hook input priority filter; policy drop; }",
    "add rule ip filter FORWARD ip saddr 198.51.100.0/24 counter accept comment \"theirs\"",
    "add table inet firewall",
    "add chain inet firewall through { type filter hook forward priority 10; policy accept; }",
    "add rule inet firewall through ct state established accept",
    "add rule inet firewall through reject with icmpx admin-prohibited",
    "add chain inet firewall other { type filter hook forward priority 20; policy accept; }",
    "add rule inet firewall other ip saddr 198.51.100.7 drop",
    "add chain inet firewall regular",
    "add rule inet firewall regular drop",
    "add table ip6 dropping",
    "add chain ip6 dropping each { type filter hook forward priority 0; policy drop; }",
    "add table bridge firewall",
    "add chain bridge firewall ports { type filter hook forward priority 0; policy drop; }",
];

const DROPPING: [&str; 3] = ["inet firewall through", "ip filter FORWARD", "ip6 dropping each"];

fn told(chains: &[impl ToString]) -> Vec<String> {
    let mut told: Vec<String> = chains.iter().map(ToString::to_string).collect();
    told.sort();
    told
}

#[test]
fn chains_that_drop_what_is_passed_on_get_one_rule_and_lose_it_again() {
    need!(root);
    need!(program "nft");
    in_namespace(|| async {
        for command in OTHERS {
            nft_command(command);
        }
        let before = nft("-j -a list ruleset");
        let host = Host::new().unwrap();
        assert_eq!(told(&host.forward_drops().unwrap()), DROPPING);
        let mut cached = Cached::new(&host, vec![]).await.unwrap();
        let report = cached.bring(&accepting(0)).await.unwrap();
        assert_eq!((report.written, host.forward_accepts().unwrap()), (1, vec![]));

        let report = cached.bring(&accepting(0x20)).await.unwrap();
        assert_eq!((report.written, report.failed.len()), (4, 0), "{:?}", report.failed);
        assert_eq!(told(&host.forward_accepts().unwrap()), DROPPING);
        assert_eq!(host.forward_drops().unwrap(), []);
        // At the head, in words that iptables has too.
        let listed = nft("list chain ip filter FORWARD");
        let rules: Vec<&str> = listed.lines().filter(|line| line.contains("comment")).collect();
        let ours = "accept comment \"wireloom passes on what is marked 0x20\"";
        assert!(rules[0].contains(ours) && rules[0].contains("mark"), "{listed}");
        assert!(rules[1].contains("theirs"), "{listed}");

        // By who knows what it wrote, and by one that does not.
        assert_eq!(cached.bring(&accepting(0x20)).await.unwrap().written, 0);
        let mut other = Cached::new(&Host::new().unwrap(), vec![]).await.unwrap();
        assert_eq!(other.bring(&accepting(0x20)).await.unwrap().written, 0);

        // Other bits: the table anew, and in each chain one rule for the other.
        assert_eq!(cached.bring(&accepting(0x40)).await.unwrap().written, 1 + 2 * 3);
        assert_eq!(nft("list ruleset").matches("wireloom passes on").count(), 3);

        let report = cached.bring(&KernelState::default()).await.unwrap();
        assert_eq!(report.written, 1 + 3);
        assert_eq!(nft("-j -a list ruleset"), before);
    });
}

#[test]
fn what_others_do_to_their_chains_is_heard_where_it_matters() {
    need!(root);
    need!(program "nft");
    in_namespace(|| async {
        for command in OTHERS {
            nft_command(command);
        }
        let host = Host::new().unwrap();
        let mut cached = Cached::new(&host, vec![]).await.unwrap();
        cached.bring(&accepting(0x20)).await.unwrap();
        for (change, written) in [
            ("flush chain ip filter FORWARD", 1),
            ("delete table ip filter", 0),
            ("add table ip docker", 0),
            ("add chain ip docker F { type filter hook forward priority 1; policy drop; }", 1),
            ("add chain ip docker F { policy accept; }", 1),
            ("add rule ip docker F drop", 1),
            ("flush table inet firewall", 0),
        ] {
            nft_command(change);
            // What is no concern of ours is not news: the chain that goes takes our rule with it.
            if !change.contains("table ip") {
                assert_eq!(cached.changed().await, Some(Event::ForwardChanged), "{change}");
                assert!(cached.is_due());
            }
            let report = cached.bring(&accepting(0x20)).await.unwrap();
            assert_eq!(report.written, written, "{change}: {:?}", report.failed);
            assert_eq!(host.forward_drops().unwrap(), [], "{change}");
        }
        nft_command("add table ip last");
        nft_command("add chain ip last c { type filter hook input priority 0; policy drop; }");
        nft_command("delete table inet wireloom");
        assert_eq!(cached.changed().await, Some(Event::NftChanged));
    });
}

#[test]
fn iptables_goes_on_reading_its_own_table() {
    need!(root);
    need!(program "iptables-nft");
    need!(program "nft");
    in_namespace(|| async {
        let iptables = |arguments: &[&str]| {
            let output = Command::new("iptables-nft").args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        iptables(&["-A", "FORWARD", "-i", "lo", "-j", "ACCEPT"]);
        iptables(&["-A", "FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"]);
        let before = iptables(&["-S"]);
        let host = Host::new().unwrap();
        let mut cached = Cached::new(&host, vec![]).await.unwrap();
        cached.bring(&accepting(0x20)).await.unwrap();
        assert_eq!(told(&host.forward_accepts().unwrap()), ["ip filter FORWARD"]);
        let listed = iptables(&["-S", "FORWARD"]);
        assert!(
            listed.lines().nth(1).is_some_and(|line| line.contains("--mark 0x20/0x20")),
            "{listed}"
        );
        cached.bring(&KernelState::default()).await.unwrap();
        assert_eq!(iptables(&["-S"]), before);
    });
}
