//! What was seen of a cluster, put into words. Pure.

use std::path::{Path, PathBuf};

use wireloom_agent::doctor::{Check, Finding, Severity, finding};
use wireloom_agent::status::Status;
use wireloom_kube::clock;
use wireloom_kube::node::NodeObject;
use wireloom_kube::rights::Right;
use wireloom_kube::survey::Survey;

use super::{Server, Unseen};

use Severity::{Error, Note, Warning};

/// The label by which Services tell endpoints that are near.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The annotation that says a node's location.
const LOCATION: &str = "kilo.squat.ai/location";

/// What there was to see.
pub(super) struct Seen<'a> {
    pub(super) survey: &'a Result<Survey, Unseen>,
    /// What the running agent says.
    pub(super) status: Option<&'a Status>,
    pub(super) server: &'a Server,
    pub(super) topology_label: &'a str,
    /// Where the agent tells the container runtime of pods' network.
    pub(super) lists: Option<&'a Path>,
    /// The file with the container runtime's settings, and where it looks.
    pub(super) runtime: Option<(PathBuf, PathBuf)>,
}

pub(super) fn findings(seen: &Seen<'_>) -> Vec<Finding> {
    let mut found = cni(seen);
    match seen.survey {
        Err(unseen) => found.push(unreached(unseen, seen)),
        Ok(survey) => {
            found.extend(survey.lacking.iter().map(lacking));
            found.extend(refused(survey));
            found.extend(clocks(survey, seen.status));
            found.extend(labels(survey, seen.topology_label));
            found.extend(service(seen.server));
        }
    }
    found
}

fn unreached(unseen: &Unseen, seen: &Seen<'_>) -> Finding {
    match unseen {
        Unseen::NoWay(error) => finding(
            // A running agent knows the way, and says when it does not lead there.
            if seen.status.is_some() { Note } else { Error },
            Check::Api,
            format!("the API server is not looked at: {error}"),
            "rights, clocks and the cluster's ranges are seen from there",
            "say --kubeconfig FILE, or run this where the agent runs: kubectl -n kube-system exec POD -- wireloom doctor",
        ),
        Unseen::NoAnswer(error) => finding(
            Error,
            Check::Api,
            format!("the API server {} does not answer as it should: {error}", seen.server.url),
            "it tells who is in the mesh",
            "see that this machine reaches it without the mesh (curl -k URL/readyz), or name another address: --master",
        ),
    }
}

fn lacking(right: &Right) -> Finding {
    let (severity, why) = match right.resource {
        "nodes" => (Error, "Nodes say who is in the mesh, and this machine's what it is"),
        "peers" => (Error, "Peers from outside are left out of the mesh"),
        "leases" => (Error, "by their heartbeats nodes know of each other's life"),
        "daemonsets" => {
            (Warning, "the agent can't tell whether another one comes after it when it ends")
        }
        _ => (Warning, "what is wrong with an object is not shown by `kubectl describe`"),
    };
    finding(
        severity,
        Check::Rights,
        format!("the agent may not {right}"),
        why,
        format!("add to its {}: {}; deploy/base/access.yaml has all", right.role(), right.rule()),
    )
}

fn refused(survey: &Survey) -> impl Iterator<Item = Finding> {
    survey.refused.iter().map(|(what, reason)| {
        finding(
            Error,
            Check::Rights,
            format!("{what} would not be taken: {reason}"),
            "others know a node by what it says of itself",
            "as said; deploy/base/ has the namespace of heartbeats and the policies for what agents write",
        )
    })
}

fn clocks(survey: &Survey, status: Option<&Status>) -> Vec<Finding> {
    let why = "certificates and tokens are judged by the time, and so are handshakes after a clock was set back";
    let set = "set the clock and keep it right: timedatectl set-ntp true";
    let own = survey.clock_ahead.and_then(clock::apart);
    let problems = || status.into_iter().flat_map(|status| &status.problems);
    let own = own.filter(|apart| !problems().any(|problem| problem.message.contains(apart)));
    let own = own.map(|apart| format!("this machine's clock is {apart} the API server's"));
    let others = survey.clocks.iter().map(|(node, apart)| {
        format!("the clock of node {node} was {apart} the API server's at its last sign of life")
    });
    own.into_iter()
        .chain(others)
        .map(|what| finding(Warning, Check::Clock, what, why, set))
        .collect()
}

fn labels(survey: &Survey, topology_label: &str) -> Vec<Finding> {
    let has = |node: &NodeObject, label: &str| {
        node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
    };
    let without = |label: &str, or: &str| -> Vec<String> {
        let nodes = survey.nodes.iter();
        let nodes = nodes.filter(|node| !has(node, label) && !node.annotations().contains_key(or));
        nodes.filter_map(|node| node.metadata.name.clone()).collect()
    };
    let said = [
        (
            topology_label,
            LOCATION,
            "nodes that say no location share one, as if they had a network in common",
        ),
        (
            ZONE,
            "",
            "a Service with `trafficDistribution: PreferClose` can't prefer what is near, and takes any cloud's pods",
        ),
    ];
    let found = said.into_iter().filter_map(|(label, or, why)| {
        let without = without(label, or);
        let (first, more) = (without.first()?, without.len() - 1);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let what = format!("no label {label} on node {first}{more}");
        let remedy = format!("kubectl label node {first} {label}=...");
        Some(finding(Note, Check::Zones, what, why, remedy))
    });
    found.collect()
}

/// A Service's address leads to whichever server, by a way that can't be seen from here.
fn service(server: &Server) -> Option<Finding> {
    let is_dark = server.is_service && server.reached.is_empty();
    is_dark.then(|| {
        finding(
            Note,
            Check::Api,
            format!("the API server is asked at the address of a Service, {}", server.url),
            "whether the way from there leads through the mesh can't be told from here",
            "kubectl get endpointslices -n default: its addresses must be reached without the mesh; else --master, or \
             KUBERNETES_SERVICE_HOST in the pod",
        )
    })
}

fn cni(seen: &Seen<'_>) -> Vec<Finding> {
    let Some((ours, (file, theirs))) = seen.lists.zip(seen.runtime.as_ref()) else {
        return Vec::new();
    };
    if same(ours, theirs) {
        return Vec::new();
    }
    vec![finding(
        Error,
        Check::Cni,
        format!(
            "the container runtime looks for pods' network in {} ({}), and the agent writes to {}",
            theirs.display(),
            file.display(),
            ours.display()
        ),
        "pods get no network, or another one's",
        format!(
            "mount the node's {} at {} in the agent's pod, or say --cni-path",
            theirs.display(),
            ours.display()
        ),
    )]
}

/// Whether two paths name one directory, by whatever links.
fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

#[cfg(test)]
mod tests;
