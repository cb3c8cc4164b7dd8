//! What others have on a host, and a snapshot that holds all of it to the byte.

use std::collections::BTreeSet;

use serde_json::Value;
use wireloom_lab::Host;

use crate::{eventually, ok};

/// Everything that `ip`, `bridge` and `nft` tell of a host's network as JSON, each object a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

/// Makes what an admin may have on a [`Pair`](crate::Pair)'s host, which looks like ours or Kilo's as much as it can.
pub fn make_foreign(host: &Host) {
    for line in [
        "ip link add ours0 type bridge",
        "ip link add kilo1 type bridge",
        "ip link set ours0 up",
        "ip address add 172.31.0.1/24 dev ours0",
        "ip route add 198.51.100.0/24 via 192.0.2.2 proto static",
        "ip route add 198.51.101.0/24 via 192.0.2.2 table 99 proto 200",
        "ip route add 198.51.102.0/24 via 192.0.2.2 table 1107 proto 200",
        "ip -6 route add 2001:db8:1::/48 via 2001:db8::2 proto static",
        "ip rule add from 198.51.100.9 table 99",
        "ip -6 rule add from 2001:db8:1::9 table 99",
    ] {
        ok(host, line);
    }
    nft(
        host,
        "table inet wireloom-of-somebody-else {
             chain c { type filter hook input priority 0; }
         }
         table ip filter {
             chain INPUT { type filter hook input priority 0; ip protocol 4 drop; }
         }
         table ip nat {
             chain POSTROUTING {
                 type nat hook postrouting priority srcnat;
                 ip saddr 10.1.0.0/16 masquerade;
             }
         }",
    );
}

/// Has `nft` run a script.
///
/// # Panics
///
/// If it refuses.
pub fn nft(host: &Host, script: &str) {
    host.write("/run/script.nft", script).expect("/run is the host's own");
    ok(host, "nft -f /run/script.nft");
}

/// Leaves out how far a bridge's timers have run.
fn stop_timers(told: &mut Value) {
    match told {
        Value::Array(all) => all.iter_mut().for_each(stop_timers),
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("_timer"));
            fields.values_mut().for_each(stop_timers);
        }
        _ => {}
    }
}

impl Snapshot {
    /// The host as it is once the kernel is done with what it does by itself.
    pub fn of(host: &Host) -> Self {
        eventually("all link-local addresses are proven", || {
            !ok(host, "ip address").contains("tentative")
        });
        let mut objects = BTreeSet::new();
        for list in [
            "ip -j -d link",
            "ip -j address",
            "ip -j -d route show table all",
            "ip -j -d -6 route show table all",
            "ip -j -d rule",
            "ip -j -d -6 rule",
            "ip -j neighbour show nud permanent",
            "ip -j -6 neighbour show nud permanent",
            "bridge -j fdb show",
            "nft -j list ruleset",
        ] {
            let mut told: Value = serde_json::from_str(&ok(host, list)).unwrap_or_default();
            stop_timers(&mut told);
            let all = told.get("nftables").unwrap_or(&told);
            for object in all.as_array().into_iter().flatten() {
                objects.insert(format!("{list}: {object}"));
            }
        }
        Self(objects)
    }

    /// Fails with the objects that only one of the two has.
    ///
    /// # Panics
    ///
    /// If there is such an object.
    pub fn assert_same(&self, before: &Self) {
        self.assert_holds(before);
        let new: Vec<_> = self.0.difference(&before.0).collect();
        assert!(new.is_empty(), "new: {new:#?}");
    }

    /// Fails with the objects of the earlier one that are no longer there as they were.
    ///
    /// # Panics
    ///
    /// If there is such an object.
    pub fn assert_holds(&self, before: &Self) {
        let lost: Vec<_> = before.0.difference(&self.0).collect();
        assert!(lost.is_empty(), "lost: {lost:#?}");
    }

    /// Whether an object has this text in it.
    pub fn mentions(&self, text: &str) -> bool {
        self.0.iter().any(|object| object.contains(text))
    }
}
