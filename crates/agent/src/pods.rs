//! What the container runtime of this machine is told, so that pods are on the mesh.

use std::fs;
use std::path::{Path, PathBuf};

use wireloom_cni::{Conflist, ConflistFile, PLUGIN, Programs, Written};
use wireloom_kernel::{Host, Removal};
use wireloom_model::{InterfaceName, Problem, ProblemKind, Subject};
use wireloom_topology::{Plan, Underlay};

/// The network's name, among those of other plugins.
const NETWORK: &str = "wireloom";

/// The bridge that this machine's pods hang on.
const BRIDGE: &str = "wl-pods0";

/// Where our image carries the plugins of others.
const CARRIED: &str = "/opt/cni/bin";

/// The file that this program runs from.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// How a machine gives its pods their network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// The file by which the runtime is told, such as `/etc/cni/net.d/10-wireloom.conflist`.
    pub file: PathBuf,
    /// The directory in which the runtime looks for plugins, such as `/opt/cni/bin`, as it is seen from here.
    pub programs: PathBuf,
    /// Where addresses that are given out are written down. Goes when the machine starts anew.
    pub leases: PathBuf,
}

/// The network of this machine's pods, as the agent follows it.
pub(crate) struct Pods {
    host: Host,
    file: ConflistFile,
    programs: Programs,
    leases: PathBuf,
    /// Whether our program lies among those of the runtime.
    is_installed: bool,
}

impl Pods {
    pub(crate) fn new(network: PodNetwork, host: Host) -> Self {
        Self {
            host,
            file: ConflistFile::new(network.file),
            programs: Programs::new(network.programs),
            leases: network.leases,
            is_installed: false,
        }
    }

    /// Has the runtime told what the plan says. Returns what is wrong.
    pub(crate) fn follow(&mut self, plan: &Plan, underlay: &Underlay) -> Vec<Problem> {
        let mut problems = self.install();
        let conflist = Conflist {
            name: NETWORK.to_owned(),
            bridge: BRIDGE.to_owned(),
            prefixes: plan.pods.clone(),
            mtu: plan.pod_mtu(underlay),
            leases: self.leases.clone(),
        };
        match self.file.write(&conflist) {
            Ok(Written::New) => {
                tracing::info!(file = %self.file.path().display(), mtu = conflist.mtu, "pods' network");
            }
            Ok(Written::Unchanged) => {}
            Ok(Written::Withdrawn) => problems.push(warning(
                "this node has no prefix for pods, so its pods get no network from the mesh; give it one, \
                 or say --cni=false"
                    .to_owned(),
            )),
            Err(error) => problems.push(failure(error)),
        }
        match self.file.overruled_by() {
            Ok(None) => {}
            Ok(Some(first)) => problems.push(warning(format!(
                "pods get their network from {}, which comes before {}: remove it, or say --cni=false",
                first.display(),
                self.file.path().display()
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
        if !missing.is_empty() {
            problems.push(Problem::error(
                Subject::Mesh,
                ProblemKind::PodNetwork,
                format!(
                    "no pod starts without the plugins {}, which are not in {}: install them (Debian has them in \
                     containernetworking-plugins), or say by --cni-bin where they are",
                    missing.join(", "),
                    self.programs.directory().display()
                ),
            ));
        }
        problems
    }

    /// Takes what the runtime was told back, and the bridge if no pod hangs on it any longer.
    pub(crate) async fn leave(&self) -> Vec<Problem> {
        let withdrawn = self.file.withdraw(NETWORK).err().map(failure);
        let removed = self.programs.remove().err().map(failure);
        let bridge = self.remove_bridge().await;
        withdrawn.into_iter().chain(removed).chain(bridge).collect()
    }

    async fn remove_bridge(&self) -> Option<Problem> {
        let mut ports = fs::read_dir(format!("/sys/class/net/{BRIDGE}/brif")).ok()?;
        if ports.next().is_some() {
            return None;
        }
        let name: InterfaceName = BRIDGE.parse().ok()?;
        match self.host.remove(&[Removal::Link(name)]).await {
            Ok(failed) => failed.first().map(failure),
            Err(error) => Some(failure(error)),
        }
    }
}

fn failure(error: impl ToString) -> Problem {
    Problem::error(Subject::Mesh, ProblemKind::PodNetwork, error.to_string())
}

fn warning(message: String) -> Problem {
    Problem::warning(Subject::Mesh, ProblemKind::PodNetwork, message)
}
