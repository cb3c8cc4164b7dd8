//! Endpoint names to addresses, with the last answer kept: a name that stops resolving takes no peer down.
//!
//! Each look-up is a task of its own, and whoever goes by the answers waits for none.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wireloom_model::{DnsName, Endpoint, Host, Problem, ProblemKind, Subject};
use wireloom_topology::TunnelPeer;

use crate::status::Places;

/// How often names are asked again. `getaddrinfo` tells no TTL, so the period is ours.
const PERIOD: Duration = Duration::from_secs(20);

/// After how long a look-up counts as failed, until its answer comes all the same.
const LOOKUP: Duration = Duration::from_secs(5);

/// What a look-up comes to: at least one address, or why there is none.
pub(crate) type Answer = Result<Vec<IpAddr>, String>;

/// What names resolved to last.
pub(crate) struct Resolver {
    /// The names in use.
    names: BTreeSet<DnsName>,
    answers: BTreeMap<DnsName, Vec<IpAddr>>,
    failures: BTreeMap<DnsName, String>,
    /// How a name is looked up.
    pub(crate) lookup: fn(DnsName) -> BoxFuture<'static, Answer>,
    /// The look-ups under way. They end when this goes.
    lookups: JoinSet<(DnsName, Answer)>,
    /// What they are for, each name once, and until when the answer is in time. `None` once it is late.
    asked: BTreeMap<DnsName, Option<Instant>>,
    /// When all names are asked again.
    again: Instant,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            names: BTreeSet::new(),
            answers: BTreeMap::new(),
            failures: BTreeMap::new(),
            lookup: |name| Box::pin(lookup(name)),
            lookups: JoinSet::new(),
            asked: BTreeMap::new(),
            again: Instant::now() + PERIOD,
        }
    }
}

impl Resolver {
    /// Takes over the names that these endpoints use, and forgets all others. New ones are asked at once. Needs a tokio
    /// runtime.
    pub(crate) fn follow<'a>(&mut self, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let name = |endpoint: &Endpoint| match &endpoint.host {
            Host::Name(name) => Some(name.clone()),
            _ => None,
        };
        self.names = endpoints.filter_map(name).collect();
        self.answers.retain(|name, _| self.names.contains(name));
        self.failures.retain(|name, _| self.names.contains(name));
        let now = Instant::now();
        for name in self.unanswered() {
            self.ask(name, now);
        }
    }

    /// Asks and hears what is due, until something is known that was not before. Dropping the future loses nothing.
    pub(crate) async fn turn(&mut self) {
        loop {
            let late = self.asked.values().flatten().min().copied();
            let due = late.map_or(self.again, |late| late.min(self.again));
            let is_news = tokio::select! {
                biased;
                Some(Ok((name, answer))) = self.lookups.join_next() => {
                    self.asked.remove(&name);
                    self.take(name, answer)
                }
                () = sleep_until(due) => self.tick(Instant::now()),
            };
            if is_news {
                return;
            }
        }
    }

    /// Waits until every name has an answer, or a reason why it has none.
    pub(crate) async fn settle(&mut self) {
        while !self.unanswered().is_empty() {
            self.turn().await;
        }
    }

    /// Takes over the names of these endpoints, and waits for their first answers.
    pub(crate) async fn refresh(&mut self, endpoints: impl Iterator<Item = &Endpoint>) {
        self.follow(endpoints);
        self.settle().await;
    }

    /// Whether an endpoint is a name of which nothing is known yet, but soon will be.
    pub(crate) fn is_awaited(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.host {
            Host::Name(name) => self.names.contains(name) && self.is_unanswered(name),
            _ => false,
        }
    }

    /// The socket address of an endpoint. `None` for a name without any answer yet. Of several addresses the one in
    /// use stays as long as it is among them.
    pub(crate) fn address(
        &self,
        endpoint: &Endpoint,
        in_use: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let all = self.addresses(endpoint);
        let is_in_use = |address: &&SocketAddr| in_use.is_some_and(|at| at.ip() == address.ip());
        all.iter().find(is_in_use).or_else(|| all.first()).copied()
    }

    /// Where a peer may be reached: all addresses of its endpoint, then those of its alternatives. If one of its
    /// endpoint's is in use, it comes first and all before it last: their cycle is the same wherever it begins, so that
    /// who tries one after the other comes to each.
    pub(crate) fn places(&self, peer: &TunnelPeer, in_use: Option<SocketAddr>) -> Places {
        let mut all: Vec<SocketAddr> = Vec::new();
        for address in peer.places().flat_map(|place| self.addresses(place)) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        let planned = peer.endpoint.as_ref().and_then(|endpoint| self.address(endpoint, in_use));
        let first = all.iter().position(|address| planned == Some(*address));
        all.rotate_left(first.unwrap_or(0));
        let alternatives = all.split_off(usize::from(first.is_some()));
        Places { planned, alternatives }
    }

    /// An address of each name, of IPv4 if there is one.
    pub(crate) fn names(&self) -> BTreeMap<DnsName, IpAddr> {
        let first = |(name, addresses): (&DnsName, &Vec<IpAddr>)| {
            let v4 = addresses.iter().find(|address| address.is_ipv4());
            Some((name.clone(), *v4.or_else(|| addresses.first())?))
        };
        self.answers.iter().filter_map(first).collect()
    }

    /// The names that could not be resolved the last time, and why.
    pub(crate) const fn failures(&self) -> &BTreeMap<DnsName, String> {
        &self.failures
    }

    /// The same as what is wrong with the mesh.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.failures.iter().map(|(name, reason)| {
            let message = format!("the endpoint's name {name} can't be resolved: {reason}");
            Problem::warning(Subject::Mesh, ProblemKind::Unresolved, message)
        })
    }

    fn unanswered(&self) -> Vec<DnsName> {
        self.names.iter().filter(|name| self.is_unanswered(name)).cloned().collect()
    }

    fn is_unanswered(&self, name: &DnsName) -> bool {
        !self.answers.contains_key(name) && !self.failures.contains_key(name)
    }

    /// The addresses of an endpoint, as far as they are known.
    fn addresses(&self, endpoint: &Endpoint) -> Vec<SocketAddr> {
        let port = endpoint.port.get();
        match &endpoint.host {
            Host::Address(address) => vec![SocketAddr::new(*address, port)],
            Host::Scoped(address, link) => {
                let index = link.as_str().parse().ok().or_else(|| interface_index(link.as_str()));
                let scoped = |scope| SocketAddr::V6(SocketAddrV6::new(*address, port, 0, scope));
                index.map(scoped).into_iter().collect()
            }
            Host::Name(name) => {
                let known = self.answers.get(name).into_iter().flatten();
                known.map(|address| SocketAddr::new(*address, port)).collect()
            }
        }
    }

    /// Asks for a name, unless that is under way. Then an answer that is late has as long again.
    fn ask(&mut self, name: DnsName, now: Instant) {
        match self.asked.entry(name.clone()) {
            Entry::Occupied(mut under_way) => {
                under_way.get_mut().get_or_insert(now + LOOKUP);
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Some(now + LOOKUP));
                let lookup = (self.lookup)(name.clone());
                self.lookups.spawn(async move { (name, lookup.await) });
            }
        }
    }

    /// Asks again what is due. Look-ups that are late by now fail, if the last ones did not for a reason of their own; says
    /// whether that is news.
    fn tick(&mut self, now: Instant) -> bool {
        if now >= self.again {
            self.again = now + PERIOD;
            for name in self.names.clone() {
                self.ask(name, now);
            }
        }
        let is_late = |until: &Option<Instant>| until.is_some_and(|until| until <= now);
        let late = self.asked.iter().filter(|(_, until)| is_late(until));
        let late: Vec<DnsName> = late.map(|(name, _)| name.clone()).collect();
        let mut is_news = false;
        for name in late {
            self.asked.insert(name.clone(), None);
            if !self.failures.contains_key(&name) {
                let reason = format!("no answer within {} s", LOOKUP.as_secs());
                is_news |= self.take(name, Err(reason));
            }
        }
        is_news
    }

    /// Takes an answer, and says whether it is another than the last.
    fn take(&mut self, name: DnsName, answer: Answer) -> bool {
        if !self.names.contains(&name) {
            return false;
        }
        match answer {
            Ok(addresses) => {
                let is_mended = self.failures.remove(&name).is_some();
                let known = self.answers.entry(name).or_default();
                let addresses = in_known_order(known, &addresses);
                let is_other = *known != addresses;
                *known = addresses;
                is_mended || is_other
            }
            Err(reason) => self.failures.insert(name, reason.clone()) != Some(reason),
        }
    }
}

/// The addresses of an answer, those known from the last one first and in its order: name servers change the order with
/// every answer, and nobody is to be dialled elsewhere for that.
fn in_known_order(known: &[IpAddr], answer: &[IpAddr]) -> Vec<IpAddr> {
    let stay = known.iter().filter(|address| answer.contains(address));
    let new = answer.iter().filter(|address| !known.contains(address));
    stay.chain(new).copied().collect()
}

/// Asks this host's resolver, for as long as that takes. The best address comes first (RFC 6724).
async fn lookup(name: DnsName) -> Answer {
    let found = tokio::net::lookup_host((name.as_str(), 0)).await;
    let found = found.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

/// The index of a link by its name, in the namespace of the calling thread.
fn interface_index(link: &str) -> Option<u32> {
    let socket = std::net::UdpSocket::bind(("::", 0)).ok()?;
    rustix::net::netdevice::name_to_index(socket, link).ok()
}

#[cfg(test)]
mod tests;
