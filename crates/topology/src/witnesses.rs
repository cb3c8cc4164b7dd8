//! Which gateways are there and pass nothing on: those whose home they are say so.

use wireloom_model::{NodeName, Problem, ProblemKind, Subject};

use crate::resolve::{Area, Member};

/// Takes the word of each segment's healthy members for its gateways: one works no longer if more of those whose home it
/// is, or was until they were moved, say that nobody beyond it answers than do not.
pub(crate) fn hear(members: &mut [Member<'_>], areas: &[Area], problems: &mut Vec<Problem>) {
    for area in areas {
        for &at in &area.members {
            let name = &members[at].node.name;
            let others = area.members.iter().filter(|other| **other != at);
            let others = others.map(|other| members[*other].node).filter(|node| node.healthy);
            let unserved: Vec<&NodeName> = others
                .clone()
                .filter(|node| node.held.unserved_by.contains(name))
                .map(|node| &node.name)
                .collect();
            let served = others
                .filter(|node| node.held.home.as_ref() == Some(name))
                .filter(|node| !node.held.unserved_by.contains(name))
                .count();
            if unserved.len() <= served {
                continue;
            }
            let others = match unserved.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message = format!(
                "through it nobody beyond answers {}{others}, so others are gateways before it; see whether it forwards, and \
                 what its packet filter drops, by `wireloom doctor` there",
                unserved[0]
            );
            let subject = Subject::Node(name.clone());
            problems.push(Problem::error(subject, ProblemKind::Dropped, message));
            members[at].works = false;
        }
    }
}
