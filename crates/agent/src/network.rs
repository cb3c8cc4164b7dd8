//! What the host's own network means for the mesh: how wide the paths to others are, and which routes are in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wireloom_kernel::{Conflict, Event, Host, HostError, Way};
use wireloom_model::{Cidr, InterfaceName};

/// The host's network as far as the mesh depends on it, kept until the kernel tells of a change.
pub(crate) struct Network {
    host: Host,
    /// Our tunnel device, which is no part of it.
    interface: InterfaceName,
    /// The bits that mark the tunnel's own packets.
    mark: u32,
    /// How packets to each address leave; `None` without a way.
    ways: BTreeMap<IpAddr, Option<Way>>,
    ranges: BTreeSet<Cidr>,
    conflicts: Vec<Conflict>,
    is_stale: bool,
    has_moved: bool,
}

impl Network {
    pub(crate) const fn new(host: Host, interface: InterfaceName, mark: u32) -> Self {
        Self {
            host,
            interface,
            mark,
            ways: BTreeMap::new(),
            ranges: BTreeSet::new(),
            conflicts: Vec::new(),
            is_stale: true,
            has_moved: false,
        }
    }

    /// Takes notice of what the kernel tells, and returns whether ways may have changed by it.
    pub(crate) fn hear(&mut self, event: &Event) -> bool {
        let matters = match event {
            Event::AddressChanged { link, .. } => {
                let matters = self.leaves_by(link);
                self.has_moved |= matters;
                matters
            }
            Event::LinkChanged { link } => self.leaves_by(&link.name),
            Event::LinkGone { link } => self.leaves_by(link),
            Event::OthersRoute { destination } => self.concerns(destination),
            // It may be somebody else's that is gone.
            Event::RouteLost { key } => self.concerns(&key.destination),
            Event::Overrun => true,
            _ => false,
        };
        self.is_stale |= matters;
        matters
    }

    fn leaves_by(&self, link: &InterfaceName) -> bool {
        self.ways.values().flatten().any(|way| way.link.name == *link)
    }

    fn concerns(&self, destination: &Cidr) -> bool {
        self.ways.keys().any(|address| destination.contains(*address))
            || self.ranges.iter().any(|range| range.overlaps(destination))
    }

    /// Has everything looked up anew the next time.
    pub(crate) fn forget(&mut self) {
        self.is_stale = true;
    }

    /// Looks up what is not known yet of these addresses and of routes in these ranges.
    pub(crate) async fn look(
        &mut self,
        addresses: BTreeSet<IpAddr>,
        ranges: &BTreeSet<Cidr>,
    ) -> Result<(), HostError> {
        self.ways.retain(|address, _| addresses.contains(address));
        let is_due = |address: &IpAddr| self.is_stale || !self.ways.contains_key(address);
        self.look_up(addresses.into_iter().filter(is_due).collect()).await?;
        if self.is_stale || self.ranges != *ranges {
            let all: Vec<Cidr> = ranges.iter().copied().collect();
            let ours = std::slice::from_ref(&self.interface);
            self.conflicts = self.host.route_conflicts(&all, ours).await?;
            self.ranges.clone_from(ranges);
        }
        self.is_stale = false;
        Ok(())
    }

    /// Looks up the ways to these addresses anew, and returns whether any has changed.
    pub(crate) async fn look_again(
        &mut self,
        addresses: BTreeSet<IpAddr>,
    ) -> Result<bool, HostError> {
        let known = |address: &IpAddr| self.ways.contains_key(address);
        self.look_up(addresses.into_iter().filter(known).collect()).await
    }

    async fn look_up(&mut self, addresses: Vec<IpAddr>) -> Result<bool, HostError> {
        let ways = self.host.ways_to(&addresses, self.mark).await?;
        let mut has_changed = false;
        for (address, way) in addresses.into_iter().zip(ways) {
            let link = |way: &Option<Way>| way.as_ref().map(|way| way.link.index);
            let now = link(&way);
            let before = self.ways.insert(address, way);
            has_changed |= before.as_ref() != self.ways.get(&address);
            self.has_moved |= before.is_some_and(|before| link(&before) != now);
        }
        Ok(has_changed)
    }

    /// Whether packets leave by other links or from other addresses than when this was [settled](Self::settle) last.
    pub(crate) const fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// The device has been told so.
    pub(crate) const fn settle(&mut self) {
        self.has_moved = false;
    }

    /// How the tunnel's packets to this address leave, if it was looked up and there is a way.
    pub(crate) fn way(&self, address: IpAddr) -> Option<&Way> {
        self.ways.get(&address)?.as_ref()
    }

    /// The host's routes that share addresses with the ranges.
    pub(crate) fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}
