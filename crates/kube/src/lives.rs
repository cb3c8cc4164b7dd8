//! Who of a cluster's nodes is alive, by the heartbeats of our agents and by those of Kilo's. Pure.
//!
//! Whoever looks on goes by signs that [change](Heartbeats). Who has just come has seen none change: it goes, once, by when
//! the API server took the last sign of each node. One whose sign is [overdue](Stamps) is dead until its next one.
//!
//! After an outage of the API every sign but that of the first to be back is overdue, for as long as one heartbeat takes.
//! So an agent that has been there before does not believe it of a node that it remembers as alive, and gives that one
//! the whole span to be heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::api::ObjectMeta;
use wireloom_model::annotations::key;
use wireloom_model::{Algorithm, Node, NodeName, Snapshot};

use crate::clock;
use crate::heartbeat::Heartbeats;

/// The signs of life of a cluster's nodes.
#[derive(Debug, Clone)]
pub(crate) struct Lives {
    /// Whoever looks on, if it is a node itself.
    own: Option<NodeName>,
    /// Our agents' signs of life.
    leases: Heartbeats,
    /// Kilo's agents' signs of life, and ours while they pass for such.
    seen: Heartbeats,
    /// Since when nobody can be heard.
    deaf: Option<Instant>,
    /// Since when Kilo's agents can't be heard, whose signs are on their Nodes.
    blind: Option<Instant>,
    /// The nodes that were alive when this machine knew the mesh last.
    remembered: BTreeSet<NodeName>,
    /// When what was listed at the start was taken. `None` once that was judged.
    stamps: Option<Stamps>,
}

/// When the API server took what a Node says of when it was seen, by its own clock in Unix seconds.
pub(crate) fn taken(node: &ObjectMeta) -> Option<i64> {
    clock::annotated(node, key::LAST_SEEN)
}

/// When the API server took the last sign of each node, in Unix seconds by its own clock. No other clock is in it.
#[derive(Debug, Clone)]
struct Stamps {
    span: Duration,
    last: BTreeMap<NodeName, i64>,
}

impl Lives {
    /// None yet. A node is alive while it gives a sign within this span.
    pub(crate) const fn new(own: Option<NodeName>, span: Duration) -> Self {
        Self {
            own,
            leases: Heartbeats::new(span),
            seen: Heartbeats::new(span),
            deaf: None,
            blind: None,
            remembered: BTreeSet::new(),
            stamps: Some(Stamps { span, last: BTreeMap::new() }),
        }
    }

    /// This is the mesh that was known last, before the start.
    pub(crate) fn remember(&mut self, last: &Snapshot) {
        let alive = last.nodes.iter().filter(|node| node.healthy);
        self.remembered = alive.map(|node| node.name.clone()).collect();
    }

    /// A node's Lease is there or changed. Returns whether somebody may live or be dead by it.
    pub(crate) fn hear_lease(&mut self, name: &NodeName, lease: &ObjectMeta, now: Instant) -> bool {
        let state = |lives: &Self| (lives.is_alive(name, now), lives.hearing(now));
        let before = state(self);
        self.leases.heard(name, lease.resource_version.as_deref().unwrap_or_default(), now);
        if let Some(stamps) = &mut self.stamps {
            stamps.put(name, clock::taken(lease));
        }
        before != state(self)
    }

    /// A Node says when it was seen, by its own clock, or that it never was. `taken` is when the API server [took](taken) that.
    /// Returns whether it lives or is dead by it.
    pub(crate) fn hear_node(
        &mut self,
        name: &NodeName,
        seen: Option<u64>,
        taken: Option<i64>,
        now: Instant,
    ) -> bool {
        let before = self.is_alive(name, now);
        match seen {
            Some(seen) => self.seen.heard(name, &seen.to_string(), now),
            None => self.seen.forget(name),
        }
        if let Some(stamps) = self.stamps.as_mut().filter(|_| seen.is_some()) {
            stamps.put(name, taken);
        }
        before != self.is_alive(name, now)
    }

    /// A node has no Lease any longer.
    pub(crate) fn forget_lease(&mut self, name: &NodeName) {
        self.leases.forget(name);
    }

    /// A Node is gone.
    pub(crate) fn forget_node(&mut self, name: &NodeName) {
        self.seen.forget(name);
    }

    /// There are no Nodes but these.
    pub(crate) fn retain_nodes(&mut self, is_kept: impl Fn(&NodeName) -> bool) {
        self.seen.retain(is_kept);
    }

    /// There are no Leases but these.
    pub(crate) fn retain_leases(&mut self, is_kept: impl Fn(&NodeName) -> bool) {
        self.leases.retain(is_kept);
    }

    /// Everything was listed: who was overdue at the start is dead until its next sign. Once is enough.
    pub(crate) fn judge(&mut self) {
        let Some(stamps) = self.stamps.take() else { return };
        let is_spared =
            |name: &NodeName| self.remembered.contains(name) || self.own.as_ref() == Some(name);
        for name in stamps.overdue().filter(|name| !is_spared(name)) {
            self.leases.miss(name);
            self.seen.miss(name);
        }
    }

    /// Whether signs of life can't be heard, in which case nobody is taken for dead.
    pub(crate) fn set_deaf(&mut self, is_deaf: bool, now: Instant) {
        match (is_deaf, self.deaf) {
            (true, None) => self.deaf = Some(now),
            (false, Some(then)) => {
                self.leases.pardon(then, now, |_| true);
                self.seen.pardon(then, now, |_| true);
                self.deaf = None;
            }
            _ => {}
        }
    }

    /// Whether Nodes can't be watched, in which case none of Kilo's is taken for dead.
    pub(crate) fn set_blind(&mut self, is_blind: bool, now: Instant) {
        match (is_blind, self.blind) {
            (true, None) => self.blind = Some(now),
            (false, Some(then)) => {
                let leases = &self.leases;
                self.seen.pardon(then, now, |name| leases.is_alive(name, then) != Some(true));
                self.blind = None;
            }
            _ => {}
        }
    }

    /// When anybody was heard last.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.leases.latest().max(self.seen.latest())
    }

    /// When the first node after `since` is no longer alive, unless it is heard until then. It may be past by now.
    pub(crate) fn next_loss(&self, since: Option<Instant>) -> Option<Instant> {
        if self.deaf.is_some() {
            return None;
        }
        let seen = Some(&self.seen).filter(|_| self.blind.is_none());
        let signs = [Some(&self.leases), seen].into_iter().flatten();
        signs.filter_map(|signs| signs.next_loss(since)).min()
    }

    /// Whether a node is alive; for one that never gave a sign, if it is of ours: its heartbeat may be refused, or the right
    /// to read it. One of Kilo's that never said when it was seen is none for Kilo's agents, and so for us.
    pub(crate) fn is_healthy(&self, node: &Node, now: Instant) -> bool {
        let is_ours = node.algorithm >= Algorithm::Wireloom;
        self.is_alive(&node.name, now).unwrap_or(is_ours)
    }

    /// Whether a node lives by Kilo's signs alone.
    pub(crate) fn is_kilos(&self, name: &NodeName, now: Instant) -> bool {
        let now = self.hearing(now);
        self.is_seen(name, now) == Some(true) && self.leases.is_alive(name, now) != Some(true)
    }

    /// Whether a node gives signs of life. `None` for one that never gave any.
    fn is_alive(&self, name: &NodeName, now: Instant) -> Option<bool> {
        if self.own.as_ref() == Some(name) {
            return Some(true);
        }
        let now = self.hearing(now);
        let signs = [self.leases.is_alive(name, now), self.is_seen(name, now)];
        signs.into_iter().flatten().reduce(|one, other| one || other)
    }

    /// Whether a node lives by Kilo's signs, if others can be heard until `now`: while Nodes can't be watched, as when they
    /// could be last. One of ours has its Lease to live by.
    fn is_seen(&self, name: &NodeName, now: Instant) -> Option<bool> {
        let then = self.blind.filter(|then| self.leases.is_alive(name, *then) != Some(true));
        self.seen.is_alive(name, then.map_or(now, |then| then.min(now)))
    }

    /// Until when the others could be heard: until now, unless not even our own sign came through.
    fn hearing(&self, now: Instant) -> Instant {
        let now = self.deaf.unwrap_or(now);
        let own = self.own.as_ref().filter(|own| self.leases.is_alive(own, now) == Some(false));
        own.and_then(|own| self.leases.last(own)).unwrap_or(now)
    }
}

impl Stamps {
    fn put(&mut self, name: &NodeName, stamp: Option<i64>) {
        let Some(stamp) = stamp else { return };
        let last = self.last.entry(name.clone()).or_insert(stamp);
        *last = stamp.max(*last);
    }

    /// Those whose last sign is older than the newest of all by more than they may miss.
    fn overdue(&self) -> impl Iterator<Item = &NodeName> {
        let newest = self.last.values().copied().max().unwrap_or_default();
        let is_overdue = move |stamp: i64| newest.abs_diff(stamp) > self.span.as_secs();
        self.last.iter().filter(move |(_, stamp)| is_overdue(**stamp)).map(|(name, _)| name)
    }
}
