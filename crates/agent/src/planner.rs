//! By which algorithm a mesh is planned here, and what follows from it.

use wireloom_model::{Algorithm, Cidr, NodeName, Peer, Snapshot};
use wireloom_topology::kilo::{Seen, Settings, View};
use wireloom_topology::{Graph, Plan, PlanError, Topology, algorithm_in_force};

/// Plans by our algorithm, or by Kilo's until all nodes can ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planner {
    /// What Kilo's agents beside us are told. `None` where there are none and never were.
    pub compatibility: Option<Settings>,
    /// Whether somebody else carries packets to the pods of the own location: another network plugin, or a cloud's network.
    pub beside_another: bool,
}

impl Planner {
    /// Plans as all do that may have Kilo's agents among them: by what all say of themselves.
    pub fn beside_kilo() -> Self {
        Self { compatibility: Some(Settings::default()), ..Self::default() }
    }

    /// What Kilo's algorithm goes by, if it is in force for this mesh.
    pub(crate) fn kilo(&self, snapshot: &Snapshot) -> Option<&Settings> {
        let settings = self.compatibility.as_ref();
        settings.filter(|_| algorithm_in_force(snapshot) == Algorithm::Kilo)
    }

    /// The plan of a node. `seen` counts by Kilo's algorithm alone.
    pub(crate) fn plan(
        &self,
        snapshot: &Snapshot,
        seen: &Seen,
        me: &NodeName,
    ) -> Result<Plan, PlanError> {
        let plan = match self.kilo(snapshot) {
            Some(settings) => View::of(snapshot, settings.clone(), seen, Some(me)).plan(me),
            None => wireloom_topology::plan(snapshot, me),
        }?;
        Ok(if self.beside_another { plan.beside_another(&snapshot.nodes) } else { plan })
    }

    /// What a peer from outside does, which reaches this besides through the mesh.
    pub(crate) fn plan_outside(
        &self,
        snapshot: &Snapshot,
        seen: &Seen,
        peer: &Peer,
        more: &[Cidr],
    ) -> Result<Plan, PlanError> {
        let (tunnel_peers, nodes, problems) = match self.kilo(snapshot) {
            Some(settings) => {
                let view = View::of(snapshot, settings.clone(), seen, None);
                (view.peer_view(&peer.name)?, view.nodes(), view.problems().to_vec())
            }
            None => {
                let topology = Topology::of(snapshot);
                (topology.peer_view(&peer.name)?, topology.nodes(), topology.problems().to_vec())
            }
        };
        Ok(Plan::outside(peer, tunnel_peers, more, nodes, problems))
    }

    /// The picture of the mesh.
    pub fn graph(&self, snapshot: &Snapshot) -> Graph {
        match self.kilo(snapshot) {
            Some(settings) => View::of(snapshot, settings.clone(), &Seen::default(), None).graph(),
            None => Graph::of(&Topology::of(snapshot)),
        }
    }
}
