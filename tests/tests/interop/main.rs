//! Ours against every other WireGuard: `wireloom tunnel` at one end, another implementation at the other.
//!
//! docs/interop.md has the table of what is tried here; a test holds the two together.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod cases;
mod ends;
mod peer;
mod traffic;

use std::fmt::Write as _;

use cases::Case;
use peer::Peer;
use wireloom_testkit::need;

/// Leaves the test unless the machine has what a test with this peer needs.
macro_rules! need_all {
    ($peer:expr) => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "busybox");
        need!(program "nft");
        need!(program "ping");
        need!(program "wg");
        match $peer.program() {
            None => need!(vm),
            Some(program) => need!(built program),
        }
    };
}

macro_rules! with_each_peer {
    ($($module:ident: $peer:expr;)*) => {
        $(mod $module {
            use super::*;

            #[test]
            fn sessions_and_data() {
                need_all!($peer);
                cases::sessions($peer);
            }

            #[test]
            fn datagrams_and_congestion() {
                need_all!($peer);
                traffic::all($peer);
            }

            #[test]
            fn roaming() {
                need_all!($peer);
                cases::roaming($peer);
            }

            #[test]
            fn keepalive() {
                need_all!($peer);
                cases::keepalive($peer);
            }
        })*

        /// All are asked at once.
        #[test]
        #[ignore = "waits for two minutes; `cargo xtask test` runs it beside the others"]
        fn a_rekey_loses_nothing() {
            $(need_all!($peer);)*
            cases::rekey(&[$($peer),*]);
        }

        #[test]
        fn every_peer_of_the_table_has_its_tests() {
            assert_eq!(Peer::ALL, [$($peer),*]);
        }
    };
}

with_each_peer! {
    linux: Peer::Linux;
    wireguard_go: Peer::WireguardGo;
    boringtun: Peer::Boringtun;
    gotatun: Peer::Gotatun;
}

#[test]
fn the_table_in_the_documentation_says_what_is_tried() {
    let mut table = "|".to_owned();
    for peer in Peer::ALL {
        write!(table, " | {}", peer.name()).unwrap();
    }
    table += " |\n|---|";
    table += &"---|".repeat(Peer::ALL.len());
    for case in Case::ALL {
        write!(table, "\n| {}", case.title()).unwrap();
        for peer in Peer::ALL {
            let engines: Vec<_> = case.engines(peer).iter().map(|engine| engine.name()).collect();
            let tried = if engines.is_empty() { "–".to_owned() } else { engines.join(", ") };
            write!(table, " | {tried}").unwrap();
        }
        table += " |";
    }
    let document = include_str!("../../../docs/interop.md");
    assert!(document.contains(&table), "docs/interop.md lacks this table:\n{table}");
}
