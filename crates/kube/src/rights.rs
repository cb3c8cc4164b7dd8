//! What an agent may have to do at the API, and what of that it may not.

use std::fmt;

use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::registry::KubeConfig;
use crate::write::{self, WriteError};

/// Some verbs on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The resource's group. Empty for the core's.
    pub group: &'static str,
    /// The resource's plural.
    pub resource: &'static str,
    /// The verbs.
    pub verbs: Vec<&'static str>,
    /// The namespace. `None` for what is of the whole cluster.
    pub namespace: Option<String>,
    /// The one object that it is about, if it is about one.
    pub name: Option<String>,
}

impl Right {
    /// The rule of a Role or ClusterRole that grants it, in YAML on one line.
    pub fn rule(&self) -> String {
        let Self { group, resource, verbs, name, .. } = self;
        let name =
            name.as_ref().map(|name| format!("resourceNames: [{name}], ")).unwrap_or_default();
        let group = if group.is_empty() { "\"\"" } else { group };
        let verbs = verbs.join(", ");
        format!("{{apiGroups: [{group}], resources: [{resource}], {name}verbs: [{verbs}]}}")
    }

    /// The kind of object that has the rule, and where.
    pub fn role(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("Role in the namespace {namespace}"),
            None => "ClusterRole".to_owned(),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verbs.join(", "), self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in the namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// Everything that an agent with these settings does: what `deploy/base/access.yaml` grants.
pub fn needed(config: &KubeConfig) -> Vec<Right> {
    let right = |group, resource, verbs: &[&'static str]| Right {
        group,
        resource,
        verbs: verbs.to_vec(),
        namespace: None,
        name: None,
    };
    let heartbeats =
        right("coordination.k8s.io", "leases", &["list", "watch", "create", "patch", "delete"]);
    let mut needed = vec![
        right("", "nodes", &["get", "list", "watch", "patch"]),
        right("kilo.squat.ai", "peers", &["list", "watch"]),
        // Those on what is in no namespace.
        Right {
            namespace: Some("default".to_owned()),
            ..right("events.k8s.io", "events", &["create", "patch"])
        },
        Right { namespace: Some(config.namespace.clone()), ..heartbeats },
    ];
    needed.extend(config.daemon_set.as_ref().map(|of| Right {
        namespace: Some(of.namespace.clone()),
        name: Some(of.name.clone()),
        ..right("apps", "daemonsets", &["get", "list", "watch"])
    }));
    needed
}

/// What of these the client may not do: each with the verbs that it lacks. Errors with what the API said, or that it said
/// nothing.
pub(crate) async fn lacking(client: &Client, rights: Vec<Right>) -> Result<Vec<Right>, String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut lacking = Vec::new();
    for right in rights {
        let answers = join_all(right.verbs.iter().map(|verb| may(&api, &right, verb))).await;
        let mut missing = Vec::new();
        for (verb, answer) in right.verbs.iter().zip(answers) {
            if !answer? {
                missing.push(*verb);
            }
        }
        if !missing.is_empty() {
            lacking.push(Right { verbs: missing, ..right });
        }
    }
    Ok(lacking)
}

async fn may(
    api: &Api<SelfSubjectAccessReview>,
    right: &Right,
    verb: &str,
) -> Result<bool, String> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(right.group.to_owned()),
                resource: Some(right.resource.to_owned()),
                verb: Some(verb.to_owned()),
                namespace: right.namespace.clone(),
                name: right.name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    match write::bounded(api.create(&PostParams::default(), &review)).await {
        Ok(answer) => Ok(answer.status.is_some_and(|status| status.allowed)),
        Err(WriteError::Refused(reason) | WriteError::Unreachable(reason)) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use serde_json::Value;
    use wireloom_model::annotations::Granularity;

    use super::*;
    use crate::addresses::AddressRules;

    fn config() -> KubeConfig {
        let mesh = crate::cluster::tests::mesh();
        KubeConfig {
            node: "n1".parse().unwrap(),
            topology_label: String::new(),
            granularity: Granularity::Location,
            addresses: AddressRules {
                internal: Vec::new(),
                prefer_internal: false,
                port: mesh.port,
                overlay: mesh.overlay,
            },
            mesh,
            namespace: "wireloom".to_owned(),
            heartbeat: Duration::from_secs(20),
            daemon_set: Some("kube-system/wireloom".parse().unwrap()),
        }
    }

    /// What the manifests grant, a line for each verb.
    fn granted() -> BTreeSet<String> {
        let text = include_str!("../../../deploy/base/access.yaml");
        let mut granted = BTreeSet::new();
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            for rule in object["rules"].as_array().into_iter().flatten() {
                let (group, resource) = (&rule["apiGroups"][0], &rule["resources"][0]);
                let name = &rule["resourceNames"][0];
                for verb in rule["verbs"].as_array().unwrap() {
                    granted.insert(format!("{verb} {group} {resource} {namespace} {name}"));
                }
            }
        }
        granted
    }

    #[test]
    fn what_is_needed_is_what_the_manifests_grant() {
        let mut needed_lines = BTreeSet::new();
        for right in needed(&config()) {
            let (group, resource) = (right.group, right.resource);
            let namespace = right.namespace.unwrap_or_default();
            let name = right.name.map_or(Value::Null, Value::from);
            for verb in right.verbs {
                needed_lines.insert(format!("{verb:?} {group:?} {resource:?} {namespace} {name}"));
            }
        }
        assert_eq!(needed_lines, granted());
    }

    #[test]
    fn a_right_is_told_with_the_rule_that_grants_it() {
        let needed = needed(&config());
        assert_eq!(needed[0].to_string(), "get, list, watch, patch nodes");
        assert_eq!(
            needed[0].rule(),
            "{apiGroups: [\"\"], resources: [nodes], verbs: [get, list, watch, patch]}"
        );
        let daemon_set = &needed[4];
        assert_eq!(daemon_set.role(), "Role in the namespace kube-system");
        assert!(daemon_set.rule().contains("resourceNames: [wireloom]"), "{}", daemon_set.rule());
        assert!(daemon_set.to_string().ends_with("daemonsets.apps in the namespace kube-system"));
    }
}
