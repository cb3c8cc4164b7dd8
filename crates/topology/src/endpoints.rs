//! Which endpoints are dialled.
//!
//! None in the overlay's ranges, and none among the pods of an older node, or of the node itself, unless it is public:
//! whoever comes later, or names a wrong address, takes nobody's pods away. Of equally old ones a node's endpoint stands
//! before pods, and they before a peer's. An endpoint that stands has the prefixes left out that hold it
//! ([`claims`](crate::claims)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::reach::is_public;
use wireloom_model::{Cidr, Endpoint, Mesh, Node, Overlay, Peer, Problem, ProblemKind, Subject};

/// What endpoints may not lie in.
pub(crate) struct Ground<'a> {
    overlay: &'a Overlay,
    /// The oldest of the nodes among whose pods an endpoint lies, for endpoints that are not public.
    among_pods_of: BTreeMap<IpAddr, &'a Node>,
}

impl<'a> Ground<'a> {
    /// That of these nodes, in the order of names, and peers.
    pub(crate) fn of(mesh: &'a Mesh, nodes: &[&'a Node], peers: &[&Peer]) -> Self {
        let of_nodes = nodes.iter().filter_map(|node| node.endpoint.as_ref());
        let of_peers = peers.iter().filter_map(|peer| peer.endpoint.as_ref());
        let addresses = of_nodes.chain(of_peers).filter_map(Endpoint::address);
        let private: BTreeSet<IpAddr> = addresses.filter(|at| !is_public(*at)).collect();

        let mut among_pods_of = BTreeMap::<IpAddr, &Node>::new();
        for &node in nodes {
            // What overlaps the overlay is nobody's.
            let is_free = |prefix: &_| !mesh.overlay.ranges().any(|range| range.overlaps(prefix));
            let single = node.held.pod_addresses.iter().copied().map(Cidr::host);
            let pods = node.pod_prefixes.iter().copied().chain(single);
            for prefix in pods.filter(is_free) {
                let inside = private.range(prefix.address()..);
                for &address in inside.take_while(|address| prefix.contains(**address)) {
                    let oldest = among_pods_of.entry(address).or_insert(node);
                    if node.since < oldest.since {
                        *oldest = node;
                    }
                }
            }
        }
        Self { overlay: &mesh.overlay, among_pods_of }
    }

    /// A node's endpoint, if it is dialled.
    pub(crate) fn of_node<'n>(
        &self,
        node: &'n Node,
        problems: &mut Vec<Problem>,
    ) -> Option<&'n Endpoint> {
        let wins = |holder: &Node| holder.since < node.since || holder.name == node.name;
        let subject = || Subject::Node(node.name.clone());
        self.dialled(node.endpoint.as_ref(), subject, wins, problems)
    }

    /// A peer's endpoint, if it is dialled.
    pub(crate) fn of_peer<'p>(
        &self,
        peer: &'p Peer,
        problems: &mut Vec<Problem>,
    ) -> Option<&'p Endpoint> {
        let wins = |holder: &Node| holder.since <= peer.since;
        let subject = || Subject::Peer(peer.name.clone());
        self.dialled(peer.endpoint.as_ref(), subject, wins, problems)
    }

    fn dialled<'e>(
        &self,
        endpoint: Option<&'e Endpoint>,
        subject: impl Fn() -> Subject,
        wins: impl Fn(&Node) -> bool,
        problems: &mut Vec<Problem>,
    ) -> Option<&'e Endpoint> {
        let endpoint = endpoint?;
        let Some(address) = endpoint.address() else { return Some(endpoint) };
        let place = if self.overlay.contains(address) {
            "is an overlay address".to_owned()
        } else if let Some(holder) = self.among_pods_of.get(&address).filter(|holder| wins(holder))
        {
            format!("lies among the pods of node {}", holder.name)
        } else {
            return Some(endpoint);
        };
        problems.push(Problem::error(
            subject(),
            ProblemKind::EndpointInsideMesh,
            format!(
                "its endpoint {endpoint} {place} and is left out; name one that is reached without the mesh"
            ),
        ));
        None
    }
}
