//! The task that follows a cluster: watches in, snapshots out, and what the node writes of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::sleep_until;
use wireloom_model::{NodeName, Problem, Snapshot};
use wireloom_registry::Publication;

use crate::clock;
use crate::cluster::{Cluster, KnownNode};
use crate::daemon_set::{Employer, Standing};
use crate::events::Events;
use crate::node::NodeObject;
use crate::outage::{Outage, Use};
use crate::own::{self, Facts};
use crate::peer;
use crate::refused::Refused;
use crate::registry::{Known, KubeConfig, MISSES};
use crate::watch::{Change, Patience, Watch, next_of, random};
use crate::write::{self, WriteError, Writer, written_by_agents};

/// How long changes are gathered before a snapshot is made of them.
const GATHER: Duration = Duration::from_millis(200);
/// How long changes of what the node says are gathered before they are written.
const GATHER_WRITES: Duration = Duration::from_millis(500);
/// How long to wait at least before a write that came to nothing is tried again, and at most twice as long.
const RETRY: Duration = Duration::from_secs(5);
/// The same, when the rights to do so are about to go.
const RETRY_WITHDRAWAL: Duration = Duration::from_secs(1);

const PEERS_DENIED: &str = "Peers can't be read, and the mesh goes on with those it knew last";
const LEASES_DENIED: &str = "heartbeats can't be read, and every node counts as healthy";
const BEAT_DENIED: &str = "the heartbeat of this node can't be written";
const RIVAL: &str = "somebody else writes to this machine's Node";
const ANNOTATIONS_DENIED: &str = "the annotations of this node can't be written";

/// What the agent tells the task.
pub(crate) struct FromAgent {
    /// What it knows of its machine. `None` until it does.
    pub(crate) facts: watch::Receiver<Option<Facts>>,
    pub(crate) publication: watch::Receiver<Option<Publication>>,
    /// What is wrong with the mesh as it plans it.
    pub(crate) planned: watch::Receiver<Vec<Problem>>,
}

/// Everything that the task holds.
pub(crate) struct Follower {
    config: KubeConfig,
    cluster: Cluster,
    outage: Outage,
    nodes: Watch<NodeObject>,
    peers: Watch<DynamicObject>,
    /// Of metadata alone, on the wire too.
    leases: Watch<PartialObjectMeta<Lease>>,
    /// The DaemonSet that the agent is of.
    daemon_set: Option<Watch<DaemonSet>>,
    employer: Employer,
    standing: watch::Sender<Standing>,
    writer: Writer,
    events: Events,
    agent: FromAgent,
    known: watch::Sender<Known>,
    /// When to make a snapshot.
    due: Option<Instant>,
    /// When to look whether the Node says what it shall.
    write_due: Option<Instant>,
    beat_due: Instant,
    /// When to look whether there is something to tell people by Events.
    complain_due: Option<Instant>,
    /// When this node was last there, for Kilo's agents.
    last_seen: Option<u64>,
    /// What was written last.
    written: Option<BTreeMap<String, String>>,
    /// What was refused last.
    refused: Refused,
    /// How long to wait before what somebody else wrote over is written again.
    rivals: Patience,
    /// Until when that is.
    yields: Option<Instant>,
}

impl Follower {
    pub(crate) fn new(
        client: Client,
        config: KubeConfig,
        agent: FromAgent,
        known: watch::Sender<Known>,
        standing: watch::Sender<Standing>,
    ) -> Self {
        let now = Instant::now();
        let daemon_set = config
            .daemon_set
            .as_ref()
            .map(|of| Watch::of_one(Api::namespaced(client.clone(), &of.namespace), &of.name));
        let span = config.heartbeat * MISSES;
        let label = config.topology_label.clone();
        Self {
            cluster: Cluster::new(config.node.clone(), config.mesh.clone(), label, span),
            outage: Outage::default(),
            nodes: Watch::new(Api::all(client.clone())),
            peers: Watch::new(Api::all_with(client.clone(), &peer::resource())),
            leases: Watch::new(Api::namespaced(client.clone(), &config.namespace)),
            daemon_set,
            employer: Employer::default(),
            standing,
            writer: Writer::new(&client, config.node.clone(), &config.namespace, span),
            events: Events::new(&client, &config.node, now),
            config,
            agent,
            known,
            due: None,
            write_due: None,
            beat_due: now,
            complain_due: None,
            last_seen: None,
            written: None,
            refused: Refused::default(),
            rivals: Patience::default(),
            yields: None,
        }
    }

    /// This is the mesh that this machine knew last, before its start.
    pub(crate) fn remember(&mut self, last: &Snapshot) {
        self.cluster.remember(last);
    }

    /// Follows the cluster for good.
    pub(crate) async fn run(mut self) {
        loop {
            let loss = self.cluster.next_loss();
            let is_news = tokio::select! {
                change = self.nodes.next() => self.hear_nodes(change),
                change = self.peers.next() => self.hear_peers(change),
                change = self.leases.next() => self.hear_leases(change),
                change = next_of(&mut self.daemon_set) => self.hear_daemon_set(change).await,
                Ok(()) = self.agent.facts.changed() => self.write_soon(),
                Ok(()) = self.agent.publication.changed() => self.write_soon(),
                Ok(()) = self.agent.planned.changed() => self.complain().await,
                () = at(self.due) => self.tell(),
                () = at(self.write_due) => self.write().await,
                () = at(Some(self.beat_due)) => self.beat().await,
                () = at(self.complain_due) => self.complain().await,
                // Somebody else may have to speak for all.
                () = at(loss) => {
                    self.cluster.notice(Instant::now());
                    self.write_soon();
                    true
                }
            };
            if is_news {
                self.due = self.due.or_else(|| Some(Instant::now() + GATHER));
            }
        }
    }

    fn hear_nodes(&mut self, change: Change<NodeObject>) -> bool {
        let now = Instant::now();
        let own = self.cluster.own().cloned();
        let is_news = match change {
            Change::All(all) => {
                self.cluster.replace_nodes(all, now);
                true
            }
            Change::Put(object) => self.cluster.put_node(object, now),
            Change::Gone(object) => self.cluster.remove_node(&object.name_any()),
            Change::Failed(error) => return self.fail(Use::Nodes, &error),
        };
        if self.cluster.own() != own.as_ref() {
            self.write_soon();
            if own.is_none() {
                self.beat_due = now;
            }
        }
        self.work(Use::Nodes) || is_news
    }

    fn hear_peers(&mut self, change: Change<DynamicObject>) -> bool {
        let is_news = match change {
            // An empty one is news too: now it is known that there are none.
            Change::All(all) => {
                self.cluster.replace_peers(&all);
                true
            }
            Change::Put(object) => self.cluster.put_peer(&object),
            Change::Gone(object) => self.cluster.remove_peer(&object.name_any()),
            Change::Failed(error) => {
                return match refusal(&error) {
                    Some(reason) => {
                        self.peers.is_listed = true;
                        self.cluster.deny(PEERS_DENIED, Some(reason))
                    }
                    None => self.fail(Use::Peers, &error),
                };
            }
        };
        if is_news {
            self.write_soon();
        }
        let is_news = self.cluster.deny(PEERS_DENIED, None) || is_news;
        self.work(Use::Peers) || is_news
    }

    fn hear_leases(&mut self, change: Change<PartialObjectMeta<Lease>>) -> bool {
        let now = Instant::now();
        let is_news = match change {
            Change::All(all) => self.cluster.replace_leases(&all, now),
            Change::Put(lease) => self.cluster.put_lease(&lease, now),
            Change::Gone(lease) => self.cluster.remove_lease(&lease.name_any()),
            Change::Failed(error) => {
                return match refusal(&error) {
                    Some(reason) => {
                        self.leases.is_listed = true;
                        self.cluster.deny(LEASES_DENIED, Some(reason))
                    }
                    None => self.fail(Use::Leases, &error),
                };
            }
        };
        let is_news = self.cluster.deny(LEASES_DENIED, None) || is_news;
        self.work(Use::Leases) || is_news
    }

    /// The DaemonSet goes a moment before the rights that go with it: what this node says is taken back at once.
    async fn hear_daemon_set(&mut self, change: Change<DaemonSet>) -> bool {
        self.employer.hear(change);
        self.is_dismissed().await;
        self.write_soon()
    }

    /// Whether the DaemonSet has no place for this node, so that nothing is to be said of it. What was said is taken back
    /// first, unless Kilo's agents go by it.
    async fn is_dismissed(&mut self) -> bool {
        let was = *self.standing.borrow();
        let own = self.cluster.own().map(|own| &own.object);
        let standing = self.employer.standing(own, was);
        if standing == Standing::Dismissed && was != Standing::Dismissed {
            tracing::info!("the agent's DaemonSet has no place for this node");
        }
        self.standing.send_replace(standing);
        if standing == Standing::Dismissed {
            if self.withdraw().await {
                self.standing.send_replace(Standing::Withdrawn);
            } else {
                self.write_due = Some(Instant::now() + RETRY_WITHDRAWAL);
            }
        }
        standing.is_dismissed()
    }

    /// Takes back what this node said of itself, as far as that is not Kilo's agents' too. Returns whether that is done, or
    /// will never be.
    async fn withdraw(&mut self) -> bool {
        let uid = self.cluster.own().and_then(|own| own.object.metadata.uid.as_deref());
        // What is said of a Node goes with it.
        let Some(uid) = uid else { return self.nodes.is_listed };
        let to_kilo = self.cluster.has_kilo(Instant::now());
        match self.writer.withdraw(uid, to_kilo).await {
            Ok(()) => {
                tracing::info!("what this node said of itself is taken back");
                true
            }
            Err(WriteError::Refused(reason)) => {
                tracing::warn!(%reason, "what this node said of itself is not taken back");
                true
            }
            Err(WriteError::Unreachable(reason)) => {
                tracing::warn!(%reason, "what this node said of itself is not taken back yet");
                false
            }
        }
    }

    /// Returns whether there is something to tell.
    fn fail(&mut self, what: Use, error: &watcher::Error) -> bool {
        // A list that is too old is made anew, and that is all there is to it.
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            return false;
        }
        let reason = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => write::text(error),
            other => other.to_string(),
        };
        tracing::debug!(?what, %reason, "a watch failed");
        let now = Instant::now();
        self.outage.failed(what, reason, now);
        self.listen(now);
        true
    }

    /// Has lives be judged by what of them can be heard.
    fn listen(&mut self, now: Instant) {
        self.cluster.set_deaf(self.outage.is_deaf(), now);
        self.cluster.set_blind(self.outage.is_blind(), now);
    }

    /// Returns whether that is news.
    fn work(&mut self, what: Use) -> bool {
        let was = self.outage.reason().is_some();
        self.outage.works(what);
        self.heard(None);
        self.listen(Instant::now());
        was && self.outage.reason().is_none()
    }

    /// Counts a write of what this node says of itself, or of its heartbeat, that failed.
    fn count_failure(&self) {
        self.known.send_if_modified(|known| {
            known.contact.publish_errors += 1;
            false
        });
    }

    /// Notes that the API was heard, and how this machine's clock stands to its.
    fn heard(&self, ahead: Option<f64>) {
        self.known.send_if_modified(|known| {
            known.contact.last = Some(Instant::now());
            known.contact.clock_ahead = ahead.or(known.contact.clock_ahead);
            false
        });
    }

    /// Tells of the mesh, once everything of it is known.
    fn tell(&mut self) -> bool {
        self.due = None;
        let is_whole = self.nodes.is_listed && self.peers.is_listed && self.leases.is_listed;
        // Without Leases it is not known whose sign of life was overdue at the start.
        if is_whole && !self.cluster.is_denied(LEASES_DENIED) {
            self.cluster.judge();
        }
        let snapshot = is_whole.then(|| self.cluster.snapshot(Instant::now()));
        let reason = self.outage.reason().map(str::to_owned);
        self.known.send_if_modified(|known| {
            // One outage has many words, of which the first do.
            let stale = reason.map(|reason| known.stale.clone().unwrap_or(reason));
            let differs = |snapshot: &Snapshot| known.snapshot.as_deref() != Some(snapshot);
            let news = snapshot.filter(differs).map(Arc::new);
            let is_news = news.is_some() || known.stale != stale;
            known.snapshot = news.or_else(|| known.snapshot.take());
            known.stale = stale;
            is_news
        });
        false
    }

    fn write_soon(&mut self) -> bool {
        let now = Instant::now();
        // What was refused, and is put off for long, may be something else by now.
        let at_most = |due: Instant| due.min(now + RETRY);
        self.write_due = Some(self.write_due.map_or(now + GATHER_WRITES, at_most));
        false
    }

    /// Has the Node say what it shall, unless it does.
    async fn write(&mut self) -> bool {
        self.write_due = None;
        if self.is_dismissed().await {
            return false;
        }
        self.complain().await;
        let now = Instant::now();
        let Some(own) = self.cluster.own().cloned() else { return false };
        let Some(shall) = self.shall_say(&own) else { return false };
        let says = own.object.annotations();
        let is_said = shall.iter().all(|(key, value)| says.get(key) == Some(value));
        // What others than we wrote stays when we leave it out, so that is tried once.
        let is_more = self.written.as_ref() != Some(&shall)
            && written_by_agents().any(|key| says.contains_key(key) && !shall.contains_key(key));
        let Some(uid) = own.object.metadata.uid.as_deref().filter(|_| !is_said || is_more) else {
            return self.cluster.deny(ANNOTATIONS_DENIED, None);
        };
        if let Some(until) = self.refused.until(uid, &shall, now) {
            self.write_due = Some(until);
            return false;
        }
        if !is_said && self.written.as_ref() == Some(&shall) {
            // Somebody has written over it since. If that is another agent, it will again.
            let yields = *self.yields.get_or_insert_with(|| now + self.rivals.delay(now));
            if now < yields {
                self.write_due = Some(yields);
                let reason = self.rivals.is_long().then(|| rival(&self.config.node));
                return self.cluster.deny(RIVAL, reason);
            }
        }
        self.yields = None;
        tracing::debug!("the annotations of this node are written");
        match self.writer.annotate(uid, &shall).await {
            Ok(object) => {
                self.written = Some(shall);
                self.refused = Refused::default();
                let is_news = self.cluster.put_node(object, Instant::now());
                self.cluster.deny(ANNOTATIONS_DENIED, None) || is_news
            }
            Err(WriteError::Refused(reason)) => {
                self.count_failure();
                self.write_due = Some(self.refused.put(uid, shall, Instant::now()));
                self.cluster.deny(ANNOTATIONS_DENIED, Some(reason))
            }
            Err(WriteError::Unreachable(reason)) => {
                tracing::debug!(%reason, "the annotations of this node are not written");
                self.count_failure();
                self.write_due = Some(Instant::now() + RETRY.mul_f64(1.0 + random()));
                false
            }
        }
    }

    /// Tells people what is wrong, by Events.
    async fn complain(&mut self) -> bool {
        self.complain_due = None;
        if !self.standing.borrow().is_dismissed() {
            let (now, planned) = (Instant::now(), self.agent.planned.borrow().clone());
            let all = self.cluster.to_tell(&planned, now);
            self.complain_due = self.events.tell(&all, now).await;
        }
        false
    }

    /// `None` as long as the agent does not know its machine: what was said of that before stays.
    fn shall_say(&self, own: &KnownNode) -> Option<BTreeMap<String, String>> {
        let (facts, publication) = (self.agent.facts.borrow(), self.agent.publication.borrow());
        let facts = facts.as_ref()?;
        Some(own::annotations(&self.config, own, facts, publication.as_ref(), self.last_seen))
    }

    /// Gives a sign of life to our agents, and to Kilo's if there are any.
    async fn beat(&mut self) -> bool {
        let now = Instant::now();
        self.beat_due = now + self.config.heartbeat;
        let uid = self.cluster.own().and_then(|own| own.object.metadata.uid.clone());
        // Without a Node there is nobody to be alive.
        let Some(uid) = uid.filter(|_| !self.standing.borrow().is_dismissed()) else {
            return false;
        };
        let before = self.outage.reason().is_some();
        let is_news = match self.writer.beat(&uid).await {
            Ok(ahead) => {
                self.outage.beat(Instant::now());
                self.heard(ahead);
                let is_news = self.cluster.set_clock(ahead.and_then(clock::apart));
                self.cluster.deny(BEAT_DENIED, None) || is_news
            }
            Err(WriteError::Refused(reason)) => {
                self.count_failure();
                self.outage.beat(Instant::now());
                self.heard(None);
                self.cluster.deny(BEAT_DENIED, Some(reason))
            }
            Err(WriteError::Unreachable(reason)) => {
                self.count_failure();
                self.outage.failed(Use::Heartbeat, reason, Instant::now());
                self.beat_due = Instant::now() + RETRY.mul_f64(1.0 + random());
                true
            }
        };
        let now = Instant::now();
        self.listen(now);
        let is_calm = self.rivals.is_calm(now) && self.cluster.deny(RIVAL, None);
        let seen = self
            .cluster
            .has_kilo(now)
            .then(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        if seen.is_some() || self.last_seen.is_some() {
            self.last_seen = seen;
            self.write_soon();
        }
        is_news || is_calm || before != self.outage.reason().is_some()
    }
}

fn rival(own: &NodeName) -> String {
    format!(
        "there are two machines of the name {own}, perhaps a copy: stop one of them, or say another name by --hostname"
    )
}

fn refusal(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            write::refusal(error)
        }
        _ => None,
    }
}

/// Completes at this moment; never without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
