//! Both ends agree: whatever one may send to another arrives, and so does the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use wireloom_model::kernel::KernelState;
use wireloom_model::reach::is_public;
use wireloom_model::{
    Cidr, EncapsulateBy, EncapsulateWhen, Encapsulation, Endpoint, Family, InterfaceAddress,
    NodeName, ProblemKind, Snapshot,
};
use wireloom_topology::{Graph, Plan, Topology, TunnelPeerName, plan};

use crate::generator::{Kind, inside, mesh};
use crate::walker::{Machine, Packet, Place, World};

/// What can be talked to: a place and one of its addresses, with the prefix that leads there.
#[derive(Debug, Clone)]
struct Party {
    place: Place,
    address: IpAddr,
    prefix: Cidr,
}

impl World {
    /// Everything of a node that the mesh promises to reach.
    fn parties(&self, name: &NodeName) -> Vec<Party> {
        let facts = &self.nodes[name].facts;
        let carried = facts.internal_addresses.iter().map(|a| a.address());
        let carried = carried.filter(|address| self.is_carried(name, *address));
        let hosts = facts.overlay_addresses.iter().copied().chain(carried);
        let prefixes = hosts.map(Cidr::host).chain(facts.pod_prefixes.iter().copied());
        let place = Place::Node(name.clone());
        prefixes
            .map(|prefix| Party { place: place.clone(), address: inside(prefix), prefix })
            .collect()
    }

    /// Whether any gateway of another segment lets the address come from the node's home.
    fn is_carried(&self, name: &NodeName, address: IpAddr) -> bool {
        let home = TunnelPeerName::Node(self.nodes[name].facts.home.clone());
        let segment = &self.nodes[name].segment;
        let elsewhere = self.nodes.values().filter(|machine| machine.segment != *segment);
        let peers = elsewhere.flat_map(|machine| &machine.plan.tunnel_peers);
        peers.filter(|peer| peer.name == home).any(|p| p.allowed_ips.contains(&Cidr::host(address)))
    }

    /// Whether the plan rightly gives up a prefix in a segment: it holds an address of the segment's own network.
    fn shadowed(&self, machine: &Machine, prefix: Cidr) -> bool {
        let near = self.nodes.values().filter(|other| other.segment == machine.segment);
        near.flat_map(|other| &other.facts.internal_addresses).any(|a| prefix.contains(a.address()))
    }

    /// Whether a node gets packets of a family to and from this gateway of its segment.
    fn hops(&self, name: &NodeName, gateway: &NodeName, family: Family) -> bool {
        let both =
            |family: Family| [name, gateway].into_iter().all(|one| self.nodes[one].speaks(family));
        let encrypted = self.encapsulation.encrypts() && Family::BOTH.into_iter().any(both);
        name == gateway || both(family) || encrypted
    }

    /// Whether the two nodes should reach each other at these addresses.
    fn promised(&self, a: &NodeName, from: &Party, b: &NodeName, to: &Party) -> bool {
        let family = Family::of(to.address);
        let (one, two) = (&self.nodes[a], &self.nodes[b]);
        if !self.clear(one, from) || !self.clear(two, to) {
            return false;
        }
        if one.segment == two.segment {
            return self.hops(a, b, family);
        }
        self.hops(a, &one.facts.home, family)
            && self.hops(b, &two.facts.home, family)
            && !self.shadowed(one, to.prefix)
            && !self.shadowed(two, from.prefix)
    }

    /// Whether a node's own segment routes to this party of it.
    fn clear(&self, machine: &Machine, party: &Party) -> bool {
        party.prefix.is_host() || !self.shadowed(machine, party.prefix)
    }

    fn there_and_back(&self, from: &Party, to: &Party) -> Result<(), String> {
        let packet = Packet { from: from.address, to: to.address };
        let arrived = self.walk(&from.place, packet)?;
        if arrived != to.place {
            return Err(format!("{packet:?} arrived at {arrived:?}, not at {to:?}"));
        }
        let returned = self.walk(&to.place, packet.reply())?;
        if returned != from.place {
            return Err(format!("the reply to {packet:?} arrived at {returned:?}"));
        }
        Ok(())
    }

    /// Checks every pair of nodes. Returns how many pairs of addresses it followed.
    fn check_nodes(&self) -> Result<usize, String> {
        let all: BTreeMap<&NodeName, Vec<Party>> =
            self.nodes.keys().map(|name| (name, self.parties(name))).collect();
        let mut followed = 0;
        for (a, sources) in &all {
            for (b, targets) in all.iter().filter(|(b, _)| *b != a) {
                for (from, to) in pairs(sources, targets) {
                    if self.promised(a, from, b, to) {
                        self.there_and_back(from, to)?;
                        followed += 1;
                    }
                }
            }
        }
        Ok(followed)
    }

    /// Checks every outside peer against every node.
    fn check_peers(&self) -> Result<usize, String> {
        let mut followed = 0;
        for (name, laptop) in &self.peers {
            let place = Place::Peer(name.clone());
            let sources: Vec<Party> = laptop
                .facts
                .allowed_ips
                .iter()
                .map(|&prefix| Party { place: place.clone(), address: inside(prefix), prefix })
                .collect();
            for (node, machine) in &self.nodes {
                let near = |anchor: &&NodeName| self.nodes[*anchor].segment == machine.segment;
                let anchor = laptop.facts.anchors.iter().find(near).unwrap();
                for (from, to) in pairs(&sources, &self.parties(node)) {
                    let clear = !self.shadowed(machine, from.prefix) && self.clear(machine, to);
                    if clear && self.hops(node, anchor, Family::of(to.address)) {
                        self.there_and_back(from, to)?;
                        followed += 1;
                    }
                }
            }
        }
        Ok(followed)
    }

    /// Checks every network behind a segment from every node of other segments and every outside peer.
    fn check_extras(&self) -> Result<usize, String> {
        let mut followed = 0;
        for owner in self.nodes.values() {
            for &prefix in &owner.facts.owns {
                followed += self.check_extra(owner, prefix)?;
            }
        }
        Ok(followed)
    }

    fn check_extra(&self, owner: &Machine, prefix: Cidr) -> Result<usize, String> {
        let (address, family) = (inside(prefix), prefix.family());
        let within = |party: &Party| party.address == address || party.prefix.contains(address);
        let taken = self.nodes.keys().flat_map(|name| self.parties(name)).any(|p| within(&p));
        if taken {
            return Ok(0);
        }
        let behind = |machine: &&Machine| {
            machine.segment == owner.segment && machine.lists.contains(&prefix)
        };
        let listers: Vec<&Machine> = self.nodes.values().filter(behind).collect();
        assert!(!listers.is_empty(), "nobody is behind {prefix}");
        let lists = |at: &NodeName| listers.iter().any(|lister| lister.facts.name == *at);
        let attached = |at: &NodeName| {
            let machine = &self.nodes[at];
            let on_link = |a: &InterfaceAddress| a.network().contains(address);
            machine.segment == owner.segment && machine.facts.internal_addresses.iter().any(on_link)
        };
        // What holds the segment's own nodes is routed to nobody there: it has to be on-link.
        let passes_on = |at: &NodeName| {
            let hops = |lister: &&Machine| self.hops(&lister.facts.name, at, family);
            lists(at) || attached(at) || listers.iter().all(hops) && !self.shadowed(owner, prefix)
        };
        let mut followed = 0;
        let mut check = |from: &Party| -> Result<(), String> {
            let packet = Packet { from: from.address, to: address };
            let end = self.walk(&from.place, packet)?;
            if !matches!(&end, Place::Node(at) if lists(at) || attached(at)) {
                return Err(format!("{packet:?} for the network {prefix} ended at {end:?}"));
            }
            let returned = self.walk(&end, packet.reply())?;
            followed += 1;
            if returned == from.place { Ok(()) } else { Err(format!("reply at {returned:?}")) }
        };
        for (name, machine) in &self.nodes {
            let far = machine.segment != owner.segment
                && self.hops(name, &machine.facts.home, family)
                && !self.shadowed(machine, prefix)
                && passes_on(&owner.facts.name);
            let sources = self.parties(name);
            let usable = sources.iter().filter(|from| {
                Family::of(from.address) == family
                    && self.clear(machine, from)
                    && !self.shadowed(owner, from.prefix)
            });
            for from in usable.filter(|_| far) {
                check(from)?;
            }
        }
        for (name, laptop) in &self.peers {
            let near = |anchor: &&NodeName| self.nodes[*anchor].segment == owner.segment;
            let anchor = laptop.facts.anchors.iter().find(near).unwrap();
            for &from in laptop.facts.allowed_ips.iter().filter(|p| p.family() == family) {
                if passes_on(anchor) && !self.shadowed(owner, from) {
                    let place = Place::Peer(name.clone());
                    check(&Party { place, address: inside(from), prefix: from })?;
                }
            }
        }
        Ok(followed)
    }
}

fn pairs<'a>(
    sources: &'a [Party],
    targets: &'a [Party],
) -> impl Iterator<Item = (&'a Party, &'a Party)> {
    sources.iter().flat_map(move |from| {
        let same = |to: &&Party| Family::of(to.address) == Family::of(from.address);
        targets.iter().filter(same).map(move |to| (from, to))
    })
}

fn plans(snapshot: &Snapshot) -> Vec<Plan> {
    let topology = Topology::of(snapshot);
    topology.nodes().iter().map(|node| topology.plan(&node.node).unwrap()).collect()
}

/// No allowed IP may be claimed by two tunnel peers of one device, or the later takes it from the earlier.
fn unique_allowed_ips(plan: &Plan) -> bool {
    let all: Vec<Cidr> =
        plan.tunnel_peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect();
    all.len() == all.iter().collect::<BTreeSet<_>>().len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_packet_of_a_clean_mesh_arrives(snapshot in mesh(Kind::Clean, 12)) {
        let world = World::of(&snapshot);
        prop_assert_eq!(world.nodes.len(), snapshot.nodes.len());
        world.check_nodes().map_err(TestCaseError::fail)?;
        world.check_peers().map_err(TestCaseError::fail)?;
        world.check_extras().map_err(TestCaseError::fail)?;
        for node in &snapshot.nodes {
            let facts = &world.nodes[&node.name].facts;
            prop_assert_eq!(facts.pod_prefixes.len(), node.pod_prefixes.len());
            prop_assert_eq!(facts.internal_addresses.len(), node.internal_addresses.len());
        }
    }

    #[test]
    fn every_packet_of_a_messy_mesh_arrives(snapshot in mesh(Kind::Messy, 14)) {
        let world = World::of(&snapshot);
        world.check_nodes().map_err(TestCaseError::fail)?;
        world.check_peers().map_err(TestCaseError::fail)?;
        world.check_extras().map_err(TestCaseError::fail)?;
    }

    #[test]
    fn no_two_tunnel_peers_share_an_allowed_ip(snapshot in mesh(Kind::Messy, 14)) {
        for plan in plans(&snapshot) {
            prop_assert!(unique_allowed_ips(&plan), "{}", plan.node);
            let near = |name: &TunnelPeerName| {
                plan.nodes.iter().any(|node| {
                    *name == TunnelPeerName::Node(node.node.clone()) && node.segment == plan.segment
                })
            };
            let inner = plan.tunnel_peers.iter().filter(|peer| near(&peer.name)).count();
            prop_assert!(inner == 0 || snapshot.mesh.encapsulation.encrypts());
            prop_assert!(plan.gateway || plan.tunnel_peers.len() == inner);
            let addresses = plan.nodes.iter().flat_map(|node| &node.overlay_addresses);
            let all: Vec<&IpAddr> = addresses.collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }

    #[test]
    fn a_plan_does_not_depend_on_order(
        (snapshot, shuffled) in mesh(Kind::Messy, 14).prop_flat_map(|snapshot| {
            let nodes = Just(snapshot.nodes.clone()).prop_shuffle();
            let peers = Just(snapshot.peers.clone()).prop_shuffle();
            (Just(snapshot), nodes, peers).prop_map(|(snapshot, nodes, peers)| {
                let shuffled = Snapshot { nodes, peers, ..snapshot.clone() };
                (snapshot, shuffled)
            })
        })
    ) {
        prop_assert_eq!(plans(&snapshot), plans(&shuffled));
        let graphs = [&snapshot, &shuffled].map(|one| Graph::of(&Topology::of(one)));
        prop_assert_eq!(&graphs[0], &graphs[1]);
    }

    #[test]
    fn no_route_or_allowed_ip_holds_an_endpoint(snapshot in mesh(Kind::Messy, 14)) {
        let graph = Graph::of(&Topology::of(&snapshot));
        let nodes = graph.segments.iter().flat_map(|segment| &segment.nodes);
        let mut endpoints: Vec<(IpAddr, Option<(NodeName, bool)>)> = Vec::new();
        for node in nodes {
            let address = node.endpoint.as_ref().and_then(Endpoint::address);
            endpoints.extend(address.map(|address| (address, Some((node.name.clone(), node.gateway)))));
        }
        for peer in &graph.peers {
            let address = peer.endpoint.as_ref().and_then(Endpoint::address);
            endpoints.extend(address.map(|address| (address, None)));
        }
        let locations = |name: &NodeName| {
            let named = snapshot.nodes.iter().filter(|node| node.name == *name);
            named.map(|node| node.location.clone()).collect::<Vec<_>>()
        };
        // One that is not public may lie in a network behind its own location, and be an internal address that nobody
        // dials from elsewhere.
        let is_free = |prefix: &Cidr, endpoint: IpAddr, of: &Option<(NodeName, bool)>| {
            let Some((name, gateway)) = of else { return false };
            let near = locations(name);
            let mut near = snapshot.nodes.iter().filter(|node| near.contains(&node.location));
            let is_behind = near.any(|node| node.extra_prefixes.contains(prefix));
            let is_undialled = prefix.is_host() && !gateway;
            !is_public(endpoint) && (is_behind || is_undialled)
        };
        for plan in plans(&snapshot) {
            // Only what comes from addresses of the mesh goes to internal addresses by a tunnel; tunnels do not.
            let hosts = plan.wraps.values().flat_map(|wrap| wrap.hosts.keys());
            let hosts: BTreeSet<Cidr> = hosts.map(|address| Cidr::host(*address)).collect();
            let allowed = plan.tunnel_peers.iter().flat_map(|peer| &peer.allowed_ips);
            let allowed = allowed.filter(|prefix| !hosts.contains(prefix));
            for prefix in plan.routes.keys().chain(allowed) {
                let hit = endpoints.iter().find(|(endpoint, of)| {
                    prefix.contains(*endpoint) && !is_free(prefix, *endpoint, of)
                });
                prop_assert_eq!(hit, None, "{} on {}", prefix, plan.node);
            }
            for (prefix, hop) in &plan.routes {
                prop_assert!(!hop.gateway.is_some_and(|gateway| prefix.contains(gateway)));
            }
        }
    }
}

#[test]
fn the_walker_follows_many_packets() {
    // Guards the properties above: a walker that is promised nothing finds nothing.
    let snapshot = crate::golden::demo();
    let world = World::of(&snapshot);
    // Each ordered pair of six nodes, both families, overlay, internal and pod address to each of these.
    assert_eq!(world.check_nodes().unwrap(), 6 * 5 * 2 * 3 * 3);
    assert!(world.check_peers().unwrap() > 0);
}

#[test]
fn the_walker_follows_as_many_that_are_wrapped_and_sees_what_is_missing() {
    let mut snapshot = crate::golden::demo();
    for by in [EncapsulateBy::WireGuard, EncapsulateBy::Ipip, EncapsulateBy::Vxlan] {
        for when in EncapsulateWhen::ALL {
            snapshot.mesh.encapsulation = Encapsulation { when, by };
            let followed = World::of(&snapshot).check_nodes().unwrap();
            assert_eq!(followed, 6 * 5 * 2 * 3 * 3, "{when} by {by}");
        }
    }
    let broken = |name: &str, breaks: fn(&mut KernelState)| {
        let mut world = World::of(&snapshot);
        breaks(&mut world.nodes.get_mut(&name.parse::<NodeName>().unwrap()).unwrap().kernel);
        world.check_nodes().unwrap_err()
    };
    let no_far_end = broken("ams-1", |kernel| kernel.forwarding.clear());
    assert!(no_far_end.contains("no far end"), "{no_far_end}");
    let no_link = broken("ams-2", |kernel| kernel.links.clear());
    assert!(no_link.contains("no link"), "{no_link}");
    let no_rule = broken("ams-1", |kernel| kernel.rules.clear());
    assert!(no_rule.contains("wrapped false"), "{no_rule}");
}

#[test]
fn only_other_subnets_are_wrapped_for_and_both_ends_agree_though_their_lengths_differ() {
    let mut snapshot = crate::golden::demo();
    snapshot.mesh.encapsulation.when = EncapsulateWhen::CrossSubnet;
    // ams-2 takes ams-1 for a neighbour, ams-1 does not take ams-2 for one.
    let internal = [("ams-1", "10.10.0.1/32"), ("ams-2", "10.10.0.2/24")];
    for (name, address) in internal {
        let node = snapshot.nodes.iter_mut().find(|node| node.name.as_str() == name).unwrap();
        node.internal_addresses = vec![address.parse().unwrap()];
    }
    for (name, end) in [("ams-1", "10.10.0.2"), ("ams-2", "10.10.0.1")] {
        let plan = plan(&snapshot, &name.parse().unwrap()).unwrap();
        let ends: Vec<IpAddr> = plan.wraps[&Family::V4].ends.keys().copied().collect();
        assert_eq!(ends, [end.parse::<IpAddr>().unwrap()]);
    }
    assert!(plan(&snapshot, &"waw-1".parse().unwrap()).unwrap().wraps.is_empty());
    World::of(&snapshot).check_nodes().unwrap();
}

#[test]
fn the_walker_sees_a_wrong_source() {
    let snapshot = crate::golden::demo();
    let mut world = World::of(&snapshot);
    for machine in world.nodes.values_mut() {
        for peer in &mut machine.plan.tunnel_peers {
            peer.allowed_ips.pop_last();
        }
    }
    assert!(world.check_nodes().is_err());
}

#[test]
fn two_locations_with_one_internal_address_lose_only_that() {
    let mut snapshot = crate::golden::demo();
    let address = "10.10.0.1/24".parse().unwrap();
    for node in &mut snapshot.nodes {
        if ["ams-1", "waw-1"].contains(&node.name.as_str()) {
            node.internal_addresses = vec![address];
        }
    }
    let found = plan(&snapshot, &"lon-1".parse().unwrap()).unwrap();
    let clashes = found.problems.iter().filter(|p| p.kind == ProblemKind::DuplicateAddress);
    let subjects: Vec<String> = clashes.map(|problem| problem.subject.to_string()).collect();
    assert_eq!(subjects, ["node waw-1", "node ams-1"]);
    let world = World::of(&snapshot);
    let pods = |name: &str| -> Vec<Party> {
        let parties = world.parties(&name.parse().unwrap());
        parties.into_iter().filter(|party| !party.prefix.is_host()).collect()
    };
    for (from, to) in pairs(&pods("ams-1"), &pods("waw-1")) {
        world.there_and_back(from, to).unwrap();
    }
}
