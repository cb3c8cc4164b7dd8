//! What one node must do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;
use wireloom_model::kernel::NftSet;
use wireloom_model::{
    Algorithm, Cidr, EncapsulateBy, Endpoint, Family, Filter, Held, InterfaceAddress, Node,
    NodeName, PeerName, PresharedKey, Problem, PublicKey, Subject,
};

use crate::encapsulation::Wrap;
use crate::resolve::Extra;
use crate::segment::Segment;
use crate::topology::Topology;

/// What one node must do, and what it then holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The node.
    pub node: NodeName,
    /// The key that the mesh knows it by. A node with another key has been replaced by its namesake.
    pub key: PublicKey,
    /// Its segment.
    pub segment: Segment,
    /// Whether it is a gateway of its segment.
    pub gateway: bool,
    /// Its home gateway; itself for a gateway.
    pub home: NodeName,
    /// The addresses of its tunnel device: its overlay addresses, as /32 and /128, the overlay's ranges being routes. By
    /// Kilo's algorithm with the prefix length of the range, and on gateways alone.
    pub addresses: Vec<InterfaceAddress>,
    /// Its WireGuard peers, nodes first, each kind in the order of names. Others than gateways have only those of their
    /// segment, where WireGuard is what packets are wrapped in there.
    pub tunnel_peers: Vec<TunnelPeer>,
    /// Where packets for each prefix go. Prefixes of its own and the on-link addresses of its segment are not here.
    pub routes: BTreeMap<Cidr, Hop>,
    /// Those of these prefixes to which another network plugin of the node has routes as well.
    pub contested: BTreeSet<Cidr>,
    /// The prefixes of others' pods in its segment that are reached by routes of another network plugin.
    pub left: BTreeSet<Cidr>,
    /// How it wraps packets for others of its segment, by family; without the families of which it wraps none.
    pub wraps: BTreeMap<Family, Wrap>,
    /// The prefixes of its own pods.
    pub pods: BTreeSet<Cidr>,
    /// Whether TCP connections are told the segments that fit through links of the mesh.
    pub clamp_mss: bool,
    /// Whose source addresses are changed, and towards what not. `None` where none is.
    pub masquerade: Option<BTreeMap<NftSet, BTreeSet<Cidr>>>,
    /// Between which prefixes packets are accepted in chains of others; between none without any.
    pub passed: BTreeSet<Cidr>,
    /// What it holds once this is done, for others to plan by.
    pub publishes: Held,
    /// What is wrong with the whole mesh; the same list on every node.
    pub problems: Vec<Problem>,
    /// Every node of the mesh, in the order of names.
    pub nodes: Vec<NodeSummary>,
}

/// A WireGuard peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Its key.
    pub key: PublicKey,
    /// Who it is.
    pub name: TunnelPeerName,
    /// Where it is dialled, if it can be.
    pub endpoint: Option<Endpoint>,
    /// Where else it may be reached, the best first: tried in turn while it is not.
    pub alternatives: Vec<Endpoint>,
    /// What it may send from, and what is sent to it.
    pub allowed_ips: BTreeSet<Cidr>,
    /// How often the tunnel is kept open, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// The symmetric key mixed into handshakes with it.
    pub preshared_key: Option<PresharedKey>,
}

impl TunnelPeer {
    /// Where it may be reached, the best first.
    pub fn places(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoint.iter().chain(&self.alternatives)
    }
}

/// Who a WireGuard peer is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelPeerName {
    /// A gateway of another segment, or a node of the own one.
    Node(NodeName),
    /// A peer from outside.
    Peer(PeerName),
}

/// The next step of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// What carries it.
    pub by: Way,
    /// The address that it is handed to there. The tunnel device needs none: it knows whom by the packet's destination.
    pub gateway: Option<IpAddr>,
    /// The address that the node's own packets take. `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Whether it leads out of the node's segment.
    pub away: bool,
}

/// What carries a packet to its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The location's own network.
    Location,
    /// The tunnel device.
    Tunnel,
    /// The location's network, the packet being wrapped by the [`Wrap`] of its family.
    Wrapped,
}

/// A node as the mesh sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSummary {
    /// Its name.
    pub node: NodeName,
    /// Its segment.
    pub segment: Segment,
    /// Whether it is a gateway of its segment.
    pub gateway: bool,
    /// Its home gateway; itself for a gateway.
    pub home: NodeName,
    /// Its overlay addresses, IPv4 first.
    pub overlay_addresses: Vec<IpAddr>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// An older node or peer has the same key.
    #[error(
        "{subject} is kept out of the mesh, because {holder} has the same key; give it a key of its own"
    )]
    KeptOut {
        /// Who is kept out.
        subject: Subject,
        /// Who has the key.
        holder: Subject,
    },
    /// The snapshot has nobody of this name, or nothing that the mesh could do for it.
    #[error(
        "{subject} is not in the mesh; add it to the registry, or see the problems listed with it"
    )]
    Unknown {
        /// Who was asked for.
        subject: Subject,
    },
}

impl Plan {
    /// The same beside another network plugin, which has routes to the pods of these nodes: those within the segment are left
    /// to it, and those of the mesh to other segments come first.
    #[must_use]
    pub fn beside_another(mut self, nodes: &[Node]) -> Self {
        let near = self.nodes.iter().filter(|node| node.segment == self.segment);
        let near: BTreeSet<&NodeName> = near.map(|node| &node.node).collect();
        for node in nodes.iter().filter(|node| node.name != self.node) {
            let addresses = node.held.pod_addresses.iter().copied().map(Cidr::host);
            for prefix in node.pod_prefixes.iter().copied().chain(addresses) {
                if near.contains(&node.name) {
                    self.routes.remove(&prefix);
                    self.left.insert(prefix);
                } else if self.routes.contains_key(&prefix) {
                    self.contested.insert(prefix);
                }
            }
        }
        self
    }

    /// What lies outside the node's segment.
    pub fn elsewhere(&self) -> BTreeSet<Cidr> {
        self.routes.iter().filter(|(_, hop)| hop.away).map(|(prefix, _)| *prefix).collect()
    }

    /// What the node reaches within its segment, its own pods aside.
    pub fn near(&self) -> BTreeSet<Cidr> {
        let routes = self.routes.iter().filter(|(_, hop)| !hop.away).map(|(prefix, _)| prefix);
        routes.chain(&self.left).copied().collect()
    }
}

impl Topology<'_> {
    pub(crate) fn plan_of(&self, me: usize) -> Plan {
        let member = &self.members[me];
        let gateway = self.is_gateway(me);
        let home = self.members[self.place.homes[me]].node.name.clone();
        let overlay: Vec<IpAddr> = self.overlay[me].into_iter().flatten().collect();
        Plan {
            node: member.node.name.clone(),
            key: member.node.key,
            segment: self.areas[member.segment].name.clone(),
            gateway,
            home: home.clone(),
            addresses: overlay.iter().copied().map(InterfaceAddress::host).collect(),
            tunnel_peers: self.tunnel_peers(me),
            routes: self.routes(me),
            contested: BTreeSet::new(),
            left: BTreeSet::new(),
            wraps: self.wraps(me),
            pods: member.pods.iter().copied().collect(),
            clamp_mss: self.mesh.filter.clamp_mss,
            masquerade: self.mesh.filter.masquerade.then(|| self.sets(me)),
            passed: passed(&self.mesh.filter, || self.sets(me)),
            publishes: Held {
                overlay_addresses: overlay,
                gateway,
                home: Some(home),
                anchors: self
                    .anchored_at(me)
                    .map(|at| self.outsiders[at].peer.name.clone())
                    .collect(),
                owns: self.owned_by(me).collect(),
                algorithm: Some(Algorithm::Wireloom),
                pod_addresses: BTreeSet::new(),
                unserved_by: BTreeSet::new(),
            },
            problems: self.problems().to_vec(),
            nodes: self.nodes(),
        }
    }

    /// The outsiders whose anchor in its segment this member is.
    fn anchored_at(&self, me: usize) -> impl Iterator<Item = usize> {
        let anchors = &self.anchors[self.members[me].segment];
        anchors.iter().enumerate().filter(move |(_, anchor)| **anchor == me).map(|(at, _)| at)
    }

    /// The extra prefixes that this member owns.
    pub(crate) fn owned_by(&self, me: usize) -> impl Iterator<Item = Cidr> {
        let duties = self.extras.iter().zip(&self.duties);
        duties.filter(move |(_, duty)| duty.owner == me).map(|(extra, _)| extra.prefix)
    }

    fn tunnel_peers(&self, me: usize) -> Vec<TunnelPeer> {
        // By member, and so by name.
        let mut nodes = self.inner_peers(me);
        if self.is_gateway(me) {
            // Another segment may have an internal address of this one too.
            let inner: BTreeSet<Cidr> =
                nodes.values().flat_map(|peer| &peer.allowed_ips).copied().collect();
            nodes.extend(self.outer_peers(me).map(|(at, mut peer)| {
                peer.allowed_ips.retain(|prefix| !inner.contains(prefix));
                (at, peer)
            }));
        }
        nodes.into_values().chain(self.outside_peers(me)).collect()
    }

    /// The gateways of the other segments.
    fn outer_peers(&self, me: usize) -> impl Iterator<Item = (usize, TunnelPeer)> {
        let keepalive = self.members[me].keepalive();
        let mut owned = BTreeMap::<usize, Vec<Cidr>>::new();
        for (extra, duty) in self.extras.iter().zip(&self.duties) {
            owned.entry(duty.owner).or_default().push(extra.prefix);
        }
        let mine = self.members[me].segment;
        let others = self.place.gateways.iter().enumerate();
        let others = others.filter(move |(segment, _)| *segment != mine);
        others.flat_map(|(_, gateways)| gateways).map(move |&at| {
            let behind = self.behind[at].iter().flat_map(|&node| self.prefixes(node));
            let owned = owned.get(&at).into_iter().flatten().copied();
            let allowed_ips = behind.chain(owned).collect();
            (at, TunnelPeer { allowed_ips, ..self.gateway_peer(at, keepalive) })
        })
    }

    /// The peers from outside whose anchor a member is.
    fn outside_peers(&self, me: usize) -> impl Iterator<Item = TunnelPeer> {
        let keepalive = self.members[me].keepalive();
        self.anchored_at(me).map(move |at| {
            let outsider = &self.outsiders[at];
            TunnelPeer {
                key: outsider.peer.key,
                name: TunnelPeerName::Peer(outsider.peer.name.clone()),
                endpoint: outsider.endpoint.cloned(),
                alternatives: Vec::new(),
                allowed_ips: outsider.prefixes.iter().copied().collect(),
                persistent_keepalive: shorter(keepalive, outsider.peer.persistent_keepalive),
                preshared_key: outsider.peer.preshared_key.clone(),
            }
        })
    }

    /// A gateway as somebody's WireGuard peer, without allowed IPs yet.
    pub(crate) fn gateway_peer(&self, at: usize, keepalive: Option<NonZeroU16>) -> TunnelPeer {
        let member = &self.members[at];
        TunnelPeer {
            key: member.node.key,
            name: TunnelPeerName::Node(member.node.name.clone()),
            endpoint: member.endpoint.cloned(),
            alternatives: self.elsewhere.places(member),
            allowed_ips: BTreeSet::new(),
            persistent_keepalive: keepalive,
            preshared_key: None,
        }
    }

    /// An outsider's anchors with all that their segments hold, one for each segment.
    pub(crate) fn view_of(&self, outsider: usize) -> Vec<TunnelPeer> {
        let peer = self.outsiders[outsider].peer;
        let view = self.areas.iter().enumerate().map(|(segment, area)| TunnelPeer {
            allowed_ips: area
                .members
                .iter()
                .flat_map(|&at| self.prefixes(at))
                .chain(self.extras.iter().filter(|e| e.segment == segment).map(|e| e.prefix))
                .collect(),
            preshared_key: peer.preshared_key.clone(),
            ..self.gateway_peer(self.anchors[segment][outsider], peer.persistent_keepalive)
        });
        view.collect()
    }

    fn routes(&self, me: usize) -> BTreeMap<Cidr, Hop> {
        let table = Table::new(self, me);
        self.leads(me).into_iter().filter_map(|lead| table.route(&lead)).collect()
    }

    /// What a member does not have itself, and by which node of its segment it is reached.
    pub(crate) fn leads(&self, me: usize) -> Vec<Lead> {
        let mine = self.members[me].segment;
        let home = self.place.homes[me];
        let lead = |lies, by| move |prefix| Lead { prefix, by, lies };
        let mut leads = Vec::with_capacity(2 * self.members.len());

        // One route leads to all overlay addresses; those of the own segment are exceptions to it.
        leads.extend(self.mesh.overlay.ranges().map(lead(Lies::Away, home)));
        for (segment, area) in self.areas.iter().enumerate() {
            for &at in area.members.iter().filter(|at| **at != me) {
                let pods = self.members[at].pods.iter().copied();
                if segment == mine {
                    let overlay = self.overlay[at].into_iter().flatten().map(Cidr::host);
                    leads.extend(overlay.chain(pods).map(lead(Lies::Near, at)));
                } else {
                    let carried = self.members[at].carried.iter().copied().map(Cidr::host);
                    leads.extend(carried.chain(pods).map(lead(Lies::Away, home)));
                }
            }
        }
        for (extra, duty) in self.extras.iter().zip(&self.duties) {
            leads.push(match extra.segment == mine {
                false => lead(Lies::Away, home)(extra.prefix),
                true if self.reaches(me, extra) => lead(Lies::Back, duty.carrier)(extra.prefix),
                true => lead(Lies::Near, duty.carrier)(extra.prefix),
            });
        }
        for (outsider, &anchor) in self.outsiders.iter().zip(&self.anchors[mine]) {
            leads.extend(outsider.prefixes.iter().copied().map(lead(Lies::Away, anchor)));
        }
        leads
    }

    /// Whether a member reaches a network behind its segment without others: it says so, or it is attached to a network
    /// that lies in it or holds it.
    fn reaches(&self, me: usize, extra: &Extra) -> bool {
        let is_on_link = |a: &InterfaceAddress| a.network().overlaps(&extra.prefix);
        extra.listers.contains(&me) || self.members[me].internal.iter().any(is_on_link)
    }

    /// The sets of prefixes that tell which source addresses a member changes.
    fn sets(&self, me: usize) -> BTreeMap<NftSet, BTreeSet<Cidr>> {
        let mine = self.members[me].segment;
        let mut mesh: BTreeSet<Cidr> = self.mesh.overlay.ranges().collect();
        for at in 0..self.members.len() {
            mesh.extend(self.prefixes(at));
        }
        for &at in &self.areas[mine].members {
            mesh.extend(self.members[at].internal.iter().map(|a| Cidr::host(a.address())));
        }
        let (site, elsewhere): (Vec<&Extra>, Vec<&Extra>) =
            self.extras.iter().partition(|extra| extra.listers.contains(&me));
        mesh.extend(elsewhere.iter().map(|extra| extra.prefix));
        BTreeMap::from([
            (NftSet::Mesh, mesh),
            (NftSet::Peers, self.outsiders.iter().flat_map(|o| &o.prefixes).copied().collect()),
            (NftSet::Pods, self.members[me].pods.iter().copied().collect()),
            (NftSet::Services, self.mesh.filter.services.iter().copied().collect()),
            (NftSet::Site, site.iter().map(|extra| extra.prefix).collect()),
        ])
    }
}

/// All prefixes of a node's sets that lie in the mesh or behind it, if packets between them are to be accepted.
pub(crate) fn passed(
    filter: &Filter,
    sets: impl FnOnce() -> BTreeMap<NftSet, BTreeSet<Cidr>>,
) -> BTreeSet<Cidr> {
    if !filter.forward_accept {
        return BTreeSet::new();
    }
    let sets = sets().into_iter().filter(|(set, _)| *set != NftSet::Services);
    sets.flat_map(|(_, prefixes)| prefixes).collect()
}

/// A prefix and the node of the own segment that leads to it.
pub(crate) struct Lead {
    pub(crate) prefix: Cidr,
    /// A member; the node itself if it sends through its tunnel.
    pub(crate) by: usize,
    lies: Lies,
}

/// Where what a [`Lead`] leads to lies.
#[derive(Clone, Copy)]
enum Lies {
    /// Outside the segment.
    Away,
    /// Where packets come from by this node, while those to there go without the mesh.
    Back,
    /// At or behind another node of the segment.
    Near,
}

/// The shorter of two intervals.
fn shorter(one: Option<NonZeroU16>, other: Option<NonZeroU16>) -> Option<NonZeroU16> {
    one.into_iter().chain(other).min()
}

/// What one node's routes have in common.
struct Table<'a> {
    topology: &'a Topology<'a>,
    me: usize,
    /// The internal addresses of its segment of the families that it has there itself, sorted.
    on_link: Vec<IpAddr>,
    sources: [Option<IpAddr>; 2],
}

impl<'a> Table<'a> {
    fn new(topology: &'a Topology<'a>, me: usize) -> Self {
        let member = &topology.members[me];
        let segment = &topology.areas[member.segment].members;
        let mut on_link: Vec<IpAddr> = segment
            .iter()
            .flat_map(|&at| topology.members[at].internal.iter().map(InterfaceAddress::address))
            .filter(|address| member.speaks(Family::of(*address)))
            .collect();
        on_link.sort_unstable();
        let carried = |family| member.carried.iter().copied().find(|a| Family::of(*a) == family);
        let [v4, v6] = topology.overlay[me];
        let sources = [v4.or_else(|| carried(Family::V4)), v6.or_else(|| carried(Family::V6))];
        Self { topology, me, on_link, sources }
    }

    fn route(&self, lead: &Lead) -> Option<(Cidr, Hop)> {
        match lead.lies {
            // The source is one that the other side accepts.
            Lies::Away => self.to(lead, self.source(lead.prefix.family())),
            Lies::Back => None,
            Lies::Near => self.to(lead, None),
        }
    }

    const fn source(&self, family: Family) -> Option<IpAddr> {
        let [v4, v6] = self.sources;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// A route by this node, if its family has a next hop there. None may lead to an internal address of the own
    /// segment: those are on-link, and the next hop is one of them.
    fn to(&self, lead: &Lead, source: Option<IpAddr>) -> Option<(Cidr, Hop)> {
        let (prefix, at, away) = (lead.prefix, lead.by, matches!(lead.lies, Lies::Away));
        let behind = self.on_link.partition_point(|address| *address < prefix.address());
        if self.on_link.get(behind).is_some_and(|address| prefix.contains(*address)) {
            return None;
        }
        let family = prefix.family();
        if at == self.me {
            return Some((prefix, Hop { by: Way::Tunnel, gateway: None, source, away }));
        }
        if let Some(end) = self.topology.end(self.me, at, family) {
            // The link that wraps has no address that the kernel could take. Answers to this one are wrapped too.
            let own = || self.topology.members[self.me].outer(family);
            let source = source.or_else(|| self.source(family)).or_else(own);
            let hop = match self.topology.mesh.encapsulation.by {
                EncapsulateBy::WireGuard => Hop { by: Way::Tunnel, gateway: None, source, away },
                _ => Hop { by: Way::Wrapped, gateway: Some(end), source, away },
            };
            return Some((prefix, hop));
        }
        let members = &self.topology.members;
        let gateway = Some(members[self.me].next_hop(&members[at], family)?);
        Some((prefix, Hop { by: Way::Location, gateway, source, away }))
    }
}
