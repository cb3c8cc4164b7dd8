//! What is known of a cluster, and the mesh that it makes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Resource, ResourceExt as _};
use wireloom_model::{
    Algorithm, Mesh, Node, NodeName, Peer, Problem, ProblemKind, Severity, Snapshot, Subject,
};

use crate::agreement::disagreement;
use crate::lives::{self, Lives};
use crate::node::{self, NodeObject, ReadNode};
use crate::peer;

/// Everything that watches have told of a cluster, read once and kept.
///
/// Each method that takes something in returns whether the mesh may be another one now.
#[derive(Debug, Clone)]
pub struct Cluster {
    own: NodeName,
    mesh: Mesh,
    topology_label: String,
    nodes: BTreeMap<String, KnownNode>,
    peers: BTreeMap<String, KnownPeer>,
    /// The Peers of the mesh that this machine knew last, until they are listed.
    last_peers: Vec<Peer>,
    lives: Lives,
    /// When it was last taken notice of who is no longer alive.
    noticed: Option<Instant>,
    /// What the cluster refuses, and why.
    denied: BTreeMap<&'static str, String>,
    /// How this machine's clock stands to the API server's, if it is worth a word.
    clock: Option<String>,
}

/// A Node and what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownNode {
    /// The object.
    pub object: NodeObject,
    /// What it says.
    pub read: ReadNode,
}

/// A Peer and what it says.
#[derive(Debug, Clone, PartialEq)]
struct KnownPeer {
    /// How others name it.
    reference: ObjectReference,
    /// The peer of the mesh. `None` for one that can't be read.
    peer: Option<Peer>,
    problems: Vec<Problem>,
}

impl Cluster {
    /// Nothing is known yet. `own` is this machine's Node, `topology_label` says a Node's location, and a node is alive
    /// while it gives a sign of life within `span`.
    pub fn new(own: NodeName, mesh: Mesh, topology_label: String, span: Duration) -> Self {
        Self {
            lives: Lives::new(Some(own.clone()), span),
            own,
            mesh,
            topology_label,
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            last_peers: Vec::new(),
            noticed: None,
            denied: BTreeMap::new(),
            clock: None,
        }
    }

    /// This is the mesh that this machine knew last, before its start. Its Peers stay until they are listed.
    pub fn remember(&mut self, last: &Snapshot) {
        self.lives.remember(last);
        self.last_peers.clone_from(&last.peers);
    }

    /// Everything was listed: whose sign of life was overdue at the start is dead until its next one.
    pub fn judge(&mut self) {
        self.lives.judge();
    }

    /// A Node is new or changed.
    pub fn put_node(&mut self, object: NodeObject, now: Instant) -> bool {
        let name = object.name_any();
        let taken = lives::taken(&object.metadata);
        let object = object.slim();
        if self.nodes.get(&name).is_some_and(|known| known.object == object) {
            return false;
        }
        let read = node::read(&object, &self.topology_label);
        let seen = read.annotations.told.last_seen;
        let has_turned =
            name.parse().is_ok_and(|name| self.lives.hear_node(&name, seen, taken, now));
        let said = |read: &ReadNode| {
            (read.node.clone(), read.problems.clone(), read.annotations.told.mesh.clone())
        };
        let is_news = self.nodes.get(&name).map(|known| said(&known.read)) != Some(said(&read));
        self.nodes.insert(name, KnownNode { object, read });
        is_news || has_turned
    }

    /// A Node is gone.
    pub fn remove_node(&mut self, name: &str) -> bool {
        if let Ok(name) = name.parse() {
            self.lives.forget_node(&name);
        }
        self.nodes.remove(name).is_some()
    }

    /// These are all Nodes.
    pub fn replace_nodes(&mut self, all: Vec<NodeObject>, now: Instant) -> bool {
        let mut is_news = false;
        for name in missing(&self.nodes, &all) {
            is_news |= self.remove_node(&name);
        }
        for object in all {
            is_news |= self.put_node(object, now);
        }
        is_news
    }

    /// A Peer is new or changed.
    pub fn put_peer(&mut self, object: &DynamicObject) -> bool {
        let (peer, problems) = peer::translate(object);
        // A version more that says the same is no news.
        let reference =
            ObjectReference { resource_version: None, ..object.object_ref(&peer::resource()) };
        let known = KnownPeer { reference, peer, problems };
        self.peers.insert(object.name_any(), known.clone()) != Some(known)
    }

    /// A Peer is gone.
    pub fn remove_peer(&mut self, name: &str) -> bool {
        self.peers.remove(name).is_some()
    }

    /// These are all Peers.
    pub fn replace_peers(&mut self, all: &[DynamicObject]) -> bool {
        let mut is_news = !std::mem::take(&mut self.last_peers).is_empty();
        for name in missing(&self.peers, all) {
            is_news |= self.remove_peer(&name);
        }
        for object in all {
            is_news |= self.put_peer(object);
        }
        is_news
    }

    /// A heartbeat was written.
    pub fn put_lease(&mut self, lease: &PartialObjectMeta<Lease>, now: Instant) -> bool {
        let Ok(name) = lease.name_any().parse() else { return false };
        self.lives.hear_lease(&name, &lease.metadata, now)
    }

    /// A node has no heartbeat any longer.
    pub fn remove_lease(&mut self, name: &str) -> bool {
        if let Ok(name) = name.parse() {
            self.lives.forget_lease(&name);
        }
        true
    }

    /// These are all heartbeats.
    pub fn replace_leases(&mut self, all: &[PartialObjectMeta<Lease>], now: Instant) -> bool {
        let listed: BTreeSet<String> = all.iter().map(|lease| lease.name_any()).collect();
        self.lives.retain_leases(|node| listed.contains(node.as_str()));
        for lease in all {
            self.put_lease(lease, now);
        }
        true
    }

    /// The cluster refuses something for a reason, and the mesh does without it; or it does no longer.
    pub fn deny(&mut self, what: &'static str, reason: Option<String>) -> bool {
        match reason {
            Some(reason) => self.denied.insert(what, reason.clone()) != Some(reason),
            None => self.denied.remove(what).is_some(),
        }
    }

    /// Whether the cluster refuses this at the moment.
    pub fn is_denied(&self, what: &'static str) -> bool {
        self.denied.contains_key(what)
    }

    /// How this machine's clock stands to the API server's, if it is worth a word.
    pub fn set_clock(&mut self, apart: Option<String>) -> bool {
        let is_news = self.clock != apart;
        self.clock = apart;
        is_news
    }

    /// Whether signs of life can't be heard, in which case nobody is taken for dead.
    pub fn set_deaf(&mut self, is_deaf: bool, now: Instant) {
        self.lives.set_deaf(is_deaf, now);
    }

    /// Whether Nodes can't be watched, in which case none of Kilo's is taken for dead.
    pub fn set_blind(&mut self, is_blind: bool, now: Instant) {
        self.lives.set_blind(is_blind, now);
    }

    /// When the mesh may be another one though nobody tells anything. It stays due until it is [noticed](Self::notice), however
    /// much else comes first.
    pub fn next_loss(&self) -> Option<Instant> {
        self.lives.next_loss(self.noticed)
    }

    /// Whoever is no longer alive now is taken notice of.
    pub fn notice(&mut self, now: Instant) {
        self.noticed = Some(now);
    }

    /// This machine's Node.
    pub fn own(&self) -> Option<&KnownNode> {
        self.nodes.get(self.own.as_str())
    }

    /// What this machine's agent says by Events, and of what: its own Node's problems, and those of Peers if it is the first
    /// by name of all healthy nodes with an agent of ours. Once is enough for what all see. `planned` are the problems of
    /// its plan; a node that this keeps out plans nothing, and can't speak for others.
    pub fn to_tell<'a>(
        &'a self,
        planned: &'a [Problem],
        now: Instant,
    ) -> Vec<(ObjectReference, &'a Problem)> {
        let ours = self.nodes.values().filter_map(|known| known.read.node.as_ref());
        let mut ours = ours.filter(|node| node.algorithm >= Algorithm::Wireloom);
        let is_kept_out = |node: &Node| planned.iter().any(|problem| is_out(problem, &node.name));
        let first = ours.find(|node| self.lives.is_healthy(node, now) && !is_kept_out(node));
        let speaks_for_all = first.is_some_and(|node| node.name == self.own);
        let of_peers = self.peers.values().filter(|_| speaks_for_all);
        let of_peers = of_peers.map(|known| (known.reference.clone(), &known.problems));
        let of_node = self.own().map(|own| (own.object.object_ref(&()), &own.read.problems));
        let read = of_node.into_iter().chain(of_peers).flat_map(|(about, problems)| {
            problems.iter().map(move |problem| (about.clone(), problem))
        });
        // What was read is among what is planned by.
        let planned = planned.iter().filter_map(|problem| {
            let (about, read) = match &problem.subject {
                Subject::Node(name) if *name == self.own => {
                    self.own().map(|own| (own.object.object_ref(&()), &own.read.problems))
                }
                Subject::Peer(name) if speaks_for_all => {
                    let known = self.peers.get(name.as_str());
                    known.map(|known| (known.reference.clone(), &known.problems))
                }
                _ => None,
            }?;
            (!read.contains(problem)).then_some((about, problem))
        });
        read.chain(planned).collect()
    }

    /// Whether some other node's agent is one of Kilo's: it says that it is there, and not by a heartbeat.
    pub fn has_kilo(&self, now: Instant) -> bool {
        let names = self.nodes.keys().filter_map(|name| name.parse::<NodeName>().ok());
        names.filter(|name| *name != self.own).any(|name| self.lives.is_kilos(&name, now))
    }

    /// The mesh as it is now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let nodes = self.nodes.values().filter_map(|known| known.read.node.as_ref());
        let nodes =
            nodes.map(|node| Node { healthy: self.lives.is_healthy(node, now), ..node.clone() });
        let peers = self.peers.values().filter_map(|known| known.peer.as_ref());
        let of_nodes = self.nodes.values().flat_map(|known| &known.read.problems);
        let of_peers = self.peers.values().flat_map(|known| &known.problems);
        let denied = self.denied.iter().map(|(what, reason)| {
            Problem::error(Subject::Mesh, ProblemKind::Invalid, format!("{what}: {reason}"))
        });
        let disagree = self.nodes.values().filter_map(|known| {
            let (node, told) = (known.read.node.as_ref()?, &known.read.annotations.told);
            let other = told.mesh.as_ref().filter(|_| node.name != self.own)?;
            disagreement(&node.name, other, &self.mesh)
        });
        let clock = self.clock.iter().map(|apart| {
            let message = format!(
                "this machine's clock is {apart} the API server's; keep both right: timedatectl set-ntp true"
            );
            Problem::warning(Subject::Node(self.own.clone()), ProblemKind::Clock, message)
        });
        let stranger = self.own().is_none().then(|| {
            let message = format!(
                "the cluster has no Node {}, which this machine is said to be; say its name with --hostname",
                self.own
            );
            Problem::error(Subject::Mesh, ProblemKind::Invalid, message)
        });
        Snapshot {
            mesh: self.mesh.clone(),
            nodes: nodes.collect(),
            peers: peers.chain(&self.last_peers).cloned().collect(),
            problems: denied
                .chain(stranger)
                .chain(clock)
                .chain(disagree)
                .chain(of_nodes.chain(of_peers).cloned())
                .collect(),
        }
    }
}

/// Whether a problem keeps this node out of the mesh.
fn is_out(problem: &Problem, node: &NodeName) -> bool {
    problem.kind == ProblemKind::DuplicateKey
        && problem.severity == Severity::Error
        && matches!(&problem.subject, Subject::Node(name) if name == node)
}

/// The names of those that are known and not among all.
fn missing<T, K: Resource>(known: &BTreeMap<String, T>, all: &[K]) -> Vec<String> {
    let there: BTreeSet<String> = all.iter().map(|object| object.name_any()).collect();
    known.keys().filter(|name| !there.contains(*name)).cloned().collect()
}

#[cfg(test)]
pub(crate) mod tests;
