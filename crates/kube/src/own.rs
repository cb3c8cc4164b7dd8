//! What a node tells of itself. Pure.

use std::collections::BTreeMap;

use wireloom_model::annotations::{Asked, Forced, Granularity, Told};
use wireloom_model::{Algorithm, Cidr, Family, InterfaceAddress, Mesh, PublicKey};
use wireloom_registry::Publication;

use crate::addresses::{self, Found, HostAddress};
use crate::cluster::KnownNode;
use crate::registry::KubeConfig;

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

/// The annotations that a Node with this agent is to have.
pub(crate) fn annotations(
    config: &KubeConfig,
    own: &KnownNode,
    facts: &Facts,
    publication: Option<&Publication>,
    last_seen: Option<u64>,
) -> BTreeMap<String, String> {
    let pods = own.read.node.as_ref().map(|node| node.pod_prefixes.clone()).unwrap_or_default();
    let found = addresses::find(&config.addresses, &facts.addresses, &own.object, &pods);
    let annotations = &own.read.annotations;
    let own = Own {
        facts,
        found: &found,
        asked: &annotations.asked,
        told: &annotations.told,
        publication,
        last_seen,
    };
    own.tell(&config.mesh, config.granularity).write()
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
            mesh: Some(mesh.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wireloom_model::annotations::{ForcedAddresses, NodeAnnotations};
    use wireloom_model::{Endpoint, Held, NodeName, PrivateKey};

    use super::*;
    use crate::cluster::tests::mesh;

    fn facts() -> Facts {
        let key = PrivateKey::from_random([7; 32]).public_key();
        Facts { key, addresses: Vec::new(), cni_address: None }
    }

    fn found() -> Found {
        Found {
            internal_addresses: vec!["10.0.0.5/24".parse().unwrap(), "fd00::5/64".parse().unwrap()],
            endpoints: vec!["203.0.113.5:51820".parse().unwrap()],
        }
    }

    fn tell(asked: &Asked, told: &Told, publication: Option<&Publication>) -> Told {
        let (facts, found) = (facts(), found());
        let own = Own { facts: &facts, found: &found, asked, told, publication, last_seen: None };
        own.tell(&mesh(), Granularity::Location)
    }

    fn publication() -> Publication {
        let addresses = ["fd04::7", "10.4.0.7"].map(|address| address.parse().unwrap());
        Publication {
            node: "n1".parse().unwrap(),
            key: facts().key,
            held: Held { overlay_addresses: addresses.to_vec(), ..Held::default() },
            discovered_endpoints: BTreeMap::from([(
                PrivateKey::from_random([9; 32]).public_key(),
                "198.51.100.7:40000".parse().unwrap(),
            )]),
        }
    }

    #[test]
    fn what_was_held_before_a_restart_stays_until_the_first_plan() {
        let before = tell(&Asked::default(), &Told::default(), Some(&publication()));
        assert_eq!(
            before.wireguard_ip,
            Some("10.4.0.7/16".parse().unwrap()),
            "IPv4, as Kilo reads it"
        );
        assert_eq!(before.discovered_endpoints.len(), 1);
        let after = tell(&Asked::default(), &before, None);
        assert_eq!(after, before);
        let nothing_held = Publication { held: Held::default(), ..publication() };
        assert_eq!(tell(&Asked::default(), &before, Some(&nothing_held)).wireguard_ip, None);
    }

    #[test]
    fn what_people_ask_is_told_in_the_place_of_what_was_found() {
        let forced: Endpoint = "[2001:db8::1]:4500".parse().unwrap();
        let asked = Asked {
            endpoint: Some(Forced::Is(forced.clone())),
            internal_addresses: Some(Forced::Is(ForcedAddresses::First(
                "10.9.0.1/16".parse().unwrap(),
            ))),
            ..Asked::default()
        };
        let told = tell(&asked, &Told::default(), None);
        assert_eq!(told.endpoints, [forced]);
        let addresses: Vec<String> =
            told.internal_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.9.0.1/16", "fd00::5/64"]);
        let denied = Asked { endpoint: Some(Forced::Nothing), ..Asked::default() };
        assert_eq!(tell(&denied, &told, None).endpoints, []);
    }

    #[test]
    fn what_is_told_is_read_back_and_told_again_the_same() {
        let told = tell(&Asked::default(), &Told::default(), Some(&publication()));
        let name: NodeName = "n1".parse().unwrap();
        let (read, problems) = NodeAnnotations::read(&name, &told.write());
        assert_eq!((&read.told, problems), (&told, vec![]));
        assert_eq!(tell(&read.asked, &read.told, Some(&publication())), told);
    }
}
