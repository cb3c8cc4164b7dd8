//! The registry of a cluster, as an agent uses it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wireloom_model::annotations::Granularity;
use wireloom_model::{Mesh, NodeName, Problem, Snapshot};
use wireloom_registry::{Contact, Next, Publication, Registry, Update};

use crate::addresses::AddressRules;
use crate::daemon_set::{DaemonSetName, Standing};
use crate::follow::{Follower, FromAgent};
use crate::node::NodeObject;
use crate::own::Facts;

/// How long a watch lasts before it is begun anew, in seconds: the price of noticing one that hangs.
pub(crate) const WATCH: u32 = 120;

/// How many signs of life of a node may be missed.
pub(crate) const MISSES: u32 = 3;

/// How long what goes on may take to be heard, when an agent ends.
const HEARING: Duration = Duration::from_secs(3);

/// What a node of a cluster is told at its start.
#[derive(Debug, Clone)]
pub struct KubeConfig {
    /// This machine's Node.
    pub node: NodeName,
    /// What holds for the whole mesh.
    pub mesh: Mesh,
    /// The label that says a Node's location. Kilo's `--topology-label`.
    pub topology_label: String,
    /// What is told to Kilo's tools.
    pub granularity: Granularity,
    /// How this node's addresses are chosen.
    pub addresses: AddressRules,
    /// The namespace of heartbeats, which are Leases.
    pub namespace: String,
    /// How often this node gives a sign of life. One that gives none for three times as long is not healthy.
    pub heartbeat: Duration,
    /// The DaemonSet whose pod the agent is, if it is one.
    pub daemon_set: Option<DaemonSetName>,
}

impl KubeConfig {
    /// The usual time between two signs of life.
    pub const HEARTBEAT: Duration = Duration::from_secs(20);
}

/// The mesh of a cluster, followed by a task of its own, so that signs of life and changes go on while the agent is at
/// work.
///
/// What is published is written when it differs from what the Node says; [`publish`](Registry::publish) never waits
/// for the API, and what the API refuses is a problem of the next snapshot. Writes that fail are counted in its
/// [`contact`](Registry::contact).
pub struct KubeRegistry {
    known: watch::Receiver<Known>,
    told: Known,
    publication: watch::Sender<Option<Publication>>,
    planned: watch::Sender<Vec<Problem>>,
    client: Client,
    config: KubeConfig,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

/// What the task knows, or what was told of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) stale: Option<String>,
    /// Nobody is woken for it.
    pub(crate) contact: Contact,
}

impl KubeRegistry {
    /// Follows the cluster that the client reaches. Needs a tokio runtime. `facts` says what the agent knows of its
    /// machine, and changes when that does; as long as it knows nothing, what the Node says stays. `last` is the mesh that
    /// this machine knew last: a node that was alive then is so until it has been listened for, and its Peers stay until
    /// Peers can be read.
    pub fn start(
        client: Client,
        config: KubeConfig,
        facts: watch::Receiver<Option<Facts>>,
        last: Option<&Snapshot>,
    ) -> Self {
        let (known_by_task, known) = watch::channel(Known::default());
        let (publication, published) = watch::channel(None);
        let (planned, of_plan) = watch::channel(Vec::new());
        let (standing_by_task, standing) = watch::channel(Standing::default());
        let (to_follow, of) = (client.clone(), config.clone());
        let agent = FromAgent { facts, publication: published, planned: of_plan };
        let mut follower = Follower::new(to_follow, of, agent, known_by_task, standing_by_task);
        if let Some(last) = last {
            follower.remember(last);
        }
        let task = tokio::spawn(follower.run());
        let told = Known::default();
        Self { known, told, publication, planned, client, config, standing, task }
    }
}

impl Registry for KubeRegistry {
    async fn next(&mut self) -> Option<Update> {
        self.told.wait(&mut self.known).await
    }

    async fn publish(&mut self, publication: &Publication) {
        self.publication.send_if_modified(|last| {
            let is_news = last.as_ref() != Some(publication);
            if is_news {
                *last = Some(publication.clone());
            }
            is_news
        });
    }

    fn report(&mut self, problems: &[Problem]) {
        self.planned.send_if_modified(|last| {
            let is_news = last != problems;
            if is_news {
                *last = problems.to_vec();
            }
            is_news
        });
    }

    fn contact(&self) -> Contact {
        self.known.borrow().contact
    }

    /// An agent of a DaemonSet that is gone, is being deleted or chooses other nodes leaves for good, unless the DaemonSet
    /// left its pods behind.
    async fn leave(&mut self) -> Next {
        let Some(daemon_set) = &self.config.daemon_set else { return Next::Unknown };
        let standing = *self.standing.borrow();
        if !standing.is_dismissed() {
            let api: Api<NodeObject> = Api::all(self.client.clone());
            let node = api.get(self.config.node.as_str());
            let node = tokio::time::timeout(HEARING, node).await.ok().and_then(Result::ok);
            let seen = standing == Standing::Employed;
            if daemon_set.is_for(&self.client, node.as_ref(), seen).await {
                return Next::Agent;
            }
        }
        // Whoever watches it takes back what was said. Without the right to, nobody does.
        let withdrawn = self.standing.wait_for(|standing| *standing == Standing::Withdrawn);
        let is_withdrawn = tokio::time::timeout(HEARING, withdrawn).await.is_ok();
        tracing::info!(%daemon_set, is_withdrawn, "this node leaves the mesh for good");
        Next::Nobody
    }
}

impl fmt::Debug for KubeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeRegistry").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Drop for KubeRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Known {
    /// Waits until there is something to tell to somebody who was told this. `None` once nothing more will come to be
    /// known. Dropping the future loses nothing.
    pub(crate) async fn wait(&mut self, known: &mut watch::Receiver<Self>) -> Option<Update> {
        loop {
            let now = known.borrow_and_update().clone();
            if let Some(update) = self.next(&now) {
                return Some(update);
            }
            known.changed().await.ok()?;
        }
    }

    /// What there is to tell of this to somebody who was told that, one thing at a time: a mesh first, then that it may
    /// be out of date. One that is no longer out of date is told anew.
    fn next(&mut self, known: &Self) -> Option<Update> {
        let same = match (&self.snapshot, &known.snapshot) {
            (Some(told), Some(now)) => Arc::ptr_eq(told, now),
            (_, now) => now.is_none(),
        };
        let recovered = self.stale.is_some() && known.stale.is_none();
        if let Some(snapshot) = known.snapshot.as_ref().filter(|_| !same || recovered) {
            *self = Self { snapshot: Some(Arc::clone(snapshot)), ..Self::default() };
            return Some(Update::Mesh(Arc::clone(snapshot)));
        }
        if self.stale == known.stale {
            return None;
        }
        self.stale.clone_from(&known.stale);
        known.stale.clone().map(Update::Stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;

    fn snapshot() -> Arc<Snapshot> {
        let mesh = crate::cluster::tests::mesh();
        let cluster = Cluster::new("n".parse().unwrap(), mesh, String::new(), Duration::ZERO);
        Arc::new(cluster.snapshot(std::time::Instant::now()))
    }

    /// Everything that there is to tell.
    fn all(told: &mut Known, known: &Known) -> Vec<&'static str> {
        let mut words = Vec::new();
        while let Some(update) = told.next(known) {
            words.push(match update {
                Update::Mesh(_) => "mesh",
                Update::Stale(_) => "stale",
            });
        }
        words
    }

    #[test]
    fn a_mesh_is_told_once_and_again_when_it_is_sure_again() {
        let (first, second) = (snapshot(), snapshot());
        let mut told = Known::default();
        assert_eq!(all(&mut told, &Known::default()), Vec::<&str>::new());
        let known = |snapshot: &Arc<Snapshot>, stale: Option<&str>| Known {
            snapshot: Some(Arc::clone(snapshot)),
            stale: stale.map(str::to_owned),
            ..Known::default()
        };
        assert_eq!(all(&mut told, &known(&first, None)), ["mesh"]);
        assert_eq!(all(&mut told, &known(&first, None)), Vec::<&str>::new());
        assert_eq!(all(&mut told, &known(&first, Some("gone"))), ["stale"]);
        assert_eq!(all(&mut told, &known(&first, Some("gone"))), Vec::<&str>::new());
        assert_eq!(all(&mut told, &known(&second, Some("gone"))), ["mesh", "stale"]);
        assert_eq!(all(&mut told, &known(&second, None)), ["mesh"]);
    }

    #[test]
    fn an_outage_before_the_first_mesh_is_told() {
        let mut told = Known::default();
        let known = Known { stale: Some("refused".to_owned()), ..Known::default() };
        assert_eq!(all(&mut told, &known), ["stale"]);
        assert_eq!(all(&mut told, &Known::default()), Vec::<&str>::new());
    }
}
