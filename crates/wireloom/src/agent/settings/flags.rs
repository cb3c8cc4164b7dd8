//! Every setting: a flag, a variable of the environment and a key of the file, of one name.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use wireloom_agent::http::Listen;
use wireloom_kube::DaemonSetName;
use wireloom_model::annotations::Granularity;
use wireloom_model::{Cidr, EncapsulateBy, EncapsulateWhen, GatewayCount, InterfaceName, NodeName};
use wireloom_tunnel::EngineKind;

use super::values::{Backend, Compatibility, Mark, Mtu, Period, word};
use crate::cli::Global;
use crate::device::engines;
use crate::logging::{LogFormat, LogLevel};
use crate::opener::DeviceKind;
use crate::queues::Queues;

/// Every setting, as far as somebody says it.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[group(skip)]
pub(crate) struct Settings {
    /// This machine's Node. Default: the host's name.
    #[arg(long, env = "WIRELOOM_HOSTNAME", value_name = "NAME")]
    pub(super) hostname: Option<NodeName>,
    /// Where the mesh is written down: kubernetes, and nothing else so far.
    #[arg(long, env = "WIRELOOM_BACKEND", value_name = "BACKEND")]
    #[serde(deserialize_with = "word")]
    pub(super) backend: Option<Backend>,
    /// A kubeconfig file. Without it, the service account of a pod.
    #[arg(long, env = "WIRELOOM_KUBECONFIG", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The URL of the cluster's API, whatever the kubeconfig or the cluster says: one that is reached without the mesh.
    #[arg(long, env = "WIRELOOM_MASTER", value_name = "URL")]
    pub(super) master: Option<String>,
    /// The label of Nodes that says their location. Default: topology.kubernetes.io/region.
    #[arg(long, env = "WIRELOOM_TOPOLOGY_LABEL", value_name = "LABEL")]
    pub(super) topology_label: Option<String>,
    /// What makes a segment of the mesh, location or full: every node a gateway. Default: location.
    #[arg(long, env = "WIRELOOM_MESH_GRANULARITY", value_name = "GRANULARITY")]
    #[serde(deserialize_with = "word")]
    pub(super) mesh_granularity: Option<Granularity>,
    /// How many gateways a location has, or all. Default: 1, and all with --mesh-granularity full.
    #[arg(long, env = "WIRELOOM_GATEWAYS", value_name = "COUNT")]
    #[serde(deserialize_with = "word")]
    pub(super) gateways: Option<GatewayCount>,
    /// The ranges of overlay addresses, at most one of each family. Default: 10.4.0.0/16.
    #[arg(long, env = "WIRELOOM_SUBNET", value_delimiter = ',', value_name = "CIDR")]
    pub(super) subnet: Option<Vec<Cidr>>,
    /// The prefixes of the cluster's services, to which no source address is changed.
    #[arg(long, env = "WIRELOOM_SERVICE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub(super) service_cidr: Option<Vec<Cidr>>,
    /// Where this machine's internal address lies, if it has several private ones.
    #[arg(long, env = "WIRELOOM_INTERNAL_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub(super) internal_cidr: Option<Vec<Cidr>>,
    /// Have others dial this machine's internal address even if it has a public one. Default: false.
    #[arg(long, env = "WIRELOOM_PRIORITISE_PRIVATE_ADDRESSES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) prioritise_private_addresses: Option<bool>,
    /// Between which nodes of a location packets are wrapped: never, crosssubnet or always. Default: always.
    #[arg(long, env = "WIRELOOM_ENCAPSULATE", value_name = "WHEN")]
    pub(super) encapsulate: Option<EncapsulateWhen>,
    /// What they are wrapped in: vxlan or ipip. Default: vxlan, and ipip with --compatibility kilo.
    #[arg(long, env = "WIRELOOM_ENCAPSULATION", value_name = "BY")]
    pub(super) encapsulation: Option<EncapsulateBy>,
    /// Whether nodes reach each other's internal addresses across locations. Default: true.
    #[arg(long, env = "WIRELOOM_CARRY_INTERNAL_ADDRESSES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) carry_internal_addresses: Option<bool>,
    /// Whether packets of pods and peers that leave the mesh do so with this machine's address. Default: as --cni.
    #[arg(long, env = "WIRELOOM_MASQUERADE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) masquerade: Option<bool>,
    /// The MTU of the tunnel device, or auto. Default: auto.
    #[arg(long, env = "WIRELOOM_MTU", value_name = "BYTES")]
    #[serde(deserialize_with = "word")]
    pub(super) mtu: Option<Mtu>,
    /// The UDP port of this machine's endpoint, unless an annotation says another. Default: 51820.
    #[arg(long, env = "WIRELOOM_PORT", value_name = "PORT")]
    pub(super) port: Option<NonZeroU16>,
    /// The bits that mark packets of the tunnel itself, so that they never take it; 0 is none. Default: 0x20.
    #[arg(long, env = "WIRELOOM_FWMARK", value_name = "MARK")]
    #[serde(deserialize_with = "word")]
    pub(super) fwmark: Option<Mark>,
    /// The metric of routes in the main table. With more than 1024, somebody else's to the same prefix goes first as long
    /// as it is there. Default: 0, which reads 1024 for IPv6.
    #[arg(long, env = "WIRELOOM_ROUTE_METRIC", value_name = "METRIC")]
    pub(super) route_metric: Option<u32>,
    /// Kilo's agents may be in the mesh: kilo, or flannel or cilium if that carries packets inside locations. Until all
    /// agents are ours, the mesh is planned as Kilo does. Default: none are.
    #[arg(long, env = "WIRELOOM_COMPATIBILITY", value_name = "WITH")]
    #[serde(deserialize_with = "word")]
    pub(super) compatibility: Option<Compatibility>,
    /// Whether this machine's pods get their network from here: the container runtime is told, and what they send out of
    /// the mesh leaves with this machine's address. Default: true, and false beside flannel or cilium.
    #[arg(long, env = "WIRELOOM_CNI", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) cni: Option<bool>,
    /// Whether ours is put last in the list of plugins that comes first beside --cni-path, another's, instead of a list of
    /// our own. Default: false.
    #[arg(long, env = "WIRELOOM_CNI_CHAIN", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) cni_chain: Option<bool>,
    /// The file by which the container runtime is told. Default: /etc/cni/net.d/10-wireloom.conflist.
    #[arg(long, env = "WIRELOOM_CNI_PATH", value_name = "FILE")]
    pub(super) cni_path: Option<PathBuf>,
    /// Where the container runtime looks for plugins. Default: /opt/cni/bin.
    #[arg(long, env = "WIRELOOM_CNI_BIN", value_name = "DIR")]
    pub(super) cni_bin: Option<PathBuf>,
    /// Whether pods of the own location are routed to. If not, another network plugin or the cloud does that. Default: true,
    /// and false beside flannel or cilium.
    #[arg(long, env = "WIRELOOM_LOCAL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) local: Option<bool>,
    /// Where to answer over HTTP: /metrics, /healthz, /readyz and /graph. An address and a port, or `:1107` for all
    /// addresses; several with commas between. Default: nowhere.
    #[arg(long, env = "WIRELOOM_LISTEN", value_name = "ADDRESS:PORT")]
    #[serde(deserialize_with = "word")]
    pub(super) listen: Option<Listen>,
    /// How often everything on this machine is looked at though nothing tells of a change. Default: 60s.
    #[arg(long, env = "WIRELOOM_RESYNC_PERIOD", value_name = "TIME")]
    #[serde(deserialize_with = "word")]
    pub(super) resync_period: Option<Period>,
    /// Whether the agent takes what it made out of this machine when it ends. Default: true.
    #[arg(long, env = "WIRELOOM_CLEAN_UP", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) clean_up: Option<bool>,
    /// Whether the tunnel device goes too. One that the agent made always does; another's never. Without effect.
    #[arg(long, env = "WIRELOOM_CLEAN_UP_INTERFACE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) clean_up_interface: Option<bool>,
    /// Who runs the WireGuard device. Default: own.
    #[arg(long, env = "WIRELOOM_DEVICE", value_enum, value_name = "DEVICE")]
    pub(super) device: Option<DeviceKind>,
    /// What makes handshakes and holds sessions of a device of our own; the other end can't tell. Default: noise.
    #[arg(long, env = "WIRELOOM_ENGINE", value_parser = engines(), value_name = "ENGINE")]
    #[serde(deserialize_with = "word")]
    pub(super) engine: Option<EngineKind>,
    /// How many queues carry packets of a device of our own, each with threads of its own; auto goes by the cores.
    /// Default: auto.
    #[arg(long, env = "WIRELOOM_QUEUES", value_name = "N|auto")]
    #[serde(deserialize_with = "word")]
    pub(super) queues: Option<Queues>,
    /// Whether the agent makes the tunnel device; if not, somebody else does: --device uapi. Default: true.
    #[arg(long, env = "WIRELOOM_CREATE_INTERFACE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) create_interface: Option<bool>,
    /// Have packets between prefixes of the mesh accepted where an nftables chain of somebody else drops what this
    /// machine passes on. Default: false.
    #[arg(long, env = "WIRELOOM_IPTABLES_FORWARD_RULES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) iptables_forward_rules: Option<bool>,
    /// What is logged at most, by one of Kilo's words. --log beats it. Default: info.
    #[arg(long, env = "WIRELOOM_LOG_LEVEL", value_enum, value_name = "LEVEL")]
    pub(super) log_level: Option<LogLevel>,
    /// As --log, which is a flag of every command.
    #[arg(skip)]
    pub(super) log: Option<String>,
    /// As --log-format, which is a flag of every command.
    #[arg(skip)]
    pub(super) log_format: Option<LogFormat>,
    /// The tunnel device. Default: wl0.
    #[arg(long, env = "WIRELOOM_INTERFACE", value_name = "NAME")]
    pub(super) interface: Option<InterfaceName>,
    /// The file with this machine's private key, made if it is missing: of Kilo's key in /var/lib/kilo/key if there is
    /// one. Default: /var/lib/wireloom/key.
    #[arg(long, env = "WIRELOOM_KEY", value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
    /// Where the last mesh is kept, for when the API is away at the next start. Default: /var/lib/wireloom.
    #[arg(long, env = "WIRELOOM_STATE_DIR", value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Where agents have their sockets. Default: /run/wireloom.
    #[arg(long, env = "WIRELOOM_RUN_DIR", value_name = "DIR")]
    pub(super) run_dir: Option<PathBuf>,
    /// The namespace of heartbeats, which are Leases. Default: wireloom.
    #[arg(long, env = "WIRELOOM_NAMESPACE", value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// The DaemonSet that the agent is of. When it goes, or passes this machine by, the agent leaves nothing of it behind;
    /// else, what can stay for the next agent does. Default: none.
    #[arg(long, env = "WIRELOOM_DAEMON_SET", value_name = "NAMESPACE/NAME")]
    #[serde(deserialize_with = "word")]
    pub(super) daemon_set: Option<DaemonSetName>,
}
/// Takes each setting of the first where it is said, else of the second.
macro_rules! first_said {
    ($first:expr, $second:expr; $($field:ident),+ $(,)?) => {
        Settings { $($field: $first.$field.or($second.$field)),+ }
    };
}
impl Settings {
    /// These, and the others where these say nothing.
    pub(super) fn or(self, other: Self) -> Self {
        first_said!(self, other;
            hostname, backend, kubeconfig, master, topology_label, mesh_granularity, gateways, subnet, service_cidr,
            internal_cidr, prioritise_private_addresses, encapsulate, encapsulation, carry_internal_addresses,
            masquerade, mtu, port, fwmark, route_metric, compatibility, cni, cni_chain, cni_path, cni_bin, local, listen,
            resync_period, clean_up, clean_up_interface, device, engine, queues, create_interface,
            iptables_forward_rules, log_level, log, log_format, interface, key, state_dir, run_dir, namespace, daemon_set,
        )
    }

    /// The names of all settings, which are those of the flags.
    pub(super) fn names() -> Vec<String> {
        let command = Global::augment_args(Self::augment_args(clap::Command::new("agent")));
        command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
    }
}
