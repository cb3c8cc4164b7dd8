//! `wireloom up`: a standalone node of the mesh that a file describes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use wireloom_agent::http::Listen;
use wireloom_agent::pods::{self, List, PodNetwork};
use wireloom_agent::{Config, Identity, Planner, control};
use wireloom_cni::Directories;
use wireloom_file::{FileRegistry, key};
use wireloom_model::{InterfaceName, NodeName};

use crate::background::{self, Background, Role};
use crate::opener::DeviceArgs;
use crate::{keys, signals};

/// The mesh file of a node that names none.
pub(crate) const DEFAULT_FILE: &str = "/etc/wireloom/mesh.toml";

/// The tunnel device of a node that names none.
pub(crate) const DEFAULT_INTERFACE: &str = "wl0";

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Return once the node is in the mesh, and stay there in the background.
    #[arg(short, long)]
    detach: bool,
    /// Where to answer over HTTP: /metrics, /healthz, /readyz and /graph. An address and a port, or `:1107` for all
    /// addresses; several with commas between. Without it, nowhere.
    #[arg(long, env = "WIRELOOM_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<Listen>,
    #[command(flatten)]
    pods: PodsArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// How the pods of this machine get on the mesh, if it has any.
#[derive(Debug, Args)]
struct PodsArgs {
    /// Tell this machine's container runtime to give pods addresses of the node's prefixes. See docs/cni.md.
    #[arg(long, env = "WIRELOOM_CNI")]
    cni: bool,
    /// Put ours last in the list of plugins that comes first beside --cni-path, another's, instead.
    #[arg(long, env = "WIRELOOM_CNI_CHAIN")]
    cni_chain: bool,
    /// The file by which the container runtime is told.
    #[arg(long, env = "WIRELOOM_CNI_PATH", default_value = pods::FILE, value_name = "FILE")]
    cni_path: PathBuf,
    /// Where the container runtime looks for plugins.
    #[arg(long, env = "WIRELOOM_CNI_BIN", default_value = pods::PROGRAMS, value_name = "DIR")]
    cni_bin: PathBuf,
    /// Where what our plugin goes by is kept while the machine is off.
    #[arg(long, env = "WIRELOOM_STATE_DIR", default_value = pods::STATE, value_name = "DIR")]
    state_dir: PathBuf,
}

impl PodsArgs {
    fn network(self, run: PathBuf) -> anyhow::Result<PodNetwork> {
        Ok(PodNetwork {
            list: List::of(self.cni, self.cni_chain, &self.cni_path)?,
            file: self.cni_path,
            programs: self.cni_bin,
            directories: Directories { run, state: self.state_dir },
        })
    }
}

/// Which mesh, and which machine of it.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The mesh file; see docs/mesh-file.md.
    #[arg(
        short,
        long,
        env = "WIRELOOM_CONFIG",
        default_value = DEFAULT_FILE,
        value_name = "FILE"
    )]
    pub(crate) config: PathBuf,
    /// Which node of the mesh this machine is. Without it, the one with this machine's public key.
    #[arg(long, env = "WIRELOOM_NODE", value_name = "NAME")]
    pub(crate) node: Option<NodeName>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What every agent is told of its machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineArgs {
    /// The file with this machine's private key, made if it is missing.
    #[arg(
        long,
        env = "WIRELOOM_KEY",
        default_value = "/var/lib/wireloom/key",
        value_name = "FILE"
    )]
    pub(crate) key: PathBuf,
    /// The tunnel device.
    #[arg(long, env = "WIRELOOM_INTERFACE", default_value = DEFAULT_INTERFACE, value_name = "NAME")]
    pub(crate) interface: InterfaceName,
    /// The bits that mark packets of the tunnel itself, so that they never take it; 0 is none.
    #[arg(long, env = "WIRELOOM_FWMARK", default_value = "0x20", value_parser = mark, value_name = "MARK")]
    pub(crate) fwmark: u32,
    /// The metric of routes in the main table. With more than 1024, somebody else's to the same prefix goes first as long
    /// as it is there.
    #[arg(long, env = "WIRELOOM_ROUTE_METRIC", default_value_t, value_name = "METRIC")]
    pub(crate) route_metric: u32,
    /// Where agents have their sockets.
    #[arg(long, env = "WIRELOOM_RUN_DIR", default_value = control::RUN_DIRECTORY, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
}

impl NodeArgs {
    pub(crate) fn identity(&self) -> Identity {
        self.node.clone().map_or(Identity::Key, Identity::Name)
    }
}

/// Decimal, or hexadecimal after `0x`, as `ip rule` and `wg` take marks.
pub(crate) fn mark(text: &str) -> Result<u32, String> {
    let mark = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    mark.map_err(|_| "a number of 32 bits belongs here, such as 0x20".to_owned())
}

pub(crate) fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let UpArgs { node: args, detach, listen, pods, device } = args;
    // What is wrong with the file is said here, before anything is made or changed.
    let snapshot = wireloom_file::load(&args.config)?;
    let random = keys::random_bytes()?;
    let private_key = key::load_or_create(&args.machine.key, || random)?;
    let public_key = private_key.public_key();
    if !snapshot.nodes.iter().any(|node| node.key == public_key) {
        tracing::warn!(file = %args.config.display(), %public_key, "no node of the mesh has this machine's public key yet");
    }
    let background = match background::split(!detach)? {
        Role::Called(code) => return Ok(code),
        Role::Front => None,
        Role::Stays(background) => Some(background),
    };
    let config = Config {
        identity: args.identity(),
        private_key,
        mark: args.machine.fwmark,
        metric: args.machine.route_metric,
        control: control::socket_path(&args.machine.run_dir, &args.machine.interface),
        interface: args.machine.interface.clone(),
        legacy: None,
        listen,
        resync: Config::RESYNC,
        clean_up: true,
        pods: Some(pods.network(args.machine.run_dir)?),
        planner: Planner::default(),
    };
    let opener = device.opener(args.machine.interface, public_key, args.machine.fwmark);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("start the agent's threads")?;
    let ready = || {
        if let Some(Err(error)) = background.map(Background::ready) {
            tracing::warn!("{error:#}");
        }
    };
    runtime.block_on(async {
        let stop = signals::stop()?;
        let registry = FileRegistry::open(&args.config);
        wireloom_agent::run(config, registry, opener, ready, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}
