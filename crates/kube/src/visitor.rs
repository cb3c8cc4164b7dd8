//! The mesh of a cluster, seen by somebody who is no node of it: whoever asks for a configuration or a picture, or joins
//! from outside as a [`Peer`](crate::peer).

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, ObjectMeta};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use wireloom_model::annotations::Granularity;
use wireloom_model::{
    Encapsulation, Filter, GatewayCount, Mesh, NodeName, Overlay, OverlayError, Problem,
    ProblemKind, Snapshot, Subject,
};
use wireloom_registry::{Contact, Publication, Registry, Update};

use crate::lives::{self, Lives};
use crate::node::{self, NodeObject, ReadNode};
use crate::peer;
use crate::registry::{Known, KubeConfig, MISSES};
use crate::write;

/// What a visitor is told. What it is not told, it learns from what agents say of the mesh that they plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisitorConfig {
    /// The label that says a Node's location.
    pub topology_label: String,
    /// The namespace of heartbeats.
    pub namespace: String,
    /// What makes a segment.
    pub granularity: Option<Granularity>,
    /// How many gateways a location has.
    pub gateways: Option<GatewayCount>,
    /// The ranges of overlay addresses.
    pub overlay: Option<Overlay>,
    /// The UDP port of endpoints that name none.
    pub port: Option<NonZeroU16>,
    /// The MTU of tunnel devices in bytes.
    pub mtu: Option<NonZeroU16>,
}

/// Why a mesh could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisitError {
    /// The Nodes can't be read.
    #[error("the Nodes of the cluster can't be read: {0}")]
    Nodes(String),
    /// The heartbeats can't be read, and there is the right to.
    #[error("the heartbeats of the cluster's nodes can't be read: {0}")]
    Heartbeats(String),
    /// What agents say of the overlay is none.
    #[error("the overlay's range can't be told from the Nodes ({0}); say it with --subnet")]
    Overlay(#[from] OverlayError),
}

/// Reads the mesh as it is now.
///
/// A node counts as dead if its last sign of life, its Lease or for Kilo's agents when its Node was seen, is older than the
/// newest of all by more than it may miss, both by the API server's clock.
///
/// # Errors
///
/// If the Nodes or their heartbeats can't be read, or say nothing of use.
pub async fn read(client: &Client, config: &VisitorConfig) -> Result<Snapshot, VisitError> {
    read_again(client, config, &mut lives()).await
}

/// Nobody was heard yet.
fn lives() -> Lives {
    Lives::new(None, KubeConfig::HEARTBEAT * MISSES)
}

/// Reads the mesh as it is now, by who has been heard so far.
async fn read_again(
    client: &Client,
    config: &VisitorConfig,
    lives: &mut Lives,
) -> Result<Snapshot, VisitError> {
    let listed = list(client, config).await;
    let now = Instant::now();
    match listed {
        Ok(listed) => {
            lives.set_deaf(false, now);
            listed.snapshot(config, lives, now)
        }
        Err(error) => {
            lives.set_deaf(true, lives.heard().unwrap_or(now));
            Err(error)
        }
    }
}

/// What of a cluster makes a mesh, as it was listed.
#[derive(Debug, Default)]
struct Listed {
    nodes: Vec<NodeObject>,
    peers: Vec<DynamicObject>,
    /// Why there are no Peers.
    no_peers: Option<Problem>,
    leases: Vec<PartialObjectMeta<Lease>>,
}

async fn list(client: &Client, config: &VisitorConfig) -> Result<Listed, VisitError> {
    let all = ListParams::default();
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let peers: Api<DynamicObject> = Api::all_with(client.clone(), &peer::resource());
    let leases: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let (nodes, peers, leases) =
        tokio::join!(nodes.list(&all), peers.list(&all), leases.list_metadata(&all));
    let mut listed = Listed {
        nodes: nodes.map_err(|error| VisitError::Nodes(write::text(&error)))?.items,
        ..Listed::default()
    };
    match leases {
        Ok(leases) => listed.leases = leases.items,
        Err(error) if write::refusal(&error).is_some() => {}
        Err(error) => return Err(VisitError::Heartbeats(write::text(&error))),
    }
    match peers {
        Ok(peers) => listed.peers = peers.items,
        Err(error) => {
            let message = format!("Peers can't be read, and are left out: {}", write::text(&error));
            let problem = Problem::error(Subject::Mesh, ProblemKind::Invalid, message);
            listed.no_peers = Some(problem);
        }
    }
    Ok(listed)
}

impl Listed {
    /// The mesh of these objects. Pure.
    fn snapshot(
        self,
        config: &VisitorConfig,
        lives: &mut Lives,
        now: Instant,
    ) -> Result<Snapshot, VisitError> {
        let read = |object| node::read(object, &config.topology_label);
        let nodes: Vec<ReadNode> = self.nodes.iter().map(read).collect();
        let names: BTreeSet<String> = self.nodes.iter().map(|object| object.name_any()).collect();
        lives.retain_nodes(|name| names.contains(name.as_str()));
        for (object, read) in self.nodes.iter().zip(&nodes) {
            if let Ok(name) = object.name_any().parse() {
                let seen = read.annotations.told.last_seen;
                lives.hear_node(&name, seen, lives::taken(&object.metadata), now);
            }
        }
        let leases = self.leases.iter().filter_map(|lease| {
            let name: NodeName = lease.name_any().parse().ok()?;
            Some((name, &lease.metadata))
        });
        let leases: BTreeMap<NodeName, &ObjectMeta> = leases.collect();
        lives.retain_leases(|name| leases.contains_key(name));
        for (name, lease) in leases {
            lives.hear_lease(&name, lease, now);
        }
        lives.judge();
        let mut snapshot = Snapshot {
            mesh: mesh(&nodes, config)?,
            nodes: Vec::new(),
            peers: Vec::new(),
            problems: Vec::new(),
        };
        for read in nodes {
            snapshot.problems.extend(read.problems);
            let node = read.node.map(|node| {
                let healthy = lives.is_healthy(&node, now);
                wireloom_model::Node { healthy, ..node }
            });
            snapshot.nodes.extend(node);
        }
        for object in &self.peers {
            let (peer, problems) = peer::translate(object);
            snapshot.peers.extend(peer);
            snapshot.problems.extend(problems);
        }
        snapshot.problems.extend(self.no_peers);
        Ok(snapshot)
    }
}

/// The settings by which agents plan, as the first that says any has them. Kilo's agents say none: then what follows from
/// what they do, and Kilo's defaults.
fn mesh(nodes: &[ReadNode], config: &VisitorConfig) -> Result<Mesh, VisitError> {
    let told = || nodes.iter().map(|read| &read.annotations.told);
    let mut mesh = match told().find_map(|told| told.mesh.clone()) {
        Some(mesh) => mesh,
        None => {
            let range = told().find_map(|told| Some(told.wireguard_ip?.network()));
            let granularity = told().find_map(|told| told.granularity);
            Mesh {
                overlay: match range {
                    Some(range) => Overlay::new([range])?,
                    None => Overlay::new("10.4.0.0/16".parse())?,
                },
                gateways: gateways(granularity.unwrap_or(Granularity::Location)),
                port: NonZeroU16::new(51820).unwrap_or(NonZeroU16::MIN),
                mtu: None,
                carry_internal_addresses: true,
                encapsulation: Encapsulation::default(),
                filter: Filter::default(),
            }
        }
    };
    if let Some(granularity) = config.granularity {
        mesh.gateways = gateways(granularity);
    }
    if let Some(count) = config.gateways {
        mesh.gateways = count;
    }
    mesh.overlay = config.overlay.unwrap_or(mesh.overlay);
    mesh.port = config.port.unwrap_or(mesh.port);
    mesh.mtu = config.mtu.or(mesh.mtu);
    Ok(mesh)
}

const fn gateways(granularity: Granularity) -> GatewayCount {
    match granularity {
        Granularity::Full => GatewayCount::All,
        Granularity::Location => GatewayCount::AtMost(NonZeroU32::MIN),
    }
}

/// The mesh of a cluster, read again and again by a task of its own. Publishes nothing.
#[derive(Debug)]
pub struct Visitor {
    known: watch::Receiver<Known>,
    told: Known,
    task: JoinHandle<()>,
}

impl Visitor {
    /// Reads the mesh at once and then once a period. Who is alive it tells from one time to the next by whose heartbeat has
    /// changed, and after an outage it gives everybody time to be heard. Needs a tokio runtime.
    pub fn start(client: Client, config: VisitorConfig, period: Duration) -> Self {
        let (known_by_task, known) = watch::channel(Known::default());
        let mut due = interval(period);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = tokio::spawn(async move {
            let mut lives = lives();
            loop {
                due.tick().await;
                let outcome = read_again(&client, &config, &mut lives).await;
                known_by_task.send_if_modified(|known| known.learn(outcome));
            }
        });
        Self { known, told: Known::default(), task }
    }
}

impl Known {
    /// Returns whether that is news.
    fn learn(&mut self, outcome: Result<Snapshot, VisitError>) -> bool {
        match outcome {
            Ok(snapshot) => {
                self.contact.last = Some(Instant::now());
                let is_news = self.snapshot.as_deref() != Some(&snapshot);
                if is_news {
                    self.snapshot = Some(Arc::new(snapshot));
                }
                self.stale.take().is_some() || is_news
            }
            Err(error) => {
                // One outage has many words, of which the first do.
                let is_news = self.stale.is_none();
                self.stale.get_or_insert_with(|| error.to_string());
                is_news
            }
        }
    }
}

impl Registry for Visitor {
    async fn next(&mut self) -> Option<Update> {
        self.told.wait(&mut self.known).await
    }

    fn contact(&self) -> Contact {
        self.known.borrow().contact
    }

    async fn publish(&mut self, _: &Publication) {}
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
