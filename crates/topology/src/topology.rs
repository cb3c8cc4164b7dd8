//! Every choice of the whole mesh, made once.

use wireloom_model::{
    Cidr, Family, Mesh, NodeName, PeerName, Problem, ProblemKind, Snapshot, Subject,
};

use crate::anchors::{self, Duty};
use crate::elsewhere::Elsewhere;
use crate::overlay::{self, Pair};
use crate::plan::{NodeSummary, Plan, PlanError, TunnelPeer};
use crate::resolve::{Area, Extra, Member, Outsider, Resolved, resolve};
use crate::{claims, gateways, homes};

/// The whole mesh with every choice made: gateways, homes, overlay addresses, anchors and owners. One node's
/// [`Plan`], an outside peer's view and the [`Graph`](crate::Graph) are read from it.
pub struct Topology<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) members: Vec<Member<'a>>,
    pub(crate) outsiders: Vec<Outsider<'a>>,
    pub(crate) areas: Vec<Area>,
    pub(crate) extras: Vec<Extra>,
    pub(crate) place: Place,
    pub(crate) overlay: Vec<Pair>,
    /// The anchor of each outsider in each segment, by segment, then by outsider.
    pub(crate) anchors: Vec<Vec<usize>>,
    /// Who serves each extra prefix.
    pub(crate) duties: Vec<Duty>,
    pub(crate) elsewhere: Elsewhere,
    /// Whose home each gateway is, by member, itself included; empty for those that are no gateways.
    pub(crate) behind: Vec<Vec<usize>>,
    refused: Vec<(Subject, Subject)>,
    problems: Vec<Problem>,
}

/// Who is a gateway, and whose home it is.
pub(crate) struct Place {
    /// By segment, sorted.
    pub(crate) gateways: Vec<Vec<usize>>,
    /// By member.
    pub(crate) homes: Vec<usize>,
}

impl<'a> Topology<'a> {
    /// Makes every choice for the mesh of this snapshot.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mesh = &snapshot.mesh;
        let mut resolved = resolve(snapshot);
        let gateways = gateways::choose(mesh, &mut resolved);
        let elsewhere = Elsewhere::of(&resolved.members, mesh.overlay);
        claims::assign(mesh, &mut resolved, &gateways, &elsewhere);
        let homes = homes::choose(mesh, &resolved, &gateways);
        let place = Place { gateways, homes };
        let anchors = anchors::choose(&mut resolved, &place.gateways);
        let duties = anchors::duties(mesh, &resolved, &place);
        let overlay = overlay::assign(mesh, &mut resolved);

        let Resolved { members, outsiders, areas, extras, refused, problems } = resolved;
        let mut behind = vec![Vec::new(); members.len()];
        for (at, &home) in place.homes.iter().enumerate() {
            behind[home].push(at);
        }
        let mut topology = Self {
            mesh,
            outsiders,
            areas,
            extras,
            place,
            overlay,
            anchors,
            duties,
            elsewhere,
            members,
            behind,
            refused,
            problems,
        };
        topology.find_gaps();
        topology.problems.sort();
        topology.problems.dedup();
        topology
    }

    /// What is wrong with the mesh, in the same order on every node.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Where every node is and how it is reached, in the order of names.
    pub fn nodes(&self) -> Vec<NodeSummary> {
        (0..self.members.len()).map(|at| self.summary(at)).collect()
    }

    /// Computes what the node must do. Errors if there is no such node, or an older one keeps it out.
    pub fn plan(&self, me: &NodeName) -> Result<Plan, PlanError> {
        let found = self.members.binary_search_by(|member| member.node.name.cmp(me));
        match found {
            Ok(at) => Ok(self.plan_of(at)),
            Err(_) => Err(self.refusal(Subject::Node(me.clone()))),
        }
    }

    /// Computes the tunnel peers of an outside peer, for its own configuration: its anchor in each segment, with
    /// everything that is reached there. Errors if there is no such peer, or it is kept out.
    pub fn peer_view(&self, peer: &PeerName) -> Result<Vec<TunnelPeer>, PlanError> {
        let found = self.outsiders.binary_search_by(|outsider| outsider.peer.name.cmp(peer));
        match found {
            Ok(at) => Ok(self.view_of(at)),
            Err(_) => Err(self.refusal(Subject::Peer(peer.clone()))),
        }
    }

    /// The node's segment as a peer of a device elsewhere: all that its nodes hold, without networks behind them. `None`
    /// for a node that is no gateway. Errors if there is no such node, or an older one keeps it out.
    pub fn segment_as_peer(&self, node: &NodeName) -> Result<Option<TunnelPeer>, PlanError> {
        let found = self.members.binary_search_by(|member| member.node.name.cmp(node));
        let at = found.map_err(|_| self.refusal(Subject::Node(node.clone())))?;
        let area = &self.areas[self.members[at].segment];
        let peer = || TunnelPeer {
            allowed_ips: area.members.iter().flat_map(|&at| self.prefixes(at)).collect(),
            ..self.gateway_peer(at, None)
        };
        Ok(self.is_gateway(at).then(peer))
    }

    fn refusal(&self, subject: Subject) -> PlanError {
        match self.refused.iter().find(|(refused, _)| *refused == subject) {
            Some((_, holder)) => PlanError::KeptOut { subject, holder: holder.clone() },
            None => PlanError::Unknown { subject },
        }
    }

    pub(crate) fn is_gateway(&self, at: usize) -> bool {
        self.place.gateways[self.members[at].segment].binary_search(&at).is_ok()
    }

    pub(crate) fn summary(&self, at: usize) -> NodeSummary {
        let node = self.members[at].node;
        NodeSummary {
            node: node.name.clone(),
            segment: self.areas[self.members[at].segment].name.clone(),
            gateway: self.is_gateway(at),
            home: self.members[self.place.homes[at]].node.name.clone(),
            overlay_addresses: self.overlay[at].into_iter().flatten().collect(),
        }
    }

    /// All prefixes that other segments reach at a member: its overlay addresses, its internal addresses and its pods.
    pub(crate) fn prefixes(&self, at: usize) -> impl Iterator<Item = Cidr> {
        let member = &self.members[at];
        let overlay = self.overlay[at].into_iter().flatten();
        let hosts = overlay.chain(member.carried.iter().copied()).map(Cidr::host);
        hosts.chain(member.pods.iter().copied())
    }

    /// Finds what the mesh can't do as it is: gateways that nobody can dial, families without a next hop.
    fn find_gaps(&mut self) {
        let mut found = self.gateways_apart();
        for area in self.areas.iter().filter(|area| area.members.len() > 1) {
            for &at in &area.members {
                found
                    .extend(Family::BOTH.iter().filter_map(|family| self.no_next_hop(at, *family)));
            }
        }
        self.problems.append(&mut found);
    }

    /// One problem for each gateway without an endpoint that has its like in another segment.
    fn gateways_apart(&self) -> Vec<Problem> {
        let silent = |at: &usize| {
            let member = &self.members[*at];
            member.endpoint.is_none() && self.elsewhere.places(member).is_empty()
        };
        let all: Vec<usize> =
            self.place.gateways.iter().flatten().copied().filter(silent).collect();
        let mut problems = Vec::new();
        for &at in &all {
            let mut others = all
                .iter()
                .filter(|other| self.members[**other].segment != self.members[at].segment);
            let Some(&other) = others.next() else { continue };
            let more = match others.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            problems.push(Problem::error(
                Subject::Node(self.members[at].node.name.clone()),
                ProblemKind::NoPath,
                format!(
                    "neither it nor node {}{more} has an endpoint, so neither can dial the other; give one of each two an endpoint",
                    self.members[other].node.name
                ),
            ));
        }
        problems
    }

    fn no_next_hop(&self, at: usize, family: Family) -> Option<Problem> {
        let member = &self.members[at];
        let home = &self.members[self.place.homes[at]];
        let encapsulation = self.mesh.encapsulation;
        let reason = if !member.speaks(family) && !encapsulation.encrypts() {
            format!("it has no internal {family} address, so its location can't reach")
        } else if at != self.place.homes[at] && !member.meets(home, family, encapsulation) {
            format!(
                "its home gateway {} has no internal {family} address, so other locations can't reach",
                home.node.name
            )
        } else {
            return None;
        };
        let what: Vec<String> = self
            .prefixes(at)
            .filter(|prefix| prefix.family() == family)
            .map(|prefix| prefix.to_string())
            .collect();
        let problem = || {
            Problem::warning(
                Subject::Node(member.node.name.clone()),
                ProblemKind::NoNextHop,
                format!("{reason} {}; give it one", what.join(", ")),
            )
        };
        (!what.is_empty()).then(problem)
    }
}
