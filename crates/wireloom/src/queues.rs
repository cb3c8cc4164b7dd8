//! How many queues carry a device's packets.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::thread;

use anyhow::Context as _;
use wireloom_agent::handover::QUEUES as MOST;

/// The most that are chosen without being asked for.
const MOST_CHOSEN: usize = 8;
/// One thread seals and another opens for each queue.
const CORES_A_QUEUE: usize = 2;

/// A number of queues, or the choice of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Queues {
    /// By the cores that this process may use: one queue below four cores.
    #[default]
    Auto,
    /// So many.
    Of(NonZeroUsize),
}

impl Queues {
    /// The number for this process.
    pub(crate) fn count(self) -> NonZeroUsize {
        match self {
            Self::Auto => for_cores(thread::available_parallelism().map_or(1, NonZeroUsize::get)),
            Self::Of(count) => count,
        }
    }
}

fn for_cores(cores: usize) -> NonZeroUsize {
    let count = (cores / CORES_A_QUEUE).min(MOST_CHOSEN);
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

impl FromStr for Queues {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MOST);
        let count = count.with_context(|| format!("use auto, or a number from 1 to {MOST}"))?;
        Ok(Self::Of(count))
    }
}

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Of(count) => count.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_auto_is_taken() {
        for text in ["auto", "1", "2", "253"] {
            assert_eq!(text.parse::<Queues>().unwrap().to_string(), text);
        }
        for text in ["", "0", "254", "-1", "two", "Auto"] {
            assert!(text.parse::<Queues>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn few_cores_have_one_queue() {
        let chosen = [0, 1, 2, 3, 4, 5, 8, 16, 128].map(|cores| for_cores(cores).get());
        assert_eq!(chosen, [1, 1, 1, 1, 2, 2, 4, 8, 8]);
    }
}
