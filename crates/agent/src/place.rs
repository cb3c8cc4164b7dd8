//! The place of a machine in the mesh, or at it: its plan and what else follows from who it is. Pure.

use std::num::NonZeroU16;

use wireloom_model::{Cidr, Node, PeerName, Problem, ProblemKind, PublicKey, Snapshot, Subject};
use wireloom_topology::kilo::Seen;
use wireloom_topology::{Plan, PlanError};

use crate::agent::Identity;
use crate::planner::Planner;

/// What a machine does, and how.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) plan: Plan,
    /// The UDP port of its device. `None` leaves it to the device: nobody dials it.
    pub(crate) listen_port: Option<NonZeroU16>,
    /// Whether it passes on packets of others.
    pub(crate) forwards: bool,
}

impl Place {
    /// The place of the machine with this identity and key. The problem says why it has none, and how to get one.
    pub(crate) fn of(
        planner: &Planner,
        seen: &Seen,
        snapshot: &Snapshot,
        identity: &Identity,
        key: PublicKey,
    ) -> Result<Self, Problem> {
        let who = match identity {
            Identity::Key => String::new(),
            Identity::Name(name) => format!(" name = \"{name}\" and"),
            Identity::Peer { name, more } => {
                return outside(planner, seen, snapshot, (name, more), key);
            }
        };
        let is_own = |node: &&Node| match identity {
            Identity::Name(name) => node.name == *name,
            _ => node.key == key,
        };
        let Some(own) = snapshot.nodes.iter().find(is_own) else {
            let message = format!(
                "this machine is not in the mesh: give it a node with{who} public-key = \"{key}\""
            );
            return Err(Problem::error(Subject::Mesh, ProblemKind::Invalid, message));
        };
        let subject = Subject::Node(own.name.clone());
        is_keys(&subject, own.key, key)?;
        let plan = planner.plan(snapshot, seen, &own.name);
        let plan = plan.map_err(|error| no_plan(&error, &subject))?;
        let behind = !own.pod_prefixes.is_empty() || !own.extra_prefixes.is_empty();
        Ok(Self {
            forwards: plan.gateway || behind,
            listen_port: Some(own.listen_port(snapshot.mesh.port)),
            plan,
        })
    }
}

/// The place of a peer from outside.
fn outside(
    planner: &Planner,
    seen: &Seen,
    snapshot: &Snapshot,
    (name, more): (&PeerName, &[Cidr]),
    key: PublicKey,
) -> Result<Place, Problem> {
    let subject = Subject::Peer(name.clone());
    let Some(own) = snapshot.peers.iter().find(|peer| peer.name == *name) else {
        let message = "the mesh has no such peer; add it to the registry".to_owned();
        return Err(Problem::error(subject, ProblemKind::Invalid, message));
    };
    is_keys(&subject, own.key, key)?;
    let plan = planner.plan_outside(snapshot, seen, own, more);
    let plan = plan.map_err(|error| no_plan(&error, &subject))?;
    Ok(Place { plan, listen_port: own.endpoint.as_ref().map(|at| at.port), forwards: false })
}

fn is_keys(subject: &Subject, known: PublicKey, own: PublicKey) -> Result<(), Problem> {
    let message =
        || format!("the mesh has the public key {known} for it, this machine's key is {own}");
    let differs = || Problem::error(subject.clone(), ProblemKind::Invalid, message());
    if known == own { Ok(()) } else { Err(differs()) }
}

fn no_plan(error: &PlanError, own: &Subject) -> Problem {
    let (subject, kind) = match error {
        PlanError::KeptOut { .. } => (own.clone(), ProblemKind::DuplicateKey),
        PlanError::Unknown { .. } => (own.clone(), ProblemKind::Invalid),
        _ => (Subject::Mesh, ProblemKind::Invalid),
    };
    Problem::error(subject, kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use wireloom_model::PrivateKey;

    use super::*;

    fn key(byte: u8) -> PublicKey {
        PrivateKey::from_random([byte; 32]).public_key()
    }

    /// Two locations, and a laptop.
    fn mesh() -> Snapshot {
        let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\"]\n".to_owned();
        for node in 1..=2 {
            text += &format!(
                "[[node]]\nname = \"n{node}\"\npublic-key = \"{}\"\nendpoint = \"192.0.2.{node}\"\n\
                 prefixes = [\"10.42.{node}.0/24\"]\n",
                key(node)
            );
        }
        text += &format!(
            "[[peer]]\nname = \"laptop\"\npublic-key = \"{}\"\nallowed-ips = [\"10.5.0.1/32\", \"10.6.0.0/24\"]\n",
            key(9)
        );
        let mut mesh = wireloom_file::parse(&text, std::path::Path::new("mesh.toml")).unwrap();
        for node in &mut mesh.nodes {
            node.algorithm = wireloom_model::Algorithm::Kilo;
        }
        mesh
    }

    fn outside(planner: &Planner, name: &str, own: u8) -> Result<Place, Problem> {
        let name = name.parse().unwrap();
        let identity = Identity::Peer { name, more: vec!["10.96.0.0/16".parse().unwrap()] };
        Place::of(planner, &Seen::default(), &mesh(), &identity, key(own))
    }

    #[test]
    fn a_peer_has_its_place_outside_by_either_algorithm() {
        for planner in [Planner::default(), Planner::beside_kilo()] {
            let place = outside(&planner, "laptop", 9).unwrap();
            assert!(!place.forwards && place.listen_port.is_none());
            let own: Vec<String> = place.plan.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(own, ["10.5.0.1/32"], "what lies behind it is no address of it");
            assert_eq!(place.plan.tunnel_peers.len(), 2);
            for prefix in ["10.42.1.0/24", "10.42.2.0/24", "10.96.0.0/16"] {
                assert!(place.plan.routes.contains_key(&prefix.parse().unwrap()), "{prefix}");
            }
        }
    }

    #[test]
    fn a_peer_that_is_unknown_or_somebody_else_has_none() {
        let planner = Planner::default();
        assert!(outside(&planner, "phone", 9).unwrap_err().message.contains("no such peer"));
        assert!(outside(&planner, "laptop", 8).unwrap_err().message.contains("this machine's key"));
    }
}
