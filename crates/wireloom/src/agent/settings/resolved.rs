//! Settings with every default.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use wireloom_agent::http::Listen;
use wireloom_agent::pods::{self, List, PodNetwork};
use wireloom_agent::{Planner, control};
use wireloom_cni::Directories;
use wireloom_kube::{AddressRules, Connection, DaemonSetName};
use wireloom_model::annotations::Granularity;
use wireloom_model::{
    EncapsulateBy, EncapsulateWhen, Encapsulation, Filter, GatewayCount, InterfaceName, Mesh,
    NodeName, Overlay,
};
use wireloom_topology::kilo;

use super::flags::Settings;
use super::values::{Compatibility, Mark, Mtu, Period};
use crate::device::CarrierArgs;
use crate::opener::DeviceKind;
use crate::up::{DEFAULT_INTERFACE, MachineArgs};

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
    pub(crate) daemon_set: Option<DaemonSetName>,
    pub(crate) mark: u32,
    pub(crate) metric: u32,
    pub(crate) planner: Planner,
    pub(crate) listen: Option<Listen>,
    pub(crate) resync: Duration,
    pub(crate) clean_up: bool,
    pub(crate) device: DeviceKind,
    pub(crate) carrier: CarrierArgs,
    pub(crate) interface: InterfaceName,
    pub(crate) key: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) run_dir: PathBuf,
    /// What was said without effect, and why.
    pub(crate) warnings: Vec<String>,
    pub(crate) pods: PodNetwork,
}

impl Settings {
    /// What is said, and the defaults for the rest.
    pub(super) fn resolve(self) -> anyhow::Result<Resolved> {
        let device = self.device()?;
        let (state, machine) = (self.state(), self.machine()?);
        let warnings = self.without_effect(device);
        let or = |path: Option<PathBuf>, usual: &str| path.unwrap_or_else(|| usual.into());
        let node = match self.hostname {
            Some(name) => name,
            None => own_name()?,
        };
        let granularity = self.mesh_granularity.unwrap_or(Granularity::Location);
        let gateways = self.gateways.unwrap_or(match granularity {
            Granularity::Full => GatewayCount::All,
            Granularity::Location => GatewayCount::AtMost(NonZeroU32::MIN),
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
        let beside = self.compatibility.and_then(|Compatibility(beside)| beside);
        let local = self.local.unwrap_or_else(|| beside.is_none());
        let is_chained = self.cni_chain.unwrap_or(false);
        let cni = self.cni.unwrap_or_else(|| beside.is_none() && !is_chained);
        let file = or(self.cni_path, pods::FILE);
        let list = List::of(cni, is_chained, &file)?;
        let mesh = Mesh {
            overlay,
            gateways,
            port,
            mtu: self.mtu.and_then(Mtu::bytes),
            carry_internal_addresses: self.carry_internal_addresses.unwrap_or(true),
            encapsulation: Encapsulation {
                when: self.encapsulate.unwrap_or(EncapsulateWhen::Always),
                // What Kilo's agents do, so that nothing changes inside a location when the last of them goes.
                by: self.encapsulation.unwrap_or_else(|| match self.compatibility {
                    Some(Compatibility(None)) => EncapsulateBy::Ipip,
                    _ => EncapsulateBy::default(),
                }),
            },
            filter: Filter {
                masquerade: self.masquerade.unwrap_or(cni),
                services: self.service_cidr.unwrap_or_default(),
                forward_accept: self.iptables_forward_rules.unwrap_or(false),
                ..Filter::default()
            },
        };
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
            daemon_set: self.daemon_set,
            namespace: self.namespace.unwrap_or_else(|| "wireloom".to_owned()),
            mark: machine.fwmark,
            metric: machine.route_metric,
            planner: Planner {
                compatibility: self.compatibility.map(|Compatibility(beside)| kilo::Settings {
                    cni,
                    beside,
                    local,
                }),
                beside_another: !local,
            },
            listen: self.listen,
            resync: match self.resync_period {
                Some(Period(period)) => period,
                None => wireloom_agent::Config::RESYNC,
            },
            clean_up: self.clean_up.unwrap_or(true),
            device,
            carrier: CarrierArgs {
                engine: self.engine.unwrap_or_default(),
                queues: self.queues.unwrap_or_default(),
            },
            interface: machine.interface,
            key: machine.key,
            warnings,
            pods: PodNetwork {
                list,
                file,
                programs: or(self.cni_bin, pods::PROGRAMS),
                directories: Directories { run: machine.run_dir.clone(), state: state.clone() },
            },
            run_dir: machine.run_dir,
            state,
        })
    }

    /// Whether a cluster is named.
    pub(super) const fn name_a_cluster(&self) -> bool {
        self.kubeconfig.is_some() || self.master.is_some() || self.daemon_set.is_some()
    }

    /// Where the last mesh is kept.
    pub(crate) fn state(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| pods::STATE.into())
    }

    /// What every agent is told of its machine.
    pub(crate) fn machine(&self) -> anyhow::Result<MachineArgs> {
        let or = |path: &Option<PathBuf>, usual: &str| path.clone().unwrap_or_else(|| usual.into());
        Ok(MachineArgs {
            key: or(&self.key, "/var/lib/wireloom/key"),
            interface: match &self.interface {
                Some(interface) => interface.clone(),
                None => DEFAULT_INTERFACE.parse()?,
            },
            fwmark: match self.fwmark {
                Some(Mark(mark)) => mark,
                None => 0x20,
            },
            route_metric: self.route_metric.unwrap_or_default(),
            run_dir: or(&self.run_dir, control::RUN_DIRECTORY),
        })
    }

    fn device(&self) -> anyhow::Result<DeviceKind> {
        match (self.device, self.create_interface) {
            (None, Some(false)) => Ok(DeviceKind::Uapi),
            (Some(DeviceKind::Own | DeviceKind::Kernel), Some(false)) => {
                bail!(
                    "--create-interface=false is for a device that somebody else makes: say --device uapi, or leave it out"
                )
            }
            (device, _) => Ok(device.unwrap_or_default()),
        }
    }

    /// What Kilo's agents do by a flag and ours do not, in words.
    fn without_effect(&self, device: DeviceKind) -> Vec<String> {
        let is_others = device == DeviceKind::Uapi;
        let said = [
            (
                self.clean_up_interface == Some(true) && is_others,
                "--clean-up-interface has no effect: the device is another's, and stays",
            ),
            (
                self.clean_up_interface == Some(false) && !is_others,
                "--clean-up-interface=false has no effect: the device is the agent's, and goes with it",
            ),
        ];
        said.into_iter().filter(|(is_said, _)| *is_said).map(|(_, why)| why.to_owned()).collect()
    }
}

/// The host's name, as the kubelet makes a Node's name of it.
fn own_name() -> anyhow::Result<NodeName> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().trim().to_lowercase();
    name.parse().context("the host's name is no name of a Node; say it with --hostname")
}
