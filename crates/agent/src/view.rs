//! What the agent knows, shared with whoever asks over the control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wireloom_model::{InterfaceName, Location, NodeName, Problem, PublicKey, Snapshot};
use wireloom_topology::{NodeSummary, Plan, TunnelPeerName, Underlay};
use wireloom_tunnel::uapi::DeviceStatus;

use crate::control::{self, Request};
use crate::device::TunnelDevice;
use crate::graph;
use crate::metrics::Sample;
use crate::planner::Planner;
use crate::showconf;
use crate::status::{
    NodeReport, PeerKind, PeerPath, PeerReport, PeerState, Places, ProblemReport, Status, Work,
};
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
    /// Where each tunnel peer may be reached.
    pub(crate) places: BTreeMap<PublicKey, Places>,
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
            places: BTreeMap::new(),
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
            nodes: plan.map(|plan| self.nodes(plan)).unwrap_or_default(),
            peers: device_status.map(|status| self.peers(&status)).unwrap_or_default(),
            path: device.map(|device| device.path()).unwrap_or_default(),
            work: self.work,
            problems: self.problems.iter().map(problem_report).collect(),
        }
    }
}

impl View {
    fn nodes(&self, plan: &Plan) -> Vec<NodeReport> {
        let known = self.snapshot.iter().flat_map(|snapshot| &snapshot.nodes);
        let healthy: BTreeSet<&NodeName> =
            known.filter(|node| node.healthy).map(|node| &node.name).collect();
        let report = |summary: &NodeSummary| NodeReport {
            name: summary.node.clone(),
            location: summary.segment.as_str().to_owned(),
            home: Some(summary.home.clone()),
            overlay_addresses: summary.overlay_addresses.clone(),
            // Who says so lives.
            healthy: summary.node == plan.node || healthy.contains(&summary.node),
        };
        plan.nodes.iter().map(report).collect()
    }

    fn peers(&self, status: &DeviceStatus) -> Vec<PeerReport> {
        let mut peers = peer_reports(status, self.plan.as_deref());
        for peer in &mut peers {
            peer.mtu = self.underlay.as_ref().map(|underlay| {
                let narrow = underlay.narrow.get(&peer.public_key).copied();
                narrow.unwrap_or(underlay.tunnel_mtu)
            });
            let places = peer.endpoint.zip(self.places.get(&peer.public_key));
            peer.path = places.map(|(endpoint, places)| PeerPath::of(endpoint, places));
        }
        peers
    }
}

/// The device's peers for people: with names where a plan is known, and ages instead of times.
pub fn peer_reports(status: &DeviceStatus, plan: Option<&Plan>) -> Vec<PeerReport> {
    let names: BTreeMap<PublicKey, (PeerKind, String)> = plan
        .into_iter()
        .flat_map(|plan| &plan.tunnel_peers)
        .map(|peer| (peer.key, peer_name(&peer.name)))
        .collect();
    let wall = wall_now();
    let report = |peer: &wireloom_tunnel::uapi::PeerStatus| {
        let handshake_age = peer.last_handshake.map(|at| wall.saturating_sub(at).as_secs());
        let (kind, name) = names.get(&peer.key).cloned().unzip();
        PeerReport {
            name: name.unwrap_or_else(|| peer.key.to_string()),
            kind,
            public_key: peer.key,
            endpoint: peer.endpoint,
            path: None,
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

fn peer_name(name: &TunnelPeerName) -> (PeerKind, String) {
    match name {
        TunnelPeerName::Node(name) => (PeerKind::Node, name.to_string()),
        TunnelPeerName::Peer(name) => (PeerKind::Peer, name.to_string()),
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use wireloom_model::{Encapsulation, Filter, GatewayCount, Mesh, Node, Overlay, PrivateKey};
    use wireloom_tunnel::uapi::{PeerStatus, SetDevice};

    use super::*;
    use crate::device::DeviceError;

    /// A device whose peers were heard where this says.
    struct Heard(Vec<(PublicKey, SocketAddr)>);

    impl TunnelDevice for Heard {
        fn set(&self, _request: &SetDevice) -> Result<(), DeviceError> {
            Ok(())
        }

        fn status(&self) -> Result<DeviceStatus, DeviceError> {
            let peer = |&(key, endpoint): &(PublicKey, SocketAddr)| PeerStatus {
                endpoint: Some(endpoint),
                ..PeerStatus::new(key)
            };
            Ok(DeviceStatus { peers: self.0.iter().map(peer).collect(), ..DeviceStatus::default() })
        }
    }

    #[test]
    fn dead_nodes_are_told_from_others_and_places_from_each_other() {
        let node = |number: u8, name: &str| {
            let key = PrivateKey::from_random([number; 32]).public_key();
            let mut node = Node::new(name.parse().unwrap(), key, name.parse().unwrap());
            node.endpoint = format!("203.0.113.{number}:51820").parse().ok();
            node
        };
        let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c")];
        nodes[2].healthy = false;
        let snapshot = Snapshot {
            mesh: Mesh {
                overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
                gateways: GatewayCount::All,
                port: std::num::NonZeroU16::new(51820).unwrap(),
                mtu: None,
                carry_internal_addresses: true,
                encapsulation: Encapsulation::default(),
                filter: Filter::default(),
            },
            nodes,
            peers: Vec::new(),
            problems: Vec::new(),
        };
        let plan = wireloom_topology::plan(&snapshot, &"a".parse().unwrap()).unwrap();
        let (b, at) = (snapshot.nodes[1].key, |port| SocketAddr::from(([203, 0, 113, 2], port)));
        let shared =
            SharedView::new("wl0".parse().unwrap(), snapshot.nodes[0].key, Planner::default());
        let mut view = shared.lock().clone();
        view.places = [(b, Places { planned: Some(at(51820)), alternatives: Vec::new() })].into();
        (view.plan, view.snapshot) = (Some(Arc::new(plan)), Some(Arc::new(snapshot)));
        for (port, path) in [(51820, "planned"), (40000, "heard")] {
            view.device = Some(Arc::new(Heard(vec![(b, at(port))])));
            let text = crate::metrics::text(&view.sample()).unwrap();
            for line in ["kilo_nodes 2", "wireloom_nodes 3", "wireloom_nodes_healthy 2"] {
                assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
            }
            let info = format!(",kind=\"node\",path=\"{path}\",peer=\"b\",");
            assert!(text.contains(&info), "{info} is not in\n{text}");
        }
    }
}
