//! Scenarios that need more than one crate.
