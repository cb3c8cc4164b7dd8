//! The mesh of a cluster, seen by somebody who is no node of it: whoever asks for a configuration or a picture, or joins
//! from outside as a [`Peer`](crate::peer).

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use wireloom_model::annotations::Granularity;
use wireloom_model::{
    Encapsulation, Filter, GatewayCount, Mesh, Overlay, OverlayError, Problem, ProblemKind,
    Snapshot, Subject,
};
use wireloom_registry::{Contact, Publication, PublishError, Registry, Update};

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
    /// What agents say of the overlay is none.
    #[error("the overlay's range can't be told from the Nodes ({0}); say it with --subnet")]
    Overlay(#[from] OverlayError),
}

/// Reads the mesh as it is now.
///
/// A node counts as dead if its heartbeat is older than the newest of all by more than it may miss, both by the API
/// server's clock.
///
/// # Errors
///
/// If the Nodes can't be read, or say nothing of use.
pub async fn read(client: &Client, config: &VisitorConfig) -> Result<Snapshot, VisitError> {
    let all = ListParams::default();
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let peers: Api<DynamicObject> = Api::all_with(client.clone(), &peer::resource());
    let leases: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let (nodes, peers, leases) =
        tokio::join!(nodes.list(&all), peers.list(&all), leases.list_metadata(&all));
    let nodes = nodes.map_err(|error| VisitError::Nodes(write::text(&error)))?;
    let leases = leases.map(|leases| leases.items).unwrap_or_default();
    let mut problems = Vec::new();
    let peers = peers.map(|peers| peers.items).unwrap_or_else(|error| {
        let message = format!("Peers can't be read, and are left out: {}", write::text(&error));
        problems.push(Problem::error(Subject::Mesh, ProblemKind::Invalid, message));
        Vec::new()
    });
    let nodes = nodes.items.iter().map(|object| node::read(object, &config.topology_label));
    let mut snapshot = snapshot(nodes.collect(), &peers, &leases, config)?;
    snapshot.problems.extend(problems);
    Ok(snapshot)
}

/// The mesh of these objects. Pure.
fn snapshot(
    nodes: Vec<ReadNode>,
    peers: &[DynamicObject],
    leases: &[PartialObjectMeta<Lease>],
    config: &VisitorConfig,
) -> Result<Snapshot, VisitError> {
    let mesh = mesh(&nodes, config)?;
    let mut snapshot =
        Snapshot { mesh, nodes: Vec::new(), peers: Vec::new(), problems: Vec::new() };
    let is_alive = alive(leases);
    for read in nodes {
        snapshot.problems.extend(read.problems);
        snapshot.nodes.extend(read.node.map(|node| {
            let healthy = is_alive.get(node.name.as_str()).copied().unwrap_or(true);
            wireloom_model::Node { healthy, ..node }
        }));
    }
    for object in peers {
        let (peer, problems) = peer::translate(object);
        snapshot.peers.extend(peer);
        snapshot.problems.extend(problems);
    }
    Ok(snapshot)
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

/// Whether each node with a heartbeat is alive.
pub(crate) fn alive(leases: &[PartialObjectMeta<Lease>]) -> BTreeMap<String, bool> {
    // Who renews a Lease changes a field of it, and the server notes when.
    let beat = |lease: &PartialObjectMeta<Lease>| -> Option<Time> {
        let fields = lease.metadata.managed_fields.as_ref()?;
        fields.iter().filter_map(|fields| fields.time.clone()).max()
    };
    let newest = leases.iter().filter_map(beat).max();
    let is_alive = |lease| match (beat(lease), &newest) {
        (Some(beat), Some(newest)) => {
            let span = KubeConfig::HEARTBEAT * MISSES;
            let age = newest.0.as_second().saturating_sub(beat.0.as_second());
            u64::try_from(age).is_ok_and(|age| age <= span.as_secs())
        }
        _ => true,
    };
    leases.iter().map(|lease| (lease.name_any(), is_alive(lease))).collect()
}

/// The mesh of a cluster, read again and again by a task of its own. Publishes nothing.
#[derive(Debug)]
pub struct Visitor {
    known: watch::Receiver<Known>,
    told: Known,
    task: JoinHandle<()>,
}

impl Visitor {
    /// Reads the mesh at once and then once a period. Needs a tokio runtime.
    pub fn start(client: Client, config: VisitorConfig, period: Duration) -> Self {
        let (known_by_task, known) = watch::channel(Known::default());
        let mut due = interval(period);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = tokio::spawn(async move {
            loop {
                due.tick().await;
                let outcome = read(&client, &config).await;
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

    async fn publish(&mut self, _: &Publication) -> Result<(), PublishError> {
        Ok(())
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
