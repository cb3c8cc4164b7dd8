//! Whether the DaemonSet that an agent belongs to will start another one on its node.
//!
//! One that was never there is a mistake in a name, and no reason to go.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use kube::{Api, Client, Error};

use crate::node::NodeObject;
use crate::watch::Change;

/// The finalizer of what is deleted and leaves behind what it owns: `kubectl delete --cascade=orphan`.
const ORPHANS: &str = "orphan";

/// How long the API may take to say so.
const REQUEST: Duration = Duration::from_secs(3);

/// The name of a DaemonSet. Text: `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSetName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in that.
    pub name: String,
}

/// A text that names no DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} names no DaemonSet: write its namespace and its name, such as kube-system/wireloom"
)]
pub struct DaemonSetNameError {
    /// The text that was given.
    pub value: String,
}

impl FromStr for DaemonSetName {
    type Err = DaemonSetNameError;

    fn from_str(text: &str) -> Result<Self, DaemonSetNameError> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(DaemonSetNameError { value: text.to_owned() }),
        }
    }
}

impl fmt::Display for DaemonSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How an agent stands with its DaemonSet, by what it has heard of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has a place for this node.
    Employed,
    /// It has none, and what the node says of itself is not all taken back yet.
    Dismissed,
    /// It was never seen, or it went and left its pods behind.
    #[default]
    Unknown,
    /// It has none, and all is done that follows from it.
    Withdrawn,
}

impl Standing {
    /// Whether nothing is to be said of this node.
    pub(crate) const fn is_dismissed(self) -> bool {
        matches!(self, Self::Dismissed | Self::Withdrawn)
    }
}

/// What is known of an agent's DaemonSet.
#[derive(Debug, Default)]
pub(crate) enum Employer {
    Gone,
    Is(Box<DaemonSet>),
    /// The one of this identifier is going, or is gone, and its pods stay.
    LeftPods(Option<String>),
    #[default]
    Unknown,
}

impl Employer {
    pub(crate) fn hear(&mut self, change: Change<DaemonSet>) {
        match change {
            Change::All(mut all) => match (all.pop(), &self) {
                (None, Self::Unknown | Self::LeftPods(_)) => {}
                (None, _) => *self = Self::Gone,
                (Some(found), _) => self.see(found),
            },
            Change::Put(found) => self.see(found),
            Change::Gone(last) => {
                self.see(last);
                if !matches!(self, Self::LeftPods(_)) {
                    *self = Self::Gone;
                }
            }
            Change::Failed(error) => {
                tracing::debug!(%error, "the agent's DaemonSet is not watched");
            }
        }
    }

    fn see(&mut self, found: DaemonSet) {
        let uid = found.metadata.uid.clone();
        // Its finalizer goes a moment before it does.
        let is_left = matches!(&*self, Self::LeftPods(left) if *left == uid);
        *self = if is_left || leaves_pods(&found) {
            Self::LeftPods(uid)
        } else {
            Self::Is(Box::new(found))
        };
    }

    /// How this node stands with it, if it `was` so before.
    pub(crate) fn standing(&self, node: Option<&NodeObject>, was: Standing) -> Standing {
        match self {
            // A pod that was to go anyhow goes on to.
            Self::LeftPods(_) if was.is_dismissed() => was,
            Self::LeftPods(_) | Self::Unknown => Standing::Unknown,
            Self::Is(found) if has_pod_on(found, node) => Standing::Employed,
            Self::Is(_) | Self::Gone if was == Standing::Withdrawn => Standing::Withdrawn,
            Self::Is(_) | Self::Gone => Standing::Dismissed,
        }
    }
}

impl DaemonSetName {
    /// Whether it still has a pod on this Node. If the API does not say, it does: an outage removes nothing. If it was
    /// `seen` and the API does not let us ask any more, our rights went with it.
    pub(crate) async fn is_for(
        &self,
        client: &Client,
        node: Option<&NodeObject>,
        seen: bool,
    ) -> bool {
        let api: Api<DaemonSet> = Api::namespaced(client.clone(), &self.namespace);
        match tokio::time::timeout(REQUEST, api.get(&self.name)).await {
            Ok(Ok(found)) => has_pod_on(&found, node),
            // A token that is not taken is renewed, and says nothing of the DaemonSet.
            Ok(Err(Error::Api(status))) => !(seen && matches!(status.code, 403 | 404)),
            Ok(Err(_)) | Err(_) => true,
        }
    }
}

/// Whether a DaemonSet stays and has its pods run on a Node with these labels (Kubernetes documentation, "Assigning Pods to
/// Nodes").
fn has_pod_on(daemon_set: &DaemonSet, node: Option<&NodeObject>) -> bool {
    if daemon_set.metadata.deletion_timestamp.is_some() {
        return leaves_pods(daemon_set);
    }
    let pod = daemon_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let Some((pod, node)) = pod.zip(node) else { return true };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    allows(pod, name, &labels)
}

/// Whether a DaemonSet is being deleted, and its pods are not.
fn leaves_pods(daemon_set: &DaemonSet) -> bool {
    let mut finalizers = daemon_set.metadata.finalizers.iter().flatten();
    daemon_set.metadata.deletion_timestamp.is_some() && finalizers.any(|one| one == ORPHANS)
}

fn allows(pod: &PodSpec, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let mut wanted = pod.node_selector.iter().flatten();
    let terms = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && terms.is_none_or(|any| {
            any.node_selector_terms.iter().any(|term| term_allows(term, name, labels))
        })
}

fn term_allows(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let by_labels = term.match_expressions.iter().flatten();
    let by_fields = term.match_fields.iter().flatten();
    // One without conditions selects nothing.
    let says_something = by_labels.clone().next().is_some() || by_fields.clone().next().is_some();
    says_something
        && by_labels.clone().all(|wanted| meets(wanted, labels.get(&wanted.key).map(String::as_str)))
        // There is one field.
        && by_fields.clone().all(|wanted| meets(wanted, Some(name)))
}

fn meets(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_among = value.is_some_and(|value| values.iter().any(|one| one == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let numbers = number(value).zip(number(values.first().map(String::as_str)));
    match wanted.operator.as_str() {
        "In" => is_among,
        "NotIn" => !is_among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers.is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers.is_some_and(|(value, bound)| value < bound),
        // What we do not know is no reason to go.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let name = "kube-system/wireloom";
        assert_eq!(name.parse::<DaemonSetName>().unwrap().to_string(), name);
        for bad in ["", "wireloom", "/wireloom", "kube-system/", "a/b/c"] {
            assert!(bad.parse::<DaemonSetName>().is_err(), "{bad}");
        }
    }

    /// The DaemonSet of this identifier, which is being deleted if it has finalizers.
    fn daemon_set(uid: &str, finalizers: &[&str]) -> DaemonSet {
        let mut metadata = json!({ "name": "wireloom", "uid": uid, "finalizers": finalizers });
        if !finalizers.is_empty() {
            metadata["deletionTimestamp"] = json!("2026-11-30T12:00:00Z");
        }
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn a_daemon_set_that_leaves_its_pods_behind_dismisses_nobody() {
        let standing = |employer: &Employer, was| employer.standing(None, was);
        let orphans = || daemon_set("1", &["orphan"]);
        assert!(has_pod_on(&orphans(), None));
        let mut employer = Employer::default();
        employer.hear(Change::All(vec![daemon_set("1", &[])]));
        assert_eq!(standing(&employer, Standing::Unknown), Standing::Employed);
        for change in [
            Change::Put(orphans()),
            Change::Put(daemon_set("1", &["example.com/other"])),
            Change::Gone(daemon_set("1", &[])),
            Change::All(Vec::new()),
        ] {
            employer.hear(change);
            assert_eq!(standing(&employer, Standing::Employed), Standing::Unknown);
            assert_eq!(standing(&employer, Standing::Withdrawn), Standing::Withdrawn);
        }
        // The next one of that name takes them over, and may go like any other.
        employer.hear(Change::Put(daemon_set("2", &[])));
        assert_eq!(standing(&employer, Standing::Unknown), Standing::Employed);
        employer.hear(Change::Gone(daemon_set("2", &[])));
        assert_eq!(standing(&employer, Standing::Employed), Standing::Dismissed);

        // All that was seen of it may be its end.
        let mut employer = Employer::default();
        employer.hear(Change::All(vec![daemon_set("1", &[])]));
        employer.hear(Change::Gone(orphans()));
        assert_eq!(standing(&employer, Standing::Employed), Standing::Unknown);
    }

    #[test]
    fn a_daemon_set_that_takes_its_pods_along_dismisses_all() {
        for change in [
            Change::Put(daemon_set("1", &["foregroundDeletion"])),
            Change::Put(daemon_set("1", &["example.com/other"])),
            Change::Gone(daemon_set("1", &[])),
            Change::Gone(daemon_set("1", &["foregroundDeletion"])),
            Change::All(Vec::new()),
        ] {
            let mut employer = Employer::default();
            employer.hear(Change::All(vec![daemon_set("1", &[])]));
            employer.hear(change);
            assert_eq!(employer.standing(None, Standing::Employed), Standing::Dismissed);
        }
        assert!(!has_pod_on(&daemon_set("1", &["foregroundDeletion"]), None));
    }

    #[test]
    fn a_node_is_chosen_by_its_labels_as_the_controller_chooses() {
        let labels = [("os", "linux"), ("cores", "4")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let pod = |spec: Value| -> PodSpec {
            let mut spec = spec;
            spec["containers"] = json!([]);
            serde_json::from_value(spec).unwrap()
        };
        let is_chosen = |spec: Value| allows(&pod(spec), "n1", &labels);
        assert!(is_chosen(json!({})));
        assert!(is_chosen(json!({ "nodeSelector": { "os": "linux" } })));
        assert!(!is_chosen(json!({ "nodeSelector": { "os": "linux", "mesh": "yes" } })));
        let required = |terms: Value| {
            is_chosen(json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms },
            }}}))
        };
        let expression = |key: &str, operator: &str, values: &[&str]| {
            required(
                json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]),
            )
        };
        for (key, operator, values, is_met) in [
            ("os", "In", &["linux", "windows"][..], true),
            ("os", "In", &["windows"], false),
            ("os", "NotIn", &["windows"], true),
            ("none", "NotIn", &["windows"], true),
            ("os", "NotIn", &["linux"], false),
            ("os", "Exists", &[], true),
            ("none", "Exists", &[], false),
            ("os", "DoesNotExist", &[], false),
            ("none", "DoesNotExist", &[], true),
            ("cores", "Gt", &["3"], true),
            ("cores", "Lt", &["3"], false),
            ("os", "Gt", &["3"], false),
        ] {
            assert_eq!(expression(key, operator, values), is_met, "{key} {operator} {values:?}");
        }
        let by_name = |name: &str| json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] });
        assert!(required(json!([by_name("n1")])));
        assert!(!required(json!([by_name("n2")])));
        assert!(required(json!([by_name("n2"), by_name("n1")])));
        assert!(!required(json!([{}])));
    }
}
