//! Who reaches whom: every ordered pair of nodes, in both families and both layers.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::Serialize;
use wireloom_agent::status::Status;
use wireloom_lab::Lab;
use wireloom_lab::measure::ping;
use wireloom_lab::plan::HostPlan;
use wireloom_model::Family;

/// How long a mesh that has just started may take until everybody reaches everybody.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pings at the same time. Most of a ping's time is waiting.
const WORKERS: usize = 12;

/// What is pinged, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Layer {
    /// From node to node, by overlay address.
    Node,
    /// From pod to pod.
    Pod,
}

/// One ordered pair that is tried.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Pair {
    pub(super) from: String,
    pub(super) to: String,
    family: &'static str,
    layer: Layer,
    /// The host of the lab that asks.
    #[serde(skip)]
    asks: String,
    /// Whom it asks. A node without an address of the family is not reached.
    address: Option<IpAddr>,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = match self.layer {
            Layer::Node => "node to node",
            Layer::Pod => "pod to pod",
        };
        let Self { from, to, family, address, .. } = self;
        write!(f, "{from} to {to}, {layer}, {family}")?;
        address.map_or(Ok(()), |address| write!(f, " ({address})"))
    }
}

/// A pair and the round trip between its ends. `None` is not reached.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) pair: Pair,
    pub(super) round_trip: Option<Duration>,
}

/// All pairs of the lab's hosts, which are these nodes.
pub(super) fn pairs(lab: &Lab, nodes: &[Status]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for layer in [Layer::Node, Layer::Pod] {
        for family in Family::BOTH {
            for from in lab.plan().hosts() {
                let others = lab.plan().hosts().filter(|to| to.name != from.name);
                pairs.extend(others.map(|to| pair(nodes, layer, family, from, to)));
            }
        }
    }
    pairs
}

fn pair(nodes: &[Status], layer: Layer, family: Family, from: &HostPlan, to: &HostPlan) -> Pair {
    let (asks, address) = match layer {
        Layer::Node => (Some(&from.name), overlay_address(nodes, &to.name, family)),
        Layer::Pod => (from.pod.as_ref().map(|pod| &pod.name), pod_address(to, family)),
    };
    Pair {
        from: from.name.clone(),
        to: to.name.clone(),
        family: match family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        },
        layer,
        asks: asks.unwrap_or(&from.name).clone(),
        address,
    }
}

fn pod_address(host: &HostPlan, family: Family) -> Option<IpAddr> {
    let addresses = host.pod.as_ref()?.address.map(|address| address.address());
    addresses.into_iter().find(|address| Family::of(*address) == family)
}

/// The overlay address of a node, as it says itself.
pub(super) fn overlay_address(nodes: &[Status], name: &str, family: Family) -> Option<IpAddr> {
    let node = nodes.iter().find(|node| node.node.as_ref().is_some_and(|n| n.as_str() == name))?;
    node.overlay_addresses.iter().copied().find(|address| Family::of(*address) == family)
}

/// Tries all pairs, each until it is reached or the time is over.
pub(super) fn try_all(lab: &Lab, pairs: Vec<Pair>) -> anyhow::Result<Vec<Trial>> {
    let deadline = Instant::now() + PATIENCE;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((number, pair)) = take(&next, &pairs) {
            if let Some(address) = pair.address {
                done.push((number, ping(lab.host(&pair.asks)?, address, deadline)?));
            }
        }
        anyhow::Ok(done)
    };
    let mut trips = vec![None; pairs.len()];
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            let done = worker.join().map_err(|_| anyhow!("a thread that pings has panicked"))??;
            for (number, trip) in done {
                trips[number] = trip;
            }
            anyhow::Ok(())
        })
    })?;
    let trials = pairs.into_iter().zip(trips);
    Ok(trials.map(|(pair, round_trip)| Trial { pair, round_trip }).collect())
}

fn take<'a>(next: &AtomicUsize, pairs: &'a [Pair]) -> Option<(usize, &'a Pair)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    Some((number, pairs.get(number)?))
}

/// What stands where a row and a column of the matrix meet: the shortest round trip in milliseconds if all of the
/// pair's trials succeeded, else how many did.
pub(super) fn cell(trials: &[Trial], from: &str, to: &str) -> String {
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
                family: "v4",
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
}
