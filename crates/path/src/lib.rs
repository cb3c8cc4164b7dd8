//! What a path to a peer carries, found out by probes.
//!
//! Owns the [`Search`] for the largest packet that arrives. It says which echoes to send and is told which were answered;
//! time is an argument.
//!
//! Floor 1: imports nothing of ours; no IO, no clock and no randomness.

mod search;

pub use search::{Echo, Range, Search};
