//! The loop that keeps a node in the mesh.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use wireloom_kernel::{Event, Host, HostError};
use wireloom_model::{
    Cidr, Held, InterfaceName, NodeName, PeerName, PrivateKey, Problem, ProblemKind,
};
use wireloom_registry::{Next, Publication, Registry, Update};
use wireloom_topology::Plan;

use crate::control::{ControlError, ControlSocket, Request};
use crate::device::{DeviceError, OpenDevice, TunnelDevice};
use crate::handover::{Heirs, Legacy, Words};
use crate::http::{self, Listen, Place};
use crate::planner::Planner;
use crate::pods::PodNetwork;
use crate::prober;
use crate::reconcile::{Occurrence, Reconciler};
use crate::view::SharedView;

/// How often the device is looked at without a reason: a peer that is out of reach is dialled again at its configured
/// endpoint.
const LOOK: Duration = Duration::from_secs(10);

/// How long changes of the kernel are gathered before they are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// The same, when there were more changes than the kernel could tell. Everything is read back then, and nothing is
/// gained by doing so in the midst of a storm.
const GATHER_OVERRUN: Duration = Duration::from_secs(1);

/// How long to wait before a device that could not be made, read or changed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a node is told at its start.
#[derive(Debug)]
pub struct Config {
    /// Which node of the mesh this machine is.
    pub identity: Identity,
    /// Its private key.
    pub private_key: PrivateKey,
    /// The name of its tunnel device.
    pub interface: InterfaceName,
    /// The bits that mark packets of the tunnel itself, so that they never take it; 0 is none.
    pub mark: u32,
    /// The metric of its routes in the main table. With more than 0 (1024 for IPv6), somebody else's to the same prefix
    /// goes first as long as it is there.
    pub metric: u32,
    /// How the mesh is planned.
    pub planner: Planner,
    /// The path of the socket that it answers on.
    pub control: PathBuf,
    /// Where it answers over HTTP, if anywhere.
    pub listen: Option<Listen>,
    /// What an agent before it handed over.
    pub legacy: Option<Legacy>,
    /// How often the host is looked at without a reason: not every change is told.
    pub resync: Duration,
    /// Whether it takes what it made out of the host when it ends.
    pub clean_up: bool,
    /// How it gives this machine's pods their network, if it does.
    pub pods: Option<PodNetwork>,
}

impl Config {
    /// The usual time between two looks at the host.
    pub const RESYNC: Duration = Duration::from_secs(60);
}

/// How a machine finds itself in or at the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It is the node with its public key.
    Key,
    /// It is the node of this name.
    Name(NodeName),
    /// It is no node, and joins the mesh from outside as this peer.
    Peer {
        /// Its name.
        name: PeerName,
        /// More that it reaches through the mesh, by the first of its tunnels in the order of names.
        more: Vec<Cidr>,
    },
}

/// Why a node could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The control socket can't be had.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The device can't be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The host can't be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// HTTP can't be listened for.
    #[error("{place}: can't be listened on: {error}; choose another address or port by --listen")]
    Listen {
        /// Where.
        place: Place,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The registry has ended.
    #[error("the registry has ended, so the mesh can't be followed any longer")]
    RegistryEnded,
}

/// Keeps this node in the mesh until `stop` completes or somebody asks it to leave, then takes everything of it out of
/// the host again, or leaves it to another agent that stands by or that the registry knows will come, or to nobody if it is
/// told to. `ready` is called once, when the first plan is in force.
///
/// # Errors
///
/// Only at the start, for what no later change of the mesh can mend: no device, no netlink, another agent running. And
/// when the registry ends.
pub async fn run(
    config: Config,
    registry: impl Registry,
    mut opener: impl OpenDevice,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let host = Host::new()?;
    let pods = Arc::new(Notify::new());
    let mut node = Reconciler::new(&config, &pods, host).await?;
    if let Some(Legacy { queues, words }) = config.legacy {
        node.inherit(words.heard);
        opener.inherit(queues);
    }
    let control = ControlSocket::bind(&config.control).await?;
    let http = match &config.listen {
        Some(listen) => listen.bind().await?,
        None => Vec::new(),
    };
    let (ended, has_ended) = mpsc::unbounded_channel();
    let device = opener.open(ended.clone())?;
    let view = SharedView::new(
        config.interface.clone(),
        config.private_key.public_key(),
        config.planner.clone(),
    );
    view.lock().device = Some(Arc::clone(&device));
    let (ask_down, mut down) = mpsc::unbounded_channel();
    let heirs = Heirs::default();
    let mut servers = Servers::default();
    servers.start(serve(control, view.clone(), ask_down, heirs.clone(), Arc::clone(&pods)));
    for bound in http {
        servers.start(http::serve(bound, view.clone()));
    }
    let mut agent = Agent {
        resync: config.resync,
        clean_up: config.clean_up,
        registry,
        opener,
        ended,
        has_ended,
        device: Some(device),
        node,
        pods,
        view,
        ready: Some(ready),
        due: None,
        known: Vec::new(),
    };
    let end = tokio::select! {
        biased;
        () = stop => End::Stopped,
        _ = down.recv() => End::Down,
        error = agent.follow() => End::Failed(error),
    };
    match end {
        End::Stopped => agent.stop(servers, &heirs).await,
        End::Down => agent.leave(Next::Nobody).await,
        End::Failed(error) => {
            agent.leave(Next::Unknown).await;
            return Err(error);
        }
    }
    Ok(())
}

/// Why an agent ends.
enum End {
    /// Somebody asks it to take its node out of the mesh.
    Down,
    Failed(AgentError),
    /// Whoever started it wants it stopped, for whatever comes then.
    Stopped,
}

/// Answers over the control socket for as long as the agent runs.
async fn serve(
    control: ControlSocket,
    view: SharedView,
    ask_down: mpsc::UnboundedSender<()>,
    heirs: Heirs,
    pods: Arc<Notify>,
) {
    let answer = move |request| {
        match request {
            // Fails only if the agent has ended, which is what is asked for.
            Request::Down => drop(ask_down.send(())),
            Request::Pods => pods.notify_one(),
            _ => {}
        }
        view.answer(request)
    };
    control.serve(answer, heirs).await;
}

struct Agent<R, O, F> {
    /// How often the host is looked at without a reason.
    resync: Duration,
    /// Whether it takes what it made out of the host.
    clean_up: bool,
    registry: R,
    opener: O,
    ended: mpsc::UnboundedSender<String>,
    has_ended: mpsc::UnboundedReceiver<String>,
    /// `None` while there is none and it is tried again.
    device: Option<Arc<dyn TunnelDevice>>,
    node: Reconciler,
    /// Told when pods came or went.
    pods: Arc<Notify>,
    view: SharedView,
    /// Called when the first plan is in force.
    ready: Option<F>,
    /// When to reconcile for what has been gathered.
    due: Option<Instant>,
    /// The problems of the last pass.
    known: Vec<Problem>,
}

impl<R: Registry, O: OpenDevice, F: FnOnce()> Agent<R, O, F> {
    /// Follows the registry, the kernel and the device, each change by a pass over everything. Returns why it ends.
    async fn follow(&mut self) -> AgentError {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probe = interval(prober::TICK);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audit = interval(self.resync);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let contact = self.registry.contact();
            self.view.lock().vitals.beat(std::time::Instant::now(), contact);
            let is_due = tokio::select! {
                biased;
                Some(reason) = self.has_ended.recv() => self.lose_device(&reason),
                update = self.registry.next() => match update {
                    Some(update) => self.hear_registry(update).await,
                    None => return AgentError::RegistryEnded,
                },
                () = at(self.due) => true,
                occurrence = self.node.next() => self.hear(occurrence).await,
                () = self.pods.notified() => true,
                _ = audit.tick() => {
                    self.node.forget_host();
                    true
                }
                _ = probe.tick() => {
                    if let Some(device) = self.device.as_deref() {
                        self.node.probe(device);
                    }
                    false
                }
                _ = look.tick() => true,
            };
            if is_due {
                self.due = None;
                self.reconcile().await;
            }
        }
    }

    fn lose_device(&mut self, reason: &str) -> bool {
        tracing::warn!(%reason, "the tunnel device has ended; it is made anew");
        self.device = None;
        // Whoever still shows it holds its sockets, which the next one needs.
        self.view.lock().device = None;
        self.node.forget_device();
        true
    }

    async fn hear_registry(&mut self, update: Update) -> bool {
        match update {
            Update::Stale(reason) => {
                tracing::warn!(%reason, "the mesh can't be read; the last one stays in force");
                self.view.lock().stale = Some(reason);
                false
            }
            Update::Mesh(snapshot) => {
                let (nodes, peers) = (snapshot.nodes.len(), snapshot.peers.len());
                tracing::info!(nodes, peers, "the mesh");
                self.node.adopt(&snapshot).await;
                let mut view = self.view.lock();
                view.snapshot = Some(snapshot);
                view.stale = None;
                view.vitals.learn();
                true
            }
        }
    }

    /// Changes of the kernel come in bursts, our own among them, and are looked at together.
    async fn hear(&mut self, occurrence: Occurrence) -> bool {
        let gather = match &occurrence {
            Occurrence::Kernel(Some(Event::Overrun)) => GATHER_OVERRUN,
            Occurrence::Kernel(Some(event)) => {
                tracing::debug!(?event, "a change of the kernel");
                GATHER
            }
            Occurrence::Kernel(None) => {
                tracing::warn!("changes of the kernel can't be followed until the next look");
                RETRY
            }
            Occurrence::Beyond
            | Occurrence::Names
            | Occurrence::Probe(_)
            | Occurrence::Wrapping => GATHER,
        };
        if self.node.hear(occurrence).await {
            self.due = self.due.or_else(|| Some(Instant::now() + gather));
        }
        false
    }

    async fn reconcile(&mut self) {
        // Nothing is known of the mesh, and so nothing of what is there is wrong: a node that starts again keeps what it
        // had.
        if self.view.lock().snapshot.is_none() {
            return;
        }
        if self.device.is_none() {
            match self.opener.open(self.ended.clone()) {
                Ok(device) => self.device = Some(device),
                Err(error) => {
                    tracing::error!(%error, "the tunnel device can't be made; it is tried again");
                    self.due = Some(Instant::now() + RETRY);
                }
            }
            self.view.lock().device.clone_from(&self.device);
        }
        let Some(device) = self.device.clone() else { return };
        let problems = self.node.reconcile(&*device).await;
        report(&self.known, &problems);
        self.registry.report(self.node.plan_problems());
        self.known.clone_from(&problems);
        let is_of_device = |problem: &Problem| problem.kind == ProblemKind::Device;
        if self.node.is_blind() || problems.iter().any(is_of_device) {
            self.due = Some(Instant::now() + RETRY);
        }
        let plan = self.node.plan().cloned();
        {
            let mut view = self.view.lock();
            view.plan.clone_from(&plan);
            view.underlay = self.node.underlay().cloned();
            view.places.clone_from(self.node.places());
            view.work = self.node.work();
            view.vitals.pass(plan.as_ref().map(|plan| plan.gateway), &problems);
            view.problems = problems;
        }
        if let Some(plan) = plan {
            self.take_part(&plan).await;
        }
    }

    /// Says to others what this node holds, and to whoever started it that it is in the mesh.
    async fn take_part(&mut self, plan: &Plan) {
        let publication = Publication {
            node: plan.node.clone(),
            key: plan.key,
            held: Held {
                pod_addresses: self.node.pod_addresses(),
                unserved_by: self.node.unserved_by(),
                ..plan.publishes.clone()
            },
            discovered_endpoints: self.node.discoveries(),
        };
        self.registry.publish(&publication).await;
        if let Some(ready) = self.ready.take() {
            tracing::info!(node = %plan.node, gateway = plan.gateway, home = %plan.home, "in the mesh");
            ready();
        }
    }

    /// Ends so that whoever goes on finds what it needs.
    async fn stop(mut self, servers: Servers, heirs: &Heirs) {
        let standing_by = heirs.take();
        if !standing_by.is_empty() && self.hand_over(servers, standing_by).await {
            tracing::info!("handed over to another agent");
            return;
        }
        match self.registry.leave().await {
            Next::Agent if self.device.as_ref().is_some_and(|device| device.outlives_agent()) => {
                tracing::info!("device and routes stay for the next agent");
            }
            next => self.leave(next).await,
        }
    }

    /// Gives what there is to who stood by last, or else to the one before. Returns whether anybody took it.
    async fn hand_over(&mut self, servers: Servers, heirs: Vec<UnixStream>) -> bool {
        let device = self.device.as_deref();
        let mesh = self.view.lock().snapshot.as_deref().cloned();
        let heard = device.map(Reconciler::heard).unwrap_or_default();
        // Ports and sockets are free before the other one asks for them.
        servers.stop().await;
        let queues = device.map(|device| device.hand_over()).unwrap_or_default();
        let legacy = Legacy { queues, words: Words { mesh, heard } };
        let is_taken = tokio::task::spawn_blocking(move || {
            heirs.iter().rev().any(|heir| {
                let sent = legacy.send(heir);
                sent.inspect_err(|error| tracing::debug!(%error, "who stood by is gone")).is_ok()
            })
        });
        is_taken.await.unwrap_or(false)
    }

    /// Takes everything of this node out of the host.
    async fn leave(mut self, next: Next) {
        if !self.clean_up {
            return;
        }
        for problem in self.node.leave(self.device.as_deref(), next).await {
            tracing::warn!(%problem, "could not be cleaned up");
        }
        self.view.lock().device = None;
    }
}

/// Completes at this moment; never without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Logs problems that are new and problems that are gone, each once.
fn report(before: &[Problem], now: &[Problem]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        tracing::warn!("{problem}");
    }
    for problem in before.iter().filter(|problem| !now.contains(problem)) {
        tracing::info!("no longer: {problem}");
    }
}

/// The tasks that answer others. They end when this goes.
#[derive(Default)]
struct Servers(JoinSet<()>);

impl Servers {
    fn start(&mut self, server: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(server);
    }

    /// Ends them, and returns once their sockets are closed.
    async fn stop(mut self) {
        self.0.shutdown().await;
    }
}
