//! The annotations by which the Nodes of a Kubernetes cluster make one mesh.
//!
//! Kilo's keys are read by Kilo's rules and written in Kilo's format (Kilo's `docs/annotations.md` and
//! `pkg/k8s/backend.go`), so that its agents and ours understand each other. What those can't say stands under
//! [`OWN_PREFIX`]. What Kilo skips silently is skipped here too, and reported.

mod read;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::algorithm::Algorithm;
use crate::cidr::{Cidr, InterfaceAddress};
use crate::endpoint::Endpoint;
use crate::key::PublicKey;
use crate::name::Location;
use crate::node::Held;
use crate::snapshot::Mesh;

/// What all of Kilo's annotations begin with.
pub const KILO_PREFIX: &str = "kilo.squat.ai/";
/// What all annotations begin with that Kilo does not know.
pub const OWN_PREFIX: &str = "wireloom.dev/";

/// The whole names of annotations.
pub mod key {
    /// Where others dial the node, whatever its agent finds. `-` for one that nobody can dial, which Kilo does not know.
    pub const FORCE_ENDPOINT: &str = "kilo.squat.ai/force-endpoint";
    /// Its internal address with the prefix length of its network. Empty or `-` for none.
    pub const FORCE_INTERNAL_IP: &str = "kilo.squat.ai/force-internal-ip";
    /// Whether it is preferred as a gateway. Its being there says so, whatever its value.
    pub const LEADER: &str = "kilo.squat.ai/leader";
    /// Its location, instead of the one that its label says.
    pub const LOCATION: &str = "kilo.squat.ai/location";
    /// Seconds between the packets by which it keeps its tunnels open.
    pub const PERSISTENT_KEEPALIVE: &str = "kilo.squat.ai/persistent-keepalive";
    /// Prefixes that its location reaches through it, with commas between and no blanks.
    pub const ALLOWED_LOCATION_IPS: &str = "kilo.squat.ai/allowed-location-ips";
    /// Where its agent says it can be dialled.
    pub const ENDPOINT: &str = "kilo.squat.ai/endpoint";
    /// The internal address that its agent found.
    pub const INTERNAL_IP: &str = "kilo.squat.ai/internal-ip";
    /// Its WireGuard key.
    pub const KEY: &str = "kilo.squat.ai/key";
    /// When its agent was last there by its own clock, in Unix seconds.
    pub const LAST_SEEN: &str = "kilo.squat.ai/last-seen";
    /// The address of its tunnel device, empty where it has none.
    pub const WIREGUARD_IP: &str = "kilo.squat.ai/wireguard-ip";
    /// Where its device hears those whose endpoints move.
    pub const DISCOVERED_ENDPOINTS: &str = "kilo.squat.ai/discovered-endpoints";
    /// What makes a segment of the mesh.
    pub const GRANULARITY: &str = "kilo.squat.ai/granularity";
    /// Where another network plugin takes what is wrapped for the node.
    pub const CNI_COMPATIBILITY_IP: &str = "kilo.squat.ai/cni-compatibility-ip";

    /// Its internal addresses of both families, whatever its agent finds; `-` for none.
    pub const FORCE_INTERNAL_IPS: &str = "wireloom.dev/force-internal-ips";
    /// Its overlay addresses, instead of those that the mesh would choose.
    pub const FORCE_OVERLAY_IPS: &str = "wireloom.dev/force-overlay-ips";
    /// Its share of homes as a gateway; 0 for never.
    pub const GATEWAY_WEIGHT: &str = "wireloom.dev/gateway-weight";
    /// The newest way to plan that its agent knows.
    pub const ALGORITHM: &str = "wireloom.dev/algorithm";
    /// Everywhere that it can be dialled, the best first.
    pub const ENDPOINTS: &str = "wireloom.dev/endpoints";
    /// What it holds by the plan that it applied last, as JSON.
    pub const HELD: &str = "wireloom.dev/held";
    /// All internal addresses that its agent found.
    pub const INTERNAL_IPS: &str = "wireloom.dev/internal-ips";
    /// The settings by which its agent plans the mesh, as JSON: for those who plan it without being told.
    pub const MESH: &str = "wireloom.dev/mesh";

    /// All of them.
    pub const ALL: [&str; 22] = [
        FORCE_ENDPOINT,
        FORCE_INTERNAL_IP,
        LEADER,
        LOCATION,
        PERSISTENT_KEEPALIVE,
        ALLOWED_LOCATION_IPS,
        ENDPOINT,
        INTERNAL_IP,
        KEY,
        LAST_SEEN,
        WIREGUARD_IP,
        DISCOVERED_ENDPOINTS,
        GRANULARITY,
        CNI_COMPATIBILITY_IP,
        FORCE_INTERNAL_IPS,
        FORCE_OVERLAY_IPS,
        GATEWAY_WEIGHT,
        ALGORITHM,
        ENDPOINTS,
        HELD,
        INTERNAL_IPS,
        MESH,
    ];
}

/// Everything that a Node's annotations say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeAnnotations {
    /// What people ask.
    pub asked: Asked,
    /// What its agent tells.
    pub told: Told,
}

/// What people ask of a node. Agents read it and never write it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Where others dial it: [`key::FORCE_ENDPOINT`].
    pub endpoint: Option<Forced<Endpoint>>,
    /// Its internal addresses: [`key::FORCE_INTERNAL_IPS`], else [`key::FORCE_INTERNAL_IP`].
    pub internal_addresses: Option<Forced<ForcedAddresses>>,
    /// Whether it shall be a gateway: [`key::LEADER`].
    pub leader: bool,
    /// Its location: [`key::LOCATION`].
    pub location: Option<Location>,
    /// Seconds between keepalives: [`key::PERSISTENT_KEEPALIVE`].
    pub persistent_keepalive: Option<NonZeroU16>,
    /// Networks that its location reaches through it: [`key::ALLOWED_LOCATION_IPS`].
    pub allowed_location_ips: Vec<Cidr>,
    /// Its overlay addresses: [`key::FORCE_OVERLAY_IPS`].
    pub overlay_addresses: Vec<IpAddr>,
    /// Its share of homes: [`key::GATEWAY_WEIGHT`].
    pub gateway_weight: Option<u16>,
}

/// What somebody fixed: that there is none, or what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forced<T> {
    /// There is none.
    Nothing,
    /// It is this.
    Is(T),
}

/// Internal addresses that somebody fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForcedAddresses {
    /// These and no others.
    All(Vec<InterfaceAddress>),
    /// Of its family this one, as Kilo's annotation has room for one. Those of the other family stand.
    First(InterfaceAddress),
}

/// What an agent tells of its own node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Everywhere that it can be dialled, the best first: [`key::ENDPOINT`] is the first of [`key::ENDPOINTS`].
    pub endpoints: Vec<Endpoint>,
    /// Its addresses in its location, the one that Kilo's agents are to use first: [`key::INTERNAL_IP`] is the first of
    /// [`key::INTERNAL_IPS`].
    pub internal_addresses: Vec<InterfaceAddress>,
    /// Its WireGuard key: [`key::KEY`].
    pub key: Option<PublicKey>,
    /// When it was last there by its own clock, in Unix seconds: [`key::LAST_SEEN`]. A sign of life by its changing, never
    /// by its value.
    pub last_seen: Option<u64>,
    /// The address of its tunnel device: [`key::WIREGUARD_IP`].
    pub wireguard_ip: Option<InterfaceAddress>,
    /// Where its device hears others: [`key::DISCOVERED_ENDPOINTS`].
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// What makes a segment: [`key::GRANULARITY`].
    pub granularity: Option<Granularity>,
    /// Another network plugin's address for what is wrapped: [`key::CNI_COMPATIBILITY_IP`].
    pub cni_address: Option<InterfaceAddress>,
    /// The newest way to plan that it knows: [`key::ALGORITHM`]. Kilo's agents say nothing.
    pub algorithm: Option<Algorithm>,
    /// What it holds: [`key::HELD`].
    pub held: Option<Held>,
    /// The settings by which it plans: [`key::MESH`].
    pub mesh: Option<Mesh>,
}

/// What makes a segment of the mesh: Kilo's `--mesh-granularity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Every node.
    Full,
    /// A location.
    Location,
}

/// A text that names no [`Granularity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no granularity: write location or full")]
pub struct GranularityError {
    /// The text that was given.
    pub value: String,
}

impl NodeAnnotations {
    /// Where others dial the node. `None` if they can't.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.asked.endpoint {
            Some(Forced::Is(endpoint)) => Some(endpoint),
            Some(Forced::Nothing) => None,
            None => self.told.endpoints.first(),
        }
    }

    /// Where else it may be dialled, the best first: nowhere, if somebody fixed where.
    pub fn more_endpoints(&self) -> &[Endpoint] {
        let found = self.told.endpoints.get(1..).unwrap_or_default();
        if self.asked.endpoint.is_some() { &[] } else { found }
    }

    /// Its addresses on its location's network, the one that Kilo uses first.
    pub fn internal_addresses(&self) -> Vec<InterfaceAddress> {
        self.asked.internal_addresses(&self.told.internal_addresses)
    }

    /// The newest way to plan that the node's agent knows.
    pub fn algorithm(&self) -> Algorithm {
        self.told.algorithm.unwrap_or(Algorithm::Kilo)
    }
}

impl Asked {
    /// A node's internal addresses, if these are the ones that were found.
    pub fn internal_addresses(&self, found: &[InterfaceAddress]) -> Vec<InterfaceAddress> {
        match &self.internal_addresses {
            None => found.to_vec(),
            Some(Forced::Nothing) => Vec::new(),
            Some(Forced::Is(ForcedAddresses::All(addresses))) => addresses.clone(),
            Some(Forced::Is(ForcedAddresses::First(first))) => {
                let others = found.iter().filter(|other| other.family() != first.family());
                std::iter::once(first).chain(others).copied().collect()
            }
        }
    }
}

impl FromStr for Granularity {
    type Err = GranularityError;

    fn from_str(text: &str) -> Result<Self, GranularityError> {
        match text {
            "full" => Ok(Self::Full),
            "location" => Ok(Self::Location),
            _ => Err(GranularityError { value: text.to_owned() }),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Location => "location",
        })
    }
}

#[cfg(test)]
mod tests;
