//! Where packets go by Kilo's algorithm (`Topology.Routes` in Kilo).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_model::{Cidr, EncapsulateBy, EncapsulateWhen, Family, InterfaceAddress, Node};

use super::{Outsider, Part, Plugin, View, internal, pods, same_family};
use crate::encapsulation::{Wrap, mac};
use crate::plan::{Hop, Way};

/// The link of flannel's VXLAN back end.
const FLANNEL_LINK: &str = "flannel.1";

impl View<'_> {
    /// A node's routes, and how it wraps packets for others of its segment.
    pub(super) fn ways(
        &self,
        place: (usize, usize),
    ) -> (BTreeMap<Cidr, Hop>, Option<(Family, Wrap)>) {
        let table = Table { view: self, part: &self.parts[place.0], me: place.1 };
        let is_leader = table.part.leader == place.1;
        let routes = if is_leader { table.of_leader() } else { table.of_member() };
        (routes.into_iter().collect(), table.wrap())
    }
}

struct Table<'a> {
    view: &'a View<'a>,
    part: &'a Part<'a>,
    me: usize,
}

impl Table<'_> {
    fn node(&self) -> &Node {
        self.part.nodes[self.me]
    }

    fn own(&self) -> Option<InterfaceAddress> {
        internal(self.node())
    }

    fn is_leader(&self) -> bool {
        self.part.leader == self.me
    }

    fn others(&self) -> impl Iterator<Item = &Node> {
        self.part.nodes.iter().filter(|node| node.name != self.node().name).copied()
    }

    fn elsewhere(&self) -> impl Iterator<Item = &Part<'_>> {
        self.view.parts.iter().filter(|part| part.name != self.part.name)
    }

    fn of_peers(&self) -> impl Iterator<Item = Cidr> {
        let of_peer = |outsider: &Outsider<'_>| outsider.allowed_ips.clone();
        self.view.peers.iter().flat_map(of_peer)
    }

    /// Out of the tunnel device, by way of the segment's WireGuard address.
    fn of_leader(&self) -> Vec<(Cidr, Hop)> {
        let mut routes = Vec::new();
        for part in self.elsewhere() {
            let endpoint = self.view.leader_endpoint(part);
            let endpoint = endpoint.and_then(|endpoint| self.view.address_of(&endpoint));
            for node in &part.nodes {
                let pods = pods(node);
                // The tunnel's own packets go to this address, and must not go into it.
                let internal = internal(node).map(|address| address.address());
                let internal = internal.filter(|address| Some(*address) != endpoint);
                let reached = pods.into_iter().chain(internal.map(Cidr::host));
                routes.extend(reached.map(|prefix| self.tunnel(prefix, part.address)));
            }
            let prefixes = part.location_prefixes.iter();
            routes.extend(prefixes.map(|prefix| self.tunnel(*prefix, part.address)));
        }
        routes.extend(self.of_peers().map(|prefix| self.tunnel(prefix, None)));
        routes.retain(|(prefix, _)| !self.is_near(*prefix));
        routes.extend(self.near());
        routes
    }

    /// All that is elsewhere by way of the leader.
    fn of_member(&self) -> Vec<(Cidr, Hop)> {
        let leader = self.part.leader();
        let away = self.elsewhere().flat_map(Part::reached).chain(self.of_peers());
        let own = self.part.address.map(Cidr::host);
        let away = away.filter(|prefix| !self.is_near(*prefix));
        let away = away.filter_map(|prefix| self.hop(prefix, leader));
        let away = away.map(|(prefix, hop)| (prefix, Hop { away: true, ..hop }));
        let own = own.and_then(|own| self.hop(own, leader));
        away.chain(own).chain(self.near()).collect()
    }

    /// To the pods of the segment's other nodes.
    fn near(&self) -> impl Iterator<Item = (Cidr, Hop)> {
        let others = self.others().filter(|_| self.view.settings.local);
        others.filter_map(|node| self.hop(pods(node)?, node))
    }

    /// Whether it is an internal address of the own segment, which needs no route.
    fn is_near(&self, prefix: Cidr) -> bool {
        let addresses = self.part.nodes.iter().filter_map(|node| internal(node));
        let mut hosts = addresses.map(|address| Cidr::host(address.address()));
        hosts.any(|host| host == prefix)
    }

    fn tunnel(&self, prefix: Cidr, gateway: Option<IpAddr>) -> (Cidr, Hop) {
        let gateway = gateway.filter(|gateway| same_family(*gateway, prefix.address()));
        (prefix, Hop { by: Way::Tunnel, gateway, source: self.source(prefix), away: true })
    }

    fn source(&self, prefix: Cidr) -> Option<IpAddr> {
        let own = self.own().map(|own| own.address());
        own.filter(|own| same_family(*own, prefix.address()))
    }

    /// To or by way of another node of the segment. `None` if it has no address of the prefix's family for that.
    fn hop(&self, prefix: Cidr, node: &Node) -> Option<(Cidr, Hop)> {
        let gateway = self.view.gateway_at(node)?;
        if !same_family(gateway, prefix.address()) {
            return None;
        }
        let hop = match self.is_wrapped(gateway) {
            true => {
                let source = self.source(prefix);
                Hop { by: Way::Wrapped, gateway: Some(gateway), source, away: false }
            }
            false => Hop { by: Way::Location, gateway: Some(gateway), source: None, away: false },
        };
        Some((prefix, hop))
    }

    /// Whether packets for a node of the segment with this gateway are wrapped.
    fn is_wrapped(&self, gateway: IpAddr) -> bool {
        let Some(own) = self.own() else { return false };
        let by_link = self.view.settings.beside == Some(Plugin::Flannel);
        let can = by_link || EncapsulateBy::Ipip.carries(Family::of(gateway));
        can && match self.view.mesh.encapsulation.when {
            EncapsulateWhen::Never => false,
            EncapsulateWhen::CrossSubnet => !own.network().contains(gateway),
            EncapsulateWhen::Always => true,
        }
    }

    /// How packets are wrapped: on a leader also what it passes on to internal addresses of its segment, where the
    /// plugin that looks after pods takes it.
    fn wrap(&self) -> Option<(Family, Wrap)> {
        let settings = &self.view.settings;
        let passes_on = settings.local || self.is_leader() && settings.beside.is_some();
        let (mut ends, mut hosts) = (BTreeMap::new(), BTreeMap::new());
        let leader = self.part.leader();
        for node in self.others() {
            let Some(end) = self.view.gateway_at(node).filter(|end| self.is_wrapped(*end)) else {
                continue;
            };
            if passes_on || node.name == leader.name {
                ends.insert(end, mac(&node.name));
            }
            if let Some(address) = internal(node).filter(|_| passes_on) {
                hosts.insert(address.address(), end);
            }
        }
        let family = ends.keys().next().map(|end| Family::of(*end))?;
        ends.retain(|end, _| Family::of(*end) == family);
        hosts.retain(|host, end| Family::of(*host) == family && Family::of(*end) == family);
        let sources = self.others().filter_map(|node| Some(internal(node)?.address()));
        let from = pods(self.node()).filter(|pods| settings.local && pods.family() == family);
        let outer = self.node().cni_address.filter(|_| settings.beside == Some(Plugin::Cilium));
        let (by, link) = match settings.beside {
            Some(Plugin::Flannel) => (EncapsulateBy::Vxlan, Some(FLANNEL_LINK)),
            _ => (EncapsulateBy::Ipip, None),
        };
        let wrap = Wrap {
            by,
            link: link.and_then(|link| link.parse().ok()),
            local: outer.or_else(|| self.own().map(|own| own.address()))?,
            mac: mac(&self.node().name),
            ends,
            hosts,
            sources: sources.filter(|source| Family::of(*source) == family).collect(),
            from: BTreeSet::from_iter(from),
        };
        Some((family, wrap))
    }
}

impl View<'_> {
    /// Where another node of its segment hands packets for a node to.
    fn gateway_at(&self, node: &Node) -> Option<IpAddr> {
        let network = || pods(node).map(|pods| pods.address());
        match self.settings.beside {
            None => internal(node).map(|address| address.address()),
            Some(Plugin::Flannel) => network(),
            Some(Plugin::Cilium) => node.cni_address.or_else(network),
        }
    }
}
