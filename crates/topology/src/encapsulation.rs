//! Which packets between the nodes of a segment are wrapped, and in what.
//!
//! What a node passes on to another one of its segment is wrapped in packets between their internal addresses: by IPIP
//! and VXLAN of the same family, by WireGuard of any that both have. Both ends always agree, so packets come by the path
//! that their answers take.
//!
//! By WireGuard, nodes of a segment are peers of each other, and the allowed IPs of such a peer are what the segment
//! reaches by it: what it has itself and, of a home gateway, all that lies outside the segment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::kernel::MacAddress;
use wireloom_model::{
    Cidr, EncapsulateBy, EncapsulateWhen, Encapsulation, Endpoint, Family, InterfaceName, NodeName,
};

use crate::plan::{TunnelPeer, TunnelPeerName};
use crate::rendezvous::{Purpose, hash};
use crate::resolve::Member;
use crate::topology::Topology;

/// How a node wraps packets of one family for others of its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// What they are wrapped in.
    pub by: EncapsulateBy,
    /// The link of another network plugin that wraps them. `None` for one of ours.
    pub link: Option<InterfaceName>,
    /// The node's internal address that outer packets come from, and that those of others go to.
    pub local: IpAddr,
    /// The Ethernet address by which the others know it, where there is Ethernet inside.
    pub mac: MacAddress,
    /// The others' addresses that outer packets go to, each with the Ethernet address behind it.
    pub ends: BTreeMap<IpAddr, MacAddress>,
    /// Internal addresses of the others, each with the end that it lies behind. What comes out of the tunnel device or
    /// [from](Self::from) an address of the mesh to one of them is wrapped too; between internal addresses nothing is.
    pub hosts: BTreeMap<IpAddr, IpAddr>,
    /// The internal addresses of the others of its segment: outer packets come from nobody else.
    pub sources: BTreeSet<IpAddr>,
    /// The node's own addresses in the mesh and its pods.
    pub from: BTreeSet<Cidr>,
}

impl Topology<'_> {
    /// How a member wraps packets, by family; without the families of which it wraps none.
    pub(crate) fn wraps(&self, me: usize) -> BTreeMap<Family, Wrap> {
        let member = &self.members[me];
        let wraps = Family::BOTH.into_iter().filter_map(|family| {
            let own = self.overlay[me].into_iter().flatten().map(Cidr::host);
            let from = own.chain(member.pods.iter().copied()).filter(|p| p.family() == family);
            let segment = &self.areas[member.segment].members;
            let others = segment.iter().filter(|at| **at != me).map(|&at| &self.members[at]);
            let mut wrap = Wrap {
                by: self.mesh.encapsulation.by,
                link: None,
                local: member.outer(family).or_else(|| member.any_outer())?,
                mac: mac(&member.node.name),
                ends: BTreeMap::new(),
                hosts: BTreeMap::new(),
                sources: others.flat_map(|other| other.hosts(family)).collect(),
                from: from.collect(),
            };
            for &at in segment {
                let Some(end) = self.end(me, at, family) else { continue };
                let other = &self.members[at];
                wrap.ends.insert(end, mac(&other.node.name));
                wrap.hosts.extend(other.hosts(family).map(|address| (address, end)));
            }
            (!wrap.ends.is_empty()).then_some((family, wrap))
        });
        wraps.collect()
    }

    /// Where one member sends the outer packets for another one of its segment. `None` if packets of this family are
    /// not wrapped between the two.
    pub(crate) fn end(&self, from: usize, to: usize, family: Family) -> Option<IpAddr> {
        let different = (from != to).then_some(&self.members[to])?;
        self.members[from].end(different, family, self.mesh.encapsulation)
    }

    /// The members of its segment that a member has as WireGuard peers.
    pub(crate) fn inner_peers(&self, me: usize) -> BTreeMap<usize, TunnelPeer> {
        let mut peers = BTreeMap::new();
        if !self.mesh.encapsulation.encrypts() {
            return peers;
        }
        let wrapped = |prefix: Cidr, by| self.end(me, by, prefix.family()).map(|_| (prefix, by));
        let leads = self.leads(me).into_iter().filter_map(|lead| wrapped(lead.prefix, lead.by));
        let segment = &self.areas[self.members[me].segment].members;
        let hosts = segment.iter().flat_map(|&at| {
            let own = self.members[at].internal.iter().map(|a| Cidr::host(a.address()));
            own.filter_map(move |host| wrapped(host, at))
        });
        // An internal address of the segment is its own, whoever else has it.
        let owners: BTreeMap<Cidr, usize> = leads.chain(hosts).collect();
        for (prefix, at) in owners {
            let Some(address) = self.members[me].any_hop(&self.members[at]) else { continue };
            let node = self.members[at].node;
            let new = || TunnelPeer {
                key: node.key,
                name: TunnelPeerName::Node(node.name.clone()),
                endpoint: Some(Endpoint::at(address, node.listen_port(self.mesh.port))),
                alternatives: Vec::new(),
                allowed_ips: BTreeSet::new(),
                persistent_keepalive: None,
                preshared_key: None,
            };
            peers.entry(at).or_insert_with(new).allowed_ips.insert(prefix);
        }
        peers
    }
}

impl Member<'_> {
    /// Where this member sends the outer packets for another one of its segment. `None` if packets of this family are
    /// not wrapped between the two.
    fn end(&self, other: &Self, family: Family, encapsulation: Encapsulation) -> Option<IpAddr> {
        let is_wrapped = match encapsulation.when {
            EncapsulateWhen::Never => false,
            // Prefix lengths may differ: one that takes the other for a neighbour is not enough.
            EncapsulateWhen::CrossSubnet => {
                !(self.is_near(other, family) && other.is_near(self, family))
            }
            EncapsulateWhen::Always => true,
        };
        match encapsulation.by {
            _ if !is_wrapped => None,
            EncapsulateBy::WireGuard => self.any_hop(other),
            by if self.speaks(family) && by.carries(family) => other.outer(family),
            _ => None,
        }
    }

    /// Whether packets of a family get from this member to another one of its segment, and back.
    pub(crate) fn meets(&self, other: &Self, family: Family, encapsulation: Encapsulation) -> bool {
        self.next_hop(other, family).is_some() || self.end(other, family, encapsulation).is_some()
    }

    /// How this member addresses another one of its segment, in a family that both have.
    fn any_hop(&self, other: &Self) -> Option<IpAddr> {
        Family::BOTH.into_iter().find_map(|family| self.next_hop(other, family))
    }

    /// Its internal addresses of a family.
    fn hosts(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.internal.iter().filter(move |a| a.family() == family).map(|a| a.address())
    }

    /// Its end of what is wrapped in a family: its first internal address there.
    pub(crate) fn outer(&self, family: Family) -> Option<IpAddr> {
        self.hosts(family).next()
    }

    fn any_outer(&self) -> Option<IpAddr> {
        Family::BOTH.into_iter().find_map(|family| self.outer(family))
    }

    /// Whether the other one has an address in a network of its own.
    fn is_near(&self, other: &Self, family: Family) -> bool {
        let inside = |address: IpAddr| self.internal.iter().any(|a| a.network().contains(address));
        other.hosts(family).any(inside)
    }
}

/// The Ethernet address of a node where packets are wrapped: of the locally administered ones, by hash of its name.
pub(crate) fn mac(node: &NodeName) -> MacAddress {
    let [a, b, c, d, e, f, ..] = hash(Purpose::Ethernet, &[node.as_str().as_bytes()]).to_le_bytes();
    MacAddress([a & 0xfc | 0x02, b, c, d, e, f])
}
