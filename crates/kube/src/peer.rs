//! Kilo's `Peer` resource, `peers.kilo.squat.ai/v1alpha1`, and what it says.
//!
//! The types and what they require are Kilo's (`pkg/k8s/apis/kilo/v1alpha1/types.go`), so that its objects, its agents and
//! its tools go on working. The columns and the rules against mistakes are ours; whatever Kilo's agents make use of,
//! the rules let pass.

#![expect(unreachable_pub, reason = "what KubeSchema makes beside each type")]
#![expect(clippy::duplicated_attributes, reason = "several columns are of one type")]

mod guest;
mod review;
mod translate;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::ApiResource;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use guest::{Guest, GuestError};
pub use review::{Review, ReviewError, review};
pub use translate::translate;

/// How the API names the resource.
pub fn resource() -> ApiResource {
    ApiResource::erase::<Peer>(&())
}

/// What is wanted of a WireGuard peer that is no node of the cluster.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema,
)]
#[kube(
    group = "kilo.squat.ai",
    version = "v1alpha1",
    kind = "Peer",
    plural = "peers",
    singular = "peer",
    derive = "PartialEq",
    doc = "Something outside the cluster that joins its mesh by WireGuard: a laptop, a server, another cluster.",
    printcolumn(json_path = ".spec.allowedIPs", name = "Allowed IPs", type_ = "string"),
    printcolumn(json_path = ".spec.endpoint.dnsOrIP.ip", name = "Address", type_ = "string"),
    printcolumn(json_path = ".spec.endpoint.dnsOrIP.dns", name = "Name", type_ = "string"),
    printcolumn(json_path = ".spec.endpoint.port", name = "Port", type_ = "integer"),
    printcolumn(
        json_path = ".spec.publicKey",
        name = "Public key",
        type_ = "string",
        priority = 1
    ),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date")
)]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// The prefixes that are reached through the peer, such as 10.5.0.1/32.
    #[serde(rename = "allowedIPs")]
    #[schemars(inner(regex(pattern = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$")))]
    pub allowed_ips: Vec<String>,
    /// The peer's WireGuard key: base64 of 32 bytes, as wg pubkey prints it.
    #[schemars(regex(pattern = r"^[\r\n]*([A-Za-z0-9+/][\r\n]*){43}=[\r\n]*$"))]
    pub public_key: String,
    /// Where the peer is dialled. Leave it out for one that dials in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<PeerEndpoint>,
    /// Seconds between the packets that keep the tunnel to the peer open; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub persistent_keepalive: Option<i64>,
    /// A secret that both ends mix into their handshakes: base64 of 32 bytes, as wg genpsk prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<String>,
}

/// Where a peer is dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerEndpoint {
    /// A host, by name or by address.
    #[serde(rename = "dnsOrIP")]
    pub dns_or_ip: DnsOrIp,
    /// Its UDP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A host by name or by address. The name counts where both stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.dns) && self.dns != '') || (has(self.ip) && self.ip != '')").message("an endpoint needs dns or ip"))]
pub struct DnsOrIp {
    /// A lower-case DNS name, resolved again when its addresses change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    ))]
    pub dns: Option<String>,
    /// An IPv4 or IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^$|^[0-9A-Fa-f:.]+$"))]
    pub ip: Option<String>,
}

/// The definition of the resource: Kilo's, with columns and rules.
#[expect(
    clippy::expect_used,
    reason = "a definition stays one without words that its type leaves out"
)]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = serde_json::to_value(Peer::crd()).expect("a definition is JSON");
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema.as_object_mut().map(|schema| schema.remove("title"));
    as_kilo(schema);
    serde_json::from_value(definition).expect("a definition")
}

/// Takes out of a schema what Rust's types say and Kilo's does not.
fn as_kilo(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            if map.get("format").is_some_and(|format| format == "int64") {
                map.remove("format");
            }
            map.values_mut().for_each(as_kilo);
        }
        Value::Array(items) => items.iter_mut().for_each(as_kilo),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
