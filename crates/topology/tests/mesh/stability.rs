//! What is so stays so: whoever comes or goes moves nobody else, once all have published what they hold.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use proptest::prelude::*;
use wireloom_model::{Cidr, Endpoint, Family, GatewayCount, InterfaceAddress, NodeName, Snapshot};
use wireloom_topology::{Hop, NodeSummary, Plan, Topology};

use crate::generator::{Kind, inside, mesh, newcomer};

fn plans(snapshot: &Snapshot) -> BTreeMap<NodeName, Plan> {
    let topology = Topology::of(snapshot);
    let names = topology.nodes().into_iter().map(|node| node.node);
    names.map(|name| (name.clone(), topology.plan(&name).unwrap())).collect()
}

/// The mesh once every node has published what its plan says.
fn settled(mut snapshot: Snapshot) -> Snapshot {
    let plans = plans(&snapshot);
    for node in &mut snapshot.nodes {
        if let Some(plan) = plans.get(&node.name).filter(|plan| plan.key == node.key) {
            node.held = plan.publishes.clone();
        }
    }
    snapshot
}

fn roles(snapshot: &Snapshot) -> BTreeMap<NodeName, NodeSummary> {
    let nodes = Topology::of(snapshot).nodes();
    nodes.into_iter().map(|node| (node.node.clone(), node)).collect()
}

/// Whether a node shares a family with its home; with one that it can't reach there is nothing to keep.
fn reaches(snapshot: &Snapshot, name: &NodeName, home: &NodeName) -> bool {
    let families = |wanted: &NodeName| -> Vec<Family> {
        let node = snapshot.nodes.iter().find(|node| node.name == *wanted).unwrap();
        node.internal_addresses.iter().map(InterfaceAddress::family).collect()
    };
    let theirs = families(home);
    name == home || families(name).iter().any(|family| theirs.contains(family))
}

/// The routes that one plan has and the other has not, or has otherwise.
fn lost(before: &Plan, after: &Plan) -> Vec<(Cidr, Hop)> {
    let gone = |(prefix, hop): &(&Cidr, &Hop)| after.routes.get(prefix) != Some(hop);
    before.routes.iter().filter(gone).map(|(prefix, hop)| (*prefix, *hop)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn publishing_changes_nothing(snapshot in mesh(Kind::Clean, 14)) {
        let after = settled(snapshot.clone());
        for (name, plan) in plans(&after) {
            let before = &plans(&snapshot)[&name];
            prop_assert_eq!(&plan, before);
        }
    }

    #[test]
    fn publishing_settles_a_messy_mesh(snapshot in mesh(Kind::Messy, 14)) {
        let once = settled(settled(snapshot));
        prop_assert_eq!(plans(&settled(once.clone())), plans(&once));
    }

    #[test]
    fn a_newcomer_moves_nobody(
        snapshot in mesh(Kind::Clean, 14),
        newcomer in newcomer(),
        among_pods_of in proptest::option::of(0usize..14),
    ) {
        let before = settled(snapshot);
        // A node of weight 0 is a gateway only while it is alone, so whoever joins it takes the role.
        prop_assume!(before.nodes.iter().all(|n| n.gateway.weight > 0 || !n.held.gateway));
        let old = plans(&before);
        prop_assume!(old.iter().all(|(name, plan)| reaches(&before, name, &plan.home)));
        let mut after = before.clone();
        after.nodes.push(newcomer);
        // It may say that it is dialled where others have their pods.
        let pods = among_pods_of.and_then(|at| before.nodes.get(at)?.pod_prefixes.first());
        if let (Some(newcomer), Some(pods)) = (after.nodes.last_mut(), pods) {
            newcomer.endpoint = Some(Endpoint::at(inside(*pods), NonZeroU16::MIN));
        }
        let new = plans(&after);
        for (name, plan) in &old {
            let then = &new[name];
            prop_assert_eq!(then.gateway, plan.gateway, "{}", name);
            prop_assert_eq!(&then.home, &plan.home, "{}", name);
            prop_assert_eq!(&then.addresses, &plan.addresses, "{}", name);
            prop_assert_eq!(&then.publishes, &plan.publishes, "{}", name);
            prop_assert_eq!(lost(plan, then), [], "{}", name);
            for peer in &plan.tunnel_peers {
                let same = then.tunnel_peers.iter().find(|other| other.key == peer.key).unwrap();
                prop_assert!(same.allowed_ips.is_superset(&peer.allowed_ips));
            }
        }
    }

    #[test]
    fn a_leaver_moves_only_its_own(
        (snapshot, leaver) in mesh(Kind::Clean, 14).prop_flat_map(|snapshot| {
            let count = snapshot.nodes.len();
            (Just(snapshot), 0..count)
        })
    ) {
        let before = settled(snapshot);
        let mut after = before.clone();
        let gone = after.nodes.remove(leaver);
        let (old, new) = (roles(&before), roles(&after));
        let was = &old[&gone.name];
        let mut promoted = Vec::new();
        for (name, now) in &new {
            let then = &old[name];
            prop_assert_eq!(&now.overlay_addresses, &then.overlay_addresses);
            prop_assert!(now.gateway || !then.gateway, "{} lost its role", name);
            if now.gateway && !then.gateway {
                promoted.push(name);
            } else if then.home != gone.name && reaches(&before, name, &then.home) {
                prop_assert_eq!(&now.home, &then.home);
            }
        }
        // One comes for one that goes; where only nodes of weight 0 are left, they are all there is.
        let zero = |name: &&NodeName| {
            before.nodes.iter().any(|n| n.name == **name && n.gateway.weight == 0)
        };
        prop_assert!(promoted.len() <= usize::from(was.gateway) || promoted.iter().all(zero));
        for name in promoted {
            prop_assert_eq!(&old[name].segment, &was.segment);
        }
    }

    #[test]
    fn k_is_the_number_of_gateways(snapshot in mesh(Kind::Clean, 14)) {
        let nodes = Topology::of(&snapshot).nodes();
        let mut segments: BTreeMap<_, Vec<&NodeSummary>> = BTreeMap::new();
        for node in &nodes {
            segments.entry(&node.segment).or_default().push(node);
        }
        for inside in segments.values() {
            let weighs = |name: &NodeName| {
                snapshot.nodes.iter().any(|n| n.name == *name && n.gateway.weight > 0)
            };
            let willing = inside.iter().filter(|node| weighs(&node.node)).count();
            let candidates = if willing == 0 { inside.len() } else { willing };
            let gateways = inside.iter().filter(|node| node.gateway).count();
            prop_assert_eq!(gateways, snapshot.mesh.gateways.of(candidates));
            prop_assert!(gateways > 0);
            for node in inside {
                let home = inside.iter().find(|other| other.node == node.home).unwrap();
                prop_assert!(home.gateway);
                prop_assert!(!node.gateway || node.home == node.node);
            }
            if snapshot.mesh.gateways == GatewayCount::All && willing > 0 {
                prop_assert!(inside.iter().all(|node| node.gateway == weighs(&node.node)));
            }
        }
    }
}
