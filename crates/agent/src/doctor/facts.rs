//! What is to be known of a machine before anything is said about it, gathered in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::thread::CapabilitySet;
use wireloom_kernel::{
    Conflict, Feature, ForwardDrop, Host, HostError, PortOwner, Way, is_forwarding, port_owner,
};
use wireloom_model::kernel::{Mark, Rule};
use wireloom_model::{Cidr, Family, InterfaceName, Problem, PublicKey, Snapshot};
use wireloom_topology::kilo::Seen;
use wireloom_topology::{Plan, TunnelPeerName};

use super::lists::Lists;
use crate::agent::Identity;
use crate::cleanup::{self, Sockets, kilo};
use crate::control::{self, ControlError, Listener, Request};
use crate::paths::overhead;
use crate::place::Place;
use crate::planner::Planner;
use crate::pods;
use crate::resolve::Resolver;
use crate::status::Status;

/// Whose machine is looked at, and as what.
#[derive(Debug)]
pub struct Subject {
    /// The mesh, or why there is none to be had.
    pub mesh: Result<Snapshot, String>,
    /// Where that is written down.
    pub source: Source,
    /// By which algorithm it is planned.
    pub planner: Planner,
    /// Networks that the registry knows of and that are not the mesh's own.
    pub networks: Vec<Network>,
    /// Where the registry is reached, if it is another machine.
    pub registry: Vec<IpAddr>,
    /// Which node of the mesh this machine is.
    pub identity: Identity,
    /// Its key.
    pub key: Key,
    /// Its tunnel device.
    pub interface: InterfaceName,
    /// The bits that mark packets of the tunnel itself.
    pub mark: u32,
    /// Where agents and devices have their sockets.
    pub sockets: Sockets,
    /// The buffer in bytes that the tunnel asks of the kernel for each of its UDP sockets.
    pub udp_buffer: usize,
    /// When this program was made, in seconds since 1970.
    pub made: u64,
    /// Files that were written by this machine's own clock.
    pub written_here: Vec<PathBuf>,
    /// The directory of the files by which the container runtime is told of networks, as it is seen from here.
    pub lists: PathBuf,
    /// The directory of the programs that those name, as it is seen from here.
    pub programs: PathBuf,
}

/// Where a mesh is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the objects of a Kubernetes cluster.
    Cluster,
    /// In a mesh file.
    File,
}

/// A network that is there without the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What has its addresses.
    pub kind: NetworkKind,
    /// Whose it is, such as `node n1`.
    pub whose: String,
    /// Its addresses.
    pub prefix: Cidr,
}

/// What has the addresses of a network. From the ones that are given by others to those that are chosen freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkKind {
    /// Machines.
    Nodes,
    /// Pods.
    Pods,
    /// Services.
    Services,
}

/// The state of a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// There is none yet: the first start makes one.
    Missing(PathBuf),
    /// It is good, and this is its other half.
    Good(PublicKey),
    /// It can't be used, and why, with what to do.
    Unusable(String),
}

/// What was seen.
#[derive(Debug)]
pub struct Facts {
    pub(crate) subject: Subject,
    pub(crate) is_root: bool,
    /// The capabilities that the agent needs and this process has not.
    pub(crate) incapable: Vec<&'static str>,
    /// This machine's part of the mesh, or why it has none. `None` without a mesh or a key.
    pub(crate) place: Option<Result<Place, Problem>>,
    pub(crate) agent: Agent,
    pub(crate) families: BTreeMap<Family, FamilyFacts>,
    /// Chains of others that drop what this machine passes on.
    pub(crate) forward_drops: Vec<ForwardDrop>,
    /// The links by which peers are reached.
    pub(crate) underlay: BTreeMap<InterfaceName, Underlay>,
    /// How many links have a lasting IPv4 address.
    pub(crate) addressed_links: usize,
    pub(crate) left_by_us: Vec<String>,
    pub(crate) left_by_kilo: Vec<String>,
    pub(crate) kilo: Option<i32>,
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) lists: Lists,
    /// Rules of others that take what bears the mark of the tunnel's own packets.
    pub(crate) marked: Vec<Rule>,
    pub(crate) lacking: Vec<Feature>,
    /// Why no TUN device can be had.
    pub(crate) no_tun: Option<String>,
    /// The kernel's version, as far as its release tells it.
    pub(crate) kernel: Option<(u32, u32)>,
    pub(crate) port_owner: Option<PortOwner>,
    pub(crate) endpoints: Vec<EndpointFacts>,
    pub(crate) unresolved: BTreeMap<String, String>,
    /// The MTU of the tunnel device, or the one that the mesh sets.
    pub(crate) tunnel_mtu: Option<u32>,
    /// Seconds since 1970.
    pub(crate) now: u64,
    /// The file that this machine wrote last, and when.
    pub(crate) last_written: Option<(PathBuf, u64)>,
    /// The receive buffer in bytes that a UDP socket gets when it asks for as much as the tunnel does.
    pub(crate) udp_buffer: Option<usize>,
}

/// The agent that looks after the interface.
#[derive(Debug)]
pub(crate) enum Agent {
    Absent,
    Running(Box<Status>),
    /// It runs and can't be asked, and why.
    Silent(String),
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FamilyFacts {
    /// `None` if the kernel does not have the family.
    pub(crate) forwards: Option<bool>,
    /// Whether it is switched off on all links, or on those to come.
    pub(crate) is_disabled: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Underlay {
    /// 0 off, 1 strict, 2 loose: what counts of the link's setting and that of all.
    pub(crate) rp_filter: u8,
    pub(crate) accept_ra: u8,
    /// Whether its IPv6 default route came by a router advertisement.
    pub(crate) default_by_ra: bool,
}

/// A peer's endpoint.
#[derive(Debug)]
pub(crate) struct EndpointFacts {
    pub(crate) peer: String,
    pub(crate) address: SocketAddr,
    pub(crate) way: Option<Way>,
}

/// Looks at the machine. What can't be read counts as good: the finding on privileges says that more could be seen.
///
/// # Errors
///
/// If the kernel can't be talked to.
pub async fn gather(host: &Host, subject: Subject) -> Result<Facts, HostError> {
    let place = place(&subject);
    let plan = place.as_ref().and_then(|place| place.as_ref().ok());
    let agent = agent(&subject).await;
    let left_by_us = match &agent {
        Agent::Absent => left_by_us(host, &subject.sockets).await?,
        _ => Vec::new(),
    };
    let kilo = kilo::running();
    let links = host.links().await?;
    let tunnel = links.iter().find(|link| link.name == subject.interface);
    let mesh_mtu = subject.mesh.as_ref().ok().and_then(|snapshot| snapshot.mesh.mtu);
    let (endpoints, unresolved) = match plan {
        Some(place) => endpoints(host, &place.plan, subject.mark).await?,
        None => (Vec::new(), BTreeMap::new()),
    };
    let mut lacking = Vec::new();
    for feature in Feature::ALL {
        // Who may not make links may not ask either.
        if matches!(host.has(feature).await, Ok(false)) {
            lacking.push(feature);
        }
    }
    let ranges = ranges(&subject, plan);
    let ours = std::slice::from_ref(&subject.interface);
    let addresses = host.addresses().await?;
    let addressed: BTreeSet<_> = addresses
        .iter()
        .filter(|held| held.address.family() == Family::V4 && held.link != subject.interface)
        // Peers send nothing to where this machine's own pods are.
        .filter(|held| held.link.as_str() != pods::BRIDGE)
        .map(|held| &held.link)
        .collect();
    Ok(Facts {
        is_root: rustix::process::geteuid().is_root(),
        incapable: incapable(),
        agent,
        families: Family::BOTH.into_iter().map(|family| (family, family_facts(family))).collect(),
        underlay: underlay(host, &endpoints, &subject.interface).await?,
        addressed_links: addressed.len(),
        left_by_us,
        left_by_kilo: kilo::look(host, &subject.sockets, Path::new(kilo::CNI_PATH)).await?.things(),
        kilo,
        conflicts: host.route_conflicts(&ranges, ours).await?,
        lists: Lists::look(&subject.lists, &subject.programs),
        forward_drops: host.forward_drops()?,
        marked: host.others_rules().await?.into_iter().filter(takes(subject.mark)).collect(),
        lacking,
        no_tun: no_tun(),
        kernel: kernel_version(&rustix::system::uname().release().to_string_lossy()),
        port_owner: plan.and_then(|place| place.listen_port).and_then(|port| {
            Family::BOTH.into_iter().find_map(|family| port_owner(port.get(), family))
        }),
        endpoints,
        unresolved,
        tunnel_mtu: tunnel.map(|link| link.mtu).or_else(|| mesh_mtu.map(|mtu| mtu.get().into())),
        now: seconds(SystemTime::now()),
        last_written: last_written(&subject.written_here),
        udp_buffer: udp_buffer(subject.udp_buffer),
        place,
        subject,
    })
}

fn place(subject: &Subject) -> Option<Result<Place, Problem>> {
    let snapshot = subject.mesh.as_ref().ok()?;
    let key = match (&subject.key, &subject.identity) {
        (Key::Good(key), _) => *key,
        // It will get the one that the mesh has for it.
        (_, Identity::Name(name)) => {
            snapshot.nodes.iter().find(|node| node.name == *name).map(|node| node.key)?
        }
        (_, Identity::Key | Identity::Peer { .. }) => return None,
    };
    Some(Place::of(&subject.planner, &Seen::default(), snapshot, &subject.identity, key))
}

async fn agent(subject: &Subject) -> Agent {
    let socket = control::socket_path(&subject.sockets.control, &subject.interface);
    match control::ask(&socket, Request::Status).await {
        Ok(status) => Agent::Running(status),
        Err(ControlError::NotRunning { .. }) => Agent::Absent,
        Err(error) => Agent::Silent(error.to_string()),
    }
}

/// What the agent needs of the kernel's rights and this process has not: the second for echoes, by which paths are measured.
fn incapable() -> Vec<&'static str> {
    let needed = [("NET_ADMIN", CapabilitySet::NET_ADMIN), ("NET_RAW", CapabilitySet::NET_RAW)];
    let Ok(held) = rustix::thread::capabilities(None) else { return Vec::new() };
    needed
        .into_iter()
        .filter(|(_, one)| !held.effective.contains(*one))
        .map(|(name, _)| name)
        .collect()
}

/// Nothing is left over while any agent runs: what is there may be that one's.
async fn left_by_us(host: &Host, sockets: &Sockets) -> Result<Vec<String>, HostError> {
    if sockets.agents().await.iter().any(|(_, listens)| *listens != Listener::Nobody) {
        return Ok(Vec::new());
    }
    let changes = cleanup::ours(host).await?;
    let dead = sockets.dead(None).await;
    let files = dead.iter().map(|path| format!("the socket {}", path.display()));
    Ok(changes.iter().filter_map(cleanup::thing).chain(files).collect())
}

async fn endpoints(
    host: &Host,
    plan: &Plan,
    mark: u32,
) -> Result<(Vec<EndpointFacts>, BTreeMap<String, String>), HostError> {
    let mut resolver = Resolver::default();
    let peers = &plan.tunnel_peers;
    resolver.refresh(peers.iter().filter_map(|peer| peer.endpoint.as_ref())).await;
    let mut endpoints = Vec::new();
    for peer in peers {
        let endpoint = peer.endpoint.as_ref();
        let address = endpoint.and_then(|endpoint| resolver.address(endpoint, None));
        let Some(address) = address else { continue };
        let peer = match &peer.name {
            TunnelPeerName::Node(name) => name.to_string(),
            TunnelPeerName::Peer(name) => name.to_string(),
        };
        endpoints.push(EndpointFacts { peer, address, way: None });
    }
    let addresses: Vec<IpAddr> = endpoints.iter().map(|endpoint| endpoint.address.ip()).collect();
    for (endpoint, way) in endpoints.iter_mut().zip(host.ways_to(&addresses, mark).await?) {
        endpoint.way = way;
    }
    let failures = resolver.failures().iter();
    let unresolved = failures.map(|(name, reason)| (name.to_string(), reason.clone())).collect();
    Ok((endpoints, unresolved))
}

async fn underlay(
    host: &Host,
    endpoints: &[EndpointFacts],
    tunnel: &InterfaceName,
) -> Result<BTreeMap<InterfaceName, Underlay>, HostError> {
    let ways = endpoints.iter().filter_map(|endpoint| endpoint.way.as_ref());
    let mut links: BTreeSet<InterfaceName> = ways.map(|way| way.link.name.clone()).collect();
    let defaults: Vec<_> = host
        .others_routes()
        .await?
        .into_iter()
        .filter(|route| route.key.destination.length() == 0)
        .collect();
    links.extend(defaults.iter().filter_map(|route| route.link.clone()));
    links.remove(tunnel);
    let facts = |link: &InterfaceName| {
        let rp_filter = |of: &str| setting(&format!("ipv4/conf/{of}/rp_filter")).unwrap_or(0);
        Underlay {
            rp_filter: rp_filter("all").max(rp_filter(link.as_str())),
            accept_ra: setting(&format!("ipv6/conf/{link}/accept_ra")).unwrap_or(0),
            default_by_ra: defaults.iter().any(|route| {
                route.link.as_ref() == Some(link)
                    && route.key.destination.family() == Family::V6
                    && route.protocol == RA
            }),
        }
    };
    Ok(links.into_iter().map(|link| (link.clone(), facts(&link))).collect())
}

/// The ranges whose packets the mesh wants to itself: the overlay, and the pods of others.
fn ranges(subject: &Subject, place: Option<&Place>) -> Vec<Cidr> {
    let Ok(snapshot) = &subject.mesh else { return Vec::new() };
    // Another network plugin has routes to all pods itself.
    let beside = subject.planner.compatibility.as_ref().and_then(|settings| settings.beside);
    let own = place.map(|place| &place.plan.node).filter(|_| beside.is_none());
    let others = snapshot.nodes.iter().filter(|node| own.is_some_and(|own| node.name != *own));
    let pods = others.flat_map(|node| node.pod_prefixes.clone());
    snapshot.mesh.overlay.ranges().chain(pods).collect()
}

/// Whether a rule asks for a mark that packets with these bits alone have.
fn takes(mark: u32) -> impl Fn(&Rule) -> bool {
    move |rule| rule.mark.is_some_and(|Mark { value, mask }| value != 0 && mark & mask == value)
}

fn family_facts(family: Family) -> FamilyFacts {
    let is_disabled =
        |of| family == Family::V6 && setting(&format!("ipv6/conf/{of}/disable_ipv6")) == Some(1);
    FamilyFacts {
        forwards: is_forwarding(family).ok(),
        is_disabled: is_disabled("all") || is_disabled("default"),
    }
}

/// A small number under `/proc/sys/net`.
fn setting(path: &str) -> Option<u8> {
    fs::read_to_string(Path::new("/proc/sys/net").join(path)).ok()?.trim_end().parse().ok()
}

fn no_tun() -> Option<String> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(TUN);
    opened.err().map(|error| error.to_string())
}

/// The first two numbers of a release such as `6.12.3-cloud`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What a socket gets that asks as the tunnel does, beyond the system's limit if it may. The kernel doubles what it was
/// asked for and tells that (socket(7)).
fn udp_buffer(wanted: usize) -> Option<usize> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, wanted).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, wanted).ok()?;
    }
    Some(sockopt::socket_recv_buffer_size(&socket).ok()? / 2)
}

fn last_written(files: &[PathBuf]) -> Option<(PathBuf, u64)> {
    let written =
        |path: &PathBuf| Some((path.clone(), seconds(path.metadata().ok()?.modified().ok()?)));
    files.iter().filter_map(written).max_by_key(|(_, written)| *written)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since: Duration| since.as_secs())
}

impl EndpointFacts {
    /// What a tunnel adds to a packet on the way there.
    pub(crate) const fn overhead(&self) -> u32 {
        overhead(self.address.ip())
    }
}

/// The node from which all TUN devices are made.
pub(crate) const TUN: &str = "/dev/net/tun";

/// The maker of routes that came by router advertisements (`RTPROT_RA`, `linux/rtnetlink.h`).
const RA: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_tells_the_version() {
        assert_eq!(kernel_version("6.12.3-cloud"), Some((6, 12)));
        assert_eq!(kernel_version("5.4-rc1"), Some((5, 4)));
        assert_eq!(kernel_version("gVisor"), None);
    }
}
