//! Who reaches whom: every ordered pair of nodes, in both families and both layers.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table};
use serde::{Serialize, Serializer};
use wireloom_model::Family;

use super::{Voice, voice};
use crate::error::Error;
use crate::host::Host;
use crate::lab::Lab;
use crate::measure::ping;

/// How long a mesh that has just started may take until everybody reaches everybody.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pings at the same time. Most of a ping's time is waiting.
const WORKERS: usize = 12;

/// How many unreachable pairs are named to people.
const NAMED: usize = 12;

/// What is pinged, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// From node to node, by overlay address.
    Node,
    /// From pod to pod.
    Pod,
}

/// One ordered pair that is tried.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The node that asks, or whose pod does.
    pub from: String,
    /// The node that is asked, or whose pod is.
    pub to: String,
    /// The family of the address.
    #[serde(serialize_with = "short")]
    pub family: Family,
    /// Which of the two ask.
    pub layer: Layer,
    /// The host of the lab that asks.
    #[serde(skip)]
    pub asks: String,
    /// Whom it asks. A node without an address of the family is not reached.
    pub address: Option<IpAddr>,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = match self.layer {
            Layer::Node => "node to node",
            Layer::Pod => "pod to pod",
        };
        let Self { from, to, family, address, .. } = self;
        write!(f, "{from} to {to}, {layer}, {}", name(*family))?;
        address.map_or(Ok(()), |address| write!(f, " ({address})"))
    }
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}

fn short<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name(*family))
}

/// A pair and the round trip between its ends. `None` is not reached.
#[derive(Debug)]
pub struct Trial {
    /// The pair.
    pub pair: Pair,
    /// How long the echo took.
    pub round_trip: Option<Duration>,
}

/// Tries all pairs by ping from hosts of the lab, each until it is reached or 20 seconds are over.
///
/// # Errors
///
/// A host that the lab does not have, or `ping` that does not start.
pub fn try_all(lab: &Lab, pairs: Vec<Pair>) -> Result<Vec<Trial>, Error> {
    let deadline = Instant::now() + PATIENCE;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((number, pair)) = take(&next, &pairs) {
            if let Some(address) = pair.address {
                done.push((number, trip(lab.host(&pair.asks)?, address, deadline)?));
            }
        }
        Ok::<_, Error>(done)
    };
    let mut trips = vec![None; pairs.len()];
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            let gone = || Error::Gone { host: "the thread that pings".to_owned() };
            for (number, trip) in worker.join().map_err(|_| gone())?? {
                trips[number] = trip;
            }
            Ok::<(), Error>(())
        })
    })?;
    let trials = pairs.into_iter().zip(trips);
    Ok(trials.map(|(pair, round_trip)| Trial { pair, round_trip }).collect())
}

/// The round trip to an address that is reached by the deadline. The first echo may have waited for a handshake, and for
/// routes; the next one does not.
fn trip(from: &Host, to: IpAddr, deadline: Instant) -> Result<Option<Duration>, Error> {
    let Some(first) = ping(from, to, deadline)? else { return Ok(None) };
    let next = ping(from, to, Instant::now())?;
    Ok(Some(next.map_or(first, |next| next.min(first))))
}

fn take<'a>(next: &AtomicUsize, pairs: &'a [Pair]) -> Option<(usize, &'a Pair)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    Some((number, pairs.get(number)?))
}

/// Tells how the trials between these nodes went, and who was not reached.
///
/// # Errors
///
/// Standard output that can't be written.
pub fn tell(names: &[&str], trials: &[Trial], voice: &Voice) -> io::Result<()> {
    voice.table(&matrix(names, trials))?;
    let missed: Vec<&Trial> = trials.iter().filter(|trial| trial.round_trip.is_none()).collect();
    let (pairs, reached) = (trials.len(), trials.len() - missed.len());
    voice.verdict(missed.is_empty(), &format!("{reached} of {pairs} pairs reachable"))?;
    for trial in missed.iter().take(NAMED) {
        voice.say(&format!("   not reached: {}", trial.pair))?;
    }
    if missed.len() > NAMED {
        voice.say(&format!("   and {} more", missed.len() - NAMED))?;
    }
    Ok(())
}

fn matrix(names: &[&str], trials: &[Trial]) -> Table {
    let mut table = voice::table(&[&["FROM \\ TO"], names].concat());
    for from in names {
        let cells = names.iter().map(|to| cell(trials, from, to));
        table.add_row(std::iter::once((*from).to_owned()).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What stands where a row and a column of the matrix meet: the shortest round trip in milliseconds if all of the
/// pair's trials succeeded, else how many did.
fn cell(trials: &[Trial], from: &str, to: &str) -> String {
    let here: Vec<_> = trials.iter().filter(|t| t.pair.from == from && t.pair.to == to).collect();
    let trips: Vec<Duration> = here.iter().filter_map(|trial| trial.round_trip).collect();
    match trips.iter().min() {
        _ if from == to => "·".to_owned(),
        Some(best) if trips.len() == here.len() => format!("{:.1}", best.as_secs_f64() * 1000.0),
        _ => format!("{}/{}", trips.len(), here.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_how_far_or_how_many() {
        let trial = |micros: Option<u64>| Trial {
            pair: Pair {
                from: "a".to_owned(),
                to: "b".to_owned(),
                family: Family::V4,
                layer: Layer::Node,
                asks: "a".to_owned(),
                address: None,
            },
            round_trip: micros.map(Duration::from_micros),
        };
        assert_eq!(cell(&[trial(Some(22_040)), trial(Some(90_000))], "a", "b"), "22.0");
        assert_eq!(cell(&[trial(Some(22_040)), trial(None)], "a", "b"), "1/2");
        assert_eq!(cell(&[trial(None), trial(None)], "a", "b"), "0/2");
        assert_eq!(cell(&[], "a", "a"), "·");
    }

    #[test]
    fn a_pair_names_its_family_shortly_in_json() {
        let pair = Pair {
            from: "a".to_owned(),
            to: "b".to_owned(),
            family: Family::V6,
            layer: Layer::Pod,
            asks: "a-pod".to_owned(),
            address: Some("fd00::1".parse().unwrap()),
        };
        let json = serde_json::json!({
            "from": "a", "to": "b", "family": "v6", "layer": "pod", "address": "fd00::1",
        });
        assert_eq!(serde_json::to_value(&pair).unwrap(), json);
        assert_eq!(pair.to_string(), "a to b, pod to pod, v6 (fd00::1)");
    }
}
