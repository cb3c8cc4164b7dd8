//! The addresses of a lab, as a pure function of its description.
//!
//! Regions and hosts are numbered in the order of the description, and every address follows from the numbers:
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | private network of region r = 1, 2, ... | `10.(10r).0.0/24` | `fd00:(10r)::/64` |
//! | public network of region r (RFC 5737, RFC 3849) | `203.0.113.(16(r-1))/28` | `2001:db8:(r)::/64` |
//! | pods of host h = 1, 2, ... | `10.42.(h).0/24` | `fd00:42:(h)::/64` |

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use wireloom_model::{Cidr, InterfaceAddress};

/// One of each family, IPv4 first.
pub type Dual<T> = [T; 2];

/// The name of the host that is the internet.
pub const INTERNET: &str = "internet";

/// The most regions: the public IPv4 range has 16 networks.
pub const MOST_REGIONS: usize = 16;

/// The most hosts of a region: its public IPv4 network has 14 addresses, and one is the internet's.
pub const MOST_HOSTS: usize = 12;

/// The description of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// The regions, at most [`MOST_REGIONS`].
    pub regions: Vec<Region>,
    /// Whether each host has a pod: a namespace behind it with a prefix of its own.
    pub pods: bool,
}

/// A place with a private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its hosts' names, unique in the lab; at most [`MOST_HOSTS`].
    pub hosts: Vec<String>,
    /// How its hosts reach the internet.
    pub uplink: Uplink,
    /// The delay of what the internet sends into it. The round trip between two regions is the sum of theirs.
    pub latency: Duration,
}

/// How the hosts of a region reach the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    /// Through a router that masquerades them behind its own public address and lets nothing in unasked.
    Nat,
    /// Each by a public address of its own.
    Public,
}

/// Why a description makes no lab.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// More hosts in a region than it has addresses.
    #[error("region {region:?} has {hosts} hosts; it takes {MOST_HOSTS}")]
    Hosts {
        /// The region.
        region: String,
        /// Its number of hosts.
        hosts: usize,
    },
    /// One name twice, as host, region, pod or the internet.
    #[error("{name:?} names two things in the lab; rename one")]
    Name {
        /// The name.
        name: String,
    },
    /// More regions than there are networks.
    #[error("the lab has {regions} regions; it takes {MOST_REGIONS}")]
    Regions {
        /// Their number.
        regions: usize,
    },
}

/// A lab with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The regions, in the description's order.
    pub regions: Vec<RegionPlan>,
}

/// A region with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionPlan {
    /// Its number, from 1.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// How its hosts reach the internet.
    pub uplink: Uplink,
    /// The delay of what the internet sends into it.
    pub latency: Duration,
    /// The internet's addresses on the region's public network.
    pub internet: Dual<InterfaceAddress>,
    /// The NAT router's addresses.
    pub router: Option<RouterPlan>,
    /// Its hosts.
    pub hosts: Vec<HostPlan>,
}

/// The addresses of a region's NAT router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterPlan {
    /// On the private network.
    pub private: Dual<InterfaceAddress>,
    /// On the public network.
    pub public: Dual<InterfaceAddress>,
}

/// A host with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// Its number in the lab, from 1.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// Its addresses on the region's private network.
    pub private: Dual<InterfaceAddress>,
    /// Its public addresses; none behind NAT.
    pub public: Option<Dual<InterfaceAddress>>,
    /// Its pod.
    pub pod: Option<PodPlan>,
}

/// A pod with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Its name: the host's with `-pod` behind it.
    pub name: String,
    /// The host's pod prefixes.
    pub prefixes: Dual<Cidr>,
    /// The host's addresses in them.
    pub host: Dual<InterfaceAddress>,
    /// The pod's own.
    pub address: Dual<InterfaceAddress>,
}

impl Region {
    /// A region whose hosts have public addresses, without added latency.
    pub fn new(name: &str, hosts: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            uplink: Uplink::Public,
            latency: Duration::ZERO,
        }
    }

    /// The same region behind a NAT router.
    #[must_use]
    pub fn behind_nat(self) -> Self {
        Self { uplink: Uplink::Nat, ..self }
    }

    /// The same region with this latency.
    #[must_use]
    pub fn latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }
}

impl Layout {
    /// Gives everything its addresses.
    ///
    /// # Errors
    ///
    /// More regions or hosts than there are addresses for, or one name for two things.
    pub fn plan(&self) -> Result<Plan, LayoutError> {
        if self.regions.len() > MOST_REGIONS {
            return Err(LayoutError::Regions { regions: self.regions.len() });
        }
        let mut hosts_so_far = 0;
        let mut regions = Vec::new();
        for (number, region) in (1..).zip(&self.regions) {
            if region.hosts.len() > MOST_HOSTS {
                return Err(LayoutError::Hosts {
                    region: region.name.clone(),
                    hosts: region.hosts.len(),
                });
            }
            regions.push(region.plan(number, hosts_so_far, self.pods));
            hosts_so_far += u8::try_from(region.hosts.len()).unwrap_or(u8::MAX);
        }
        let plan = Plan { regions };
        let mut names = BTreeSet::new();
        if let Some(name) = plan.names().find(|name| !names.insert(*name)) {
            return Err(LayoutError::Name { name: name.to_owned() });
        }
        Ok(plan)
    }
}

impl Region {
    fn plan(&self, number: u8, hosts_before: u8, pods: bool) -> RegionPlan {
        let private = private_networks(number);
        let public = public_networks(number);
        let hosts = (1..).zip(&self.hosts).map(|(place, name)| {
            let number = hosts_before + place;
            HostPlan {
                number,
                name: name.clone(),
                private: private.map(|network| nth(network, 10 + place)),
                public: (self.uplink == Uplink::Public)
                    .then(|| public.map(|network| nth(network, 1 + place))),
                pod: pods.then(|| PodPlan::new(name, number)),
            }
        });
        RegionPlan {
            number,
            name: self.name.clone(),
            uplink: self.uplink,
            latency: self.latency,
            internet: public.map(|network| nth(network, 1)),
            router: (self.uplink == Uplink::Nat).then(|| RouterPlan {
                private: private.map(|network| nth(network, 1)),
                public: public.map(|network| nth(network, 2)),
            }),
            hosts: hosts.collect(),
        }
    }
}

impl PodPlan {
    fn new(host: &str, number: u8) -> Self {
        let prefixes = [
            network(Ipv4Addr::new(10, 42, number, 0), 24),
            network(Ipv6Addr::new(0xfd00, 0x42, number.into(), 0, 0, 0, 0, 0), 64),
        ];
        Self {
            name: format!("{host}-pod"),
            prefixes,
            host: prefixes.map(|prefix| nth(prefix, 1)),
            address: prefixes.map(|prefix| nth(prefix, 2)),
        }
    }
}

impl Plan {
    /// All hosts, in the description's order.
    pub fn hosts(&self) -> impl Iterator<Item = &HostPlan> {
        self.regions.iter().flat_map(|region| &region.hosts)
    }

    /// The names of everything that is a host of the lab: the internet, regions, hosts and pods.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let regions = self.regions.iter().map(|region| region.name.as_str());
        let hosts = self.hosts().map(|host| host.name.as_str());
        let pods = self.hosts().filter_map(|host| Some(host.pod.as_ref()?.name.as_str()));
        [INTERNET].into_iter().chain(regions).chain(hosts).chain(pods)
    }
}

fn private_networks(region: u8) -> Dual<Cidr> {
    let ten_times = region * 10;
    // The same digits in both families are easier to read: fd00:20:: beside 10.20.0.0.
    let digits = u16::from(ten_times / 100) << 8 | u16::from(ten_times / 10 % 10) << 4;
    [
        network(Ipv4Addr::new(10, ten_times, 0, 0), 24),
        network(Ipv6Addr::new(0xfd00, digits, 0, 0, 0, 0, 0, 0), 64),
    ]
}

fn public_networks(region: u8) -> Dual<Cidr> {
    [
        network(Ipv4Addr::new(203, 0, 113, (region - 1) * 16), 28),
        network(Ipv6Addr::new(0x2001, 0xdb8, region.into(), 0, 0, 0, 0, 0), 64),
    ]
}

fn network(address: impl Into<IpAddr>, length: u8) -> Cidr {
    let address = address.into();
    Cidr::truncated(address, length).unwrap_or_else(|| Cidr::host(address))
}

fn nth(network: Cidr, n: u8) -> InterfaceAddress {
    let address: IpAddr = match network.address() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + u32::from(n)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(n)).into(),
    };
    InterfaceAddress::new(address, network.length())
        .unwrap_or_else(|| InterfaceAddress::host(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let regions = vec![
            Region::new("ams", &["a1", "a2"]),
            Region::new("dub", &["d1"]).behind_nat().latency(Duration::from_millis(9)),
        ];
        Layout { regions, pods: true }
    }

    fn texts(addresses: &Dual<InterfaceAddress>) -> Dual<String> {
        addresses.map(|address| address.to_string())
    }

    #[test]
    fn addresses_follow_from_the_numbers() {
        let plan = layout().plan().unwrap();
        let [a1, a2, d1] = plan.hosts().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(texts(&a1.private), ["10.10.0.11/24", "fd00:10::b/64"]);
        assert_eq!(texts(&a2.public.unwrap()), ["203.0.113.3/28", "2001:db8:1::3/64"]);
        assert_eq!(texts(&d1.private), ["10.20.0.11/24", "fd00:20::b/64"]);
        assert_eq!(d1.public, None);
        assert_eq!(texts(&d1.pod.as_ref().unwrap().address), ["10.42.3.2/24", "fd00:42:3::2/64"]);
        let router = plan.regions[1].router.as_ref().unwrap();
        assert_eq!(texts(&router.public), ["203.0.113.18/28", "2001:db8:2::2/64"]);
    }

    #[test]
    fn the_largest_lab_has_no_address_twice() {
        let regions = (0..MOST_REGIONS).map(|r| {
            let hosts: Vec<_> = (0..MOST_HOSTS).map(|h| format!("h{r}-{h}")).collect();
            let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
            Region::new(&format!("r{r}"), &hosts)
        });
        let plan = Layout { regions: regions.collect(), pods: true }.plan().unwrap();
        let mut seen = BTreeSet::new();
        for region in &plan.regions {
            assert!(region.internet.iter().all(|address| seen.insert(*address)));
        }
        for host in plan.hosts() {
            let pod = host.pod.as_ref().unwrap();
            let all = [host.private, host.public.unwrap(), pod.host, pod.address].concat();
            assert!(all.iter().all(|address| seen.insert(*address)), "{host:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut twice = layout();
        twice.regions[1].hosts.push("a1-pod".to_owned());
        assert_eq!(twice.plan(), Err(LayoutError::Name { name: "a1-pod".to_owned() }));

        let crowded = Region::new("r", &["h"; MOST_HOSTS + 1]);
        let crowded = Layout { regions: vec![crowded], pods: false };
        assert!(matches!(crowded.plan(), Err(LayoutError::Hosts { hosts: 13, .. })));

        let many = Layout { regions: vec![Region::new("r", &[]); 17], pods: false };
        assert_eq!(many.plan(), Err(LayoutError::Regions { regions: 17 }));
    }
}
