//! Where commands that show a mesh have it from: a running agent, a file, or a cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wireloom_agent::Planner;
use wireloom_agent::control::{self, Request};
use wireloom_agent::showconf::{self, Ask, Shown};
use wireloom_model::{Algorithm, InterfaceName, Snapshot};
use wireloom_topology::kilo::Settings;

#[cfg(feature = "kubernetes")]
use crate::cluster::ClusterArgs;
use crate::up::DEFAULT_INTERFACE;

#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    mesh: MeshArgs,
    /// The interface of the running agent.
    #[arg(short, long, global = true, env = "WIRELOOM_INTERFACE", default_value = DEFAULT_INTERFACE, value_name = "NAME")]
    pub(crate) interface: InterfaceName,
    /// Where agents have their sockets.
    #[arg(long, global = true, env = "WIRELOOM_RUN_DIR", default_value = control::RUN_DIRECTORY, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
}

/// A mesh of which no agent is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct MeshArgs {
    /// Take the mesh of this file instead of that of a running agent.
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plan the mesh of the file as beside agents of this kind.
    #[arg(long, global = true, value_enum, requires = "config", value_name = "AGENTS")]
    compatibility: Option<Compatibility>,
    /// Take the mesh of a Kubernetes cluster instead. --kubeconfig says so too.
    #[cfg(feature = "kubernetes")]
    #[arg(long, global = true, conflicts_with = "config")]
    kubernetes: bool,
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Agents that a mesh is shared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compatibility {
    /// Kilo's.
    Kilo,
}

/// What knows a mesh.
pub(crate) trait Source {
    /// The configuration that is asked for.
    fn showconf(&self, ask: Ask) -> anyhow::Result<Shown>;
}

/// An agent, which plans by itself.
struct Agent(PathBuf);

/// A mesh that is planned here.
struct Mesh {
    snapshot: Snapshot,
    planner: Planner,
}

impl SourceArgs {
    /// What they name.
    pub(crate) fn open(&self) -> anyhow::Result<Box<dyn Source>> {
        Ok(match self.mesh.read()? {
            Some((snapshot, planner)) => Box::new(Mesh { snapshot, planner }),
            None => Box::new(Agent(control::socket_path(&self.run_dir, &self.interface))),
        })
    }
}

impl MeshArgs {
    /// The mesh that they name, and how to plan it. `None` if a running agent is meant.
    pub(crate) fn read(&self) -> anyhow::Result<Option<(Snapshot, Planner)>> {
        if let Some(file) = &self.config {
            let mesh = wireloom_file::load(file)?;
            return Ok(Some(Compatibility::apply(self.compatibility, mesh)));
        }
        #[cfg(feature = "kubernetes")]
        if self.kubernetes || self.cluster.kubeconfig.is_some() {
            let mesh = self.cluster.read()?;
            for problem in &mesh.problems {
                tracing::warn!("{problem}");
            }
            return Ok(Some((mesh, Planner::beside_kilo())));
        }
        Ok(None)
    }
}

impl Compatibility {
    /// The mesh as one that is shared with these agents, and how to plan it.
    fn apply(with: Option<Self>, mut snapshot: Snapshot) -> (Snapshot, Planner) {
        let compatibility = with.map(|Self::Kilo| Settings::default());
        if compatibility.is_some() {
            // A file says nothing of what agents can, and Kilo's are meant.
            for node in &mut snapshot.nodes {
                node.algorithm = Algorithm::Kilo;
            }
        }
        (snapshot, Planner { compatibility, ..Planner::default() })
    }
}

impl Source for Agent {
    fn showconf(&self, ask: Ask) -> anyhow::Result<Shown> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(control::ask(&self.0, Request::Showconf(ask)))?)
    }
}

impl Source for Mesh {
    fn showconf(&self, ask: Ask) -> anyhow::Result<Shown> {
        Ok(showconf::show(&self.snapshot, &self.planner, &ask)?)
    }
}
