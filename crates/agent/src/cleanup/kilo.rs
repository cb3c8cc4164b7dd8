//! What Kilo leaves on a host: its link, routes and rules, its chains in the packet filter, its CNI configuration.
//!
//! Kilo marks nothing as its own, so each kind of thing has its signs. What has none stays: a route of Kilo straight
//! out of the host's own link looks like anybody's static route.

use std::fs;
use std::path::{Path, PathBuf};

use wireloom_cni::Bridge;
use wireloom_kernel::{Host, HostError, HostLink, OthersRoute, Removal};
use wireloom_model::InterfaceName;
use wireloom_model::kernel::{Address, Rule};

use super::packet_filter::{self, Found, Tool};
use super::{CleanupError, Report, Sockets};
use crate::control::Listener;

/// Kilo's CNI configuration, unless its flag `--cni-path` said otherwise.
pub const CNI_PATH: &str = "/etc/cni/net.d/10-kilo.conflist";

/// The bridge that Kilo's CNI configuration gives pods.
const BRIDGE: &str = "kube-bridge";

const BRIDGE_SHOWN: &str = "the bridge kube-bridge";

/// Kilo's WireGuard link, unless its flag `--interface` said otherwise.
pub(crate) const LINK: &str = "kilo0";

/// The link by which Kilo encapsulates. The kernel's module ipip brings one of this name along, and others use it too.
pub(crate) const TUNNEL: &str = "tunl0";

/// Kilo's routing table for packets to nodes.
const TABLE: u32 = 1107;

/// The maker that Kilo's routes name (`RTPROT_STATIC`, `linux/rtnetlink.h`).
const STATIC: u8 = 4;

/// What is on a host, as far as it may be Kilo's.
#[derive(Debug, Default)]
struct Observed {
    links: Vec<HostLink>,
    addresses: Vec<Address>,
    routes: Vec<OthersRoute>,
    rules: Vec<Rule>,
    /// The devices of agents of ours that run.
    in_use: Vec<InterfaceName>,
}

/// What Kilo left.
#[derive(Debug, Default)]
pub struct Leftovers {
    removals: Vec<Removal>,
    packet_filters: Vec<(Tool, Found)>,
    cni: Option<PathBuf>,
    /// Whether the bridge of its pods is there.
    bridge: bool,
}

/// Looks for what Kilo left. `cni` is the path of its CNI configuration. A device that an agent of ours goes on with is
/// nothing left.
pub async fn look(host: &Host, sockets: &Sockets, cni: &Path) -> Result<Leftovers, HostError> {
    let agents = sockets.agents().await.into_iter();
    let living = agents.filter(|(_, listens)| *listens != Listener::Nobody);
    let packet_filters = packet_filter::look();
    let observed = Observed {
        links: host.links().await?,
        addresses: host.addresses().await?.into_iter().collect(),
        routes: host.others_routes().await?,
        rules: host.others_rules().await?,
        in_use: living.map(|(interface, _)| interface).collect(),
    };
    Ok(Leftovers {
        removals: removals(&observed, !packet_filters.is_empty()),
        packet_filters,
        cni: cni.exists().then(|| cni.to_owned()),
        bridge: observed
            .links
            .iter()
            .any(|link| link.name.as_str() == BRIDGE && link.kind.as_deref() == Some("bridge")),
    })
}

impl Leftovers {
    /// All of it, in words.
    pub fn things(&self) -> Vec<String> {
        let filters = self.packet_filters.iter().flat_map(|(_, found)| found.things.clone());
        let removals = self.removals.iter().map(ToString::to_string);
        let bridge = self.bridge.then(|| BRIDGE_SHOWN.to_owned());
        let network = self.cni.iter().map(|path| cni_shown(path)).chain(bridge);
        removals.chain(filters).chain(network).collect()
    }

    /// Takes it away; the CNI configuration only if asked, because no pod starts on a node that has none, and then the
    /// bridge once no pod hangs on it.
    ///
    /// # Errors
    ///
    /// If Kilo runs, or the kernel can't be talked to.
    pub async fn remove(self, host: &Host, with_cni: bool) -> Result<Report, CleanupError> {
        if let Some(pid) = running() {
            return Err(CleanupError::KiloRuns { pid });
        }
        let mut report = Report::default();
        let failed = host.remove(&self.removals).await?;
        let is_gone = |removal: &Removal| !failed.iter().any(|error| error.removal == *removal);
        let gone = self.removals.iter().filter(|removal| is_gone(removal));
        report.removed.extend(gone.map(ToString::to_string));
        report.failed.extend(failed.iter().map(ToString::to_string));
        for (tool, found) in self.packet_filters {
            match tool.remove(&found) {
                Ok(()) => report.removed.extend(found.things),
                Err(error) => report.failed.extend(
                    found.things.iter().map(|thing| format!("cannot remove {thing}: {error}")),
                ),
            }
        }
        match self.cni {
            Some(path) if with_cni => report.remove_file(&path, CNI_SHOWN),
            Some(path) => report.kept.push(format!(
                "{}: pods start by it until another network takes over; --cni removes it",
                cni_shown(&path)
            )),
            None => {}
        }
        if with_cni && self.bridge {
            remove_bridge(&mut report);
        }
        report.kept.extend(packet_filter::unseen());
        Ok(report)
    }
}

fn remove_bridge(report: &mut Report) {
    let bridge = Bridge::new(BRIDGE.to_owned());
    match bridge.remove().and_then(|gone| Ok((gone, bridge.is_used()?))) {
        Ok((true, _)) => report.removed.push(BRIDGE_SHOWN.to_owned()),
        Ok((false, true)) => report.kept.push(format!(
            "{BRIDGE_SHOWN}: pods hang on it, and it stands in the way of others; delete them and say this again"
        )),
        Ok((false, false)) => {}
        Err(error) => report.failed.push(format!("cannot remove {BRIDGE_SHOWN}: {error}")),
    }
}

const CNI_SHOWN: &str = "the CNI configuration";

fn cni_shown(path: &Path) -> String {
    format!("{CNI_SHOWN} {}", path.display())
}

/// The process of a Kilo agent in the calling thread's network namespace.
pub fn running() -> Option<i32> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process = entry.path();
        let name = fs::read_to_string(process.join("comm")).ok()?;
        let is_kilo = name.trim_end() == "kg"
            && fs::read_link(process.join("ns/net")).is_ok_and(|namespace| namespace == own);
        is_kilo.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// What goes of links, routes and rules: routes before the links that they lead out of.
fn removals(observed: &Observed, has_chains: bool) -> Vec<Removal> {
    let rules: Vec<&Rule> = observed.rules.iter().filter(|rule| rule.table == TABLE).collect();
    let device = observed.links.iter().find(|link| {
        link.name.as_str() == LINK && matches!(link.kind.as_deref(), Some("tun" | "wireguard"))
    });
    let link = device.filter(|link| !observed.in_use.contains(&link.name));
    let in_table = |route: &&OthersRoute| route.key.table == TABLE && route.protocol == STATIC;
    let has_signs = has_chains
        || link.is_some()
        || !rules.is_empty()
        || observed.routes.iter().any(|route| in_table(&route));
    let tunnel = observed.links.iter().find(|link| is_kilos_tunnel(link, observed, has_signs));
    let names = |links: [Option<&HostLink>; 2]| {
        links.into_iter().flatten().map(|link| link.name.clone()).collect::<Vec<_>>()
    };
    let (kilos, links) = (names([device, tunnel]), names([link, tunnel]));
    let out_of_link = |route: &&OthersRoute| {
        route.protocol == STATIC && route.link.as_ref().is_some_and(|link| kilos.contains(link))
    };
    let routes = observed.routes.iter().filter(|route| in_table(route) || out_of_link(route));
    rules
        .into_iter()
        .cloned()
        .map(Removal::Rule)
        .chain(routes.cloned().map(Removal::Route))
        .chain(links.into_iter().map(Removal::Link))
        .collect()
}

/// Whether Kilo made or took the IPIP link. Kilo gives it no address and leads nothing but static routes out of it; who
/// else uses it (Calico does) has an address on it, or routes of its own protocol.
fn is_kilos_tunnel(link: &HostLink, observed: &Observed, has_signs: bool) -> bool {
    let name = Some(&link.name);
    let has_address = observed.addresses.iter().any(|address| Some(&address.link) == name);
    let mut routes = observed.routes.iter().filter(|route| {
        // What the kernel made goes with the link.
        route.link.as_ref() == name && route.protocol != KERNEL
    });
    let has_others = routes.clone().any(|route| route.protocol != STATIC);
    link.name.as_str() == TUNNEL
        && link.kind.as_deref() == Some("ipip")
        && link.up
        && !has_address
        && !has_others
        && (has_signs || routes.next().is_some())
}

/// The maker of routes that come with addresses and links (`RTPROT_KERNEL`).
const KERNEL: u8 = 2;

#[cfg(test)]
mod tests;
