//! One pass of a node: from the last snapshot to a device and a kernel that do what its plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use wireloom_kernel::{Cached, Event, Host, HostError};
use wireloom_model::kernel::{KernelState, Link, LinkKind};
use wireloom_model::{
    Cidr, InterfaceName, NodeName, PrivateKey, Problem, ProblemKind, PublicKey, Snapshot, Subject,
};
use wireloom_registry::Next;
use wireloom_topology::kilo::{Seen, discoveries};
use wireloom_topology::{Plan, TunnelPeer, Underlay, sightings};
use wireloom_tunnel::uapi::{DeviceStatus, PeerStatus};

use crate::agent::{Config, Identity};
use crate::beyond::Beyond;
use crate::configure::{self, DesiredDevice, DesiredPeer};
use crate::device::{DeviceError, TunnelDevice};
use crate::dial::{Dialler, Moment};
use crate::forwarder::Forwarder;
use crate::heard::Heard;
use crate::network::{Network, unread};
use crate::paths::{Paths, far_ends, overhead};
use crate::place::Place;
use crate::planner::Planner;
use crate::pods::Pods;
use crate::prober::{self, Prober, Turn};
use crate::resolve::Resolver;
use crate::status::{Places, Work};
use crate::view::wall_now;
use crate::wrapping::Wrapping;

/// Something that happens by itself.
pub(crate) enum Occurrence {
    /// The home gateway passes nothing on, or does again.
    Beyond,
    /// Somebody else has changed something on the host. `None` if that can't be told any more until the next pass.
    Kernel(Option<Event>),
    /// A name of an endpoint resolves to something else, or does so no longer.
    Names,
    /// Paths were probed.
    Probe(Turn),
    /// More or less of what is wrapped arrives than before.
    Wrapping,
}

/// A node's plan, and what it takes to bring the device and the kernel in line with it.
pub(crate) struct Reconciler {
    identity: Identity,
    private_key: PrivateKey,
    interface: InterfaceName,
    /// The bits that mark the tunnel's own packets; 0 is none.
    mark: u32,
    /// The metric of our routes in the main table.
    metric: u32,
    kernel: Cached,
    network: Network,
    prober: Prober,
    planner: Planner,
    pods: Option<Pods>,
    snapshot: Option<Arc<Snapshot>>,
    /// What counts by Kilo's algorithm beside the snapshot.
    seen: Seen,
    wrapping: Wrapping,
    beyond: Beyond,
    resolver: Resolver,
    dialler: Dialler,
    /// Monotonic time is counted from here.
    began: Instant,
    /// Where the device hears those that answer.
    sighted: BTreeMap<PublicKey, SocketAddr>,
    /// Where each tunnel peer may be reached by the plan.
    places: BTreeMap<PublicKey, Places>,
    /// The endpoints that were written last; the device may have learnt others since.
    dialled: BTreeMap<PublicKey, SocketAddr>,
    /// Where each peer is, by the device or else by the plan.
    endpoints: BTreeMap<PublicKey, SocketAddr>,
    plan: Option<Arc<Plan>>,
    listen_port: Option<NonZeroU16>,
    /// The MTU that the mesh sets for its tunnels.
    mesh_mtu: Option<u32>,
    /// The overlay's ranges.
    ranges: BTreeSet<Cidr>,
    /// What the plan is carried out over, once that is known.
    underlay: Option<Underlay>,
    /// Whether the plan has this node pass on packets of others: as a gateway, or to prefixes behind it.
    forwards: bool,
    forwarder: Forwarder,
    /// Where devices heard peers, this one and earlier ones.
    heard: Heard,
    /// Where an earlier agent's device heard peers, until they are told to ours.
    inherited: BTreeMap<PublicKey, SocketAddr>,
    /// What is wrong with the mesh and the plan, until the next ones.
    plan_problems: Vec<Problem>,
    work: Work,
}

impl Reconciler {
    /// `changed` wakes who follows the pods of this machine.
    pub(crate) async fn new(
        config: &Config,
        changed: &Arc<Notify>,
        host: Host,
    ) -> Result<Self, HostError> {
        let interface = config.interface.clone();
        let pods = config.pods.clone();
        let heard = Heard::recall(&config.control);
        Ok(Self {
            identity: config.identity.clone(),
            private_key: config.private_key.clone(),
            kernel: Cached::new(&host, vec![interface.clone()]).await?,
            pods: pods.map(|network| {
                let key = config.private_key.public_key();
                Pods::new(network, config.control.clone(), key, Arc::clone(changed))
            }),
            network: Network::new(host, interface.clone(), config.mark),
            prober: Prober::new(interface.clone(), config.mark),
            wrapping: Wrapping::new(interface.clone()),
            beyond: Beyond::new(),
            interface,
            mark: config.mark,
            metric: config.metric,
            planner: config.planner.clone(),
            snapshot: None,
            seen: Seen::default(),
            resolver: Resolver::default(),
            dialler: Dialler::default(),
            began: Instant::now(),
            sighted: BTreeMap::new(),
            places: BTreeMap::new(),
            dialled: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            plan: None,
            listen_port: None,
            mesh_mtu: None,
            ranges: BTreeSet::new(),
            underlay: None,
            forwards: false,
            forwarder: Forwarder::recall(&config.control),
            inherited: heard.places().clone(),
            heard,
            plan_problems: Vec::new(),
            work: Work::default(),
        })
    }

    pub(crate) const fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// What is wrong with the mesh and the plan.
    pub(crate) fn plan_problems(&self) -> &[Problem] {
        &self.plan_problems
    }

    pub(crate) const fn underlay(&self) -> Option<&Underlay> {
        self.underlay.as_ref()
    }

    /// Whether there is a plan, and nothing is known yet of what it is carried out over. Until then what is in the kernel
    /// stays, whoever made it.
    pub(crate) const fn is_blind(&self) -> bool {
        self.plan.is_some() && self.underlay.is_none()
    }

    /// Where each tunnel peer may be reached by the plan.
    pub(crate) const fn places(&self) -> &BTreeMap<PublicKey, Places> {
        &self.places
    }

    pub(crate) const fn work(&self) -> Work {
        self.work
    }

    /// Waits for something that happens by itself, and says whether it is a reason to reconcile. Dropping the future
    /// loses nothing.
    pub(crate) async fn next(&mut self) -> Occurrence {
        tokio::select! {
            biased;
            event = self.kernel.changed() => Occurrence::Kernel(event),
            turn = self.prober.turn() => Occurrence::Probe(turn),
            () = self.resolver.turn() => Occurrence::Names,
            () = self.wrapping.turn() => Occurrence::Wrapping,
            () = self.beyond.turn() => Occurrence::Beyond,
        }
    }

    /// Takes notice of it, and says whether it is a reason to reconcile.
    pub(crate) async fn hear(&mut self, occurrence: Occurrence) -> bool {
        match occurrence {
            Occurrence::Beyond
            | Occurrence::Kernel(None)
            | Occurrence::Names
            | Occurrence::Wrapping => true,
            Occurrence::Kernel(Some(event)) => self.network.hear(&event) || self.kernel.is_due(),
            Occurrence::Probe(Turn { looked_at, is_news }) => {
                is_news || self.network.look_again(looked_at).await.unwrap_or(true)
            }
        }
    }

    /// Probes the paths on which packets flow, and what wraps if none comes back.
    pub(crate) fn probe(&mut self, device: &dyn TunnelDevice) {
        if let Some(plan) = &self.plan {
            self.wrapping.look(plan);
        }
        if self.prober.is_busy()
            && let Ok(status) = device.status()
        {
            self.prober.look(&status);
        }
    }

    /// An earlier agent's device heard these peers there. Ours looks for them in the same places first.
    pub(crate) fn inherit(&mut self, heard: BTreeMap<PublicKey, SocketAddr>) {
        self.inherited = heard;
    }

    /// Where the device hears peers by sessions that are in use.
    pub(crate) fn heard(device: &dyn TunnelDevice) -> BTreeMap<PublicKey, SocketAddr> {
        let status = device.status().unwrap_or_default();
        let live: BTreeSet<PublicKey> = prober::live(&status, wall_now()).collect();
        endpoints(&status).into_iter().filter(|(key, _)| live.contains(key)).collect()
    }

    /// Has everything on the host looked at anew the next time.
    pub(crate) fn forget_host(&mut self) {
        self.kernel.forget();
        self.network.forget();
    }

    /// The device is a new one: nothing was written to it yet, and peers know nothing of it.
    pub(crate) fn forget_device(&mut self) {
        self.inherited.clone_from(self.heard.places());
        self.sighted.clear();
        self.dialled.clear();
        self.prober.forget_device();
    }

    /// Takes a snapshot and plans by it. Without a place in the mesh there is no plan, and the problems say why.
    pub(crate) async fn adopt(&mut self, snapshot: &Arc<Snapshot>) {
        let is_known = self.kilos_mesh().is_some();
        self.snapshot = Some(Arc::clone(snapshot));
        if self.kilos_mesh().is_some() {
            // Who leads depends on what the names of endpoints resolve to. Later on, each answer has it planned anew.
            if !is_known {
                self.follow_names();
                self.resolver.settle().await;
            }
            self.seen.names = self.resolver.names();
        }
        self.plan_by(snapshot);
        self.mesh_mtu = snapshot.mesh.mtu.map(|mtu| mtu.get().into());
        self.ranges = snapshot.mesh.overlay.ranges().collect();
    }

    fn plan_by(&mut self, snapshot: &Snapshot) {
        self.plan_problems.clone_from(&snapshot.problems);
        let key = self.private_key.public_key();
        match Place::of(&self.planner, &self.seen, snapshot, &self.identity, key) {
            Ok(Place { plan, listen_port, forwards }) => {
                self.plan_problems.clone_from(&plan.problems);
                self.listen_port = listen_port;
                self.forwards = forwards;
                self.plan = Some(Arc::new(plan));
            }
            Err(problem) => {
                self.plan_problems.push(problem);
                self.forwards = false;
                self.plan = None;
            }
        }
        self.follow_names();
    }

    /// The mesh, if Kilo's algorithm is in force.
    fn kilos_mesh(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.clone().filter(|snapshot| self.planner.kilo(snapshot).is_some())
    }

    /// Plans anew if the device hears somebody elsewhere or a name resolves to something else, which counts by Kilo's
    /// algorithm.
    fn look(&mut self, device: &dyn TunnelDevice) {
        let Some((snapshot, status)) = self.kilos_mesh().zip(device.status().ok()) else { return };
        let heard = status.peers.iter().filter(|peer| peer.last_handshake.is_some());
        let heard = heard.filter_map(|peer| Some((peer.key, peer.endpoint?))).collect();
        let seen = Seen { names: self.resolver.names(), heard: Some(heard) };
        if seen != self.seen {
            self.seen = seen;
            self.plan_by(&snapshot);
        }
    }

    /// Where the device hears those whose endpoints move, for others to dial them there.
    pub(crate) fn discoveries(&self) -> BTreeMap<PublicKey, SocketAddr> {
        let Some(snapshot) = &self.snapshot else { return BTreeMap::new() };
        match self.planner.kilo(snapshot) {
            Some(_) => discoveries(snapshot, self.seen.heard.clone().unwrap_or_default()),
            None => sightings(snapshot, self.sighted.clone()),
        }
    }

    /// The addresses of this node's pods that its prefixes do not hold.
    pub(crate) fn pod_addresses(&self) -> BTreeSet<IpAddr> {
        self.pods.as_ref().map(|pods| pods.addresses().clone()).unwrap_or_default()
    }

    /// The gateways of its location that pass nothing on, as far as this node can tell.
    pub(crate) fn unserved_by(&self) -> BTreeSet<NodeName> {
        self.beyond.blamed()
    }

    /// Has the endpoints that are names resolved.
    fn follow_names(&mut self) {
        let (plan, mesh) = (self.plan.clone(), self.kilos_mesh());
        let peers = plan.iter().flat_map(|plan| &plan.tunnel_peers);
        let nodes = mesh.iter().flat_map(|mesh| &mesh.nodes);
        let endpoints = peers.flat_map(TunnelPeer::places);
        let endpoints = endpoints.chain(nodes.filter_map(|node| node.endpoint.as_ref()));
        self.resolver.follow(endpoints);
    }

    /// Looks at the host's network as far as the plan depends on it, and derives what follows from it.
    async fn look_around(&mut self) -> Vec<Problem> {
        let Some(plan) = self.plan.clone() else { return Vec::new() };
        let far_ends = far_ends(&plan, &self.endpoints);
        if let Err(error) = self.network.look(far_ends).await {
            let problem = if self.is_blind() { Problem::error } else { Problem::warning };
            return vec![problem(Subject::Mesh, ProblemKind::Kernel, unread(&error))];
        }
        let unread_conflicts = self.network.look_for_conflicts(&self.ranges).await.err();
        let paths = Paths {
            mesh_mtu: self.mesh_mtu,
            endpoints: &self.endpoints,
            places: &self.places,
            found: &self.prober.found(),
            mark: self.mark,
            metric: self.metric,
        };
        let (underlay, mut problems) = paths.underlay(&plan, |address| self.network.way(address));
        let most = |endpoint: IpAddr| {
            let link = self.network.way(endpoint).map_or(u32::MAX, |way| way.link.mtu);
            underlay.tunnel_mtu.min(link.saturating_sub(overhead(endpoint)))
        };
        self.prober.follow(&plan, &self.endpoints, most);
        self.underlay = Some(underlay);
        if let Some(error) = unread_conflicts {
            let message = unread(&error);
            problems.push(Problem::warning(Subject::Mesh, ProblemKind::Kernel, message));
        }
        // A route that ours stands behind is none in the way.
        let is_ours = |to: &Cidr| plan.routes.keys().any(|own| own.covers(to));
        let stands_behind = |to: &Cidr| self.metric > 0 && is_ours(to);
        let conflicts = self.network.conflicts().iter();
        let conflicts = conflicts.filter(|conflict| !stands_behind(&conflict.destination));
        problems.extend(conflicts.map(|conflict| {
            let message =
                format!("{conflict}; use another overlay range, or another network on this host");
            Problem::error(Subject::Mesh, ProblemKind::OverlayRange, message)
        }));
        problems
    }

    /// Changes the device and the kernel as far as they differ from the plan. Returns everything that is wrong.
    pub(crate) async fn reconcile(&mut self, device: &dyn TunnelDevice) -> Vec<Problem> {
        self.work.reconciles += 1;
        self.look(device);
        let mut problems = self.plan_problems.clone();
        problems.extend(self.resolver.problems());
        let mut outcome = self.reconcile_device(device);
        if let Err(error @ DeviceError::Anothers { .. }) = &outcome {
            // Nothing of ours goes onto somebody else's link, and nothing of theirs away.
            problems.push(device_problem(error));
            return problems;
        }
        problems.extend(self.look_around().await);
        if outcome.is_ok() && self.network.has_moved() {
            problems.extend(self.move_device(device));
        }
        let mut desired = match (&self.plan, &self.underlay) {
            (Some(plan), Some(underlay)) => plan.kernel_state(&self.interface, underlay),
            _ => KernelState::default(),
        };
        if let Some(link) = desired.links.get_mut(&self.interface) {
            link.kind = device.link();
        }
        if let (Some(pods), Some(plan)) = (&mut self.pods, &self.plan) {
            problems.extend(pods.look(plan, &mut desired));
        }
        if !self.is_blind() {
            problems.extend(self.reconcile_kernel(&desired).await);
        }
        if outcome.is_err() && device.link() != LinkKind::Held {
            // The link is there only now.
            outcome = self.reconcile_device(device);
        }
        problems.extend(outcome.err().as_ref().map(device_problem));
        problems.extend(self.reconcile_forwarding());
        // Their echoes go by what has just been made.
        if let Some(plan) = &self.plan {
            self.wrapping.follow(plan);
        }
        problems.extend(self.wrapping.problems());
        self.watch_home();
        problems.extend(self.beyond.problem());
        if let (Some(pods), Some(plan), Some(underlay)) =
            (&mut self.pods, &self.plan, &self.underlay)
        {
            problems.extend(pods.follow(plan, underlay));
        }
        problems
    }

    /// Has the home gateway watched, unless Kilo's algorithm chooses it, by which nobody's word counts.
    fn watch_home(&mut self) {
        let snapshot = self.snapshot.as_deref();
        let ours = snapshot.filter(|snapshot| self.planner.kilo(snapshot).is_none());
        self.beyond.follow(self.plan.as_deref().zip(ours));
    }

    fn reconcile_forwarding(&mut self) -> Option<Problem> {
        let outcome = self.forwarder.bring(self.forwards);
        outcome
            .err()
            .map(|error| Problem::error(Subject::Mesh, ProblemKind::Kernel, error.to_string()))
    }

    fn reconcile_device(&mut self, device: &dyn TunnelDevice) -> Result<(), DeviceError> {
        device.status().and_then(|observed| {
            // Another process's, or the kernel's, that was made anew meanwhile.
            if observed.private_key.is_none() && !self.sighted.is_empty() {
                self.forget_device();
            }
            let wall = wall_now();
            let answer = observed.peers.iter().filter(|peer| !configure::is_lost(peer, wall));
            self.sighted = answer.filter_map(|peer| Some((peer.key, peer.endpoint?))).collect();
            if let Some(plan) = &self.plan {
                self.prober.wake(plan, &observed);
            }
            let desired = self.desired_device(&observed);
            let request = configure::request(&desired, &observed, &self.dialled, wall_now());
            if let Some(request) = request {
                device.set(&request)?;
                self.work.device_writes += 1;
            }
            let peers = &desired.peers;
            self.dialled =
                peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))).collect();
            let in_use = endpoints(&observed);
            let here = |peer: &DesiredPeer| {
                let endpoint = in_use.get(&peer.key).copied().or(peer.endpoint)?;
                Some((peer.key, endpoint))
            };
            self.endpoints = peers.iter().filter_map(here).collect();
            self.take_up(device)
        })
    }

    /// Tells the device where an earlier one heard peers, and has it speak to them: they know nothing of ours until they hear
    /// from it. That is kept until the device has taken it, which may refuse at first, the port being in use. And remembers
    /// where this one hears them.
    fn take_up(&mut self, device: &dyn TunnelDevice) -> Result<(), DeviceError> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let is_peer = |key: &PublicKey| plan.tunnel_peers.iter().any(|peer| peer.key == *key);
        self.heard.keep(self.sighted.clone(), is_peer);
        // A device that has outlived its agent knows better where those are that it hears.
        self.inherited.retain(|key, _| is_peer(key) && !self.sighted.contains_key(key));
        let Some(mut request) = configure::pointing(&self.inherited) else { return Ok(()) };
        for peer in &mut request.peers {
            // Switched on, the first is due at once. It is as planned again with the next pass.
            peer.persistent_keepalive = Some(1);
        }
        device.set(&request)?;
        self.endpoints.append(&mut self.inherited);
        Ok(())
    }

    /// Packets leave by another link or from another address: the device forgets the old one, and peers hear of the new
    /// one at once.
    fn move_device(&mut self, device: &dyn TunnelDevice) -> Option<Problem> {
        tracing::info!("the way to peers has changed");
        let outcome = device.status().and_then(|observed| {
            if let Some(request) = configure::pointing(&endpoints(&observed)) {
                device.set(&request)?;
                self.work.device_writes += 1;
            }
            self.prober.restart(prober::live(&observed, wall_now()));
            self.network.settle();
            Ok(())
        });
        outcome.err().map(|error| device_problem(&error))
    }

    fn desired_device(&mut self, observed: &DeviceStatus) -> DesiredDevice {
        let present: BTreeMap<PublicKey, &PeerStatus> =
            observed.peers.iter().map(|peer| (peer.key, peer)).collect();
        let planned = || self.plan.iter().flat_map(|plan| &plan.tunnel_peers);
        self.dialler.retain(&planned().map(|peer| peer.key).collect());
        self.places.clear();
        let moment = Moment { now: self.began.elapsed(), wall: wall_now() };
        let mut dial = |peer: &TunnelPeer| {
            let status = present.get(&peer.key).copied();
            let in_use = status.and_then(|status| status.endpoint);
            let places = self.resolver.places(peer, in_use);
            let addresses: Vec<SocketAddr> = places.all().collect();
            self.places.insert(peer.key, places);
            // Until its name has an answer, it stays where it is.
            if peer.endpoint.as_ref().is_some_and(|endpoint| self.resolver.is_awaited(endpoint)) {
                return self.dialled.get(&peer.key).copied();
            }
            self.dialler.choose(peer.key, &addresses, status, moment)
        };
        let peers = planned().map(|peer| DesiredPeer {
            key: peer.key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: dial(peer),
            persistent_keepalive: peer.persistent_keepalive.map_or(0, NonZeroU16::get),
            allowed_ips: peer.allowed_ips.clone(),
        });
        DesiredDevice {
            private_key: self.private_key.clone(),
            listen_port: self.listen_port.map_or(observed.listen_port, NonZeroU16::get),
            fwmark: self.mark,
            peers: peers.collect(),
        }
    }

    async fn reconcile_kernel(&mut self, desired: &KernelState) -> Vec<Problem> {
        let problem = |message| Problem::error(Subject::Mesh, ProblemKind::Kernel, message);
        let outcome = self.kernel.bring(desired).await;
        self.work.kernel_reads = self.kernel.observations();
        match outcome {
            Ok(report) => {
                self.work.kernel_writes += report.written as u64;
                report.failed.iter().map(|error| problem(error.to_string())).collect()
            }
            Err(error) => vec![problem(error.to_string())],
        }
    }

    /// Takes everything of this node out of the kernel and the device again, the link aside where it goes with its
    /// device. Pods keep their network for another agent.
    pub(crate) async fn leave(
        &mut self,
        device: Option<&dyn TunnelDevice>,
        next: Next,
    ) -> Vec<Problem> {
        let mut problems = match device.map(TunnelDevice::status) {
            Some(Err(error @ DeviceError::Anothers { .. })) => vec![device_problem(&error)],
            _ => self.leave_device(device).await,
        };
        if next == Next::Nobody {
            self.heard.forget();
        }
        if let Some(pods) = self.pods.as_mut().filter(|_| next != Next::Agent) {
            problems.extend(pods.leave());
        }
        self.forwards = false;
        problems.extend(self.reconcile_forwarding());
        problems
    }

    async fn leave_device(&mut self, device: Option<&dyn TunnelDevice>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut desired = KernelState::default();
        if let Some(device) = device.filter(|device| device.outlives_agent()) {
            problems.extend(device.set(&configure::release()).err().as_ref().map(device_problem));
            let mtu = self.underlay.as_ref().map(|underlay| underlay.tunnel_mtu);
            let down = mtu.map(|mtu| Link { up: false, ..Link::held(mtu) });
            desired.links.extend(down.map(|link| (self.interface.clone(), link)));
        }
        problems.extend(self.reconcile_kernel(&desired).await);
        problems
    }
}

fn device_problem(error: &DeviceError) -> Problem {
    Problem::error(Subject::Mesh, ProblemKind::Device, error.to_string())
}

/// Where packets to each peer go now.
fn endpoints(device: &DeviceStatus) -> BTreeMap<PublicKey, SocketAddr> {
    device.peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))).collect()
}

#[cfg(test)]
mod names;
#[cfg(test)]
mod tests;
