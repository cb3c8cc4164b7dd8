//! From a plan to the kernel state that it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::kernel::{
    Address, KernelState, Link, LinkKind, LinkSetting, MAIN_TABLE, MacAddress, Mark, Nft, NftSet,
    Outer, Route, RouteKey, Rule,
};
use wireloom_model::{Cidr, EncapsulateBy, Family, InterfaceAddress, InterfaceName, PublicKey};

use crate::encapsulation::Wrap;
use crate::plan::{Hop, Plan, Way};

/// The UDP port of our VXLAN links. Not the usual one (4789), which others on the host may use in their own way.
pub const VXLAN_PORT: u16 = 51107;

/// The identifier of our VXLAN links.
pub const VXLAN_ID: u32 = 107;

/// The routing table for packets to internal addresses of the own location that are wrapped.
pub const WRAPPED_TABLE: u32 = 51107;

/// The priority of the rules that look up [`WRAPPED_TABLE`]: before the main table, behind what others usually have.
pub const RULE_PRIORITY: u32 = 30107;

/// The routing table for routes into the tunnel that the tunnel's own packets must not take.
pub const TUNNELLED_TABLE: u32 = 51108;

/// What marks packets that others' chains are to accept, where the tunnel's own packets are not marked.
const ACCEPT_MARK: u32 = 0x20;

/// The tables that hold routes into the tunnel, before any is moved to [`TUNNELLED_TABLE`].
const TABLES: [u32; 2] = [MAIN_TABLE, WRAPPED_TABLE];

/// The least priority of the rules that look up [`TUNNELLED_TABLE`]. Longer prefixes come first, two rules each.
pub const TUNNELLED_PRIORITY: u32 = 30200;

/// The routing table by which other locations are unreachable, for those of the node's pods that stay off the mesh.
const OFF_MESH_TABLE: u32 = 51109;

/// The priority of the rules that look up [`OFF_MESH_TABLE`]: before those that lead there.
const OFF_MESH_PRIORITY: u32 = 30106;

/// The routing table for pods of other locations to which another network plugin has routes as well.
const FIRST_TABLE: u32 = 51110;

/// The priority of the rules that look up [`FIRST_TABLE`]: before the main table, where that plugin has its routes.
const FIRST_PRIORITY: u32 = 30110;

/// What our links are given. Packets are known by the tunnel's keys or come from the location's own network, and may
/// come by another link than the one that the main table names for their source. Nobody announces routers there.
const SETTINGS: [(LinkSetting, u8); 2] = [(LinkSetting::AcceptRa, 0), (LinkSetting::RpFilter, 2)];

/// The least MTU that a link works with, by family (RFC 791, section 3.1; RFC 8200, section 5).
const fn least_mtu(family: Family) -> u32 {
    match family {
        Family::V4 => 576,
        Family::V6 => 1280,
    }
}

/// What a plan is carried out over: what this machine knows of its own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The MTU of the tunnel device in bytes.
    pub tunnel_mtu: u32,
    /// The MTU of the location's own network in bytes.
    pub internal_mtu: u32,
    /// The largest packets in bytes that reach peers by paths too narrow for the tunnel device's.
    pub narrow: BTreeMap<PublicKey, u32>,
    /// Where the tunnel's own packets go.
    pub endpoints: BTreeSet<IpAddr>,
    /// The bits that mark the tunnel's own packets; 0 is none.
    pub mark: u32,
    /// The metric of our routes in the main table. With more than 0 (1024 for IPv6), somebody else's to the same prefix
    /// goes first as long as it is there.
    pub metric: u32,
}

impl Plan {
    /// The kernel state that this plan asks for, with a tunnel device of this name.
    pub fn kernel_state(&self, interface: &InterfaceName, underlay: &Underlay) -> KernelState {
        let address = |&address| Address { link: interface.clone(), address };
        let links: BTreeMap<Family, InterfaceName> = self
            .wraps
            .iter()
            .map(|(&family, wrap)| (family, wrap.link(interface, family)))
            .collect();
        let route = |(&destination, hop): (&Cidr, &Hop)| {
            let family = destination.family();
            let (gateway, link) = match hop.by {
                Way::Location => (hop.gateway, None),
                Way::Tunnel => (hop.gateway, Some(interface)),
                Way::Wrapped => {
                    let wrap = self.wraps.get(&family);
                    let gateway = wrap.zip(hop.gateway).map(|(wrap, end)| wrap.gateway(end));
                    (gateway, links.get(&family))
                }
            };
            let route = Route { gateway, link: link.cloned(), source: hop.source, mtu: None };
            (RouteKey::main(destination), route)
        };
        let mut state = KernelState {
            links: BTreeMap::from([(interface.clone(), Link::held(underlay.tunnel_mtu))]),
            addresses: self.addresses.iter().map(address).collect(),
            routes: self.routes.iter().map(route).collect(),
            nft: self.nft(interface, &links, underlay.mark),
            ..KernelState::default()
        };
        let own = links.iter().filter(|(family, _)| self.wraps[family].link.is_none());
        for link in own.map(|(_, link)| link).chain([interface]) {
            let setting = |(setting, value)| ((link.clone(), setting), value);
            state.settings.extend(SETTINGS.map(setting));
        }
        for (family, link) in links {
            let wrap = &self.wraps[&family];
            if wrap.link.is_none() {
                wrap.add_link(&mut state, link.clone(), wrap.mtu(family, underlay));
                if family == Family::V4 && wrap.by != EncapsulateBy::WireGuard {
                    // Packets come by it, and answers leave by another link, where others have the routes.
                    if !self.left.is_empty() || underlay.metric > 0 {
                        self.let_in(&mut state, &link, wrap);
                    }
                }
            }
            wrap.add_routes(&mut state, link);
            state.rules.extend(self.rules(interface, family, wrap));
        }
        self.say_what_fits(&mut state, interface, underlay);
        keep_off_the_tunnel(&mut state, interface, underlay);
        self.come_first(&mut state);
        give_way(&mut state, underlay.metric);
        state
    }

    /// Gives a wrapping link of ours an address. In IPv4 Linux lets in what it would send elsewhere, as `rp_filter` 2 says,
    /// by links with an address alone (`__fib_validate_source`, `net/ipv4/fib_frontend.c`).
    fn let_in(&self, state: &mut KernelState, link: &InterfaceName, wrap: &Wrap) {
        let mut own = self.addresses.iter().map(|own| own.address()).chain([wrap.local]);
        if let Some(v4) = own.find(IpAddr::is_ipv4) {
            let address = InterfaceAddress::host(v4);
            state.addresses.insert(Address { link: link.clone(), address });
        }
    }

    /// Has routes to what another network plugin has routes to as well decide before those, which stay as they are: in the
    /// main table there is room for one of them.
    fn come_first(&self, state: &mut KernelState) {
        for &prefix in &self.contested {
            let key = RouteKey::main(prefix);
            let Some(route) = state.routes.remove(&key) else { continue };
            state.routes.insert(RouteKey { table: FIRST_TABLE, ..key }, route);
            state.rules.insert(Rule::all(prefix.family(), FIRST_PRIORITY, FIRST_TABLE));
        }
    }

    /// Gives what lies behind peers with a narrow path routes that say which packets fit.
    fn say_what_fits(
        &self,
        state: &mut KernelState,
        interface: &InterfaceName,
        underlay: &Underlay,
    ) {
        for peer in &self.tunnel_peers {
            let Some(&mtu) = underlay.narrow.get(&peer.key) else { continue };
            for (&prefix, table) in
                peer.allowed_ips.iter().flat_map(|prefix| TABLES.map(|table| (prefix, table)))
            {
                let key = |destination| RouteKey { table, ..RouteKey::main(destination) };
                let lengths = (0..=prefix.length()).rev();
                let mut covers = lengths.filter_map(|n| Cidr::truncated(prefix.address(), n));
                let taken = covers.find_map(|cover| state.routes.get(&key(cover)));
                if let Some(route) = taken.filter(|route| route.link.as_ref() == Some(interface)) {
                    let mtu = Some(mtu.max(least_mtu(prefix.family())));
                    let route = Route { mtu, ..route.clone() };
                    state.routes.insert(key(prefix), route);
                }
            }
        }
    }

    /// The nftables table: none if it would do nothing.
    fn nft(
        &self,
        interface: &InterfaceName,
        links: &BTreeMap<Family, InterfaceName>,
        mark: u32,
    ) -> Option<Nft> {
        // Others than gateways send nothing through the tunnel device, unless it wraps.
        let tunnel = self.gateway.then_some(interface);
        let own = links.iter().filter(|(family, _)| self.wraps[family].link.is_none());
        let own = own.map(|(_, link)| link);
        let clamp = tunnel.into_iter().chain(own).filter(|_| self.clamp_mss);
        let mut nft = Nft {
            sets: self.masquerade.clone().unwrap_or_default(),
            masquerade: self.masquerade.is_some(),
            clamp: clamp.cloned().collect(),
            guard: BTreeSet::new(),
            accept: 0,
        };
        if !self.passed.is_empty() {
            // What is passed on has its way already, so that the tunnel's own mark serves.
            nft.accept = if mark == 0 { ACCEPT_MARK } else { mark };
            nft.sets.insert(NftSet::Passed, self.passed.clone());
        }
        for (&family, wrap) in &self.wraps {
            let Some(outer) = wrap.outer(family) else { continue };
            nft.guard.insert(outer);
            let sources = wrap.sources.iter().copied().map(Cidr::host);
            nft.sets.entry(NftSet::Location).or_default().extend(sources);
        }
        (nft != Nft::default()).then_some(nft)
    }

    /// The largest packet in bytes that reaches every other pod whole, for whoever sets up pods. No packet is in the
    /// tunnel and wrapped at the same time, so the narrowest of all counts. At least what the families of the overlay
    /// work with.
    pub fn pod_mtu(&self, underlay: &Underlay) -> u32 {
        let wraps = self.wraps.iter();
        let wrapped = wraps.map(|(&family, wrap)| wrap.mtu(family, underlay));
        let narrowest = wrapped.chain(underlay.narrow.values().copied()).min();
        let families = self.addresses.iter().map(|address| least_mtu(address.family()));
        narrowest
            .map_or(underlay.tunnel_mtu, |mtu| mtu.min(underlay.tunnel_mtu))
            .max(families.max().unwrap_or_default())
    }

    /// Adds what keeps these of the node's pods from all that lies outside its segment.
    pub fn keep_off(&self, state: &mut KernelState, pods: &BTreeSet<IpAddr>) {
        for pod in pods.iter().copied().map(Cidr::host) {
            let all = Rule::all(pod.family(), OFF_MESH_PRIORITY, OFF_MESH_TABLE);
            state.rules.insert(Rule { from: Some(pod), ..all });
        }
        let is_wanted = |family| pods.iter().any(|pod| Family::of(*pod) == family);
        let [v4, v6] = Family::BOTH.map(is_wanted);
        let away = self.routes.iter().filter(|(_, hop)| hop.away).map(|(prefix, _)| *prefix);
        let away = away.filter(|prefix| if prefix.address().is_ipv4() { v4 } else { v6 });
        let key = |prefix| RouteKey { table: OFF_MESH_TABLE, ..RouteKey::main(prefix) };
        state.routes.extend(away.map(|prefix| (key(prefix), Route::default())));
    }

    /// Which packets to internal addresses are wrapped: those that come out of the tunnel, and those from where the wrap
    /// says.
    fn rules(
        &self,
        interface: &InterfaceName,
        family: Family,
        wrap: &Wrap,
    ) -> impl Iterator<Item = Rule> {
        // Nothing to look up: what there is to wrap, routes of the main table say.
        let has_hosts = !wrap.hosts.is_empty();
        let all = Rule::all(family, RULE_PRIORITY, WRAPPED_TABLE);
        let input = self.gateway.then(|| Rule { input: Some(interface.clone()), ..all.clone() });
        let from = wrap.from.iter().map(move |&from| Rule { from: Some(from), ..all.clone() });
        input.into_iter().chain(from).filter(move |_| has_hosts)
    }
}

/// Gives the routes of the main table their metric, once all that goes by their prefixes is done.
fn give_way(state: &mut KernelState, metric: u32) {
    let routes = std::mem::take(&mut state.routes).into_iter();
    state.routes = routes
        .map(|(key, route)| match key.table {
            MAIN_TABLE => (RouteKey { metric, ..key }, route),
            _ => (key, route),
        })
        .collect();
}

/// Takes routes into the tunnel that lead to ends of the tunnel itself out of the main table, and has all packets but
/// the tunnel's own look them up by rules of their own.
///
/// A route counts among those of the main table for as much as it did there: what the main table has for a longer prefix
/// goes first, what it has for a shorter one after.
fn keep_off_the_tunnel(state: &mut KernelState, interface: &InterfaceName, underlay: &Underlay) {
    let is_end = |prefix: Cidr| {
        let from = underlay.endpoints.range(prefix.address()..).next();
        from.is_some_and(|address| prefix.contains(*address))
    };
    let is_tunnelled = |(key, route): &(&RouteKey, &Route)| {
        key.table == MAIN_TABLE && route.link.as_ref() == Some(interface) && is_end(key.destination)
    };
    if underlay.mark == 0 {
        // Nothing tells its own packets from others, and those to an end itself would go round in circles.
        let is_end_itself = |key: &RouteKey, route: &Route| {
            key.destination.is_host() && is_tunnelled(&(key, route))
        };
        state.routes.retain(|key, route| !is_end_itself(key, route));
        return;
    }
    let routes = state.routes.iter().filter(is_tunnelled);
    let tunnelled: Vec<RouteKey> = routes.map(|(key, _)| key.clone()).collect();
    for key in tunnelled {
        let Some(route) = state.routes.remove(&key) else { continue };
        let (to, family) = (key.destination, key.destination.family());
        let priority = TUNNELLED_PRIORITY + 2 * u32::from(family.bits() - to.length());
        let not_its_own = Rule {
            to: Some(to),
            mark: Some(Mark { value: 0, mask: underlay.mark }),
            ..Rule::all(family, priority, MAIN_TABLE)
        };
        state.rules.insert(Rule {
            priority: priority + 1,
            table: TUNNELLED_TABLE,
            ..not_its_own.clone()
        });
        state.rules.insert(Rule { suppress: Some(to.length()), ..not_its_own });
        state.routes.insert(RouteKey { table: TUNNELLED_TABLE, ..key }, route);
    }
}

impl Wrap {
    /// The name of the link that wraps: of ours beside a tunnel device of this name, or that device itself.
    #[expect(clippy::expect_used, reason = "a name of at most 15 bytes, and all of it in order")]
    pub fn link(&self, interface: &InterfaceName, family: Family) -> InterfaceName {
        if let Some(link) = &self.link {
            return link.clone();
        }
        let suffix = match (self.by, family) {
            (EncapsulateBy::WireGuard, _) => return interface.clone(),
            (EncapsulateBy::Ipip, _) => "-ip",
            (EncapsulateBy::Vxlan, Family::V4) => "-v4",
            (EncapsulateBy::Vxlan, Family::V6) => "-v6",
        };
        let base: String = interface.as_str().chars().take(12).collect();
        format!("{base}{suffix}").parse().expect("an interface's name, shortened")
    }

    fn mtu(&self, family: Family, underlay: &Underlay) -> u32 {
        match self.by {
            EncapsulateBy::WireGuard => underlay.tunnel_mtu,
            by => {
                let left = underlay.internal_mtu.saturating_sub(by.overhead(family));
                left.max(least_mtu(family))
            }
        }
    }

    /// What its link is: one of its own, or the tunnel device.
    fn kind(&self) -> LinkKind {
        match (self.by, self.local) {
            (EncapsulateBy::WireGuard, _) => LinkKind::Held,
            (EncapsulateBy::Ipip, IpAddr::V4(local)) => LinkKind::Ipip { local },
            // IPIP never has a local address of another family.
            (_, local) => LinkKind::Vxlan { id: VXLAN_ID, port: VXLAN_PORT, local, mac: self.mac },
        }
    }

    /// What its link of ours unwraps, which nobody else may send.
    fn outer(&self, family: Family) -> Option<Outer> {
        match (self.by, self.local, &self.link) {
            (EncapsulateBy::Vxlan, _, None) => Some(Outer::Vxlan(family, VXLAN_PORT)),
            (EncapsulateBy::Ipip, IpAddr::V4(local), None) => Some(Outer::Ipip(local)),
            _ => None,
        }
    }

    /// The next hop on the link that leads to an end: its own address, and in IPv6 its link-local one (RFC 4291, section
    /// 2.5.6 and appendix A). Linux takes no other for a next hop on one link while a route to it leads to another
    /// (`ip6_route_check_nh_onlink`, `net/ipv6/route.c`).
    fn gateway(&self, end: IpAddr) -> IpAddr {
        match (end, self.ends.get(&end)) {
            (IpAddr::V6(_), Some(MacAddress([a, b, c, d, e, f]))) if self.link.is_none() => {
                let [a, b, c, d, e, f] = [a ^ 0x02, *b, *c, *d, *e, *f];
                let mut octets = [0; 16];
                octets[..2].copy_from_slice(&[0xfe, 0x80]);
                octets[8..].copy_from_slice(&[a, b, c, 0xff, 0xfe, d, e, f]);
                IpAddr::from(octets)
            }
            _ => end,
        }
    }

    fn add_link(&self, state: &mut KernelState, link: InterfaceName, mtu: u32) {
        if self.by == EncapsulateBy::Vxlan {
            for (&end, &mac) in &self.ends {
                state.neighbours.insert((link.clone(), self.gateway(end)), mac);
                state.forwarding.insert((link.clone(), mac), end);
            }
        }
        state.links.insert(link, Link { mtu, up: true, kind: self.kind() });
    }

    fn add_routes(&self, state: &mut KernelState, link: InterfaceName) {
        for (&host, &end) in &self.hosts {
            let key = RouteKey { table: WRAPPED_TABLE, ..RouteKey::main(Cidr::host(host)) };
            // A tunnel knows its peers by their allowed IPs.
            let gateway = (self.by != EncapsulateBy::WireGuard).then(|| self.gateway(end));
            let route = Route { gateway, link: Some(link.clone()), ..Route::default() };
            state.routes.insert(key, route);
        }
    }
}
