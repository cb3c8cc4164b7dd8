//! The bridge that a node's pods hang on, and the addresses by which they go out.
//!
//! The plugin `bridge` keeps one IPv4 address there: whenever a pod comes it takes away what another of its prefixes goes
//! out by (`ensureAddr`, `plugins/main/bridge/bridge.go`). So the list has it give none, and the agent does, for all of
//! the node's prefixes and for those that pods still have addresses of. Our plugin does the same for a pod that comes
//! before the agent.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wireloom_model::{Cidr, Family, InterfaceAddress};

use crate::netlink::{Link, Netlink};

/// A bridge, by its name in the network namespace of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    name: String,
}

impl Bridge {
    /// The bridge of this name. Nothing is read or made yet.
    pub const fn new(name: String) -> Self {
        Self { name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has it there and up, with these gateways, and of others those alone whose networks these pods are in. What is as it
    /// should be is not written again. `mtu` is what it begins with, in bytes; it follows what hangs on it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn hold(
        &self,
        mtu: u32,
        gateways: &BTreeSet<InterfaceAddress>,
        pods: &BTreeSet<IpAddr>,
    ) -> io::Result<()> {
        let mut netlink = Netlink::open()?;
        let link = match netlink.link(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(&mut netlink, mtu)?;
                let link = netlink.link(&self.name)?;
                pin(&mut netlink, link.index)?;
                link
            }
            link => link?,
        };
        if !link.is_bridge {
            return Err(io::Error::other(format!("{} is no bridge: rename that link", self.name)));
        }
        if !link.is_up {
            set_up(&mut netlink, link)?;
        }
        let present = addresses(&mut netlink, link.index)?;
        for address in gateways.difference(&present) {
            add(&mut netlink, link.index, *address)?;
        }
        let is_idle =
            |address: &&InterfaceAddress| !pods.iter().any(|pod| address.network().contains(*pod));
        for address in present.difference(gateways).filter(is_idle) {
            let message = message(link.index, *address);
            netlink.exchange(RouteNetlinkMessage::DelAddress(message), 0)?;
        }
        Ok(())
    }

    /// Adds gateways to those that it has, and fixes its own address: without that it has the least of those of what
    /// hangs on it, and pods lose it when a pod comes or goes.
    ///
    /// # Errors
    ///
    /// What the system says; [`io::ErrorKind::NotFound`] if it is not there.
    pub(crate) fn serve(&self, gateways: &BTreeSet<InterfaceAddress>) -> io::Result<()> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link(&self.name)?;
        pin(&mut netlink, link.index)?;
        let present = addresses(&mut netlink, link.index)?;
        gateways
            .difference(&present)
            .try_for_each(|gateway| add(&mut netlink, link.index, *gateway))
    }

    /// Whether it is there and something hangs on it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn is_used(&self) -> io::Result<bool> {
        let mut netlink = Netlink::open()?;
        match netlink.link(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            link => has_ports(&mut netlink, link?),
        }
    }

    /// The names of other links that have one of these gateways: pods of its network are reached by one link alone.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn rivals(&self, gateways: &BTreeSet<InterfaceAddress>) -> io::Result<BTreeSet<String>> {
        let mut netlink = Netlink::open()?;
        let holders: BTreeSet<u32> = all_addresses(&mut netlink)?
            .into_iter()
            .filter_map(|(index, address)| gateways.contains(&address).then_some(index))
            .collect();
        let links = netlink.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let name = |answer| match answer {
            RouteNetlinkMessage::NewLink(link) if holders.contains(&link.header.index) => {
                link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })
            }
            _ => None,
        };
        Ok(links.into_iter().filter_map(name).filter(|name| *name != self.name).collect())
    }

    /// Takes it away if it is there and no pod hangs on it. Returns whether it did.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self) -> io::Result<bool> {
        let mut netlink = Netlink::open()?;
        let link = match netlink.link(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            link => link?,
        };
        let index = link.index;
        if !link.is_bridge || has_ports(&mut netlink, link)? {
            return Ok(false);
        }
        let mut message = LinkMessage::default();
        message.header.index = index;
        netlink.exchange(RouteNetlinkMessage::DelLink(message), 0)?;
        Ok(true)
    }

    fn make(&self, netlink: &mut Netlink, mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(self.name.clone()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let request = RouteNetlinkMessage::NewLink(message);
        match netlink.exchange(request, NLM_F_CREATE | NLM_F_EXCL) {
            // A plugin was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }
}

/// The address by which pods of a prefix go out: its first, as `host-local` tells them (`Canonicalize`,
/// `plugins/ipam/host-local/backend/allocator/range.go`).
pub fn gateway(prefix: Cidr) -> Option<InterfaceAddress> {
    let first = match prefix.address() {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).checked_add(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).checked_add(1)?.into()),
    };
    InterfaceAddress::new(first, prefix.length()).filter(|_| prefix.contains(first))
}

fn has_ports(netlink: &mut Netlink, bridge: Link) -> io::Result<bool> {
    Ok(netlink.links()?.iter().any(|port| port.bridge == Some(bridge.index)))
}

/// Sets a link's hardware address to what it is.
fn pin(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let answers = netlink.exchange(RouteNetlinkMessage::GetLink(message.clone()), 0)?;
    let address = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => link
            .attributes
            .into_iter()
            .find(|attribute| matches!(attribute, LinkAttribute::Address(_))),
        _ => None,
    });
    message.attributes.extend(address);
    netlink.exchange(RouteNetlinkMessage::SetLink(message), 0).map(drop)
}

fn set_up(netlink: &mut Netlink, link: Link) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.exchange(RouteNetlinkMessage::SetLink(message), 0).map(drop)
}

/// The addresses of a link but for those of the link alone, which the kernel gives it.
fn addresses(netlink: &mut Netlink, index: u32) -> io::Result<BTreeSet<InterfaceAddress>> {
    let all = all_addresses(netlink)?.into_iter();
    Ok(all.filter_map(|(of, address)| (of == index).then_some(address)).collect())
}

/// The same of every link, each with the link's number.
fn all_addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, InterfaceAddress)>> {
    let all = netlink.list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let read = |answer| {
        let RouteNetlinkMessage::NewAddress(address) = answer else { return None };
        if address.header.scope != AddressScope::Universe {
            return None;
        }
        let find = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        let found = address.attributes.iter().find_map(find)?;
        Some((address.header.index, InterfaceAddress::new(found, address.header.prefix_len)?))
    };
    Ok(all.into_iter().filter_map(read).collect())
}

fn add(netlink: &mut Netlink, index: u32, address: InterfaceAddress) -> io::Result<()> {
    let request = RouteNetlinkMessage::NewAddress(message(index, address));
    match netlink.exchange(request, NLM_F_CREATE | NLM_F_EXCL) {
        // Of two pods that start at once, the other was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Without IPv6 there is nobody to go out by it.
        Err(error)
            if address.family() == Family::V6
                && error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Ok(())
        }
        added => added.map(drop),
    }
}

fn message(index: u32, address: InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.family() {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.index = index;
    message.header.prefix_len = address.length();
    message.header.scope = AddressScope::Universe;
    // Nobody else on the bridge may take it, and pods need it at once.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(address.address()),
        AddressAttribute::Address(address.address()),
    ];
    message
}

#[cfg(test)]
mod tests {
    use wireloom_testkit::{in_new_network, ip, need};

    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<InterfaceAddress> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_address_of_a_prefix_is_its_gateway() {
        let of = |text: &str| gateway(text.parse().unwrap()).map(|found| found.to_string());
        assert_eq!(of("10.42.1.0/24").as_deref(), Some("10.42.1.1/24"));
        assert_eq!(of("fd42:1::/64").as_deref(), Some("fd42:1::1/64"));
        assert_eq!(of("10.42.1.7/32"), None);
        assert_eq!(of("255.255.255.255/32"), None);
    }

    #[test]
    fn a_bridge_has_the_gateways_that_are_asked_for_and_keeps_its_own_address() {
        need!(root);
        need!(program "ip");
        in_new_network(|| {
            let bridge = Bridge::new("pods0".to_owned());
            assert!(!bridge.remove().unwrap());
            // What other links have is theirs.
            ip("address add 10.42.1.1/24 dev lo");
            ip("address add 192.0.2.1/24 dev lo");
            assert!(bridge.serve(&addresses(&[])).is_err());
            bridge
                .hold(
                    1400,
                    &addresses(&["10.42.1.1/24", "10.42.7.1/24", "fd42:1::1/64"]),
                    &BTreeSet::new(),
                )
                .unwrap();
            let shown = || ip("-o address show dev pods0 scope global");
            for gateway in ["10.42.1.1/24", "10.42.7.1/24", "fd42:1::1/64"] {
                assert!(shown().contains(gateway), "{}", shown());
            }
            assert!(!shown().contains("tentative"), "{}", shown());
            let link = || ip("-o link show dev pods0");
            assert!(link().contains("mtu 1400") && link().contains(",UP"), "{}", link());
            let mac =
                |text: &str| text.split("link/ether ").nth(1).map(|text| text[..17].to_owned());
            let before = mac(&link());
            ip(
                "link add low address 02:00:00:00:00:01 type veth peer name high address 0a:00:00:00:00:01",
            );
            ip("link set low master pods0");
            assert_eq!(mac(&link()), before, "what hangs on it does not change it");

            bridge.serve(&addresses(&["10.42.1.1/24", "10.42.9.1/24"])).unwrap();
            assert!(shown().contains("10.42.9.1/24") && shown().contains("10.42.7.1/24"));
            // A prefix that is the node's no longer, and a pod that is there still.
            let pods = BTreeSet::from(["10.42.7.9".parse().unwrap()]);
            bridge.hold(1400, &addresses(&["10.42.9.1/24"]), &pods).unwrap();
            assert!(!shown().contains("10.42.1.1") && !shown().contains("fd42"), "{}", shown());
            assert!(shown().contains("10.42.9.1/24") && shown().contains("10.42.7.1/24"));
            bridge.hold(1400, &addresses(&["10.42.9.1/24"]), &BTreeSet::new()).unwrap();
            assert!(!shown().contains("10.42.7.1"), "{}", shown());
            // As a plugin makes one.
            ip("link add other0 type bridge");
            ip("link set high master other0");
            Bridge::new("other0".to_owned()).serve(&addresses(&["10.43.1.1/24"])).unwrap();
            let before = mac(&ip("-o link show dev other0"));
            ip("link set low master other0");
            assert_eq!(mac(&ip("-o link show dev other0")), before);

            ip("link set high master pods0");
            assert!(bridge.is_used().unwrap());
            assert!(!bridge.remove().unwrap(), "something hangs on it");
            assert!(!Bridge::new("high".to_owned()).remove().unwrap(), "it is no bridge");
            assert!(ip("-o link").contains("high"));
            assert!(ip("-o address show dev lo").contains("192.0.2.1/24"));
            ip("link delete high");
            assert!(!bridge.is_used().unwrap());
            let rivals = |gateways| bridge.rivals(&addresses(gateways)).unwrap();
            assert_eq!(
                rivals(&["10.42.1.1/24", "10.43.1.1/24"]),
                ["lo", "other0"].map(str::to_owned).into()
            );
            assert!(rivals(&["10.42.9.1/24"]).is_empty(), "it has that itself");
            assert!(bridge.remove().unwrap());
            assert!(!ip("-o link").contains("pods0"));
            assert!(
                Bridge::new("lo".to_owned())
                    .hold(1400, &BTreeSet::new(), &BTreeSet::new())
                    .is_err()
            );
        });
    }
}
