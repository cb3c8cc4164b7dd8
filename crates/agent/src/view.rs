//! What the agent knows, shared with whoever asks over the control socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wireloom_model::{InterfaceName, Location, Problem, PublicKey, Snapshot};
use wireloom_topology::{Plan, TunnelPeerName, Underlay};
use wireloom_tunnel::uapi::DeviceStatus;

use crate::control::{self, Request};
use crate::device::TunnelDevice;
use crate::graph;
use crate::metrics::Sample;
use crate::planner::Planner;
use crate::showconf;
use crate::status::{NodeReport, PeerReport, PeerState, ProblemReport, Status, Work};
use crate::vitals::{Health, Vitals};

/// What the agent knows at the moment.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) interface: InterfaceName,
    pub(crate) public_key: PublicKey,
    pub(crate) device: Option<Arc<dyn TunnelDevice>>,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) plan: Option<Arc<Plan>>,
    pub(crate) underlay: Option<Underlay>,
    pub(crate) stale: Option<String>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) work: Work,
    pub(crate) vitals: Vitals,
    pub(crate) planner: Planner,
}

/// The view, written by the loop and read by connections.
#[derive(Clone)]
pub(crate) struct SharedView(Arc<Mutex<View>>);

impl SharedView {
    pub(crate) fn new(interface: InterfaceName, public_key: PublicKey, planner: Planner) -> Self {
        Self(Arc::new(Mutex::new(View {
            interface,
            public_key,
            device: None,
            snapshot: None,
            plan: None,
            underlay: None,
            stale: None,
            problems: Vec::new(),
            work: Work::default(),
            vitals: Vitals::default(),
            planner,
        })))
    }

    /// The view to write in. Every write leaves it whole, so one that panicked has broken nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The JSON text that answers a request.
    pub(crate) fn answer(&self, request: Request) -> String {
        let view = self.lock().clone();
        let text = match request {
            Request::Down | Request::Pods => serde_json::to_string(&true),
            Request::Graph { format } => match &view.snapshot {
                Some(snapshot) => {
                    serde_json::to_string(&graph::text(snapshot, &view.planner, format))
                }
                None => Ok(control::error("the mesh is not known yet")),
            },
            Request::Mesh => match &view.snapshot {
                Some(snapshot) => serde_json::to_string(&**snapshot),
                None => Ok(control::error("the mesh is not known yet")),
            },
            Request::Showconf(ask) => match &view.snapshot {
                Some(snapshot) => match showconf::show(snapshot, &view.planner, &ask) {
                    Ok(shown) => serde_json::to_string(&shown),
                    Err(error) => Ok(control::error(error)),
                },
                None => Ok(control::error("the mesh is not known yet")),
            },
            Request::Status => serde_json::to_string(&view.status()),
            // Not asked here: it has no answer.
            Request::Succeed => serde_json::to_string(&()),
        };
        text.unwrap_or_else(control::error)
    }
}

impl View {
    /// Whether the agent works. Asks the device.
    pub(crate) fn health(&self) -> Health {
        let device = match &self.device {
            Some(device) => device.status().map(drop).map_err(|error| error.to_string()),
            None => Err("there is none; it is tried again".to_owned()),
        };
        self.vitals.health(Instant::now(), device, self.stale.as_deref())
    }

    /// What the metrics are read from. Asks the device.
    pub(crate) fn sample(&self) -> Sample {
        Sample {
            status: self.status(),
            outside_peers: self.snapshot.as_ref().map_or(0, |snapshot| snapshot.peers.len()),
            age: self.vitals.age(Instant::now()),
            clock_ahead: self.vitals.clock_ahead(),
            is_applied: self.vitals.is_applied(),
            gateway_changes: self.vitals.gateway_changes,
            apply_errors: self.vitals.apply_errors,
            publish_errors: self.vitals.publish_errors,
        }
    }

    fn status(&self) -> Status {
        let plan = self.plan.as_deref();
        let underlay = self.underlay.as_ref();
        let device = self.device.as_ref();
        let device_status = device.and_then(|device| device.status().ok());
        let own = plan.and_then(|plan| {
            self.snapshot.as_deref()?.nodes.iter().find(|node| node.name == plan.node)
        });
        Status {
            node: plan.map(|plan| plan.node.clone()),
            public_key: self.public_key,
            interface: self.interface.clone(),
            listen_port: device_status.as_ref().map(|status| status.listen_port),
            mtu: underlay.map(|underlay| underlay.tunnel_mtu),
            pod_mtu: plan.zip(underlay).map(|(plan, underlay)| plan.pod_mtu(underlay)),
            location: own.map(|node| -> Location { node.location.clone() }),
            gateway: plan.is_some_and(|plan| plan.gateway),
            home: plan.map(|plan| plan.home.clone()),
            overlay_addresses: plan
                .map(|plan| plan.addresses.iter().map(|address| address.address()).collect())
                .unwrap_or_default(),
            stale: self.stale.clone(),
            nodes: plan.map(node_reports).unwrap_or_default(),
            peers: device_status.map(|status| self.peers(&status)).unwrap_or_default(),
            path: device.map(|device| device.path()).unwrap_or_default(),
            work: self.work,
            problems: self.problems.iter().map(problem_report).collect(),
        }
    }
}

impl View {
    fn peers(&self, status: &DeviceStatus) -> Vec<PeerReport> {
        let mut peers = peer_reports(status, self.plan.as_deref());
        for peer in &mut peers {
            peer.mtu = self.underlay.as_ref().map(|underlay| {
                let narrow = underlay.narrow.get(&peer.public_key).copied();
                narrow.unwrap_or(underlay.tunnel_mtu)
            });
        }
        peers
    }
}

fn node_reports(plan: &Plan) -> Vec<NodeReport> {
    let report = |summary: &wireloom_topology::NodeSummary| NodeReport {
        name: summary.node.clone(),
        location: summary.segment.as_str().to_owned(),
        home: Some(summary.home.clone()),
        overlay_addresses: summary.overlay_addresses.clone(),
    };
    plan.nodes.iter().map(report).collect()
}

/// The device's peers for people: with names where a plan is known, and ages instead of times.
pub fn peer_reports(status: &DeviceStatus, plan: Option<&Plan>) -> Vec<PeerReport> {
    let names: BTreeMap<PublicKey, String> = plan
        .into_iter()
        .flat_map(|plan| &plan.tunnel_peers)
        .map(|peer| (peer.key, peer_name(&peer.name)))
        .collect();
    let wall = wall_now();
    let report = |peer: &wireloom_tunnel::uapi::PeerStatus| {
        let handshake_age = peer.last_handshake.map(|at| wall.saturating_sub(at).as_secs());
        PeerReport {
            name: names.get(&peer.key).cloned().unwrap_or_else(|| peer.key.to_string()),
            public_key: peer.key,
            endpoint: peer.endpoint,
            state: PeerState::of(peer.endpoint, handshake_age),
            handshake_age,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            persistent_keepalive: peer.persistent_keepalive,
            mtu: None,
            allowed_ips: peer.allowed_ips.iter().copied().collect(),
        }
    };
    status.peers.iter().map(report).collect()
}

fn peer_name(name: &TunnelPeerName) -> String {
    match name {
        TunnelPeerName::Node(name) => name.to_string(),
        TunnelPeerName::Peer(name) => name.to_string(),
    }
}

fn problem_report(problem: &Problem) -> ProblemReport {
    // Unit variants serialise to their names.
    let word = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    };
    ProblemReport {
        severity: word(serde_json::to_value(problem.severity)),
        subject: problem.subject.to_string(),
        kind: word(serde_json::to_value(problem.kind)),
        message: problem.message.clone(),
    }
}

/// The time since the Unix epoch.
pub(crate) fn wall_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
