//! Machines in four regions that a cluster makes one mesh: `wireloom agent` on each, a real API server on one more, and
//! real packets of both families.
//!
//! Each scenario has a cluster of its own, so that they run side by side: most of their time they wait for a node to be
//! missed, which takes a minute.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests fail as the test does"
)]

mod addresses;
mod clocks;
mod gateways;
mod kilo;
mod many;
mod names;
mod nodes;
mod outage;
mod peers;
mod process;
mod rig;

use wireloom_lab::Region;

/// The regions of the demo: Amsterdam, Warsaw, London at another provider, and Ireland behind NAT.
fn regions() -> Vec<Region> {
    vec![
        Region::new("nl-ams", &["ams-1", "ams-2"]),
        Region::new("pl-waw", &["waw-1"]),
        Region::new("uk-lon", &["lon-1"]),
        Region::new("ire", &["ire-1"]).behind_nat(),
    ]
}

/// What every scenario needs of its machine.
macro_rules! need_all {
    () => {
        wireloom_testkit::need!(root);
        wireloom_testkit::need!(device "/dev/net/tun");
        wireloom_testkit::need!(cluster);
        wireloom_testkit::need!(program "ip");
        wireloom_testkit::need!(program "nft");
        wireloom_testkit::need!(program "ping");
    };
}
use need_all;
