//! What any WireGuard has to do in a real network, scenario by scenario: `wireloom tunnel` and the kernel around it.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod carriage;
mod configuration;
mod forwarding;
mod life;
mod loss;
mod roaming;
mod routing;

/// Leaves the test unless the machine has what the scenarios need.
#[macro_export]
macro_rules! need_all {
    () => {
        wireloom_testkit::need!(root);
        wireloom_testkit::need!(device "/dev/net/tun");
        wireloom_testkit::need!(program "iperf3");
        wireloom_testkit::need!(program "nft");
        wireloom_testkit::need!(program "ping");
        wireloom_testkit::need!(program "wg");
    };
}
