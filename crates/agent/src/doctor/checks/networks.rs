//! Ranges that lie over each other, and the way to the registry.

use std::fmt;

use wireloom_model::Cidr;

use super::super::facts::{Facts, Network, NetworkKind};
use super::super::{Check, Finding};
use super::{Error, Warning, finding, list};

/// Ranges of the mesh and of the cluster that share addresses.
pub(super) fn overlaps(facts: &Facts) -> Vec<Finding> {
    let networks = &facts.subject.networks;
    let of = |kind| networks.iter().filter(move |network| network.kind == kind);
    let overlay = facts.subject.mesh.iter().flat_map(|mesh| mesh.mesh.overlay.ranges());
    let overlay = overlay.map(|range| (format!("the overlay's range {range}"), range, None));
    let ranges = [NetworkKind::Services, NetworkKind::Pods].into_iter().flat_map(of);
    let ranges = ranges.map(|range| (range.to_string(), range.prefix, Some(range.kind)));
    let found = overlay.chain(ranges).filter_map(|(range, prefix, kind)| {
        // Each pair once: what is in the overlay's range, then what is in that of Services, then what is in pods'.
        let later = networks.iter().filter(|network| kind.is_none_or(|kind| network.kind < kind));
        let shared = later.filter(|network| network.prefix.overlaps(&prefix));
        let news: Vec<String> = shared
            .filter(|network| !facts.is_known(network.prefix))
            .map(ToString::to_string)
            .collect();
        (!news.is_empty()).then(|| {
            finding(
                Error,
                Check::Ranges,
                format!("{range} overlaps {}", list(&news)),
                "packets to the addresses in both reach one of the two at most",
                match kind {
                    None => "give the mesh another range: --subnet, the same for all agents",
                    Some(_) => {
                        "give the cluster other ranges of pods or Services: --cluster-cidr and --service-cidr of its \
                         control plane, when it is set up"
                    }
                },
            )
        })
    });
    found.collect()
}

/// Whether the way to the registry leads through what is made of what it says.
pub(super) fn registry(facts: &Facts) -> Vec<Finding> {
    let through = facts.subject.registry.iter().filter(|address| facts.leads_to(**address));
    let through: Vec<String> = through.map(ToString::to_string).collect();
    if through.is_empty() {
        return Vec::new();
    }
    vec![finding(
        Warning,
        Check::Api,
        format!("the API server is reached through the mesh itself: {}", list(&through)),
        "a machine that starts without its last mesh, or whose peers have moved, never gets to know the next one",
        "name an address that every node reaches without the mesh: --master, or KUBERNETES_SERVICE_HOST in the pod",
    )]
}

impl Facts {
    /// Whether a problem that is told anyway names this prefix.
    fn is_known(&self, prefix: Cidr) -> bool {
        let of_plan = self.place().into_iter().flat_map(|place| &place.plan.problems);
        let of_agent = self.status().into_iter().flat_map(|status| &status.problems);
        let messages = of_plan.map(|problem| &problem.message);
        let mut messages = messages.chain(of_agent.map(|problem| &problem.message));
        messages.any(|message| message.split([' ', ',']).any(|word| names(word, prefix)))
    }
}

fn names(word: &str, prefix: Cidr) -> bool {
    let address = word.split('/').next().and_then(|text| text.parse().ok());
    word.parse() == Ok(prefix) || (prefix.is_host() && address == Some(prefix.address()))
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, whose, prefix } = self;
        match kind {
            NetworkKind::Nodes => write!(f, "{whose}'s address {}", prefix.address()),
            NetworkKind::Pods => write!(f, "{whose}'s pods {prefix}"),
            NetworkKind::Services => write!(f, "the Services {prefix}"),
        }
    }
}
