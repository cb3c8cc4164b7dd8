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
    let subject = match error {
        PlanError::KeptOut { .. } | PlanError::Unknown { .. } => own.clone(),
        _ => Subject::Mesh,
    };
    Problem::error(subject, ProblemKind::Invalid, error.to_string())
}
