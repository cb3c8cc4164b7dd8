//! What the container runtime of this machine is told, so that pods are on the mesh.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use wireloom_cni::{
    Attachment, Attachments, Chain, Conflist, ConflistError, ConflistFile, Guidance, PLUGIN,
    Programs, Written,
};
use wireloom_kernel::{Host, Removal};
use wireloom_model::kernel::KernelState;
use wireloom_model::{Cidr, Problem, ProblemKind, Subject};
use wireloom_topology::{Plan, Underlay};

/// The network's name, among those of other plugins.
const NETWORK: &str = "wireloom";

/// The bridge that this machine's pods hang on.
pub(crate) const BRIDGE: &str = "wl-pods0";

/// Our file among those that tell a runtime, unless another is asked for.
pub const FILE: &str = "/etc/cni/net.d/10-wireloom.conflist";

/// Where runtimes look for plugins, unless another place is asked for.
pub const PROGRAMS: &str = "/opt/cni/bin";

/// Where our image carries the plugins of others.
const CARRIED: &str = "/opt/cni/bin";

/// The file that this program runs from.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// How a machine gives its pods their network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Whose list the runtime reads.
    pub list: List,
    /// The directory in which the runtime looks for plugins, such as `/opt/cni/bin`, as it is seen from here.
    pub programs: PathBuf,
    /// Where agents have their sockets. The plugin finds there what it goes by.
    pub run: PathBuf,
}

/// A list of plugins that the runtime calls for each pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    /// Another plugin's, the first in this directory, such as `/etc/cni/net.d`; ours is chained to it.
    Anothers(PathBuf),
    /// Ours, in this file, such as `/etc/cni/net.d/10-wireloom.conflist`.
    Ours(PathBuf),
}

/// Why it is not known whose list the runtime reads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Both were asked for.
    #[error("--cni and --cni-chain both are too much: pods get their network from one plugin")]
    Both,
    /// The path of our file has no directory.
    #[error("{}: --cni-path names a file in a directory", file.display())]
    NoDirectory {
        /// The path.
        file: PathBuf,
    },
}

impl List {
    /// The list that `--cni`, `--cni-chain` and `--cni-path` ask for; none if neither does.
    ///
    /// # Errors
    ///
    /// If they can't be met.
    pub fn of(own: bool, chained: bool, file: PathBuf) -> Result<Option<Self>, ListError> {
        match (own, chained) {
            (true, true) => Err(ListError::Both),
            (false, true) => match file.parent() {
                Some(directory) => Ok(Some(Self::Anothers(directory.to_owned()))),
                None => Err(ListError::NoDirectory { file }),
            },
            (true, false) => Ok(Some(Self::Ours(file))),
            (false, false) => Ok(None),
        }
    }
}

/// The network of this machine's pods, as the agent follows it.
pub(crate) struct Pods {
    host: Host,
    list: Place,
    programs: Programs,
    run: PathBuf,
    /// The agent's control socket.
    agent: PathBuf,
    /// Whether our program lies among those of the runtime.
    is_installed: bool,
    /// The addresses of pods that the node's prefixes do not hold.
    addresses: BTreeSet<IpAddr>,
    /// The addresses of pods that stay off the mesh.
    off_mesh: BTreeSet<IpAddr>,
    /// Told when pods came or went, or somebody wrote where the runtime is told.
    news: Arc<Notify>,
    /// `None` while there is nothing to watch yet, or the kernel grants no watch.
    watcher: Option<RecommendedWatcher>,
}

/// Where the runtime is told.
enum Place {
    Chained(Chain),
    Own(ConflistFile),
}

impl Pods {
    /// Of an agent with this control socket, which looks when there are news.
    pub(crate) fn new(network: PodNetwork, agent: PathBuf, host: Host, news: Arc<Notify>) -> Self {
        let list = match network.list {
            List::Anothers(directory) => Place::Chained(Chain::new(directory, network.run.clone())),
            List::Ours(file) => Place::Own(ConflistFile::new(file)),
        };
        Self {
            host,
            list,
            programs: Programs::new(network.programs),
            run: network.run,
            agent,
            is_installed: false,
            addresses: BTreeSet::new(),
            off_mesh: BTreeSet::new(),
            news,
            watcher: None,
        }
    }

    /// The addresses of pods that the node's prefixes do not hold.
    pub(crate) const fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// Has the runtime and the plugin told what the plan says. Returns what is wrong.
    pub(crate) fn follow(&mut self, plan: &Plan, underlay: &Underlay) -> Vec<Problem> {
        let guidance = Guidance {
            agent: self.agent.clone(),
            mtu: plan.pod_mtu(underlay),
            pods: own_prefixes(plan).collect(),
            near: plan.near(),
            elsewhere: plan.elsewhere(),
        };
        let mut problems = self.install();
        if let Err(error) = guidance.write(&self.run) {
            problems.push(failure(format!("{}: {error}", self.run.display())));
        }
        if self.watcher.is_none() {
            self.watcher = self.watch();
        }
        match &self.list {
            Place::Chained(chain) if self.is_installed => problems.extend(join(chain)),
            // What names a program that is not there would keep every pod from starting.
            Place::Chained(_) => {}
            Place::Own(file) => problems.extend(self.write(file, &guidance)),
        }
        problems
    }

    /// Hears of the pods that the plugin saw, and adds what they take to the kernel state. Returns what is wrong.
    pub(crate) fn look(&mut self, plan: &Plan, state: &mut KernelState) -> Option<Problem> {
        let all = match Attachments::of(&self.run).all() {
            Ok(all) => all,
            Err(error) => return Some(failure(format!("{}: {error}", self.run.display()))),
        };
        let (off, on): (Vec<_>, Vec<_>) = all.into_iter().partition(|pod| pod.off_mesh);
        let addresses = |pods: Vec<Attachment>| pods.into_iter().flat_map(|pod| pod.addresses);
        self.off_mesh = addresses(off).collect();
        plan.keep_off(state, &self.off_mesh);
        let is_known =
            |address: &IpAddr| own_prefixes(plan).any(|prefix| prefix.contains(*address));
        self.addresses = addresses(on).filter(|address| !is_known(address)).collect();
        None
    }

    /// Watches the files by which the runtime is told: others write there too.
    fn watch(&self) -> Option<RecommendedWatcher> {
        let news = Arc::clone(&self.news);
        let hear = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                news.notify_one();
            }
        };
        let mut watcher = notify::recommended_watcher(hear).ok()?;
        let directory = match &self.list {
            Place::Chained(chain) => chain.directory(),
            Place::Own(file) => file.path().parent()?,
        };
        watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    }

    fn write(&self, file: &ConflistFile, guidance: &Guidance) -> Vec<Problem> {
        let mut problems = Vec::new();
        let conflist = Conflist {
            name: NETWORK.to_owned(),
            bridge: BRIDGE.to_owned(),
            prefixes: guidance.pods.clone(),
            mtu: guidance.mtu,
            run: self.run.clone(),
            is_chained: self.is_installed,
        };
        match file.write(&conflist) {
            Ok(Written::New) => {
                tracing::info!(file = %file.path().display(), mtu = conflist.mtu, "pods' network");
            }
            Ok(Written::Unchanged) => {}
            Ok(Written::Withdrawn) => problems.push(warning(
                "this node has no prefix for pods, so its pods get no network from the mesh; give it one, \
                 or say --cni=false"
                    .to_owned(),
            )),
            Err(error) => problems.push(failure(error)),
        }
        match file.overruled_by() {
            Ok(None) => {}
            Ok(Some(first)) => problems.push(warning(format!(
                "pods get their network from {}, which comes before {}: remove it, be chained to it by --cni-chain, or \
                 say --cni=false",
                first.display(),
                file.path().display()
            ))),
            Err(error) => problems.push(failure(error)),
        }
        problems
    }

    /// Puts our program where the runtime looks, once, and says which of the others it lacks.
    fn install(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.is_installed {
            match self.programs.install(Path::new(OWN_PROGRAM), Path::new(CARRIED)) {
                Ok(()) => self.is_installed = true,
                Err(error) => problems.push(warning(format!(
                    "the plugin {PLUGIN} can't be put where the runtime looks for it: {error}; say where by --cni-bin"
                ))),
            }
        }
        let missing = self.programs.missing();
        if matches!(self.list, Place::Own(_)) && !missing.is_empty() {
            problems.push(failure(format!(
                "no pod starts without the plugins {}, which are not in {}: install them (Debian has them in \
                 containernetworking-plugins), or say by --cni-bin where they are",
                missing.join(", "),
                self.programs.directory().display()
            )));
        }
        problems
    }

    /// Takes what the runtime was told back, and the bridge if no pod hangs on it any longer.
    pub(crate) async fn leave(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match &self.list {
            Place::Chained(chain) => problems.extend(chain.leave().err().map(failure)),
            Place::Own(file) => problems.extend(file.withdraw(NETWORK).err().map(failure)),
        }
        problems.extend(Guidance::remove(&self.run).err().map(failure));
        problems.extend(self.programs.remove().err().map(failure));
        problems.extend(remove_bridge(&self.host).await.err().map(failure));
        problems
    }
}

/// What an agent that did not end by itself left of it in the usual places, in words, each with what came of taking it
/// away.
pub(crate) async fn clean_up(host: &Host, run: &Path) -> Vec<(String, Result<(), String>)> {
    let (file, programs) = (ConflistFile::new(FILE.into()), Programs::new(PROGRAMS.into()));
    let mut done = Vec::new();
    let mut tell = |what: String, outcome: Result<(), String>| done.push((what, outcome));
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if file.path().exists() {
        match file.withdraw(NETWORK) {
            // What stands there is another's.
            Err(ConflistError::Foreign { .. }) => {}
            outcome => tell(format!("the list {FILE}"), outcome.map(drop).map_err(|e| text(&e))),
        }
    }
    let directory = file.path().parent().unwrap_or_else(|| Path::new("/")).to_owned();
    let chain = Chain::new(directory, run.to_owned());
    for list in chain.lists() {
        let outcome = chain.leave().map_err(|e| text(&e));
        tell(format!("ours in the list {}", list.display()), outcome);
    }
    let plugin = programs.directory().join(PLUGIN);
    if plugin.exists() {
        let outcome = programs.remove().map_err(|e| text(&e));
        tell(format!("the plugin {}", plugin.display()), outcome);
    }
    if let Ok(Some(_)) = Guidance::read(run) {
        let outcome = Guidance::remove(run).map_err(|e| text(&e));
        tell(format!("the plugin's guidance in {}", run.display()), outcome);
    }
    match remove_bridge(host).await {
        Ok(true) => tell(format!("the bridge {BRIDGE}"), Ok(())),
        Ok(false) => {}
        Err(error) => tell(format!("the bridge {BRIDGE}"), Err(error)),
    }
    done
}

/// Removes the bridge if it is there and no pod hangs on it. Returns whether it did.
async fn remove_bridge(host: &Host) -> Result<bool, String> {
    let Ok(mut ports) = fs::read_dir(format!("/sys/class/net/{BRIDGE}/brif")) else {
        return Ok(false);
    };
    let Some(name) = BRIDGE.parse().ok().filter(|_| ports.next().is_none()) else {
        return Ok(false);
    };
    let failed = host.remove(&[Removal::Link(name)]).await.map_err(|error| error.to_string())?;
    failed.first().map_or(Ok(true), |error| Err(error.to_string()))
}

/// The prefixes of the node's pods. Single addresses are those of pods that were announced, by whoever ran here before.
fn own_prefixes(plan: &Plan) -> impl Iterator<Item = Cidr> {
    plan.pods.iter().copied().filter(|prefix| !prefix.is_host())
}

/// Chains ours to another plugin's list.
fn join(chain: &Chain) -> Option<Problem> {
    match chain.follow() {
        Ok(None) => None,
        Ok(Some(file)) => {
            tracing::info!(file = %file.display(), "chained behind another plugin");
            None
        }
        Err(error) => Some(failure(error)),
    }
}

fn failure(error: impl ToString) -> Problem {
    Problem::error(Subject::Mesh, ProblemKind::PodNetwork, error.to_string())
}

fn warning(message: String) -> Problem {
    Problem::warning(Subject::Mesh, ProblemKind::PodNetwork, message)
}
