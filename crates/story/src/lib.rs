//! One Kubernetes cluster over many clouds, as a person sees it.
//!
//! Owns two demonstrations on real [clusters](wireloom_cluster::Cluster), with nothing simulated but the distance: the
//! [mesh] of nodes, a node that joins late and a machine outside, and the [article] about a cluster whose nodes live in
//! several regions and at several providers, told with pods. `cargo xtask demo --kubernetes` runs them, and
//! `crates/story/tests/demo.rs` holds them to what they promise.
//!
//! Floor 6: what ships never imports this.

pub mod article;
pub mod mesh;
mod pods;
mod stage;

use std::path::PathBuf;

use anyhow::Result;

/// What both need to be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `wireloom` program that the nodes get in an image.
    pub program: PathBuf,
    /// How long each measurement of throughput takes, in seconds; 0 leaves them out.
    pub seconds: u32,
}

/// What is called while everything stands, with what was found and what a person may do now.
pub type Keep<'a, R> = &'a dyn Fn(&R, &str) -> Result<()>;
