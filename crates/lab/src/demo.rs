//! What every demo shows, whatever brings its nodes together: who reaches whom, how fast, and in which words.

pub mod reach;
pub mod throughput;
pub mod voice;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use reach::{Layer, Pair, Trial};
pub use throughput::Throughput;
pub use voice::Voice;

/// What a demo found, for programs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many nodes the mesh has.
    pub nodes: usize,
    /// How many [pairs](Pair) were tried.
    pub pairs: usize,
    /// How many of them were reached.
    pub reachable: usize,
    /// Those that were not.
    pub unreachable: Vec<Pair>,
    /// How fast regions reach each other.
    pub throughput: Vec<Throughput>,
    /// What the whole demo took.
    pub seconds: f64,
    /// Where the picture of the mesh lies.
    pub graph: Option<PathBuf>,
}

impl Report {
    /// Sums up a demo of that many nodes that began then.
    pub fn new(
        nodes: usize,
        trials: Vec<Trial>,
        throughput: Vec<Throughput>,
        graph: Option<PathBuf>,
        begin: Instant,
    ) -> Self {
        let pairs = trials.len();
        let missed = trials.into_iter().filter(|trial| trial.round_trip.is_none());
        let unreachable: Vec<Pair> = missed.map(|trial| trial.pair).collect();
        let reachable = pairs - unreachable.len();
        let seconds = tenths(begin.elapsed());
        Self { nodes, pairs, reachable, unreachable, throughput, seconds, graph }
    }
}

/// Seconds, to a tenth.
pub fn tenths(span: Duration) -> f64 {
    (span.as_secs_f64() * 10.0).round() / 10.0
}
