//! Which cluster a command reads its mesh from, and by which settings.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use wireloom_kube::visitor::{self, VisitorConfig};
use wireloom_kube::{ConnectError, Connection};
use wireloom_model::annotations::Granularity;
use wireloom_model::{Cidr, GatewayCount, Overlay, Snapshot};

use crate::agent::settings::values::Backend;

/// The names are those of the agent's settings and of kgctl.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// Where the mesh is written down: kubernetes, and nothing else so far.
    #[arg(long, global = true, env = "WIRELOOM_BACKEND", value_name = "BACKEND")]
    backend: Option<Backend>,
    /// A kubeconfig file. Without it what $KUBECONFIG names, ~/.kube/config, or the service account of a pod.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The URL of the cluster's API, whatever the kubeconfig says.
    #[arg(long, global = true, env = "WIRELOOM_MASTER", value_name = "URL")]
    master: Option<String>,
    /// The label of Nodes that says their location.
    #[arg(
        long,
        global = true,
        env = "WIRELOOM_TOPOLOGY_LABEL",
        default_value = "topology.kubernetes.io/region",
        value_name = "LABEL"
    )]
    topology_label: String,
    /// What makes a segment of the mesh: location, full, or auto for what agents say.
    #[arg(
        long,
        global = true,
        env = "WIRELOOM_MESH_GRANULARITY",
        default_value = "auto",
        value_name = "GRANULARITY"
    )]
    mesh_granularity: Auto<Granularity>,
    /// How many gateways a location has, or all. Without it what agents say.
    #[arg(long, global = true, env = "WIRELOOM_GATEWAYS", value_name = "COUNT")]
    gateways: Option<GatewayCount>,
    /// The ranges of overlay addresses. Without it what agents say.
    #[arg(
        long,
        global = true,
        env = "WIRELOOM_SUBNET",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    subnet: Option<Vec<Cidr>>,
    /// The UDP port of nodes whose endpoint names none. Without it what agents say, or 51820.
    #[arg(long, global = true, env = "WIRELOOM_PORT", value_name = "PORT")]
    port: Option<NonZeroU16>,
    /// The namespace of heartbeats.
    #[arg(
        long,
        global = true,
        env = "WIRELOOM_NAMESPACE",
        default_value = "wireloom",
        value_name = "NAME"
    )]
    namespace: String,
}

/// A value, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Auto<T>(Option<T>);

impl<T: FromStr> FromStr for Auto<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "auto" => Ok(Self(None)),
            text => text.parse().map(Some).map(Self),
        }
    }
}

impl ClusterArgs {
    /// A client of the cluster's API. Needs a tokio runtime.
    pub(crate) async fn client(&self) -> Result<wireloom_kube::Client, ConnectError> {
        let kubeconfig = self.kubeconfig.clone().or_else(users_kubeconfig);
        Connection { kubeconfig, master: self.master.clone() }.client().await
    }

    /// How the mesh is read.
    pub(crate) fn visitor(&self) -> anyhow::Result<VisitorConfig> {
        let overlay = self.subnet.clone().map(Overlay::new).transpose().context("--subnet")?;
        Ok(VisitorConfig {
            topology_label: self.topology_label.clone(),
            namespace: self.namespace.clone(),
            granularity: self.mesh_granularity.0,
            gateways: self.gateways,
            overlay,
            port: self.port,
            mtu: None,
        })
    }

    /// The mesh as it is now.
    pub(crate) fn read(&self) -> anyhow::Result<Snapshot> {
        let config = self.visitor()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = self.client().await?;
            Ok(visitor::read(&client, &config).await?)
        })
    }
}

/// The file that kubectl takes without a word: the first of those that the environment names, or the one at home.
fn users_kubeconfig() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    std::env::split_paths(&named).chain(home).find(|path| path.is_file())
}
