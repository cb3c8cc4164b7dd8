//! A Node of the cluster, as far as the mesh looks at it, and what it says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use wireloom_model::annotations::{KILO_PREFIX, NodeAnnotations, OWN_PREFIX};
use wireloom_model::{
    Cidr, CidrError, GatewayPreference, Node, NodeName, Problem, ProblemKind, Subject,
};

use crate::since;

/// A Node object without all that the mesh has no use for, images above all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeObject {
    /// Its name, labels and annotations.
    pub metadata: ObjectMeta,
    /// What the cluster asks of it.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What its kubelet tells.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What the cluster asks of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Its one pod prefix, in clusters that know no more.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// Its pod prefixes, one of each family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// Whether it is cordoned: it takes no new pods, and is about to be drained.
    pub unschedulable: bool,
}

/// What a Node's kubelet tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
}

/// An address that a Node's kubelet or cloud says it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, or what else Kubernetes knows.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address, or a name.
    pub address: String,
}

impl NodeObject {
    /// The object without what changes all the time and means nothing to the mesh, so that two that are equal say the
    /// same.
    pub fn slim(mut self) -> Self {
        let ours = |key: &String| key.starts_with(KILO_PREFIX) || key.starts_with(OWN_PREFIX);
        let metadata = self.metadata;
        self.metadata = ObjectMeta {
            name: metadata.name,
            uid: metadata.uid,
            creation_timestamp: metadata.creation_timestamp,
            labels: metadata.labels,
            annotations: metadata
                .annotations
                .map(|all| all.into_iter().filter(|(key, _)| ours(key)).collect()),
            ..ObjectMeta::default()
        };
        self
    }

    /// Its annotations.
    pub fn annotations(&self) -> Cow<'_, BTreeMap<String, String>> {
        match &self.metadata.annotations {
            Some(annotations) => Cow::Borrowed(annotations),
            None => Cow::Owned(BTreeMap::new()),
        }
    }

    /// The addresses of this kind that its kubelet or cloud says it has, such as `ExternalIP`.
    pub fn addresses(&self, kind: &str) -> impl Iterator<Item = IpAddr> {
        let of_kind = self.status.addresses.iter().filter(move |address| address.kind == kind);
        of_kind.filter_map(|address| address.address.parse().ok())
    }
}

impl Resource for NodeObject {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KubeNode::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        KubeNode::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        KubeNode::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        KubeNode::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What a Node says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadNode {
    /// The node of the mesh. `None` for one that has no key, and so no agent.
    pub node: Option<Node>,
    /// All that its annotations say.
    pub annotations: NodeAnnotations,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Reads a Node. `topology_label` is the label that says its location. Whether it is alive is not its own to say: here
/// it is.
pub fn read(object: &NodeObject, topology_label: &str) -> ReadNode {
    let text = object.metadata.name.clone().unwrap_or_default();
    let name: NodeName = match text.parse() {
        Ok(name) => name,
        Err(error) => {
            let entry = Subject::Entry(format!("Node {text:?}"));
            let problem = Problem::error(entry, ProblemKind::Invalid, format!("{error}"));
            return ReadNode { problems: vec![problem], ..ReadNode::default() };
        }
    };
    let (annotations, mut problems) = NodeAnnotations::read(&name, &object.annotations());
    let mut error = |message: String| {
        problems.push(Problem::error(Subject::Node(name.clone()), ProblemKind::Invalid, message));
    };
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(topology_label));
    let of_label = label.and_then(|label| {
        let location = label.parse();
        location.map_err(|reason| error(format!("label {topology_label}: {reason}"))).ok()
    });
    let pod_prefixes = pod_prefixes(&object.spec, &mut error);
    let asked = &annotations.asked;
    let usual = GatewayPreference::default().weight;
    let location = asked.location.clone().or(of_label);
    // Kilo's location of those that have none has an empty name, which is a name.
    let location = location.or_else(|| "".parse().ok());
    let node = annotations.told.key.zip(location).map(|(key, location)| Node {
        internal_addresses: annotations.internal_addresses(),
        endpoint: annotations.endpoint().cloned(),
        more_endpoints: annotations.more_endpoints().to_vec(),
        pod_prefixes,
        extra_prefixes: asked.allowed_location_ips.clone(),
        overlay_addresses: asked.overlay_addresses.clone(),
        gateway: GatewayPreference {
            declared: asked.leader,
            // What is about to go hands over first.
            weight: object
                .spec
                .unschedulable
                .then_some(0)
                .or(asked.gateway_weight)
                .unwrap_or(usual),
        },
        persistent_keepalive: asked.persistent_keepalive,
        held: annotations.told.held.clone().unwrap_or_default(),
        algorithm: annotations.algorithm(),
        discovered_endpoints: annotations.told.discovered_endpoints.clone(),
        cni_address: annotations.told.cni_address.map(|address| address.address()),
        since: since(&object.metadata),
        ..Node::new(name.clone(), key, location)
    });
    ReadNode { node, annotations, problems }
}

fn pod_prefixes(spec: &NodeSpec, error: &mut impl FnMut(String)) -> Vec<Cidr> {
    let several = (!spec.pod_cidrs.is_empty()).then_some(spec.pod_cidrs.as_slice());
    let texts = several.unwrap_or(spec.pod_cidr.as_slice());
    let mut prefixes = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(prefix) | Err(CidrError::HostBits { network: prefix, .. }) => prefixes.push(prefix),
            Err(reason) => error(format!("spec.podCIDRs: {reason}")),
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const LABEL: &str = "topology.kubernetes.io/region";

    fn read_json(object: Value) -> ReadNode {
        read(&serde_json::from_value(object).unwrap(), LABEL)
    }

    #[test]
    fn a_node_of_both_families() {
        let read = read_json(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": "n1",
                "creationTimestamp": "2026-11-25T09:00:00Z",
                "labels": { LABEL: "nl-ams" },
                "annotations": {
                    "kilo.squat.ai/key": KEY,
                    "kilo.squat.ai/endpoint": "[2001:db8::1]:51820",
                    "kilo.squat.ai/internal-ip": "10.0.0.1/24",
                    "wireloom.dev/internal-ips": "10.0.0.1/24,fd00::1/64",
                    "kilo.squat.ai/leader": "",
                    "kilo.squat.ai/allowed-location-ips": "192.168.1.50/32",
                },
            },
            "spec": { "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42::/64"], "taints": [] },
            "status": { "addresses": [{ "type": "Hostname", "address": "n1" }], "images": [] },
        }));
        assert_eq!(read.problems, []);
        let node = read.node.unwrap();
        assert_eq!(node.location.as_str(), "nl-ams");
        assert_eq!(node.pod_prefixes.len(), 2);
        assert_eq!(node.internal_addresses.len(), 2);
        assert_eq!(node.endpoint.unwrap().to_string(), "[2001:db8::1]:51820");
        assert!(node.gateway.declared && node.healthy);
        assert_eq!(node.since, 1_795_597_200);
    }

    #[test]
    fn the_annotation_beats_the_label_and_neither_is_the_empty_location() {
        let node = |metadata: Value| {
            let mut metadata = metadata;
            metadata["name"] = json!("n1");
            metadata["annotations"]["kilo.squat.ai/key"] = json!(KEY);
            read_json(json!({ "metadata": metadata, "spec": {} })).node.unwrap()
        };
        let location = |metadata: Value| node(metadata).location.to_string();
        let labels = json!({ LABEL: "a" });
        assert_eq!(location(json!({ "labels": labels })), "a");
        assert_eq!(
            location(json!({ "labels": labels, "annotations": { "kilo.squat.ai/location": "b" } })),
            "b"
        );
        assert_eq!(
            location(json!({ "labels": labels, "annotations": { "kilo.squat.ai/location": "" } })),
            ""
        );
        assert_eq!(location(json!({})), "");
    }

    #[test]
    fn a_cordoned_node_is_no_gateway_whatever_its_annotation_says() {
        let weight = |is_cordoned: bool| {
            let annotations =
                json!({ "kilo.squat.ai/key": KEY, "wireloom.dev/gateway-weight": "7" });
            let metadata = json!({ "name": "n1", "annotations": annotations });
            let spec = json!({ "unschedulable": is_cordoned });
            let read = read_json(json!({ "metadata": metadata, "spec": spec }));
            read.node.unwrap().gateway.weight
        };
        assert_eq!((weight(false), weight(true)), (7, 0));
    }

    #[test]
    fn a_node_without_a_key_has_no_agent() {
        let read = read_json(json!({ "metadata": { "name": "n1" }, "spec": {}, "status": {} }));
        assert_eq!(read, ReadNode::default());
    }

    #[test]
    fn what_is_wrong_leaves_the_rest() {
        let read = read_json(json!({
            "metadata": {
                "name": "n1",
                "labels": { LABEL: "a" },
                "annotations": {
                    "kilo.squat.ai/key": KEY,
                    "kilo.squat.ai/persistent-keepalive": "25s",
                },
            },
            "spec": { "podCIDR": "10.42.0.0", "podCIDRs": [] },
        }));
        let node = read.node.unwrap();
        assert_eq!(node.pod_prefixes, []);
        let said: Vec<_> = read.problems.iter().map(ToString::to_string).collect();
        assert!(
            said[0].contains("persistent-keepalive") && said[1].contains("podCIDRs"),
            "{said:?}"
        );
    }

    #[test]
    fn a_slim_node_is_the_same_after_a_heartbeat_of_its_kubelet() {
        let object = |version: &str, time: &str| {
            let object: NodeObject = serde_json::from_value(json!({
                "metadata": {
                    "name": "n1",
                    "resourceVersion": version,
                    "annotations": { "kilo.squat.ai/key": KEY, "volumes.kubernetes.io/x": time },
                },
                "status": { "conditions": [{ "lastHeartbeatTime": time }] },
            }))
            .unwrap();
            object.slim()
        };
        assert_eq!(object("1", "a"), object("2", "b"));
        assert_eq!(object("1", "a").annotations().len(), 1);
    }
}
