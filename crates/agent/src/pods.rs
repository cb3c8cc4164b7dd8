//! What the container runtime of this machine is told, so that pods are on the mesh.

mod take_back;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use wireloom_cni::{
    Attachment, Attachments, Bridge, Chain, Conflist, ConflistFile, Directories, Guidance, PLUGIN,
    Programs, Written, gateway,
};
use wireloom_model::kernel::KernelState;
use wireloom_model::{Cidr, Problem, ProblemKind, PublicKey, Subject};
use wireloom_topology::{Plan, Underlay};

pub(crate) use take_back::{Outcome, clean_up};

/// The network's name, among those of other plugins.
pub(crate) const NETWORK: &str = "wireloom";

/// The bridge that this machine's pods hang on.
pub(crate) const BRIDGE: &str = "wl-pods0";

/// Our file among those that tell a runtime, unless another is asked for.
pub const FILE: &str = "/etc/cni/net.d/10-wireloom.conflist";

/// Where what the plugin goes by outlasts the machine's start, unless another place is asked for.
pub const STATE: &str = "/var/lib/wireloom";

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
    /// Our file among those by which the runtime is told, whether it is to be there or not, such as
    /// `/etc/cni/net.d/10-wireloom.conflist`.
    pub file: PathBuf,
    /// The directory in which the runtime looks for plugins, such as `/opt/cni/bin`, as it is seen from here.
    pub programs: PathBuf,
    /// Where the plugin finds what it goes by, and leaves what the agent goes by.
    pub directories: Directories,
}

/// A list of plugins that the runtime calls for each pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Another plugin's, the first beside our file; ours is chained to it.
    Anothers,
    /// None that is for us to write. If somebody else has put ours into one, it is served.
    Nobodys,
    /// Ours.
    Ours,
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
    /// The list that `--cni` and `--cni-chain` ask for, where `--cni-path` says.
    ///
    /// # Errors
    ///
    /// If they can't be met.
    pub fn of(own: bool, chained: bool, file: &Path) -> Result<Self, ListError> {
        if file.parent().is_none_or(|directory| directory.as_os_str().is_empty()) {
            return Err(ListError::NoDirectory { file: file.to_owned() });
        }
        match (own, chained) {
            (true, true) => Err(ListError::Both),
            (false, true) => Ok(Self::Anothers),
            (true, false) => Ok(Self::Ours),
            (false, false) => Ok(Self::Nobodys),
        }
    }
}

/// The network of this machine's pods, as the agent follows it.
pub(crate) struct Pods {
    list: List,
    file: ConflistFile,
    /// Where our file is, and those of others.
    directory: PathBuf,
    chain: Chain,
    bridge: Bridge,
    programs: Programs,
    directories: Directories,
    /// The agent's control socket.
    agent: PathBuf,
    /// The node's key.
    key: PublicKey,
    /// The addresses of all pods.
    all: BTreeSet<IpAddr>,
    /// The addresses of pods that the node's prefixes do not hold.
    addresses: BTreeSet<IpAddr>,
    /// The addresses of pods that stay off the mesh.
    off_mesh: BTreeSet<IpAddr>,
    /// Told when pods came or went, or somebody wrote where the runtime is told.
    news: Arc<Notify>,
    /// `None` while there is nothing to watch yet, or the kernel grants no watch.
    watcher: Option<RecommendedWatcher>,
}

impl Pods {
    /// Of an agent with this control socket and key, which looks when there are news.
    pub(crate) fn new(
        network: PodNetwork,
        agent: PathBuf,
        key: PublicKey,
        news: Arc<Notify>,
    ) -> Self {
        let PodNetwork { list, file, programs, directories } = network;
        let directory = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        Self {
            list,
            file: ConflistFile::new(file),
            chain: Chain::new(directory.clone(), directories.clone()),
            directory,
            bridge: Bridge::new(BRIDGE.to_owned()),
            programs: Programs::new(programs),
            directories,
            agent,
            key,
            all: BTreeSet::new(),
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
        self.tell(&Guidance {
            agent: self.agent.clone(),
            key: self.key,
            mtu: plan.pod_mtu(underlay),
            pods: own_prefixes(plan).collect(),
            near: plan.near(),
            elsewhere: plan.elsewhere(),
        })
    }

    fn tell(&mut self, guidance: &Guidance) -> Vec<Problem> {
        if self.watcher.is_none() {
            self.watcher = self.watch();
        }
        let mut problems = self.settle();
        let is_settled = problems.is_empty();
        if self.list == List::Nobodys && !self.serves_by_hand() {
            return problems;
        }
        problems.extend(self.install());
        let state = &self.directories.state;
        if let Err(error) = guidance.write(state) {
            problems.push(failure(format!("{}: {error}", state.display())));
        }
        match self.list {
            // What names a program that is not there would keep every pod from starting, and a list of ours that is left is
            // no other's.
            List::Anothers if is_settled && self.programs.has(PLUGIN) => {
                problems.extend(self.join());
            }
            List::Anothers | List::Nobodys => {}
            List::Ours => problems.extend(self.write(guidance)),
        }
        problems
    }

    /// Hears of the pods that the plugin saw, and adds what they take to the kernel state. Returns what is wrong.
    pub(crate) fn look(&mut self, plan: &Plan, state: &mut KernelState) -> Vec<Problem> {
        let mut problems = Vec::new();
        match Attachments::of(&self.directories.run).living() {
            Ok(records) => {
                if records.unreadable.is_empty() {
                    for addresses in [&mut self.all, &mut self.addresses, &mut self.off_mesh] {
                        addresses.clear();
                    }
                }
                // What can't be read may be of any pod that was known before.
                problems.extend(records.unreadable.into_iter().map(failure));
                let is_known =
                    |address: &IpAddr| own_prefixes(plan).any(|prefix| prefix.contains(*address));
                for Attachment { addresses, off_mesh, .. } in records.pods {
                    self.all.extend(&addresses);
                    match off_mesh {
                        true => self.off_mesh.extend(addresses),
                        false => {
                            self.addresses.extend(addresses.iter().filter(|a| !is_known(a)));
                        }
                    }
                }
            }
            Err(error) => {
                let run = self.directories.run.display();
                problems
                    .push(failure(format!("{run}: pods are taken to be as they were: {error}")));
            }
        }
        plan.keep_off(state, &self.off_mesh);
        problems
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
        watcher.watch(&self.directory, RecursiveMode::NonRecursive).ok()?;
        Some(watcher)
    }

    fn write(&mut self, guidance: &Guidance) -> Vec<Problem> {
        let mut problems = Vec::new();
        let conflist = Conflist {
            name: NETWORK.to_owned(),
            bridge: BRIDGE.to_owned(),
            prefixes: guidance.pods.clone(),
            mtu: guidance.mtu,
            directories: self.directories.clone(),
            is_chained: self.programs.has(PLUGIN),
        };
        match self.file.write(&conflist, Instant::now()) {
            Ok(Written::New) => {
                let file = self.file.path().display();
                tracing::info!(%file, mtu = conflist.mtu, "pods' network");
            }
            Ok(Written::Unchanged) => {}
            Ok(Written::Withdrawn) => problems.push(warning(
                "this node has no prefix for pods, so its pods get no network from the mesh; give it one, \
                 or say --cni=false"
                    .to_owned(),
            )),
            Err(error) => problems.push(failure(error)),
        }
        let overruled = self.file.overruled_by();
        if let Err(error) = self.bring_bridge(&conflist, matches!(overruled, Ok(Some(_)))) {
            problems.push(failure(format!("the pods' bridge {BRIDGE}: {error}")));
        }
        match overruled {
            Ok(None) => {}
            Ok(Some(first)) => problems.push(warning(format!(
                "pods get their network from {}, which comes before {}: remove it, be chained to it by --cni-chain, or \
                 say --cni=false",
                first.display(),
                self.file.path().display()
            ))),
            Err(error) => problems.push(failure(error)),
        }
        problems
    }

    /// Has the bridge as pods need it that hang on it or will. While others give pods their network it would be a second way
    /// to the same addresses, and whichever came first is the one that is taken.
    fn bring_bridge(&self, conflist: &Conflist, is_overruled: bool) -> io::Result<()> {
        if is_overruled && !self.bridge.is_used()? {
            return self.bridge.remove().map(drop);
        }
        let gateways: BTreeSet<_> = conflist.subnets().filter_map(gateway).collect();
        if gateways.is_empty() {
            return Ok(());
        }
        self.bridge.hold(conflist.mtu, &gateways, &self.all)?;
        let rivals = self.bridge.rivals(&gateways)?;
        if rivals.is_empty() {
            return Ok(());
        }
        let rivals = Vec::from_iter(rivals).join(", ");
        Err(io::Error::other(format!(
            "{rivals} has its address too, so that pods of one of them are not reached; delete the pods there and then that \
             link (Kilo's kube-bridge goes by `wireloom cleanup --kilo --cni`)"
        )))
    }

    /// Has our program where the runtime looks, and says which of the others it lacks.
    fn install(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let installed = self.programs.install(Path::new(OWN_PROGRAM), Path::new(CARRIED));
        if let Err(error) = installed {
            problems.push(warning(format!(
                "the plugin {PLUGIN} can't be put where the runtime looks for it: {error}; say where by --cni-bin"
            )));
        }
        let missing = self.programs.missing();
        if self.list == List::Ours && !missing.is_empty() {
            problems.push(failure(format!(
                "no pod starts without the plugins {}, which are not in {}: install them (Debian has them in \
                 containernetworking-plugins), or say by --cni-bin where they are",
                missing.join(", "),
                self.programs.directory().display()
            )));
        }
        problems
    }

    /// Chains ours to another plugin's list.
    fn join(&mut self) -> Option<Problem> {
        match self.chain.follow(Instant::now()) {
            Ok(None) => None,
            Ok(Some(file)) => {
                tracing::info!(file = %file.display(), "chained behind another plugin");
                None
            }
            Err(error) => Some(failure(error)),
        }
    }
}

/// The prefixes of the node's pods. Single addresses are those of pods that were announced, by whoever ran here before.
fn own_prefixes(plan: &Plan) -> impl Iterator<Item = Cidr> {
    plan.pods.iter().copied().filter(|prefix| !prefix.is_host())
}

fn failure(error: impl ToString) -> Problem {
    Problem::error(Subject::Mesh, ProblemKind::PodNetwork, error.to_string())
}

fn warning(message: String) -> Problem {
    Problem::warning(Subject::Mesh, ProblemKind::PodNetwork, message)
}

#[cfg(test)]
mod tests;
