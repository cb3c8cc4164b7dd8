//! Which gateway each node's traffic to other segments passes.

use wireloom_model::{Encapsulation, Family, Mesh};

use crate::rendezvous::{Purpose, Score};
use crate::resolve::{Member, Resolved};

/// The home gateway of each member. A gateway's home is itself. Another node stays with the home that it holds while
/// that is a gateway of its segment that works and shares a family with it; otherwise weighted rendezvous hashing chooses
/// among those that share most families with it.
pub(crate) fn choose(mesh: &Mesh, resolved: &Resolved<'_>, gateways: &[Vec<usize>]) -> Vec<usize> {
    let Resolved { members, areas, .. } = resolved;
    let mut homes: Vec<usize> = (0..members.len()).collect();
    for (area, gateways) in areas.iter().zip(gateways) {
        let usable = usable(members, gateways);
        for &at in area.members.iter().filter(|at| gateways.binary_search(at).is_err()) {
            homes[at] = home(members, at, &usable, mesh.encapsulation);
        }
    }
    homes
}

/// Those of these gateways that work, or all if none does.
pub(crate) fn usable(members: &[Member<'_>], gateways: &[usize]) -> Vec<usize> {
    let working: Vec<usize> = gateways.iter().copied().filter(|&at| members[at].works).collect();
    if working.is_empty() { gateways.to_vec() } else { working }
}

fn home(
    members: &[Member<'_>],
    at: usize,
    gateways: &[usize],
    encapsulation: Encapsulation,
) -> usize {
    let me = &members[at];
    let shared = |gateway: &usize| {
        let both = |family: &&Family| me.meets(&members[*gateway], **family, encapsulation);
        Family::BOTH.iter().filter(both).count()
    };
    let is_held = |gateway: &&usize| {
        me.node.held.home.as_ref() == Some(&members[**gateway].node.name) && shared(gateway) > 0
    };
    let chosen = gateways.iter().find(is_held).copied().or_else(|| {
        gateways.iter().copied().max_by_key(|&gateway| {
            let node = members[gateway].node;
            let parts = [me.node.name.as_str().as_bytes(), node.name.as_str().as_bytes()];
            (shared(&gateway), Score::new(node.gateway.weight, Purpose::Home, &parts))
        })
    });
    // Every segment has a member, and so a gateway.
    chosen.unwrap_or(at)
}
