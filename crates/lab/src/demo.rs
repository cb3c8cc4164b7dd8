//! What every demo shows, whatever brings its nodes together: who reaches whom, how fast, and in which words.

pub mod reach;
pub mod throughput;
pub mod voice;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
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

/// Writes a picture, as SVG, into a file that stays, and returns its path.
///
/// # Errors
///
/// Whatever the system says to the file.
pub fn keep_picture(svg: &str) -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("wireloom-demo-{}.svg", std::process::id()));
    // Never through a link that somebody else laid there.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    file.write_all(svg.as_bytes())?;
    Ok(path)
}

/// Seconds, to a tenth.
pub fn tenths(span: Duration) -> f64 {
    (span.as_secs_f64() * 10.0).round() / 10.0
}
