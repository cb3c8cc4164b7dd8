//! What the facts mean: one function a check, each of which says nothing where nothing is wrong.

use std::net::IpAddr;

use wireloom_kernel::PortOwner;
use wireloom_model::reach::is_public;
use wireloom_model::{Family, InterfaceName, ProblemKind, Severity as ProblemSeverity};
use wireloom_topology::Way;

use super::facts::{Agent, Facts, Key, Source};
use super::lists::pod_network;
use super::{Check, Finding, Severity, finding};
use crate::cleanup::kilo as kilos;
use crate::place::Place;
use crate::status::{PeerState, Status};

mod machine;
mod networks;

use machine::{buffers, clock, kernel, privilege, tun};

/// Everything that the facts give reason to say, the worst first.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<Finding> = CHECKS.iter().flat_map(|check| check(facts)).collect();
    found.sort();
    found
}

const CHECKS: [fn(&Facts) -> Vec<Finding>; 23] = [
    accept_ra,
    agent,
    buffers,
    clock,
    endpoints,
    forwarding,
    fwmark,
    ipv6,
    kernel,
    key,
    kilo,
    leftovers,
    mesh,
    mtu,
    networks::overlaps,
    networks::registry,
    peers,
    pod_network,
    port,
    privilege,
    ranges,
    rp_filter,
    tun,
];

use Severity::{Error, Note, Warning};

impl Facts {
    fn place(&self) -> Option<&Place> {
        self.place.as_ref()?.as_ref().ok()
    }

    /// Whether there is anything of Kilo.
    const fn has_kilo(&self) -> bool {
        self.kilo.is_some() || !self.left_by_kilo.is_empty()
    }

    fn forwards(&self) -> bool {
        self.place().is_some_and(|place| place.forwards)
    }

    /// Whether a route into the tunnel leads to this address.
    fn leads_to(&self, address: IpAddr) -> bool {
        let routes = self.place().into_iter().flat_map(|place| &place.plan.routes);
        let mut tunnelled = routes.filter(|(_, hop)| hop.by == Way::Tunnel);
        tunnelled.any(|(prefix, _)| prefix.contains(address))
    }

    /// What the running agent says.
    fn status(&self) -> Option<&Status> {
        match &self.agent {
            Agent::Running(status) => Some(status),
            _ => None,
        }
    }

    /// Whether the running agent says so itself.
    fn is_told(&self, text: &str) -> bool {
        let mut problems = self.status().into_iter().flat_map(|status| &status.problems);
        problems.any(|problem| problem.message.contains(text))
    }

    /// What helps with a mesh of a file, or of a cluster.
    fn where_written<'a>(&self, file: &'a str, cluster: &'a str) -> &'a str {
        match self.subject.source {
            Source::File => file,
            Source::Cluster => cluster,
        }
    }
}

fn mesh(facts: &Facts) -> Vec<Finding> {
    let why = "the mesh goes on without what is wrong in it, but not as it was meant";
    let snapshot = match &facts.subject.mesh {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let why = "without a mesh there is nobody to reach";
            let remedy = facts.where_written(
                "write or mend it, and see `wireloom check FILE`; docs/mesh-file.md has the format. On a node of a \
                 cluster, say how that is reached: --kubeconfig FILE",
                "as said under `api`; the mesh is told by the Nodes of the cluster",
            );
            return vec![finding(Error, Check::Mesh, error, why, remedy)];
        }
    };
    let (plan, missing) = match &facts.place {
        Some(Ok(place)) => (Some(&place.plan), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    // The plan's problems contain the snapshot's own.
    let known = plan.map_or(&snapshot.problems, |plan| &plan.problems);
    let problems = known.iter().filter(|problem| !facts.is_told(&problem.message));
    let mut found: Vec<Finding> = problems
        .map(|problem| {
            let severity = match problem.severity {
                ProblemSeverity::Error => Error,
                ProblemSeverity::Warning => Warning,
            };
            let remedy = match problem.kind {
                ProblemKind::ExposedSecret => "chmod 600 on the mesh file",
                _ => facts.where_written(
                    "mend the mesh file; `wireloom check FILE` says where",
                    "mend that object or setting; docs/annotations.md has what a Node may say",
                ),
            };
            finding(severity, Check::Mesh, problem.to_string(), why, remedy)
        })
        .collect();
    found.extend(missing.filter(|problem| !facts.is_told(&problem.message)).map(|problem| {
        let why = "this machine takes no part in the mesh";
        finding(
            Error,
            Check::Mesh,
            problem.to_string(),
            why,
            facts.where_written(
                "add or mend its node in the mesh file",
                "see that its Node is there and has this machine's name: --hostname",
            ),
        )
    }));
    found
}

fn key(facts: &Facts) -> Vec<Finding> {
    match &facts.subject.key {
        Key::Good(_) => Vec::new(),
        Key::Missing(path) => vec![finding(
            Note,
            Check::Key,
            format!("there is no private key at {} yet", path.display()),
            "the mesh knows a machine by its key",
            format!(
                "`wireloom {}` makes one; or: (umask 077; mkdir -p {}; wireloom keygen > {})",
                facts.where_written("up", "agent"),
                path.parent().unwrap_or(path).display(),
                path.display()
            ),
        )],
        Key::Unusable(error) => {
            let why = "the agent does not start without a key that is a secret";
            vec![finding(
                Error,
                Check::Key,
                error,
                why,
                "as said; `wireloom keygen` makes a new one",
            )]
        }
    }
}

fn agent(facts: &Facts) -> Vec<Finding> {
    let interface = &facts.subject.interface;
    match &facts.agent {
        Agent::Absent => Vec::new(),
        Agent::Silent(error) => {
            let why = "nobody can say how this node stands";
            let remedy =
                format!("see its log; stop it and start it anew: wireloom down {interface}");
            vec![finding(Error, Check::Agent, error, why, remedy)]
        }
        Agent::Running(status) => {
            let stale = status.stale.iter().map(|reason| {
                let what = format!("the mesh may be out of date: {reason}");
                let why =
                    "the last good one stays in force, and changes since then are not followed";
                finding(
                    Warning,
                    Check::Agent,
                    what,
                    why,
                    facts.where_written(
                        "make the mesh file readable and whole again",
                        "find out why the API server is not reached from here",
                    ),
                )
            });
            let problems = status.problems.iter().map(|problem| {
                let severity = if problem.severity == "error" { Error } else { Warning };
                let what = format!("{}: {}", problem.subject, problem.message);
                let why = "the running agent says so";
                finding(
                    severity,
                    Check::Agent,
                    what,
                    why,
                    "as said; `wireloom status` shows when it is gone",
                )
            });
            stale.chain(problems).collect()
        }
    }
}

fn peers(facts: &Facts) -> Vec<Finding> {
    let Agent::Running(status) = &facts.agent else { return Vec::new() };
    let dialled = |peer: &crate::status::PeerReport| {
        peer.endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"))
    };
    let why = "packets to it and to what lies behind it are lost";
    let found = status.peers.iter().filter_map(|peer| {
        let what = match peer.state {
            // Nobody is called before there is something to send.
            PeerState::Unreached if peer.tx_bytes > 0 => {
                format!("{}{} never answered a handshake", peer.name, dialled(peer))
            }
            // Keepalives keep sessions fresh, so one that is not is lost.
            PeerState::Idle if peer.persistent_keepalive > 0 => format!(
                "{}{} was last heard {} s ago, though it is asked every {} s",
                peer.name,
                dialled(peer),
                peer.handshake_age.unwrap_or_default(),
                peer.persistent_keepalive
            ),
            _ => return None,
        };
        let name = &peer.name;
        let on_the_way = format!(
            "on {name}: wireloom doctor; and let UDP to its port through every firewall on the way"
        );
        let remedy = match peer.endpoint {
            Some(endpoint) if !is_public(endpoint.ip()) => {
                let port = endpoint.port();
                let say = facts.where_written(
                    "as its endpoint in the mesh file",
                    "by kubectl annotate, kilo.squat.ai/force-endpoint, on its Node",
                );
                format!(
                    "if that address is of another network than this one: the public one that leads to {name}, with port {port}, {say}; else {on_the_way}"
                )
            }
            _ => on_the_way,
        };
        Some(finding(Warning, Check::Peers, what, why, remedy))
    });
    found.collect()
}

fn leftovers(facts: &Facts) -> Vec<Finding> {
    if facts.left_by_us.is_empty() {
        return Vec::new();
    }
    let what = format!("an agent that runs no longer left {}", list(&facts.left_by_us));
    let why = "packets follow routes and rules that nobody looks after";
    vec![finding(Warning, Check::Leftovers, what, why, "wireloom cleanup")]
}

fn kilo(facts: &Facts) -> Vec<Finding> {
    if let Some(pid) = facts.kilo {
        let what = format!("Kilo's agent runs here (process {pid})");
        let why = "both want the same ports and prefixes";
        let remedy = "before Wireloom takes over: kubectl -n kube-system delete daemonset kilo, then \
            wireloom cleanup --kilo";
        return vec![finding(Warning, Check::Kilo, what, why, remedy)];
    }
    if facts.left_by_kilo.is_empty() {
        return Vec::new();
    }
    let what = format!("Kilo left {}", list(&facts.left_by_kilo));
    let why = "its routes and its packet filter take packets that are meant for the mesh";
    vec![finding(Warning, Check::Kilo, what, why, "wireloom cleanup --kilo")]
}

/// The first few, and how many more.
fn list(things: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = things.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match things.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    if !facts.forwards() {
        return Vec::new();
    }
    let off = facts.families.iter().filter(|(_, held)| held.forwards == Some(false));
    let found = off.map(|(family, _)| {
        let name = match family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        };
        let what = format!("{family} forwarding is off ({name} = 0)");
        match facts.agent {
            Agent::Absent => finding(
                Note,
                Check::Forwarding,
                what,
                "this node passes on packets of others",
                "nothing: the agent switches it on while it runs",
            ),
            _ => finding(
                Error,
                Check::Forwarding,
                what,
                "this node is there to pass on packets of others, and the kernel drops them",
                format!("sysctl -w {name}=1, and find out who switched it off"),
            ),
        }
    });
    let drops = facts.forward_drops.iter().map(|chain| {
        finding(
            Warning,
            Check::Forwarding,
            format!("the nftables chain {chain} drops what is passed on and no rule of it takes"),
            "this node passes on packets of others, and no rule elsewhere can save them",
            "`forward-accept = true` in the mesh file or --iptables-forward-rules for `wireloom agent`, or a rule in \
             that chain that accepts the mesh's prefixes",
        )
    });
    found.chain(drops).collect()
}

fn fwmark(facts: &Facts) -> Vec<Finding> {
    let found = facts.marked.iter().map(|rule| {
        finding(
            Warning,
            Check::Fwmark,
            format!(
                "the rule {rule} is for packets with the mark of the tunnel's own ({:#x})",
                facts.subject.mark
            ),
            "the tunnel's packets take the table that was meant for others",
            "give the tunnel bits that nobody else uses, on `wireloom up` and here: --fwmark",
        )
    });
    found.collect()
}

fn rp_filter(facts: &Facts) -> Vec<Finding> {
    // Marks do not count when the kernel looks for the way back (`__fib_validate_source`, net/ipv4/fib_frontend.c).
    let behind = facts.endpoints.iter().find(|endpoint| facts.leads_to(endpoint.address.ip()));
    let why = match behind {
        _ if facts.addressed_links > 1 => {
            "this machine has several links, and peers may send to one what is answered by another"
        }
        Some(endpoint) if endpoint.address.is_ipv4() => {
            "a prefix of the mesh holds the endpoint of a peer, so the tunnel is the way back for what that peer sends"
        }
        _ => return Vec::new(),
    };
    let strict = facts.underlay.iter().filter(|(_, held)| held.rp_filter == 1);
    let found = strict.map(|(link, _)| {
        finding(
            Warning,
            Check::RpFilter,
            format!(
                "{link} drops packets whose answer would leave by another link (rp_filter = 1)"
            ),
            why,
            format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{link}.rp_filter=2"),
        )
    });
    found.collect()
}

fn accept_ra(facts: &Facts) -> Vec<Finding> {
    let forwards = facts.families.get(&Family::V6).and_then(|held| held.forwards) == Some(true);
    if !(forwards || facts.forwards()) {
        return Vec::new();
    }
    let loses = facts.underlay.iter().filter(|(_, held)| held.default_by_ra && held.accept_ra < 2);
    let found = loses.map(|(link, held)| {
        finding(
            Warning,
            Check::AcceptRa,
            format!(
                "{link} has its IPv6 default route by router advertisements, and accept_ra is {}",
                held.accept_ra
            ),
            "a machine that forwards believes no advertisement unless it is 2: the route expires",
            format!("sysctl -w net.ipv6.conf.{link}.accept_ra=2"),
        )
    });
    found.collect()
}

fn ipv6(facts: &Facts) -> Vec<Finding> {
    let wants = facts
        .subject
        .mesh
        .as_ref()
        .is_ok_and(|snapshot| snapshot.mesh.overlay.range(Family::V6).is_some());
    let held = facts.families.get(&Family::V6).copied().unwrap_or_default();
    let why = "the overlay has an IPv6 range, and this node can't have an address of it";
    match held.forwards {
        _ if !wants => Vec::new(),
        None => vec![finding(
            Warning,
            Check::Ipv6,
            "this kernel has no IPv6",
            why,
            "start it without ipv6.disable=1, or give the overlay an IPv4 range alone",
        )],
        Some(_) if held.is_disabled => vec![finding(
            Warning,
            Check::Ipv6,
            "IPv6 is switched off (net.ipv6.conf.all.disable_ipv6 or that of default)",
            why,
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0",
        )],
        Some(_) => Vec::new(),
    }
}

fn ranges(facts: &Facts) -> Vec<Finding> {
    let news = facts.conflicts.iter().filter(|conflict| !facts.is_told(&conflict.to_string()));
    // Kilo's routes are told of as such.
    let is_kilos = |link: &InterfaceName| [kilos::LINK, kilos::TUNNEL].contains(&link.as_str());
    let news =
        news.filter(|conflict| !(facts.has_kilo() && conflict.link.as_ref().is_some_and(is_kilos)));
    let found = news.map(|conflict| {
        let show = match conflict.table {
            wireloom_model::kernel::MAIN_TABLE => String::new(),
            table => format!(" table {table}"),
        };
        finding(
            Error,
            Check::Ranges,
            conflict.to_string(),
            "packets to the addresses in both go one way only, and not by the mesh",
            format!(
                "give the mesh another range, or this machine another network: ip route show {}{show}",
                conflict.destination
            ),
        )
    });
    found.collect()
}

fn port(facts: &Facts) -> Vec<Finding> {
    let port = facts.place().and_then(|place| place.listen_port);
    // Kilo's device is told of as such.
    let owner = facts.port_owner.as_ref();
    let owner = owner.filter(|owner| !(facts.has_kilo() && **owner == PortOwner::Hidden));
    let (Agent::Absent, Some(port), Some(owner)) = (&facts.agent, port, owner) else {
        return Vec::new();
    };
    vec![finding(
        Error,
        Check::Port,
        format!("UDP port {port} is held by {owner}"),
        "the tunnel needs it: peers dial it",
        facts.where_written(
            "stop that one, or give this node's endpoint another port in the mesh file",
            "stop that one, or give this machine's agent another: --port, or the annotation kilo.squat.ai/force-endpoint",
        ),
    )]
}

fn endpoints(facts: &Facts) -> Vec<Finding> {
    let unresolved = facts.unresolved.iter().map(|(name, reason)| {
        finding(
            Warning,
            Check::Endpoints,
            format!("the endpoint's name {name} can't be resolved: {reason}"),
            "its peer can't be dialled from here",
            format!("getent ahosts {name}"),
        )
    });
    let ways = facts.endpoints.iter().filter_map(|endpoint| {
        let (peer, address) = (&endpoint.peer, endpoint.address);
        match &endpoint.way {
            None => Some(finding(
                Warning,
                Check::Endpoints,
                format!("there is no route to {address}, the endpoint of {peer}"),
                "it can't be dialled from here",
                format!("give this machine a route: ip route get {}", address.ip()),
            )),
            Some(way) if way.link.name == facts.subject.interface => Some(finding(
                Error,
                Check::Endpoints,
                format!(
                    "{address}, the endpoint of {peer}, is reached by {} itself",
                    way.link.name
                ),
                "the tunnel's own packets would go round in it and never leave",
                "give it an endpoint outside the ranges of the mesh",
            )),
            Some(_) => None,
        }
    });
    unresolved.chain(ways).collect()
}

fn mtu(facts: &Facts) -> Vec<Finding> {
    let Some(mtu) = facts.tunnel_mtu else { return Vec::new() };
    // Routes to a peer may say less than the device.
    let to = |peer: &str| match &facts.agent {
        Agent::Running(status) => {
            let report = status.peers.iter().find(|report| report.name == peer);
            report.and_then(|report| report.mtu).unwrap_or(mtu)
        }
        _ => mtu,
    };
    let narrow = facts.endpoints.iter().filter_map(|endpoint| {
        let largest = to(&endpoint.peer) + endpoint.overhead();
        let way = endpoint.way.as_ref().filter(|way| way.mtu < largest)?;
        Some((endpoint, way.mtu))
    });
    let worst =
        narrow.min_by_key(|(endpoint, path)| i64::from(*path) - i64::from(endpoint.overhead()));
    let found = worst.map(|(endpoint, path)| {
        let overhead = endpoint.overhead();
        let fits = path.saturating_sub(overhead);
        let file = format!("set `mtu = {fits}` in [mesh], or leave it out");
        let cluster = format!("say --mtu {fits} or --mtu auto, the same for all agents");
        finding(
            Warning,
            Check::Mtu,
            format!(
                "the tunnel's MTU is {mtu}, which makes packets of {} bytes, and the path to {} ({}) takes {path}",
                mtu + overhead,
                endpoint.peer,
                endpoint.address
            ),
            "packets that are too large arrive in pieces, or not at all",
            facts.where_written(&file, &cluster),
        )
    });
    found.into_iter().collect()
}

#[cfg(test)]
mod tests;
