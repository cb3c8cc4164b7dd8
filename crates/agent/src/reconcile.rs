//! One pass of a node: from the last snapshot to a device and a kernel that do what its plan says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use wireloom_kernel::{Forwarding, Host, diff};
use wireloom_model::kernel::KernelState;
use wireloom_model::{
    Family, InterfaceName, Node, PrivateKey, Problem, ProblemKind, PublicKey, Snapshot, Subject,
};
use wireloom_topology::{Mtus, Plan, PlanError};

use crate::agent::Identity;
use crate::configure::{self, DesiredDevice, DesiredPeer};
use crate::device::TunnelDevice;
use crate::resolve::Resolver;
use crate::status::Work;
use crate::view::wall_now;

/// The MTU of an Ethernet (RFC 894).
const ETHERNET_MTU: u32 = 1500;

/// The MTU of a tunnel over an Ethernet of 1,500 bytes, whichever family is outside.
const USUAL_MTU: u32 = 1420;

/// What a tunnel adds to a packet at most: IPv6, UDP, and WireGuard's header and tag (WireGuard paper, section 5.4.6).
const OVERHEAD: u32 = 40 + 8 + 32;

/// The least MTU that IPv6 works with (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;

/// How many far ends are asked for the MTU of their path.
const MTU_SAMPLE: usize = 16;

/// A node's plan, and what it takes to bring the device and the kernel in line with it.
pub(crate) struct Reconciler {
    identity: Identity,
    private_key: PrivateKey,
    interface: InterfaceName,
    host: Host,
    resolver: Resolver,
    /// The endpoints that were written last; the device may have learnt others since.
    dialled: BTreeMap<PublicKey, SocketAddr>,
    plan: Option<Arc<Plan>>,
    listen_port: Option<NonZeroU16>,
    mtus: Mtus,
    /// Whether the plan has this node pass on packets of others: as a gateway, or to prefixes behind it.
    forwards: bool,
    /// How forwarding was before it was needed.
    forwarding: Option<Forwarding>,
    /// What is wrong with the mesh and the plan, until the next ones.
    plan_problems: Vec<Problem>,
    work: Work,
}

impl Reconciler {
    pub(crate) fn new(
        identity: Identity,
        private_key: PrivateKey,
        interface: InterfaceName,
        host: Host,
    ) -> Self {
        Self {
            identity,
            private_key,
            interface,
            host,
            resolver: Resolver::default(),
            dialled: BTreeMap::new(),
            plan: None,
            listen_port: None,
            mtus: Mtus { tunnel: USUAL_MTU, internal: ETHERNET_MTU },
            forwards: false,
            forwarding: None,
            plan_problems: Vec::new(),
            work: Work::default(),
        }
    }

    pub(crate) const fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    pub(crate) const fn mtus(&self) -> Mtus {
        self.mtus
    }

    pub(crate) const fn work(&self) -> Work {
        self.work
    }

    /// The device is a new one: nothing was written to it yet.
    pub(crate) fn forget_device(&mut self) {
        self.dialled.clear();
    }

    /// Takes a snapshot and plans by it. Without a place in the mesh there is no plan, and the problems say why.
    pub(crate) async fn adopt(&mut self, snapshot: &Snapshot) {
        self.plan_problems.clone_from(&snapshot.problems);
        match place_in(snapshot, &self.identity, self.private_key.public_key()) {
            Ok((plan, own)) => {
                self.plan_problems.clone_from(&plan.problems);
                self.listen_port = Some(own.listen_port(snapshot.mesh.port));
                self.forwards = is_forwarder(&plan, own);
                self.plan = Some(Arc::new(plan));
            }
            Err(problem) => {
                self.plan_problems.push(problem);
                self.forwards = false;
                self.plan = None;
            }
        }
        self.refresh_names().await;
        let tunnel = match snapshot.mesh.mtu {
            Some(mtu) => u32::from(mtu.get()),
            None => self.tunnel_mtu().await,
        };
        self.mtus = Mtus { tunnel, internal: self.internal_mtu().await };
        self.find_conflicts(snapshot).await;
    }

    /// Resolves the endpoints that are names. Returns whether an answer changed.
    pub(crate) async fn refresh_names(&mut self) -> bool {
        let plan = self.plan.clone();
        let peers = plan.iter().flat_map(|plan| &plan.tunnel_peers);
        self.resolver.refresh(peers.filter_map(|peer| peer.endpoint.as_ref())).await
    }

    /// The MTU that the narrowest path to a peer leaves to the tunnel.
    async fn tunnel_mtu(&self) -> u32 {
        let plan = self.plan.iter();
        let endpoints =
            plan.flat_map(|plan| &plan.tunnel_peers).filter_map(|peer| peer.endpoint.as_ref());
        let addresses = endpoints.take(MTU_SAMPLE).filter_map(|endpoint| {
            self.resolver.address(endpoint, None).map(|address| address.ip())
        });
        let narrowest = self.narrowest(addresses).await;
        narrowest.map_or(USUAL_MTU, |mtu| mtu.saturating_sub(OVERHEAD).max(LEAST_MTU))
    }

    /// The MTU of the narrowest path to others of the location whose packets are wrapped.
    async fn internal_mtu(&self) -> u32 {
        let wraps = self.plan.iter().flat_map(|plan| plan.wraps.values());
        let ends = wraps.flat_map(|wrap| wrap.ends.keys().copied().take(MTU_SAMPLE));
        self.narrowest(ends).await.unwrap_or(ETHERNET_MTU)
    }

    /// The least MTU of the paths to these addresses, as far as any is known.
    async fn narrowest(&self, addresses: impl Iterator<Item = IpAddr>) -> Option<u32> {
        let mut narrowest: Option<u32> = None;
        for address in addresses {
            match self.host.path_mtu_to(address).await {
                Ok(mtu) => narrowest = narrowest.into_iter().chain(mtu).min(),
                Err(error) => tracing::debug!(%address, %error, "the path's MTU is not known"),
            }
        }
        narrowest
    }

    /// Says which of the host's own routes share addresses with the overlay.
    async fn find_conflicts(&mut self, snapshot: &Snapshot) {
        let ranges: Vec<_> = snapshot.mesh.overlay.ranges().collect();
        match self.host.route_conflicts(&ranges, std::slice::from_ref(&self.interface)).await {
            Ok(conflicts) => self.plan_problems.extend(conflicts.into_iter().map(|conflict| {
                let message = format!(
                    "{conflict}; use another overlay range, or another network on this host"
                );
                Problem::error(Subject::Mesh, ProblemKind::OverlayRange, message)
            })),
            Err(error) => {
                tracing::warn!(%error, "this host's routes could not be compared with the overlay")
            }
        }
    }

    /// Changes the device and the kernel as far as they differ from the plan. Returns everything that is wrong.
    pub(crate) async fn reconcile(&mut self, device: &dyn TunnelDevice) -> Vec<Problem> {
        self.work.reconciles += 1;
        let mut problems = self.plan_problems.clone();
        problems.extend(self.resolver.failures().iter().map(|(name, reason)| {
            let message = format!("the endpoint's name {name} can't be resolved: {reason}");
            Problem::warning(Subject::Mesh, ProblemKind::Unresolved, message)
        }));
        problems.extend(self.reconcile_device(device));
        let desired = match &self.plan {
            Some(plan) => plan.kernel_state(&self.interface, self.mtus),
            None => KernelState::default(),
        };
        problems.extend(self.reconcile_kernel(&desired).await);
        problems.extend(self.reconcile_forwarding());
        problems
    }

    fn reconcile_forwarding(&mut self) -> Option<Problem> {
        let outcome = match (self.forwards, self.forwarding.take()) {
            (true, None) => {
                Forwarding::enable(&Family::BOTH).map(|before| self.forwarding = Some(before))
            }
            (false, Some(before)) => before.restore(),
            (_, unchanged) => {
                self.forwarding = unchanged;
                Ok(())
            }
        };
        outcome
            .err()
            .map(|error| Problem::error(Subject::Mesh, ProblemKind::Kernel, error.to_string()))
    }

    fn reconcile_device(&mut self, device: &dyn TunnelDevice) -> Option<Problem> {
        let outcome = device.status().and_then(|observed| {
            let desired = self.desired_device(&observed);
            let request = configure::request(&desired, &observed, &self.dialled, wall_now());
            if let Some(request) = request {
                device.set(&request)?;
                self.work.device_writes += 1;
            }
            self.dialled =
                desired.peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))).collect();
            Ok(())
        });
        outcome
            .err()
            .map(|error| Problem::error(Subject::Mesh, ProblemKind::Device, error.to_string()))
    }

    fn desired_device(&self, observed: &wireloom_tunnel::uapi::DeviceStatus) -> DesiredDevice {
        let in_use: BTreeMap<PublicKey, SocketAddr> =
            observed.peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))).collect();
        let peers = self.plan.iter().flat_map(|plan| &plan.tunnel_peers).map(|peer| DesiredPeer {
            key: peer.key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: peer.endpoint.as_ref().and_then(|endpoint| {
                self.resolver.address(endpoint, in_use.get(&peer.key).copied())
            }),
            persistent_keepalive: peer.persistent_keepalive.map_or(0, NonZeroU16::get),
            allowed_ips: peer.allowed_ips.clone(),
        });
        DesiredDevice {
            private_key: self.private_key.clone(),
            listen_port: self.listen_port.map_or(observed.listen_port, NonZeroU16::get),
            peers: peers.collect(),
        }
    }

    async fn reconcile_kernel(&mut self, desired: &KernelState) -> Vec<Problem> {
        let problem = |message| Problem::error(Subject::Mesh, ProblemKind::Kernel, message);
        let observed = match self.host.observe(std::slice::from_ref(&self.interface)).await {
            Ok(observed) => observed,
            Err(error) => return vec![problem(error.to_string())],
        };
        match self.host.apply(&diff(desired, &observed)).await {
            Ok(report) => {
                self.work.kernel_writes += report.written as u64;
                report.failed.iter().map(|error| problem(error.to_string())).collect()
            }
            Err(error) => vec![problem(error.to_string())],
        }
    }

    /// Takes everything of this node out of the kernel again, the link aside, which goes with its device.
    pub(crate) async fn leave(&mut self) -> Vec<Problem> {
        let mut problems = self.reconcile_kernel(&KernelState::default()).await;
        self.forwards = false;
        problems.extend(self.reconcile_forwarding());
        problems
    }
}

/// The plan of the machine with this identity and key, and its node. The problem says why it has none, and how to get
/// one.
pub(crate) fn place_in<'a>(
    snapshot: &'a Snapshot,
    identity: &Identity,
    key: PublicKey,
) -> Result<(Plan, &'a Node), Problem> {
    let problem = |subject, message| Err(Problem::error(subject, ProblemKind::Invalid, message));
    let own = match identity {
        Identity::Key => snapshot.nodes.iter().find(|node| node.key == key),
        Identity::Name(name) => snapshot.nodes.iter().find(|node| node.name == *name),
    };
    let Some(own) = own else {
        let who = match identity {
            Identity::Key => String::new(),
            Identity::Name(name) => format!(" name = \"{name}\" and"),
        };
        return problem(
            Subject::Mesh,
            format!(
                "this machine is not in the mesh: give it a node with{who} public-key = \"{key}\""
            ),
        );
    };
    if own.key != key {
        return problem(
            Subject::Node(own.name.clone()),
            format!("the mesh has the public key {} for it, this machine's key is {key}", own.key),
        );
    }
    match wireloom_topology::plan(snapshot, &own.name) {
        Ok(plan) => Ok((plan, own)),
        Err(error @ (PlanError::KeptOut { .. } | PlanError::Unknown { .. })) => {
            problem(Subject::Node(own.name.clone()), error.to_string())
        }
        Err(error) => problem(Subject::Mesh, error.to_string()),
    }
}

/// Whether a node passes on packets of others: as a gateway, or to prefixes behind it.
pub(crate) const fn is_forwarder(plan: &Plan, own: &Node) -> bool {
    plan.gateway || !own.pod_prefixes.is_empty() || !own.extra_prefixes.is_empty()
}
