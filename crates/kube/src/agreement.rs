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

#[cfg(test)]
mod tests {
    use wireloom_model::{EncapsulateBy, EncapsulateWhen, GatewayCount, Overlay};

    use super::*;
    use crate::cluster::tests::mesh;

    #[test]
    fn each_setting_that_differs_is_named_and_no_other() {
        let name: NodeName = "n1".parse().unwrap();
        assert_eq!(disagreement(&name, &mesh(), &mesh()), None);
        type Change = fn(&mut Mesh);
        let changes: [(&str, Change); 5] = [
            ("--subnet 10.5.0.0/16 instead of 10.4.0.0/16;", |mesh| {
                mesh.overlay = Overlay::new(["10.5.0.0/16".parse().unwrap()]).unwrap();
            }),
            ("--gateways all instead of 2;", |mesh| mesh.gateways = GatewayCount::All),
            ("--carry-internal-addresses false instead of true;", |mesh| {
                mesh.carry_internal_addresses = false;
            }),
            ("--encapsulate ", |mesh| mesh.encapsulation.when = EncapsulateWhen::Always),
            ("--encapsulation ", |mesh| mesh.encapsulation.by = EncapsulateBy::Ipip),
        ];
        for (told, change) in changes {
            let mut theirs = mesh();
            change(&mut theirs);
            let message = disagreement(&name, &theirs, &mesh()).unwrap().message;
            assert!(message.contains(told), "{message}");
            assert_eq!(message.matches("--").count(), 1, "{message}");
        }
    }
}
