//! Nodes, which are machines in the mesh, and peers, which join it from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::algorithm::Algorithm;
use crate::cidr::{Cidr, InterfaceAddress};
use crate::endpoint::Endpoint;
use crate::key::{PresharedKey, PublicKey};
use crate::name::{Location, NodeName, PeerName};

/// A machine in the mesh, as it is known to every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Its name, unique in the mesh.
    pub name: NodeName,
    /// Its WireGuard key.
    pub key: PublicKey,
    /// The place whose nodes reach each other directly by their internal addresses.
    pub location: Location,
    /// Its addresses on the location's private network, with that network's prefix length. A node without any is a
    /// location of its own, whatever `location` says.
    pub internal_addresses: Vec<InterfaceAddress>,
    /// Where others dial it. `None` for a node that can only dial out.
    pub endpoint: Option<Endpoint>,
    /// Where else it may be dialled, the best first.
    #[serde(default)]
    pub more_endpoints: Vec<Endpoint>,
    /// The prefixes of its pods, or of whatever else lives on this machine alone.
    pub pod_prefixes: Vec<Cidr>,
    /// Networks behind this node that it reaches for its whole location.
    pub extra_prefixes: Vec<Cidr>,
    /// Overlay addresses that somebody fixed for it, at most one per family; they beat every other choice.
    pub overlay_addresses: Vec<IpAddr>,
    /// Whether, and how gladly, it carries its location's traffic.
    pub gateway: GatewayPreference,
    /// How often it keeps its tunnels open, in seconds. A node behind NAT needs it; 25 s is usual.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// Whether it is known to work as a gateway. A registry without a sign of life says `true`.
    pub healthy: bool,
    /// What it says it holds already.
    pub held: Held,
    /// The newest way to plan that it says it knows.
    pub algorithm: Algorithm,
    /// Where its device heard those whose endpoints move, by key: Kilo's `discovered-endpoints`. Others dial them there.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// Where another network plugin takes what is wrapped for it, instead of its internal address: Kilo's
    /// `cni-compatibility-ip`, which is the address of Cilium's link.
    pub cni_address: Option<IpAddr>,
    /// When the registry first knew it, as a number that only orders: the smaller is the older. Of two claims to one
    /// thing the older stands; equal ones are ordered by name.
    pub since: u64,
}

/// How willing a node is to be a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GatewayPreference {
    /// Asked for by a person: declared nodes become gateways before all others.
    pub declared: bool,
    /// Its share of homes relative to other gateways; 0 means that it is never a gateway unless it is alone.
    pub weight: u16,
}

/// What a node holds by the plan that it applied last. Published by it, so that every plan can prefer what is already
/// so, and nothing moves when somebody joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Held {
    /// Its overlay addresses, at most one per family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overlay_addresses: Vec<IpAddr>,
    /// Whether it acts as a gateway of its location.
    pub gateway: bool,
    /// Its home gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<NodeName>,
    /// The peers whose anchor it is in its location.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub anchors: BTreeSet<PeerName>,
    /// The extra prefixes of its location that it owns.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub owns: BTreeSet<Cidr>,
    /// How it planned. `None` until it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Addresses of its pods that its pod prefixes do not hold, from a cloud's own address management or fixed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub pod_addresses: BTreeSet<IpAddr>,
    /// Gateways of its location that are there and through which nobody beyond them answers it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unserved_by: BTreeSet<NodeName>,
}

/// Something outside the mesh that joins it by WireGuard: a laptop, another cluster. Kilo's `Peer` resource.
///
/// Its serialised form holds the preshared key, and belongs where its owner alone can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Peer {
    /// Its name, unique among peers.
    pub name: PeerName,
    /// Its WireGuard key.
    pub key: PublicKey,
    /// A symmetric key mixed into its handshakes.
    #[serde(with = "crate::key::preshared_text", default)]
    pub preshared_key: Option<PresharedKey>,
    /// The prefixes that are reached through it.
    pub allowed_ips: Vec<Cidr>,
    /// Where it is dialled. `None` for one that dials in.
    pub endpoint: Option<Endpoint>,
    /// How often gateways keep the tunnel to it open, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// When the registry first knew it; see [`Node::since`].
    pub since: u64,
}

impl Node {
    /// A node of this name, key and location, and nothing else: no address, no endpoint, usual preference.
    pub fn new(name: NodeName, key: PublicKey, location: Location) -> Self {
        Self {
            name,
            key,
            location,
            internal_addresses: Vec::new(),
            endpoint: None,
            more_endpoints: Vec::new(),
            pod_prefixes: Vec::new(),
            extra_prefixes: Vec::new(),
            overlay_addresses: Vec::new(),
            gateway: GatewayPreference::default(),
            persistent_keepalive: None,
            healthy: true,
            held: Held::default(),
            algorithm: Algorithm::default(),
            discovered_endpoints: BTreeMap::new(),
            cni_address: None,
            since: 0,
        }
    }

    /// The UDP port that its tunnel listens on, in a mesh whose endpoints have this port unless they name one.
    pub fn listen_port(&self, usual: NonZeroU16) -> NonZeroU16 {
        self.endpoint.as_ref().map_or(usual, |endpoint| endpoint.port)
    }
}

impl Default for GatewayPreference {
    fn default() -> Self {
        Self { declared: false, weight: 100 }
    }
}
