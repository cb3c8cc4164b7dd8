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
    /// Whether ways may be others than those that were looked up.
    is_stale: bool,
    /// The same of conflicts.
    are_conflicts_stale: bool,
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
            are_conflicts_stale: true,
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
        if matters {
            self.forget();
        }
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
    pub(crate) const fn forget(&mut self) {
        self.is_stale = true;
        self.are_conflicts_stale = true;
    }

    /// Looks up what is not known yet of the ways to these addresses.
    pub(crate) async fn look(&mut self, addresses: BTreeSet<IpAddr>) -> Result<(), HostError> {
        self.ways.retain(|address, _| addresses.contains(address));
        let is_due = |address: &IpAddr| self.is_stale || !self.ways.contains_key(address);
        self.look_up(addresses.into_iter().filter(is_due).collect()).await?;
        self.is_stale = false;
        Ok(())
    }

    /// Looks for routes in these ranges unless that was done. If it fails, what was found before stays.
    pub(crate) async fn look_for_conflicts(
        &mut self,
        ranges: &BTreeSet<Cidr>,
    ) -> Result<(), HostError> {
        if self.are_conflicts_stale || self.ranges != *ranges {
            let all: Vec<Cidr> = ranges.iter().copied().collect();
            let ours = std::slice::from_ref(&self.interface);
            self.conflicts = self.host.route_conflicts(&all, ours).await?;
            self.ranges.clone_from(ranges);
            self.are_conflicts_stale = false;
        }
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

/// What to say of a look that failed.
pub(crate) fn unread(error: &HostError) -> String {
    format!("this host's routes could not be read: {error}")
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn conflicts_that_can_not_be_looked_for_stay_as_they_were() {
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        // Its connection ends with the runtime that it was opened on.
        let deaf = runtime().block_on(async { Host::new().unwrap() });
        let mut network = Network::new(deaf, "wl0".parse().unwrap(), 0);
        let range: Cidr = "10.4.0.0/16".parse().unwrap();
        let destination = "10.0.0.0/8".parse().unwrap();
        network.conflicts = vec![Conflict { range, destination, link: None, table: 254 }];
        runtime().block_on(async {
            // Without an address the kernel is not asked.
            network.look(BTreeSet::new()).await.unwrap();
            network.look_for_conflicts(&BTreeSet::from([range])).await.unwrap_err();
            assert_eq!(network.conflicts().len(), 1);
            assert!(!network.is_stale && network.are_conflicts_stale);
            let address = IpAddr::from([192, 0, 2, 1]);
            network.look(BTreeSet::from([address])).await.unwrap_err();
        });
    }
}
