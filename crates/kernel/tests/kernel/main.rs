//! The kernel of this machine, in network namespaces of the tests' own.

#![expect(clippy::unwrap_used, reason = "a helper's panic is the test's failure")]

mod cached;
mod encapsulation;
mod forward;
mod guard;
mod host;
mod nft;
mod policy;
mod state;
mod support;
mod traffic;
mod watch;
