//! What tests share: the check for what a test needs, how busy its machine is, a network of its own, a small virtual
//! machine, packets, and the search for the binary under test.
//!
//! Dev only: any crate may have it among its dev-dependencies, so it imports none of ours.

mod binary;
mod load;
#[expect(clippy::unwrap_used, reason = "a test's helper: its failure is the test's failure")]
pub mod matrix;
mod need;
mod network;
#[expect(clippy::unwrap_used, reason = "a test's helper: its failure is the test's failure")]
pub mod sample;
mod vm;

pub use binary::{cluster_program, wireloom_binary};
pub use load::promised;
pub use need::{Need, built};
pub use network::{in_new_network, ip, until_ok, wait_for_address};
pub use vm::{Vm, VmOutput};

/// Leaves the test unless this machine has what it needs: `need!(root)`, `need!(program "iperf3")`,
/// `need!(device "/dev/net/tun")`, `need!(built "peers/bin/gotatun")`, `need!(vm)`, `need!(cluster)`.
///
/// Prints that the test was skipped and why. Where the environment says `CI=true` it panics instead, so that a build
/// never passes by testing nothing. The test must return `()`.
#[macro_export]
macro_rules! need {
    (cluster) => {
        $crate::need!(@ $crate::Need::Cluster)
    };
    (root) => {
        $crate::need!(@ $crate::Need::Root)
    };
    (built $path:expr) => {
        $crate::need!(@ $crate::Need::Built($path))
    };
    (program $name:expr) => {
        $crate::need!(@ $crate::Need::Program($name))
    };
    (device $path:expr) => {
        $crate::need!(@ $crate::Need::Device($path))
    };
    (vm) => {
        $crate::need!(@ $crate::Need::Vm)
    };
    (@ $need:expr) => {{
        fn here() {}
        if !$need.met_for(::std::any::type_name_of_val(&here).trim_end_matches("::here")) {
            return;
        }
    }};
}
