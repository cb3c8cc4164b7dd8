//! From a plan to the kernel state that it takes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wireloom_model::kernel::{Address, KernelState, Link, LinkKind, Route, RouteKey, Rule};
use wireloom_model::{Cidr, EncapsulateBy, Family, InterfaceName};

use crate::encapsulation::Wrap;
use crate::plan::{Hop, Plan};

/// The UDP port of our VXLAN links. Not the usual one (4789), which others on the host may use in their own way.
pub const VXLAN_PORT: u16 = 51107;

/// The identifier of our VXLAN links.
pub const VXLAN_ID: u32 = 107;

/// The routing table for packets to internal addresses of the own location that are wrapped.
pub const WRAPPED_TABLE: u32 = 51107;

/// The priority of the rules that look up [`WRAPPED_TABLE`]: before the main table, behind what others usually have.
pub const RULE_PRIORITY: u32 = 30107;

/// The least MTU that a link works with, by family (RFC 791, section 3.1; RFC 8200, section 5).
const fn least_mtu(family: Family) -> u32 {
    match family {
        Family::V4 => 576,
        Family::V6 => 1280,
    }
}

/// What is known of links when a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtus {
    /// The MTU of the tunnel device in bytes.
    pub tunnel: u32,
    /// The MTU of the location's own network in bytes.
    pub internal: u32,
}

impl Plan {
    /// The kernel state that this plan asks for, with a tunnel device of this name.
    pub fn kernel_state(&self, interface: &InterfaceName, mtus: Mtus) -> KernelState {
        let address = |&address| Address { link: interface.clone(), address };
        let links: BTreeMap<Family, InterfaceName> = self
            .wraps
            .iter()
            .map(|(&family, wrap)| (family, wrap.link(interface, family)))
            .collect();
        let route = |(&destination, hop): (&Cidr, &Hop)| {
            let link = match (hop.gateway, hop.wrapped) {
                (None, _) => Some(interface),
                (Some(_), true) => links.get(&destination.family()),
                (Some(_), false) => None,
            };
            let route = Route { gateway: hop.gateway, link: link.cloned(), source: hop.source };
            (RouteKey::main(destination), route)
        };
        let mut state = KernelState {
            links: BTreeMap::from([(interface.clone(), Link::held(mtus.tunnel))]),
            addresses: self.addresses.iter().map(address).collect(),
            routes: self.routes.iter().map(route).collect(),
            ..KernelState::default()
        };
        for (family, link) in links {
            let wrap = &self.wraps[&family];
            let mtu = wrap.mtu(family, mtus.internal);
            wrap.add_to(&mut state, link, mtu);
            state.rules.extend(self.rules(interface, family));
        }
        state
    }

    /// The largest packet in bytes that reaches every other pod whole, for whoever sets up pods. No packet is in the
    /// tunnel and wrapped at the same time, so the narrower of the two counts.
    pub fn pod_mtu(&self, mtus: Mtus) -> u32 {
        let wrapped = self.wraps.iter().map(|(&family, wrap)| wrap.mtu(family, mtus.internal));
        wrapped.chain([mtus.tunnel]).min().unwrap_or(mtus.tunnel)
    }

    /// Which packets to internal addresses are wrapped: those that come out of the tunnel, and those from addresses of
    /// the mesh, the node's own and its pods'.
    fn rules(&self, interface: &InterfaceName, family: Family) -> impl Iterator<Item = Rule> {
        let all = Rule::all(family, RULE_PRIORITY, WRAPPED_TABLE);
        let input = self.gateway.then(|| Rule { input: Some(interface.clone()), ..all.clone() });
        let own = self.addresses.iter().map(|address| Cidr::host(address.address()));
        let from = own.chain(self.pods.iter().copied()).filter(move |p| p.family() == family);
        input.into_iter().chain(from.map(move |from| Rule { from: Some(from), ..all.clone() }))
    }
}

impl Wrap {
    /// The name of the link that wraps, beside a tunnel device of this name.
    #[expect(clippy::expect_used, reason = "a name of at most 15 bytes, and all of it in order")]
    fn link(&self, interface: &InterfaceName, family: Family) -> InterfaceName {
        let suffix = match (self.by, family) {
            (EncapsulateBy::Ipip, _) => "-ip",
            (_, Family::V4) => "-v4",
            (_, Family::V6) => "-v6",
        };
        let base: String = interface.as_str().chars().take(12).collect();
        format!("{base}{suffix}").parse().expect("an interface's name, shortened")
    }

    fn mtu(&self, family: Family, internal: u32) -> u32 {
        internal.saturating_sub(self.by.overhead(family)).max(least_mtu(family))
    }

    fn kind(&self) -> LinkKind {
        match (self.by, self.local) {
            (EncapsulateBy::Ipip, IpAddr::V4(local)) => LinkKind::Ipip { local },
            // IPIP never has a local address of another family.
            (_, local) => LinkKind::Vxlan { id: VXLAN_ID, port: VXLAN_PORT, local, mac: self.mac },
        }
    }

    fn add_to(&self, state: &mut KernelState, link: InterfaceName, mtu: u32) {
        if self.by == EncapsulateBy::Vxlan {
            for (&end, &mac) in &self.ends {
                state.neighbours.insert((link.clone(), end), mac);
                state.forwarding.insert((link.clone(), mac), end);
            }
        }
        for (&host, &end) in &self.hosts {
            let key = RouteKey { table: WRAPPED_TABLE, ..RouteKey::main(Cidr::host(host)) };
            let route = Route { gateway: Some(end), link: Some(link.clone()), source: None };
            state.routes.insert(key, route);
        }
        state.links.insert(link, Link { mtu, up: true, kind: self.kind() });
    }
}
