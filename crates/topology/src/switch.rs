//! Which algorithm a mesh is planned by.
//!
//! Kilo's agents and ours can be in one mesh only if all plan by Kilo's algorithm, and nobody tells them when the last
//! of Kilo's is gone: each node finds out from what all of them publish. Like every choice it is a pure function of the
//! snapshot, so all that see the same mesh switch alike.

use wireloom_model::{Algorithm, Node, Snapshot};

/// The algorithm in force: ours if every ready node announces it, or if more than half of them plan by it already;
/// Kilo's otherwise.
///
/// So one of Kilo's agents that turns up late, or comes back, does not turn a mesh round that has switched; and one that
/// flaps does not make it flap. A mesh that is moved back to Kilo node by node turns back once, at half of the way. A
/// node that is not ready has no say, whatever it announces.
///
/// What the switch keeps: keys, endpoints and pod prefixes are the same by both, and each node publishes what it held by
/// Kilo's (that it leads, its WireGuard address, the peers and networks that it serves) which ours prefers. So a leader
/// stays a gateway, its tunnels keep their sessions, and a connection between addresses of pods or internal addresses
/// that it carries goes on. Addresses of nodes that led nothing are new.
pub fn algorithm_in_force(snapshot: &Snapshot) -> Algorithm {
    let ready: Vec<&Node> = snapshot.nodes.iter().filter(|node| node.healthy).collect();
    let all_can = ready.iter().all(|node| node.algorithm >= Algorithm::Wireloom);
    let ours = ready.iter().filter(|node| node.held.algorithm == Some(Algorithm::Wireloom));
    if !ready.is_empty() && (all_can || 2 * ours.count() > ready.len()) {
        Algorithm::Wireloom
    } else {
        Algorithm::Kilo
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::{NonZeroU16, NonZeroU32};
    use wireloom_model::{Encapsulation, Filter, GatewayCount, Mesh, Overlay, PublicKey};

    /// A mesh of nodes: whether each is ready, what it announces, and what it plans by.
    fn mesh(nodes: &[(bool, Algorithm, Option<Algorithm>)]) -> Snapshot {
        let node = |(at, &(healthy, algorithm, held)): (usize, &(_, _, _))| {
            let key = PublicKey::from_bytes([u8::try_from(at + 1).unwrap(); 32]);
            let name = format!("node-{at}").parse().unwrap();
            let mut node = Node::new(name, key, "here".parse().unwrap());
            node.healthy = healthy;
            node.algorithm = algorithm;
            node.held.algorithm = held;
            node
        };
        Snapshot {
            mesh: Mesh {
                overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
                gateways: GatewayCount::AtMost(NonZeroU32::MIN),
                port: NonZeroU16::MIN,
                mtu: None,
                carry_internal_addresses: true,
                encapsulation: Encapsulation::default(),
                filter: Filter::default(),
            },
            nodes: nodes.iter().enumerate().map(node).collect(),
            peers: Vec::new(),
            problems: Vec::new(),
        }
    }

    const KILOS: (bool, Algorithm, Option<Algorithm>) = (true, Algorithm::Kilo, None);
    const ABLE: (bool, Algorithm, Option<Algorithm>) =
        (true, Algorithm::Wireloom, Some(Algorithm::Kilo));
    const OURS: (bool, Algorithm, Option<Algorithm>) =
        (true, Algorithm::Wireloom, Some(Algorithm::Wireloom));

    #[test]
    fn ours_comes_when_the_last_ready_node_announces_it() {
        assert_eq!(algorithm_in_force(&mesh(&[KILOS, KILOS, ABLE])), Algorithm::Kilo);
        assert_eq!(algorithm_in_force(&mesh(&[ABLE, ABLE, KILOS])), Algorithm::Kilo);
        assert_eq!(algorithm_in_force(&mesh(&[ABLE, ABLE, ABLE])), Algorithm::Wireloom);
        let gone = (false, Algorithm::Kilo, None);
        assert_eq!(algorithm_in_force(&mesh(&[ABLE, gone, ABLE])), Algorithm::Wireloom);
        assert_eq!(algorithm_in_force(&mesh(&[gone])), Algorithm::Kilo);
        assert_eq!(algorithm_in_force(&mesh(&[])), Algorithm::Kilo);
    }

    #[test]
    fn a_late_agent_of_kilos_turns_nothing_round_and_half_of_the_mesh_does() {
        assert_eq!(algorithm_in_force(&mesh(&[OURS, OURS, KILOS])), Algorithm::Wireloom);
        assert_eq!(algorithm_in_force(&mesh(&[OURS, OURS, OURS, KILOS])), Algorithm::Wireloom);
        assert_eq!(algorithm_in_force(&mesh(&[OURS, OURS, KILOS, KILOS])), Algorithm::Kilo);
        assert_eq!(algorithm_in_force(&mesh(&[OURS, KILOS])), Algorithm::Kilo);
        // Those that are not ready have no say either way.
        let asleep = (false, OURS.1, OURS.2);
        assert_eq!(algorithm_in_force(&mesh(&[asleep, asleep, KILOS])), Algorithm::Kilo);
    }

    #[test]
    fn a_switch_under_way_goes_on_whoever_is_first() {
        for applied in 0..=3 {
            let mut nodes = [ABLE; 3];
            nodes[..applied].fill(OURS);
            assert_eq!(algorithm_in_force(&mesh(&nodes)), Algorithm::Wireloom, "{applied}");
        }
    }
}
