//! What `wireloom agent` is told: by flags, by the environment, by a file with the same names, or not at all, in this
//! order.
//!
//! Names and defaults are Kilo's where the meaning is (`cmd/kg/main.go`), so that its manifests are changed in little.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, Deserializer};
use wireloom_agent::http::Listen;
use wireloom_agent::{Planner, control};
use wireloom_kube::{AddressRules, Connection};
use wireloom_model::annotations::Granularity;
use wireloom_model::{
    Cidr, EncapsulateBy, EncapsulateWhen, Encapsulation, Filter, GatewayCount, InterfaceName, Mesh,
    NodeName, Overlay,
};
use wireloom_topology::kilo::{self, Plugin};

use crate::up::{DEFAULT_INTERFACE, mark};

/// The file that is read if it is there, without anybody saying so.
const DEFAULT_FILE: &str = "/etc/wireloom/agent.toml";

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingsArgs {
    /// A TOML file with settings: the names of these flags without dashes in front. Flags and the environment beat it.
    /// Without it, /etc/wireloom/agent.toml if that exists.
    #[arg(long, env = "WIRELOOM_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Every setting, as far as somebody says it.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[group(skip)]
struct Settings {
    /// This machine's Node. Default: the host's name.
    #[arg(long, env = "WIRELOOM_HOSTNAME", value_name = "NAME")]
    hostname: Option<NodeName>,
    /// A kubeconfig file. Without it, the service account of a pod.
    #[arg(long, env = "WIRELOOM_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The URL of the cluster's API, whatever the kubeconfig or the cluster says: one that is reached without the mesh.
    #[arg(long, env = "WIRELOOM_MASTER", value_name = "URL")]
    master: Option<String>,
    /// The label of Nodes that says their location. Default: topology.kubernetes.io/region.
    #[arg(long, env = "WIRELOOM_TOPOLOGY_LABEL", value_name = "LABEL")]
    topology_label: Option<String>,
    /// What makes a segment of the mesh, location or full: every node a gateway. Default: location.
    #[arg(long, env = "WIRELOOM_MESH_GRANULARITY", value_name = "GRANULARITY")]
    #[serde(deserialize_with = "word")]
    mesh_granularity: Option<Granularity>,
    /// How many gateways a location has, or all. Default: 1, and all with --mesh-granularity full.
    #[arg(long, env = "WIRELOOM_GATEWAYS", value_name = "COUNT")]
    #[serde(deserialize_with = "word")]
    gateways: Option<GatewayCount>,
    /// The ranges of overlay addresses, at most one of each family. Default: 10.4.0.0/16.
    #[arg(long, env = "WIRELOOM_SUBNET", value_delimiter = ',', value_name = "CIDR")]
    subnet: Option<Vec<Cidr>>,
    /// The prefixes of the cluster's services, to which no source address is changed.
    #[arg(long, env = "WIRELOOM_SERVICE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    service_cidr: Option<Vec<Cidr>>,
    /// Where this machine's internal address lies, if it has several private ones.
    #[arg(long, env = "WIRELOOM_INTERNAL_CIDR", value_delimiter = ',', value_name = "CIDR")]
    internal_cidr: Option<Vec<Cidr>>,
    /// Have others dial this machine's internal address even if it has a public one. Default: false.
    #[arg(long, env = "WIRELOOM_PRIORITISE_PRIVATE_ADDRESSES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    prioritise_private_addresses: Option<bool>,
    /// Between which nodes of a location packets are wrapped: never, crosssubnet or always. Default: always.
    #[arg(long, env = "WIRELOOM_ENCAPSULATE", value_name = "WHEN")]
    encapsulate: Option<EncapsulateWhen>,
    /// What they are wrapped in: vxlan or ipip. Default: vxlan.
    #[arg(long, env = "WIRELOOM_ENCAPSULATION", value_name = "BY")]
    encapsulation: Option<EncapsulateBy>,
    /// Whether nodes reach each other's internal addresses across locations. Default: true.
    #[arg(long, env = "WIRELOOM_CARRY_INTERNAL_ADDRESSES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    carry_internal_addresses: Option<bool>,
    /// Whether packets of pods and peers that leave the mesh do so with this machine's address. Default: false.
    #[arg(long, env = "WIRELOOM_MASQUERADE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    masquerade: Option<bool>,
    /// The MTU of the tunnel device, or auto. Default: auto.
    #[arg(long, env = "WIRELOOM_MTU", value_name = "BYTES")]
    #[serde(deserialize_with = "word")]
    mtu: Option<Mtu>,
    /// The UDP port of this machine's endpoint, unless an annotation says another. Default: 51820.
    #[arg(long, env = "WIRELOOM_PORT", value_name = "PORT")]
    port: Option<NonZeroU16>,
    /// The bits that mark packets of the tunnel itself, so that they never take it; 0 is none. Default: 0x20.
    #[arg(long, env = "WIRELOOM_FWMARK", value_name = "MARK")]
    #[serde(deserialize_with = "word")]
    fwmark: Option<Mark>,
    /// Kilo's agents may be in the mesh: kilo, or flannel or cilium if that carries packets inside locations. Until all
    /// agents are ours, the mesh is planned as Kilo does. Default: none are.
    #[arg(long, env = "WIRELOOM_COMPATIBILITY", value_name = "WITH")]
    #[serde(deserialize_with = "word")]
    compatibility: Option<Compatibility>,
    /// Beside Kilo's agents: whether pods' packets that leave the mesh do so with this machine's address. Default: true.
    #[arg(long, env = "WIRELOOM_CNI", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    cni: Option<bool>,
    /// Beside Kilo's agents: whether pods of the own location are routed to. Default: true.
    #[arg(long, env = "WIRELOOM_LOCAL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    local: Option<bool>,
    /// Where to answer over HTTP: /metrics, /healthz, /readyz and /graph. An address and a port, or `:1107` for all
    /// addresses. Default: nowhere.
    #[arg(long, env = "WIRELOOM_LISTEN", value_name = "ADDRESS:PORT")]
    #[serde(deserialize_with = "word")]
    listen: Option<Listen>,
    /// The tunnel device. Default: wl0.
    #[arg(long, env = "WIRELOOM_INTERFACE", value_name = "NAME")]
    interface: Option<InterfaceName>,
    /// The file with this machine's private key, made if it is missing: of Kilo's key in /var/lib/kilo/key if there is
    /// one. Default: /var/lib/wireloom/key.
    #[arg(long, env = "WIRELOOM_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where the last mesh is kept, for when the API is away at the next start. Default: /var/lib/wireloom.
    #[arg(long, env = "WIRELOOM_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where agents have their sockets. Default: /run/wireloom.
    #[arg(long, env = "WIRELOOM_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The namespace of heartbeats, which are Leases. Default: wireloom.
    #[arg(long, env = "WIRELOOM_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
}

/// The MTU of the tunnel device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mtu {
    /// What the paths to others leave.
    Auto,
    /// As many bytes.
    Bytes(NonZeroU16),
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bytes = text.parse().ok().filter(|bytes: &NonZeroU16| bytes.get() >= 1280);
        bytes
            .map(Self::Bytes)
            .ok_or_else(|| format!("{text:?} is no MTU: write auto, or bytes from 1280 to 65535"))
    }
}

/// The bits that mark packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(u32);

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mark(text).map(Self)
    }
}

/// Whose agents and plugins a mesh is shared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Compatibility(Option<Plugin>);

impl FromStr for Compatibility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kilo" => Ok(Self(None)),
            "cilium" => Ok(Self(Some(Plugin::Cilium))),
            "flannel" => Ok(Self(Some(Plugin::Flannel))),
            _ => Err(format!(
                "{text:?} is nobody to be compatible with: write kilo, flannel or cilium"
            )),
        }
    }
}

/// What the agent goes by.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) node: NodeName,
    pub(crate) connection: Connection,
    pub(crate) mesh: Mesh,
    pub(crate) topology_label: String,
    pub(crate) granularity: Granularity,
    pub(crate) addresses: AddressRules,
    pub(crate) namespace: String,
    pub(crate) mark: u32,
    pub(crate) planner: Planner,
    pub(crate) listen: Option<Listen>,
    pub(crate) interface: InterfaceName,
    pub(crate) key: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) run_dir: PathBuf,
}

impl SettingsArgs {
    /// Joins flags, environment, file and defaults.
    pub(crate) fn resolve(self) -> anyhow::Result<Resolved> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Settings::default(),
        };
        self.settings.or(file).resolve()
    }
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} can't be read", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Settings> {
    let table: toml::Table = text.parse()?;
    let names = names();
    for key in table.keys() {
        if !names.contains(key) {
            let near = names.iter().max_by(|a, b| {
                strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key))
            });
            bail!(
                "there is no setting {key:?}; did you mean {:?}? All are listed by: wireloom agent --help",
                near.map_or("", String::as_str)
            );
        }
    }
    Ok(toml::from_str(text)?)
}

/// The names of all settings, which are those of the flags.
fn names() -> Vec<String> {
    let command = Settings::augment_args(clap::Command::new("agent"));
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// A value that reads as a word, written as one or as a number.
fn word<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i64),
        Text(String),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Text(text) => text,
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Takes each setting of the first where it is said, else of the second.
macro_rules! first_said {
    ($first:expr, $second:expr; $($field:ident),+ $(,)?) => {
        Settings { $($field: $first.$field.or($second.$field)),+ }
    };
}

impl Settings {
    fn or(self, other: Self) -> Self {
        first_said!(self, other;
            hostname, kubeconfig, master, topology_label, mesh_granularity, gateways, subnet, service_cidr,
            internal_cidr, prioritise_private_addresses, encapsulate, encapsulation, carry_internal_addresses,
            masquerade, mtu, port, fwmark, compatibility, cni, local, listen, interface, key, state_dir, run_dir, namespace,
        )
    }

    fn resolve(self) -> anyhow::Result<Resolved> {
        let node = match self.hostname {
            Some(name) => name,
            None => own_name()?,
        };
        let granularity = self.mesh_granularity.unwrap_or(Granularity::Location);
        let gateways = self.gateways.unwrap_or(match granularity {
            Granularity::Full => GatewayCount::All,
            Granularity::Location => GatewayCount::AtMost(std::num::NonZeroU32::MIN),
        });
        let subnet = match self.subnet {
            Some(ranges) => ranges,
            None => vec!["10.4.0.0/16".parse()?],
        };
        let overlay = Overlay::new(subnet).context("--subnet")?;
        let port = match self.port {
            Some(port) => port,
            None => "51820".parse()?,
        };
        let mesh = Mesh {
            overlay,
            gateways,
            port,
            mtu: match self.mtu {
                None | Some(Mtu::Auto) => None,
                Some(Mtu::Bytes(bytes)) => Some(bytes),
            },
            carry_internal_addresses: self.carry_internal_addresses.unwrap_or(true),
            encapsulation: Encapsulation {
                when: self.encapsulate.unwrap_or(EncapsulateWhen::Always),
                by: self.encapsulation.unwrap_or_default(),
            },
            filter: Filter {
                masquerade: self.masquerade.unwrap_or(false),
                services: self.service_cidr.unwrap_or_default(),
                ..Filter::default()
            },
        };
        let or = |path: Option<PathBuf>, usual: &str| path.unwrap_or_else(|| usual.into());
        Ok(Resolved {
            node,
            connection: Connection { kubeconfig: self.kubeconfig, master: self.master },
            mesh,
            topology_label: self
                .topology_label
                .unwrap_or_else(|| "topology.kubernetes.io/region".to_owned()),
            granularity,
            addresses: AddressRules {
                internal: self.internal_cidr.unwrap_or_default(),
                prefer_internal: self.prioritise_private_addresses.unwrap_or(false),
                port,
                overlay,
            },
            namespace: self.namespace.unwrap_or_else(|| "wireloom".to_owned()),
            mark: match self.fwmark {
                Some(Mark(mark)) => mark,
                None => 0x20,
            },
            planner: Planner {
                compatibility: self.compatibility.map(|Compatibility(beside)| kilo::Settings {
                    cni: self.cni.unwrap_or(true),
                    beside,
                    local: self.local.unwrap_or(true),
                }),
            },
            listen: self.listen,
            interface: match self.interface {
                Some(interface) => interface,
                None => DEFAULT_INTERFACE.parse()?,
            },
            key: or(self.key, "/var/lib/wireloom/key"),
            state: or(self.state_dir, "/var/lib/wireloom"),
            run_dir: or(self.run_dir, control::RUN_DIRECTORY),
        })
    }
}

/// The host's name, as the kubelet makes a Node's name of it.
fn own_name() -> anyhow::Result<NodeName> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().trim().to_lowercase();
    name.parse().context("the host's name is no name of a Node; say it with --hostname")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SettingsArgs,
    }

    fn flags(line: &str) -> Settings {
        let words = std::iter::once("agent").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().args.settings
    }

    #[test]
    fn kilos_defaults_are_ours() {
        let resolved = flags("--hostname n1").resolve().unwrap();
        assert_eq!(resolved.node.as_str(), "n1");
        assert_eq!(resolved.topology_label, "topology.kubernetes.io/region");
        assert_eq!(resolved.granularity, Granularity::Location);
        assert_eq!(resolved.mesh.gateways, GatewayCount::AtMost(std::num::NonZeroU32::MIN));
        assert_eq!(resolved.mesh.port.get(), 51820);
        assert_eq!(resolved.mesh.encapsulation.when, EncapsulateWhen::Always);
        let ranges: Vec<String> = resolved.mesh.overlay.ranges().map(|r| r.to_string()).collect();
        assert_eq!((ranges, resolved.mesh.mtu), (vec!["10.4.0.0/16".to_owned()], None));
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let file = parse(
            "hostname = \"of-file\"\nport = 4500\nmtu = 1400\ngateways = 3\n\
             subnet = [\"10.9.0.0/16\", \"fd09::/64\"]\nprioritise-private-addresses = true\n\
             mesh-granularity = \"full\"\nencapsulate = \"crosssubnet\"\n",
        )
        .unwrap();
        let line = "--port 1 --encapsulate never --prioritise-private-addresses=false";
        let resolved = flags(line).or(file).resolve().unwrap();
        assert_eq!(resolved.node.as_str(), "of-file");
        assert_eq!((resolved.mesh.port.get(), resolved.addresses.port.get()), (1, 1));
        assert_eq!(resolved.mesh.mtu.unwrap().get(), 1400);
        assert_eq!(resolved.mesh.gateways.to_string(), "3");
        assert_eq!(resolved.mesh.overlay.ranges().count(), 2);
        assert_eq!(resolved.mesh.encapsulation.when, EncapsulateWhen::Never);
        assert!(!resolved.addresses.prefer_internal);
        assert_eq!(resolved.granularity, Granularity::Full);
    }

    #[test]
    fn a_full_mesh_is_one_of_gateways() {
        let mesh = |line| flags(line).resolve().unwrap().mesh;
        assert_eq!(mesh("--hostname a --mesh-granularity full").gateways, GatewayCount::All);
        assert_eq!(
            mesh("--hostname a --mesh-granularity full --gateways 2").gateways.to_string(),
            "2"
        );
    }

    #[test]
    fn lists_are_repeated_or_have_commas() {
        let repeated = flags("--internal-cidr 10.0.0.0/8 --internal-cidr fd00::/8");
        assert_eq!(repeated, flags("--internal-cidr 10.0.0.0/8,fd00::/8"));
    }

    #[test]
    fn every_setting_is_a_flag_a_variable_and_a_key_of_the_file() {
        let command = Settings::augment_args(clap::Command::new("agent"));
        for argument in command.get_arguments() {
            let name = argument.get_long().unwrap();
            let variable = format!("WIRELOOM_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().unwrap().to_str(), Some(variable.as_str()));
            // A value of the wrong kind is refused as such; an unknown key would not be read at all.
            let error = parse(&format!("{name} = {{}}")).unwrap_err();
            assert!(!format!("{error:#}").contains("no setting"), "{name}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        let error = parse("topology-labels = \"x\"").unwrap_err().to_string();
        assert!(
            error.contains("\"topology-labels\"") && error.contains("\"topology-label\""),
            "{error}"
        );
        assert!(format!("{:#}", parse("port = 0").unwrap_err()).contains("port"));
        assert!(parse("mtu = 100").is_err());
    }
}
