//! A node of a cluster: what its agent is told, and what that finds at the API server.

mod checks;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use wireloom_agent::control::{self, Request};
use wireloom_agent::doctor::facts::{Key, Network, NetworkKind, Source};
use wireloom_agent::pods::List;
use wireloom_agent::status::Status;
use wireloom_agent::{Identity, remember};
use wireloom_kube::survey::{self, Survey};
use wireloom_kube::{ConnectError, KubeConfig, Uri};
use wireloom_model::{Cidr, PrivateKey, PublicKey, Snapshot};

use super::{Examined, own_key, runtime, subject};
use crate::agent::settings::{Resolved, Settings, SettingsArgs};
use crate::agent::{KILOS_KEY, MESH, facts};
use crate::keys;
use crate::up::MachineArgs;

use checks::Seen;

/// Where a kubelet tells pods the address of the Service `kubernetes`, whatever else they are told of it.
const SERVICE: &str = "KUBERNETES_PORT_443_TCP_ADDR";

#[derive(Debug, Args)]
#[command(next_help_heading = "Settings of `wireloom agent`")]
pub(crate) struct AgentArgs {
    /// The file with the agent's settings, which is --config there.
    #[arg(long, env = "WIRELOOM_AGENT_CONFIG", value_name = "FILE")]
    agent_config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Why the API server was not looked at.
#[derive(Debug)]
enum Unseen {
    /// Nobody says where it is, or who asks.
    NoWay(String),
    /// It does not answer.
    NoAnswer(String),
}

impl AgentArgs {
    /// What every agent is told of its machine.
    pub(super) fn machine(&self) -> anyhow::Result<MachineArgs> {
        self.settings.machine()
    }

    /// Whether this machine is a node of a cluster: if something is said that others are not told; or if there is no mesh file
    /// and an agent of its own, running or not.
    pub(super) fn are_of_a_cluster(&self, has_file: bool) -> anyhow::Result<bool> {
        let (told, settings) = (self.told(), &self.settings);
        let state = settings.state().join(MESH);
        let socket = control::socket_path(&self.machine()?.run_dir, &self.machine()?.interface);
        Ok(told.name_a_cluster() || (!has_file && (state.exists() || socket.exists())))
    }

    fn told(&self) -> SettingsArgs {
        SettingsArgs::new(self.agent_config.clone(), self.settings.clone())
    }
}

/// Asks the agent, the API server and the disk, in the order in which they know more of the mesh.
pub(super) async fn examine(args: &AgentArgs) -> anyhow::Result<Examined> {
    let mut settings = args.told().resolve()?;
    let machine = args.told().machine()?;
    let socket = control::socket_path(&machine.run_dir, &machine.interface);
    let status: Option<Status> = control::ask(&socket, Request::Status).await.ok();
    if let Some(node) = status.as_ref().and_then(|status| status.node.clone()) {
        settings.node = node;
    }
    let known: Option<Snapshot> = control::ask(&socket, Request::Mesh).await.ok();
    let key = match own_key(&machine.key) {
        // The agent takes it over.
        Key::Missing(path) if Path::new(KILOS_KEY).exists() => {
            match own_key(Path::new(KILOS_KEY)) {
                Key::Missing(_) => Key::Missing(path),
                kilos => kilos,
            }
        }
        own => own,
    };
    let config = settings.registry();
    let (url, survey) = look(&settings, &config, &key).await?;
    let state = settings.state.join(MESH);
    let mesh = known.or_else(|| survey.as_ref().ok().and_then(|survey| survey.mesh.clone()));
    let mesh = mesh.map_or_else(|| last(&state), Ok);
    let server = match &url {
        Some(url) => Server::of(url, survey.as_ref().ok()).await,
        None => Server::default(),
    };
    let seen = Seen {
        survey: &survey,
        status: status.as_ref(),
        server: &server,
        topology_label: &settings.topology_label,
        lists: settings.pods.file.parent().filter(|_| settings.pods.list != List::Nobodys),
        runtime: runtime::told(),
    };
    let findings = checks::findings(&seen);
    let identity = Identity::Name(settings.node.clone());
    let mut subject =
        subject(&machine, (mesh, Source::Cluster), identity, vec![machine.key.clone(), state]);
    subject.key = key;
    subject.planner = settings.planner.clone();
    subject.networks = survey.as_ref().map(|survey| networks(survey, &config)).unwrap_or_default();
    subject.registry = server.reached;
    subject.lists = super::directory_of(&settings.pods.file);
    subject.programs = settings.pods.programs.clone();
    Ok(Examined { subject, findings })
}

/// What there is at the API server, and its URL.
async fn look(
    settings: &Resolved,
    config: &KubeConfig,
    key: &Key,
) -> anyhow::Result<(Option<Uri>, Result<Survey, Unseen>)> {
    let (client, url) = match settings.connection.open().await {
        Ok(open) => open,
        Err(error @ (ConnectError::InCluster(_) | ConnectError::Kubeconfig { .. })) => {
            return Ok((None, Err(Unseen::NoWay(error.to_string()))));
        }
        Err(error) => return Ok((None, Err(Unseen::NoAnswer(error.to_string())))),
    };
    let key: PublicKey = match key {
        Key::Good(key) => *key,
        _ => PrivateKey::from_random(keys::random_bytes()?).public_key(),
    };
    let facts = facts::now(key, &settings.interface, settings.mark).await?;
    let survey = survey::survey(&client, config, &facts).await;
    Ok((Some(url), survey.map_err(Unseen::NoAnswer)))
}

/// The mesh that an agent knew last.
fn last(state: &Path) -> Result<Snapshot, String> {
    remember::load(state).map_err(|error| {
        format!(
            "neither an agent nor the API server tells the mesh, nor {}: {error}",
            state.display()
        )
    })
}

/// Where the API server is asked.
#[derive(Debug, Default)]
struct Server {
    /// As its URL has it.
    url: String,
    /// Whether that is the address of a Service, behind which kube-proxy or another knows the way.
    is_service: bool,
    /// The addresses at which packets to it arrive, as far as they are known.
    reached: Vec<IpAddr>,
}

impl Server {
    async fn of(url: &Uri, survey: Option<&Survey>) -> Self {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(443);
        let addresses = tokio::net::lookup_host((host, port)).await;
        let addresses: Vec<IpAddr> =
            addresses.into_iter().flatten().map(|address| address.ip()).collect();
        let services = survey.map(|survey| survey.services.as_slice()).unwrap_or_default();
        let is_service = addresses.iter().any(|address| {
            services.iter().any(|range| range.contains(*address)) || service() == Some(*address)
        });
        let behind = survey.and_then(|survey| survey.servers.clone());
        let reached = reached(addresses, is_service, behind);
        Self { url: url.to_string(), is_service, reached }
    }
}

/// Where packets to the API server arrive: at those that stand behind an address of a Service, and behind a balancer on this
/// machine, such as k3s has.
fn reached(asked: Vec<IpAddr>, is_service: bool, behind: Option<Vec<IpAddr>>) -> Vec<IpAddr> {
    let is_passed_on = is_service || asked.iter().all(IpAddr::is_loopback);
    if is_passed_on { behind.unwrap_or_default() } else { asked }
}

fn service() -> Option<IpAddr> {
    std::env::var(SERVICE).ok()?.parse().ok()
}

/// The addresses of the cluster's nodes, pods and Services. A kubelet may say an address that the mesh gives its node.
fn networks(survey: &Survey, config: &KubeConfig) -> Vec<Network> {
    let mut networks = Vec::new();
    for object in &survey.nodes {
        let name = object.metadata.name.clone().unwrap_or_default();
        let of_mesh = survey.mesh.iter().flat_map(|mesh| &mesh.nodes);
        let of_mesh = of_mesh.filter(|node| node.name.as_str() == name);
        let of_mesh: Vec<IpAddr> = of_mesh
            .flat_map(|node| node.overlay_addresses.iter().chain(&node.held.overlay_addresses))
            .copied()
            .collect();
        let whose = format!("node {name}");
        let addresses = object.addresses("InternalIP").chain(object.addresses("ExternalIP"));
        networks.extend(addresses.filter(|address| !of_mesh.contains(address)).map(|address| {
            Network { kind: NetworkKind::Nodes, whose: whose.clone(), prefix: Cidr::host(address) }
        }));
        let pods = object.spec.pod_cidrs.iter().chain(&object.spec.pod_cidr);
        let mut pods: Vec<Cidr> = pods.filter_map(|text| text.parse().ok()).collect();
        pods.dedup();
        networks.extend(pods.into_iter().map(|prefix| Network {
            kind: NetworkKind::Pods,
            whose: whose.clone(),
            prefix,
        }));
    }
    let mut services = survey.services.clone();
    services.extend(config.mesh.filter.services.iter().copied());
    if let Some(address) =
        service().filter(|own| !services.iter().any(|range| range.contains(*own)))
    {
        services.push(Cidr::host(address));
    }
    services.sort();
    services.dedup();
    networks.extend(services.into_iter().map(|prefix| Network {
        kind: NetworkKind::Services,
        whose: String::new(),
        prefix,
    }));
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_looked_for_behind_what_passes_on_to_it() {
        let at = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        let behind = || Some(at("10.1.0.5"));
        assert_eq!(reached(at("192.0.2.1"), false, behind()), at("192.0.2.1"));
        assert_eq!(reached(at("10.43.0.1"), true, behind()), at("10.1.0.5"));
        assert_eq!(reached(at("127.0.0.1"), false, behind()), at("10.1.0.5"));
        assert!(reached(at("::1"), false, None).is_empty());
    }
}
