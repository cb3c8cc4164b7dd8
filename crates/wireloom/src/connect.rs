//! `wireloom connect`: this machine joins the mesh of a cluster from outside, as kgctl's verb has it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use wireloom_agent::{Config, Identity, Planner, control};
use wireloom_file::key;
use wireloom_kube::peer::{Guest, PeerSpec};
use wireloom_kube::visitor::{Visitor, VisitorConfig};
use wireloom_model::{Cidr, InterfaceName, PeerName, PrivateKey};

use crate::agent::settings::values::{Mtu, Period};
use crate::cluster::ClusterArgs;
use crate::logging::{LogLevel, Said};
use crate::opener::DeviceArgs;
use crate::up::{DEFAULT_INTERFACE, mark};
use crate::{keys, signals};

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The name of this machine's Peer. Without it, the host's name.
    peer: Option<PeerName>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// This machine's addresses in the mesh, for a Peer that is not there yet.
    #[arg(
        short = 'a',
        long,
        env = "WIRELOOM_ALLOWED_IP",
        default_value = "10.10.10.10/32",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    allowed_ip: Vec<Cidr>,
    /// More that is reached through the mesh, such as the prefix of services.
    #[arg(long, env = "WIRELOOM_ALLOWED_IPS", value_delimiter = ',', value_name = "CIDR")]
    allowed_ips: Vec<Cidr>,
    /// Whether device, routes and a Peer that was made for this machine go when this ends.
    #[arg(long, env = "WIRELOOM_CLEAN_UP", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    clean_up: bool,
    /// The tunnel device.
    #[arg(short, long, env = "WIRELOOM_INTERFACE", default_value = DEFAULT_INTERFACE, value_name = "NAME")]
    interface: InterfaceName,
    /// What is logged at most. --log beats it.
    #[arg(long, env = "WIRELOOM_LOG_LEVEL", value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// The MTU of the tunnel device, or auto.
    #[arg(long, env = "WIRELOOM_MTU", default_value = "auto", value_name = "BYTES")]
    mtu: Mtu,
    /// Seconds between the packets that keep the tunnels open, for a Peer that is not there yet; 0 is off.
    #[arg(
        long,
        env = "WIRELOOM_PERSISTENT_KEEPALIVE",
        default_value_t = 10,
        value_name = "SECONDS"
    )]
    persistent_keepalive: u16,
    /// The file with this machine's private key. Without it, a new one each time.
    #[arg(long, env = "WIRELOOM_KEY", value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// How often the mesh is read again.
    #[arg(long, env = "WIRELOOM_RESYNC_PERIOD", default_value = "30s", value_name = "TIME")]
    resync_period: Period,
    /// The bits that mark packets of the tunnel itself, so that they never take it; 0 is none.
    #[arg(long, env = "WIRELOOM_FWMARK", default_value = "0x20", value_parser = mark, value_name = "MARK")]
    fwmark: u32,
    /// Where agents have their sockets.
    #[arg(long, env = "WIRELOOM_RUN_DIR", default_value = control::RUN_DIRECTORY, value_name = "DIR")]
    run_dir: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

impl ConnectArgs {
    /// What is logged at most, if somebody says so.
    pub(crate) fn logging(&self) -> Said {
        Said { level: self.log_level, ..Said::default() }
    }

    fn name(&self) -> anyhow::Result<PeerName> {
        match &self.peer {
            Some(name) => Ok(name.clone()),
            None => {
                let uname = rustix::system::uname();
                let name = uname.nodename().to_string_lossy().trim().to_lowercase();
                name.parse().context("the host's name is no name of a Peer; say one")
            }
        }
    }

    fn spec(&self, private_key: &PrivateKey) -> PeerSpec {
        PeerSpec {
            allowed_ips: self.allowed_ip.iter().map(Cidr::to_string).collect(),
            public_key: private_key.public_key().to_string(),
            persistent_keepalive: Some(self.persistent_keepalive.into()),
            ..PeerSpec::default()
        }
    }
}

pub(crate) fn run(args: ConnectArgs) -> anyhow::Result<ExitCode> {
    let private_key = match &args.private_key {
        Some(file) => key::load(file)?,
        None => PrivateKey::from_random(keys::random_bytes()?),
    };
    let (name, spec) = (args.name()?, args.spec(&private_key));
    let public_key = private_key.public_key();
    let visitor = VisitorConfig { mtu: args.mtu.bytes(), ..args.cluster.visitor()? };
    let config = Config {
        identity: Identity::Peer { name: name.clone(), more: args.allowed_ips },
        private_key,
        mark: args.fwmark,
        metric: 0,
        control: control::socket_path(&args.run_dir, &args.interface),
        interface: args.interface.clone(),
        planner: Planner::beside_kilo(),
        legacy: None,
        listen: None,
        resync: args.resync_period.0,
        clean_up: args.clean_up,
        pods: None,
    };
    let opener = args.device.opener(args.interface, public_key, args.fwmark);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("connect")
        .enable_all()
        .build()
        .context("start the threads")?;
    runtime.block_on(async {
        let stop = signals::stop()?;
        let client = args.cluster.client().await?;
        let guest = Guest::announce(&client, name, spec).await?;
        if !guest.is_made() {
            tracing::info!("the Peer was there before: it keeps its addresses, and stays");
        }
        let visitor = Visitor::start(client, visitor, args.resync_period.0);
        let ended = wireloom_agent::run(config, visitor, opener, || {}, stop).await;
        if args.clean_up {
            guest.leave().await?;
        }
        ended?;
        Ok(ExitCode::SUCCESS)
    })
}
