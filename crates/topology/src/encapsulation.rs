//! Which packets between the nodes of a segment are wrapped, and in what.
//!
//! What a node passes on to another one of its segment is wrapped in packets between their internal addresses of the
//! same family. Both ends always agree, so packets come by the path that their answers take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::kernel::MacAddress;
use wireloom_model::{Cidr, EncapsulateBy, EncapsulateWhen, Family, InterfaceName, NodeName};

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
    /// The node's own addresses in the mesh and its pods.
    pub from: BTreeSet<Cidr>,
}

impl Topology<'_> {
    /// How a member wraps packets, by family; without the families of which it wraps none.
    pub(crate) fn wraps(&self, me: usize) -> BTreeMap<Family, Wrap> {
        if self.mesh.encapsulation.when == EncapsulateWhen::Never {
            return BTreeMap::new();
        }
        let wraps = Family::BOTH.into_iter().filter_map(|family| {
            let member = &self.members[me];
            let own = self.overlay[me].into_iter().flatten().map(Cidr::host);
            let from = own.chain(member.pods.iter().copied()).filter(|p| p.family() == family);
            let mut wrap = Wrap {
                by: self.mesh.encapsulation.by,
                link: None,
                local: member.outer(family)?,
                mac: mac(&member.node.name),
                ends: BTreeMap::new(),
                hosts: BTreeMap::new(),
                from: from.collect(),
            };
            for &at in &self.areas[member.segment].members {
                let Some(end) = self.end(me, at, family) else { continue };
                let other = &self.members[at];
                wrap.ends.insert(end, mac(&other.node.name));
                let internal = other.internal.iter().filter(|a| a.family() == family);
                wrap.hosts.extend(internal.map(|address| (address.address(), end)));
            }
            (!wrap.ends.is_empty()).then_some((family, wrap))
        });
        wraps.collect()
    }

    /// Where one member sends the outer packets for another one of its segment. `None` if packets of this family are
    /// not wrapped between the two.
    pub(crate) fn end(&self, from: usize, to: usize, family: Family) -> Option<IpAddr> {
        let (one, other) = (&self.members[from], &self.members[to]);
        let encapsulation = self.mesh.encapsulation;
        let is_wrapped = match encapsulation.when {
            EncapsulateWhen::Never => false,
            // Prefix lengths may differ: one that takes the other for a neighbour is not enough.
            EncapsulateWhen::CrossSubnet => {
                !(one.is_near(other, family) && other.is_near(one, family))
            }
            EncapsulateWhen::Always => true,
        };
        let may = from != to && one.speaks(family) && encapsulation.by.carries(family);
        (may && is_wrapped).then(|| other.outer(family)).flatten()
    }
}

impl Member<'_> {
    /// Its end of what is wrapped in a family: its first internal address there.
    fn outer(&self, family: Family) -> Option<IpAddr> {
        self.internal.iter().find(|a| a.family() == family).map(|a| a.address())
    }

    /// Whether the other one has an address in a network of its own.
    fn is_near(&self, other: &Self, family: Family) -> bool {
        let inside = |address: IpAddr| self.internal.iter().any(|a| a.network().contains(address));
        other.internal.iter().any(|a| a.family() == family && inside(a.address()))
    }
}

/// The Ethernet address of a node where packets are wrapped: of the locally administered ones, by hash of its name.
pub(crate) fn mac(node: &NodeName) -> MacAddress {
    let [a, b, c, d, e, f, ..] = hash(Purpose::Ethernet, &[node.as_str().as_bytes()]).to_le_bytes();
    MacAddress([a & 0xfc | 0x02, b, c, d, e, f])
}
