//! What a node tells of itself. Pure.

use wireloom_model::annotations::{Asked, Forced, Granularity, Told};
use wireloom_model::{Algorithm, Cidr, Family, InterfaceAddress, Mesh, PublicKey};
use wireloom_registry::Publication;

use crate::addresses::{Found, HostAddress};

/// What a node's agent knows of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its key.
    pub key: PublicKey,
    /// The addresses of the host.
    pub addresses: Vec<HostAddress>,
    /// The address of another network plugin's link that takes what is wrapped for this node.
    pub cni_address: Option<InterfaceAddress>,
}

/// All that a node has to say.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// What its agent knows.
    pub facts: &'a Facts,
    /// Its addresses.
    pub found: &'a Found,
    /// What people ask of it.
    pub asked: &'a Asked,
    /// What its annotations say already.
    pub told: &'a Told,
    /// What its agent published last. `None` before its first plan.
    pub publication: Option<&'a Publication>,
    /// When it is there, in Unix seconds, if anybody wants to know.
    pub last_seen: Option<u64>,
}

impl Own<'_> {
    /// What its annotations are to say.
    ///
    /// Before the first plan, what it said of what it holds stays: others go by it, and the plan will.
    pub fn tell(&self, mesh: &Mesh, granularity: Granularity) -> Told {
        let Self { facts, found, asked, told, publication, last_seen } = *self;
        let endpoints = match &asked.endpoint {
            Some(Forced::Is(endpoint)) => vec![endpoint.clone()],
            Some(Forced::Nothing) => Vec::new(),
            None => found.endpoints.clone(),
        };
        let held = publication.map(|publication| publication.held.clone());
        let wireguard_ip = held.as_ref().map(|held| {
            let addresses = held.overlay_addresses.iter();
            // Kilo's agents read one address, and know of IPv4 alone.
            let first = addresses.min_by_key(|address| Family::of(**address)).copied();
            first.map(|address| {
                let range = mesh.overlay.range(Family::of(address));
                let length = range.unwrap_or_else(|| Cidr::host(address)).length();
                InterfaceAddress::new(address, length)
                    .unwrap_or_else(|| InterfaceAddress::host(address))
            })
        });
        let discovered = publication.map(|publication| publication.discovered_endpoints.clone());
        Told {
            endpoints,
            internal_addresses: asked.internal_addresses(&found.internal_addresses),
            key: Some(facts.key),
            last_seen,
            wireguard_ip: wireguard_ip.unwrap_or(told.wireguard_ip),
            discovered_endpoints: discovered.unwrap_or_else(|| told.discovered_endpoints.clone()),
            granularity: Some(granularity),
            cni_address: facts.cni_address,
            algorithm: Some(Algorithm::default()),
            held: held.or_else(|| told.held.clone()),
        }
    }
}
