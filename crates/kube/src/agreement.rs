//! Whether agents plan the mesh by the same settings, as all must. Pure.

use std::fmt::Display;

use wireloom_model::{Mesh, NodeName, Problem, ProblemKind, Subject};

/// What is wrong if the agent of this node plans by other settings than this one.
pub(crate) fn disagreement(node: &NodeName, theirs: &Mesh, ours: &Mesh) -> Option<Problem> {
    let said = [
        differs("subnet", ranges(theirs), ranges(ours)),
        differs("gateways", theirs.gateways, ours.gateways),
        differs(
            "carry-internal-addresses",
            theirs.carry_internal_addresses,
            ours.carry_internal_addresses,
        ),
        differs("encapsulate", theirs.encapsulation.when, ours.encapsulation.when),
        differs("encapsulation", theirs.encapsulation.by, ours.encapsulation.by),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    let message = || {
        format!(
            "its agent plans by other settings than this one: {}; give all agents the same",
            said.join(", ")
        )
    };
    let problem =
        || Problem::warning(Subject::Node(node.clone()), ProblemKind::Disagreement, message());
    (!said.is_empty()).then(problem)
}

fn differs<T: Display + PartialEq>(setting: &str, theirs: T, ours: T) -> Option<String> {
    (theirs != ours).then(|| format!("--{setting} {theirs} instead of {ours}"))
}

fn ranges(mesh: &Mesh) -> String {
    let ranges: Vec<String> = mesh.overlay.ranges().map(|range| range.to_string()).collect();
    ranges.join(",")
}
