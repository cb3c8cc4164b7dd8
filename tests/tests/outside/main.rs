//! Machines that are no nodes of a cluster, or that nobody can dial: `wireloom connect`, the API as a source of
//! configurations, and nodes behind NAT.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

mod connect;
mod nat;
mod rig;
