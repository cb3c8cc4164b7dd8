//! The loop that keeps a node in the mesh.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use wireloom_kernel::{Event, Host, HostError, Watch};
use wireloom_model::{InterfaceName, NodeName, PrivateKey, Problem};
use wireloom_registry::{Publication, Registry, Update};

use crate::control::{ControlError, ControlSocket, Request};
use crate::device::{DeviceError, OpenDevice};
use crate::reconcile::Reconciler;
use crate::resolve;
use crate::view::SharedView;

/// How often everything is compared without a reason: events can be lost, and a peer that is out of reach is dialled
/// again at its configured endpoint.
const RESYNC: Duration = Duration::from_secs(10);

/// How long changes of the kernel are gathered before they are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// How long to wait before a device is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which node of the mesh this machine is.
    pub identity: Identity,
    /// Its private key.
    pub private_key: PrivateKey,
    /// The name of its tunnel device.
    pub interface: InterfaceName,
    /// The path of the socket that it answers on.
    pub control: PathBuf,
}

/// How a machine finds itself in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It is the node with its public key.
    Key,
    /// It is the node of this name.
    Name(NodeName),
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
    /// The registry has ended.
    #[error("the registry has ended, so the mesh can't be followed any longer")]
    RegistryEnded,
}

/// What woke the loop.
enum Wake {
    DeviceEnded(String),
    Gathered,
    Kernel(Option<Event>),
    Names,
    Registry(Option<Update>),
    Resync,
    Stop,
}

/// Keeps this node in the mesh until `stop` completes or somebody asks it to leave, then takes everything of it out of
/// the host again. `ready` is called once, when the first plan is in force.
///
/// # Errors
///
/// Only at the start, for what no later change of the mesh can mend: no device, no netlink, another agent running. And
/// when the registry ends.
pub async fn run(
    config: Config,
    mut registry: impl Registry,
    mut opener: impl OpenDevice,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let host = Host::new()?;
    let mut watch = Some(host.watch().await?);
    let control = ControlSocket::bind(&config.control).await?;
    let (ended, mut has_ended) = mpsc::unbounded_channel();
    let (ask_down, mut down) = mpsc::unbounded_channel();
    let view = SharedView::new(config.interface.clone(), config.private_key.public_key());
    let mut device = Some(opener.open(ended.clone())?);
    view.lock().device.clone_from(&device);
    let _server = AbortOnDrop(tokio::spawn({
        let view = view.clone();
        async move {
            let answer = move |request| {
                if request == Request::Down {
                    // Fails only if the loop has ended, which is what is asked for.
                    let _ = ask_down.send(());
                }
                view.answer(request)
            };
            control.serve(answer).await;
        }
    }));

    let mut node =
        Reconciler::new(config.identity, config.private_key, config.interface, host.clone());
    let mut ready = Some(ready);
    let mut resync = interval(RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut names = interval(resolve::PERIOD);
    let mut due: Option<Instant> = None;
    let mut known = Vec::new();
    tokio::pin!(stop);
    let outcome = loop {
        let gathered = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let wake = tokio::select! {
            biased;
            () = &mut stop => Wake::Stop,
            Some(()) = down.recv() => Wake::Stop,
            Some(reason) = has_ended.recv() => Wake::DeviceEnded(reason),
            update = registry.next() => Wake::Registry(update),
            () = gathered => Wake::Gathered,
            event = next_event(&mut watch) => Wake::Kernel(event),
            _ = names.tick() => Wake::Names,
            _ = resync.tick() => Wake::Resync,
        };
        match wake {
            Wake::Stop => break Ok(()),
            Wake::Registry(None) => break Err(AgentError::RegistryEnded),
            Wake::Registry(Some(Update::Stale(reason))) => {
                tracing::warn!(%reason, "the mesh can't be read; the last one stays in force");
                view.lock().stale = Some(reason);
                continue;
            }
            Wake::Registry(Some(Update::Mesh(snapshot))) => {
                tracing::info!(
                    nodes = snapshot.nodes.len(),
                    peers = snapshot.peers.len(),
                    "the mesh"
                );
                node.adopt(&snapshot).await;
                let mut view = view.lock();
                view.snapshot = Some(snapshot);
                view.stale = None;
            }
            Wake::DeviceEnded(reason) => {
                tracing::warn!(%reason, "the tunnel device has ended; it is made anew");
                device = None;
                node.forget_device();
            }
            Wake::Kernel(None) => {
                tracing::warn!(
                    "changes of the kernel can't be followed; they are found every {RESYNC:?}"
                );
                watch = None;
                continue;
            }
            Wake::Kernel(Some(event)) => {
                tracing::debug!(?event, "a change of the kernel");
                due = due.or_else(|| Some(Instant::now() + GATHER));
                continue;
            }
            Wake::Names => {
                if !node.refresh_names().await {
                    continue;
                }
            }
            Wake::Resync => {
                if watch.is_none() {
                    watch = host.watch().await.ok();
                }
            }
            Wake::Gathered => {}
        }
        due = None;
        if device.is_none() {
            match opener.open(ended.clone()) {
                Ok(made) => device = Some(made),
                Err(error) => {
                    tracing::error!(%error, "the tunnel device can't be made; it is tried again");
                    due = Some(Instant::now() + RETRY);
                }
            }
            view.lock().device.clone_from(&device);
        }
        if let Some(device) = &device {
            let problems = node.reconcile(&**device).await;
            report(&mut known, &problems);
            let mut view = view.lock();
            view.plan = node.plan().cloned();
            view.mtu = Some(node.mtu());
            view.work = node.work();
            view.problems = problems;
        }
        if let Some(plan) = node.plan() {
            publish(&mut registry, plan).await;
            if let Some(ready) = ready.take() {
                tracing::info!(node = %plan.node, gateway = plan.gateway, home = %plan.home, "in the mesh");
                ready();
            }
        }
    };
    for problem in node.leave().await {
        tracing::warn!(%problem, "could not be cleaned up");
    }
    view.lock().device = None;
    drop(device);
    outcome
}

async fn next_event(watch: &mut Option<Watch>) -> Option<Event> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn publish(registry: &mut impl Registry, plan: &Arc<wireloom_topology::Plan>) {
    let publication = Publication {
        node: plan.node.clone(),
        key: plan.key,
        endpoint: None,
        held: plan.publishes.clone(),
    };
    if let Err(error) = registry.publish(&publication).await {
        tracing::warn!(%error, "what this node holds is not published");
    }
}

/// Logs problems that are new and problems that are gone, each once.
fn report(known: &mut Vec<Problem>, problems: &[Problem]) {
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        tracing::warn!("{problem}");
    }
    for problem in known.iter().filter(|problem| !problems.contains(problem)) {
        tracing::info!("no longer: {problem}");
    }
    known.clear();
    known.extend_from_slice(problems);
}

/// Ends a task when its owner goes.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
