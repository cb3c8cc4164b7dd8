//! The commands that make a planned lab, as a pure function.
//!
//! Every link between two hosts is made by one of them, which puts the other end there: the internet makes those to
//! public hosts and NAT routers, a region those to its hosts, a host that to its pod. So all hosts can make their links
//! at the same time, and configure them once all are made.

use std::fmt::{self, Write};
use std::net::IpAddr;

use wireloom_model::{Family, InterfaceAddress};

use crate::plan::{Dual, HostPlan, INTERNET, Plan, RegionPlan};

/// What turns an empty host into its part of the lab.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    /// The host's name in the lab.
    pub(crate) host: String,
    /// For `ip -batch`: its links.
    pub(crate) links: String,
    /// For `ip -batch`, once all links of the lab are made: addresses, routes, and links set up.
    pub(crate) network: String,
    /// For `nft -f`.
    pub(crate) filter: Option<&'static str>,
    /// Whether it forwards packets.
    pub(crate) forwards: bool,
}

/// Masquerades what comes from inside, and lets in only the answers and what keeps IPv6 neighbours going.
const NAT: &str = r#"
table inet nat {
    chain source {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "wan" masquerade
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        iifname "lan" accept
        ct state established,related accept
    }
    chain input {
        type filter hook input priority filter; policy drop;
        iifname { "lan", "lo" } accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
}
"#;

/// The setups of all hosts. `namespace` gives the file of a host's network namespace.
pub(crate) fn setups(plan: &Plan, namespace: impl Fn(&str) -> String) -> Vec<Setup> {
    let mut internet = Setup { forwards: true, ..Setup::new(INTERNET) };
    let mut others = Vec::new();
    for region in &plan.regions {
        let public = public_bridge(region.number);
        internet.bridge(&public);
        internet.up(&public, &region.internet);

        let mut inside = Setup::new(&region.name);
        inside.bridge("lan");
        inside.up("lan", region.router.as_ref().map_or(&[][..], |router| &router.private));
        if let Some(router) = &region.router {
            let port = format!("{public}-nat");
            internet.veth(&port, Some(&public), "wan", &namespace(&region.name));
            inside.up("wan", &router.public);
            inside.default_routes("wan", &region.internet);
            inside.filter = Some(NAT);
            inside.forwards = true;
        }
        for host in &region.hosts {
            let file = namespace(&host.name);
            let port = format!("h{}", host.number);
            if host.public.is_some() {
                internet.veth(&port, Some(&public), PUBLIC, &file);
            }
            inside.veth(&port, Some("lan"), PRIVATE, &file);
            others.extend(host_and_pod(region, host, &namespace));
        }
        others.push(inside);
    }
    others.insert(0, internet);
    others
}

/// The name of the internet's bridge for a region's public network.
pub(crate) fn public_bridge(region: u8) -> String {
    format!("region{region}")
}

/// A host's link to its region's private network.
const PRIVATE: &str = "private";

/// A host's link to the internet.
const PUBLIC: &str = "public";

fn host_and_pod(
    region: &RegionPlan,
    host: &HostPlan,
    namespace: impl Fn(&str) -> String,
) -> Vec<Setup> {
    let mut node = Setup::new(&host.name);
    node.up(PRIVATE, &host.private);
    if let Some(addresses) = &host.public {
        node.up(PUBLIC, addresses);
        node.default_routes(PUBLIC, &region.internet);
    } else if let Some(router) = &region.router {
        node.default_routes(PRIVATE, &router.private);
    }
    let Some(pod) = &host.pod else { return vec![node] };
    node.veth("pod", None, "eth0", &namespace(&pod.name));
    node.up("pod", &pod.host);
    node.forwards = true;
    let mut inside = Setup::new(&pod.name);
    inside.up("eth0", &pod.address);
    inside.default_routes("eth0", &pod.host);
    vec![node, inside]
}

impl Setup {
    fn new(host: &str) -> Self {
        Self { host: host.to_owned(), network: "link set lo up\n".to_owned(), ..Self::default() }
    }

    fn bridge(&mut self, name: &str) {
        line(&mut self.links, format_args!("link add {name} type bridge mcast_snooping 0"));
    }

    fn veth(&mut self, name: &str, bridge: Option<&str>, peer: &str, peer_namespace: &str) {
        let links = &mut self.links;
        line(
            links,
            format_args!("link add {name} type veth peer name {peer} netns {peer_namespace}"),
        );
        if let Some(bridge) = bridge {
            line(links, format_args!("link set {name} master {bridge} up"));
        }
    }

    fn up(&mut self, link: &str, addresses: &[InterfaceAddress]) {
        for address in addresses {
            // Nobody else can have an address of ours, so there is no use in waiting for the search for duplicates.
            let option = if address.family() == Family::V6 { " nodad" } else { "" };
            line(&mut self.network, format_args!("address add {address} dev {link}{option}"));
        }
        line(&mut self.network, format_args!("link set {link} up"));
    }

    fn default_routes(&mut self, link: &str, gateways: &Dual<InterfaceAddress>) {
        for gateway in gateways {
            let everything = match gateway.address() {
                IpAddr::V4(_) => "0.0.0.0/0",
                IpAddr::V6(_) => "::/0",
            };
            let gateway = gateway.address();
            line(
                &mut self.network,
                format_args!("route add {everything} via {gateway} dev {link}"),
            );
        }
    }
}

fn line(script: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Layout, Region};

    fn setup(name: &str) -> Setup {
        let regions = vec![Region::new("ams", &["a1"]), Region::new("dub", &["d1"]).behind_nat()];
        let plan = Layout { regions, pods: true }.plan().unwrap();
        let all = setups(&plan, |name| format!("/{name}"));
        all.into_iter().find(|setup| setup.host == name).unwrap()
    }

    #[test]
    fn a_public_host_has_two_links_and_a_pod() {
        let host = setup("a1");
        assert_eq!(host.links, "link add pod type veth peer name eth0 netns /a1-pod\n");
        for line in [
            "address add 10.10.0.11/24 dev private\n",
            "address add 2001:db8:1::2/64 dev public nodad\n",
            "route add 0.0.0.0/0 via 203.0.113.1 dev public\n",
            "route add ::/0 via 2001:db8:1::1 dev public\n",
            "address add 10.42.1.1/24 dev pod\n",
        ] {
            assert!(host.network.contains(line), "{line}{}", host.network);
        }
        assert!(host.forwards);
    }

    #[test]
    fn behind_nat_only_the_router_is_on_the_internet() {
        let (host, router, internet) = (setup("d1"), setup("dub"), setup(INTERNET));
        assert!(host.network.contains("route add 0.0.0.0/0 via 10.20.0.1 dev private\n"));
        assert!(!host.network.contains("public"), "{}", host.network);
        assert!(router.network.contains("address add 203.0.113.18/28 dev wan\n"));
        assert!(router.forwards && router.filter.is_some());
        assert!(!internet.links.contains("/d1"), "{}", internet.links);
    }

    #[test]
    fn the_internet_knows_no_private_range() {
        let internet = setup(INTERNET);
        assert!(!internet.network.contains("10."), "{}", internet.network);
        assert!(!internet.network.contains("fd00"), "{}", internet.network);
        assert!(!internet.network.contains("route"), "{}", internet.network);
    }
}
