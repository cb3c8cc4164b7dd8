//! Which nodes carry their segment's traffic.

use std::cmp::Reverse;

use wireloom_model::reach::Reach;
use wireloom_model::{Mesh, Problem, ProblemKind, Subject};

use crate::rendezvous::{Purpose, Score};
use crate::resolve::{Area, Member, Resolved};

/// The gateways of each segment, as sorted indices.
///
/// The first k in the order: works, declared, holding the role, how well it is reached, hash. So a declared newcomer
/// takes the role from an undeclared holder, which is what declaring is for; any other newcomer takes it from nobody.
/// A node of weight 0 is passed over unless its segment has no other kind.
pub(crate) fn choose(mesh: &Mesh, resolved: &mut Resolved<'_>) -> Vec<Vec<usize>> {
    let Resolved { members, areas, problems, .. } = resolved;
    areas.iter().map(|area| of_area(mesh, members, area, problems)).collect()
}

fn of_area(
    mesh: &Mesh,
    members: &[Member<'_>],
    area: &Area,
    problems: &mut Vec<Problem>,
) -> Vec<usize> {
    let weighs = |at: &usize| members[*at].node.gateway.weight > 0;
    let mut candidates: Vec<usize> = area.members.iter().copied().filter(weighs).collect();
    if candidates.is_empty() {
        candidates.clone_from(&area.members);
    }
    let count = mesh.gateways.of(candidates.len());
    if count < candidates.len() {
        candidates.sort_by_cached_key(|&at| {
            let node = members[at].node;
            let parts = [area.name.as_str().as_bytes(), node.name.as_str().as_bytes()];
            Reverse((
                members[at].works,
                node.gateway.declared,
                node.held.gateway,
                Reach::of(members[at].endpoint),
                Score::new(node.gateway.weight, Purpose::Gateway, &parts),
                Reverse(at),
            ))
        });
        candidates.truncate(count);
        candidates.sort_unstable();
    }
    if !candidates.iter().any(|&at| members[at].node.healthy) {
        for &at in &candidates {
            problems.push(Problem::error(
                Subject::Node(members[at].node.name.clone()),
                ProblemKind::NoGateway,
                format!(
                    "{} has no healthy gateway; this node stays its gateway all the same",
                    area.name
                ),
            ));
        }
    }
    candidates
}
