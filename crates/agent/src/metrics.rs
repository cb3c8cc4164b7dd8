//! What an agent tells Prometheus (<https://prometheus.io/docs/concepts/data_model/>).
//!
//! Everything is read when it is asked for, so nothing is counted twice: [`METRICS`] lists each metric with what reads it
//! from a [`Sample`]. Those named `kilo_` are Kilo's own names for what both know (its `pkg/mesh/mesh.go`).

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TextEncoder};

use crate::status::{PeerKind, PeerPath, PeerReport, PeerState, Status};

/// What the metrics are read from: an agent at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What `wireloom status` shows.
    pub status: Status,
    /// The peers from outside that the mesh has.
    pub outside_peers: usize,
    /// How long ago the registry was last heard.
    pub age: Option<Duration>,
    /// The seconds by which this machine's clock is ahead of the registry's.
    pub clock_ahead: Option<f64>,
    /// Whether the device and the kernel are as the plan asks.
    pub is_applied: bool,
    /// How often this node became a gateway or ceased to be one.
    pub gateway_changes: u64,
    /// Passes that the device or the kernel refused something of.
    pub apply_errors: u64,
    /// Writes that failed of what this node says of itself.
    pub publish_errors: u64,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is, in what unit.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    kind: Kind,
    read: fn(&Sample) -> Vec<Series>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// The values of the labels, and the value.
type Series = (Vec<String>, f64);

/// Every metric of an agent but those of its process, in the order of names.
pub const METRICS: &[Metric] = &[
    counter(
        "kilo_errors_total",
        "Errors by what was going on, as Kilo names it.",
        &["event"],
        |s| {
            let events = [("apply", s.apply_errors), ("checkin", s.publish_errors)];
            events.map(|(event, count)| (vec![event.to_owned()], number(count))).to_vec()
        },
    ),
    gauge("kilo_leader", "Whether this node leads its location: wireloom_gateway.", &[], |s| {
        one(flag(s.status.gateway))
    }),
    gauge("kilo_nodes", "Nodes that are ready: wireloom_nodes_healthy.", &[], |s| {
        one(healthy_nodes(s))
    }),
    gauge("kilo_peers", "Peers from outside: wireloom_peers.", &[], |s| one(peers(s))),
    counter("kilo_reconciles_total", "Passes: wireloom_reconciles_total.", &[], |s| {
        one(number(s.status.work.reconciles))
    }),
    counter(
        "wireloom_apply_errors_total",
        "Passes that the device or the kernel refused something of.",
        &[],
        |s| one(number(s.apply_errors)),
    ),
    gauge(
        "wireloom_clock_ahead_seconds",
        "How far this machine's clock is ahead of the registry's at least; 0 where they may agree.",
        &[],
        |s| s.clock_ahead.map(|ahead| (Vec::new(), ahead)).into_iter().collect(),
    ),
    counter("wireloom_device_writes_total", "Requests written to the tunnel device.", &[], |s| {
        one(number(s.status.work.device_writes))
    }),
    counter(
        "wireloom_drops_total",
        "Packets dropped by the data plane, by reason.",
        &["reason"],
        |s| {
            let drops = s.status.path.drops.iter();
            drops.map(|(reason, count)| (vec![reason.clone()], number(*count))).collect()
        },
    ),
    gauge("wireloom_gateway", "Whether this node carries its location's traffic.", &[], |s| {
        one(flag(s.status.gateway))
    }),
    counter(
        "wireloom_gateway_changes_total",
        "How often this node became a gateway or ceased to be one.",
        &[],
        |s| one(number(s.gateway_changes)),
    ),
    gauge(
        "wireloom_info",
        "Always 1; the labels say what runs.",
        &["version", "node", "engine"],
        |s| {
            let node = s.status.node.as_ref().map(ToString::to_string);
            let engine = s.status.path.engine.clone();
            let version = env!("CARGO_PKG_VERSION").to_owned();
            vec![(vec![version, node.unwrap_or_default(), engine.unwrap_or_default()], 1.0)]
        },
    ),
    counter(
        "wireloom_kernel_reads_total",
        "How often everything of ours was read back from the kernel.",
        &[],
        |s| one(number(s.status.work.kernel_reads)),
    ),
    counter(
        "wireloom_kernel_writes_total",
        "Changes of links, addresses, routes, rules and tables.",
        &[],
        |s| one(number(s.status.work.kernel_writes)),
    ),
    gauge("wireloom_nodes", "Nodes in the mesh.", &[], |s| one(s.status.nodes.len() as f64)),
    gauge("wireloom_nodes_healthy", "Nodes in the mesh that give signs of life.", &[], |s| {
        one(healthy_nodes(s))
    }),
    gauge(
        "wireloom_offload_active",
        "Whether an offload of the data plane is in use.",
        &["offload"],
        |s| {
            let offloads = s.status.path.offloads.iter();
            offloads.map(|(name, is_on)| (vec![name.clone()], flag(*is_on))).collect()
        },
    ),
    gauge(
        "wireloom_peer_handshake_age_seconds",
        "Time since the last handshake with a tunnel peer.",
        PEER,
        |s| {
            let age = |peer: &PeerReport| Some((name(peer), number(peer.handshake_age?)));
            s.status.peers.iter().filter_map(age).collect()
        },
    ),
    gauge(
        "wireloom_peer_info",
        "Always 1; the labels say where packets to a tunnel peer go, how the plan knows that place, and how the tunnel is.",
        &["peer", "kind", "public_key", "endpoint", "path", "state"],
        |s| {
            let info = |peer: &PeerReport| {
                let endpoint =
                    peer.endpoint.map_or_else(String::new, |endpoint| endpoint.to_string());
                let key = peer.public_key.to_string();
                let path = peer.path.map_or("", PeerPath::as_str).to_owned();
                let state = state(peer.state).to_owned();
                ([name(peer), vec![key, endpoint, path, state]].concat(), 1.0)
            };
            s.status.peers.iter().map(info).collect()
        },
    ),
    gauge(
        "wireloom_peer_mtu_bytes",
        "The largest packet that reaches a tunnel peer whole.",
        PEER,
        |s| {
            let mtu = |peer: &PeerReport| Some((name(peer), f64::from(peer.mtu?)));
            s.status.peers.iter().filter_map(mtu).collect()
        },
    ),
    counter(
        "wireloom_peer_received_bytes_total",
        "Bytes received from a tunnel peer.",
        PEER,
        |s| s.status.peers.iter().map(|peer| (name(peer), number(peer.rx_bytes))).collect(),
    ),
    counter("wireloom_peer_sent_bytes_total", "Bytes sent to a tunnel peer.", PEER, |s| {
        s.status.peers.iter().map(|peer| (name(peer), number(peer.tx_bytes))).collect()
    }),
    gauge("wireloom_peers", "Peers from outside that the mesh has.", &[], |s| one(peers(s))),
    gauge(
        "wireloom_plan_applied",
        "Whether the device and the kernel are as the plan asks.",
        &[],
        |s| one(flag(s.is_applied)),
    ),
    gauge(
        "wireloom_problems",
        "What is wrong with the mesh or this node, by kind.",
        &["severity", "kind"],
        |s| {
            let problems = &s.status.problems;
            let mut kinds: Vec<(&str, &str)> =
                problems.iter().map(|p| (p.severity.as_str(), p.kind.as_str())).collect();
            kinds.sort_unstable();
            let count = |same: &[(&str, &str)]| {
                let (severity, kind) = same[0];
                (vec![severity.to_owned(), kind.to_owned()], same.len() as f64)
            };
            kinds.chunk_by(|one, other| one == other).map(count).collect()
        },
    ),
    counter(
        "wireloom_publish_errors_total",
        "Writes that failed of what this node says of itself, its signs of life included.",
        &[],
        |s| one(number(s.publish_errors)),
    ),
    counter(
        "wireloom_reconciles_total",
        "How often the plan was compared with the device and the kernel.",
        &[],
        |s| one(number(s.status.work.reconciles)),
    ),
    gauge(
        "wireloom_registry_age_seconds",
        "Time since the registry was last heard, though it had nothing new to tell.",
        &[],
        |s| s.age.map(|age| (Vec::new(), age.as_secs_f64())).into_iter().collect(),
    ),
    gauge(
        "wireloom_registry_stale",
        "Whether the registry can't be read, so that the last mesh stays in force.",
        &[],
        |s| one(flag(s.status.stale.is_some())),
    ),
];

/// The metrics of a Linux process that every Prometheus client has, those that `process_metrics` yields.
pub const PROCESS_METRICS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

type Read = fn(&Sample) -> Vec<Series>;

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: Read,
) -> Metric {
    Metric { name, help, labels, kind: Kind::Counter, read }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: Read,
) -> Metric {
    Metric { name, help, labels, kind: Kind::Gauge, read }
}

/// The metrics as text (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Errors only if a name or a
/// number of labels in [`METRICS`] is wrong.
pub fn text(sample: &Sample) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    for metric in METRICS {
        registry.register(metric.collector(sample)?)?;
    }
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

impl Metric {
    fn collector(&self, sample: &Sample) -> Result<Box<dyn Collector>, prometheus::Error> {
        let options = Opts::new(self.name, self.help);
        let series = (self.read)(sample);
        Ok(match self.kind {
            Kind::Counter => {
                let vector = CounterVec::new(options, self.labels)?;
                for (labels, value) in series {
                    vector.get_metric_with_label_values(&labels)?.inc_by(value);
                }
                Box::new(vector)
            }
            Kind::Gauge => {
                let vector = GaugeVec::new(options, self.labels)?;
                for (labels, value) in series {
                    vector.get_metric_with_label_values(&labels)?.set(value);
                }
                Box::new(vector)
            }
        })
    }
}

fn one(value: f64) -> Vec<Series> {
    vec![(Vec::new(), value)]
}

fn flag(is_set: bool) -> f64 {
    if is_set { 1.0 } else { 0.0 }
}

/// Prometheus knows floating-point numbers alone; they are exact up to 2^53.
fn number(value: u64) -> f64 {
    value as f64
}

fn healthy_nodes(sample: &Sample) -> f64 {
    sample.status.nodes.iter().filter(|node| node.healthy).count() as f64
}

fn peers(sample: &Sample) -> f64 {
    sample.outside_peers as f64
}

/// The labels that tell one tunnel peer from all others: a Node and a Peer may have one name.
const PEER: &[&str] = &["peer", "kind"];

/// Their values.
fn name(peer: &PeerReport) -> Vec<String> {
    vec![peer.name.clone(), peer.kind.map_or("", PeerKind::as_str).to_owned()]
}

const fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Connected => "connected",
        PeerState::Idle => "idle",
        PeerState::Waiting => "waiting",
        PeerState::Unreached => "unreached",
    }
}

#[cfg(test)]
mod tests;
