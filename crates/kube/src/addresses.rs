//! Which of a host's addresses are for its location, and where others dial it. Pure.
//!
//! The meaning is Kilo's (`pkg/mesh/discoverips.go`), the choice is stricter: what the cluster says comes first, links of
//! other networks on the host are left alone, and an address that no other network can reach is never called public.

use std::net::IpAddr;
use std::num::NonZeroU16;

use wireloom_model::reach::{is_of_one_host, is_private, is_public};
use wireloom_model::{Cidr, Endpoint, Family, InterfaceAddress, InterfaceName, Overlay};

use crate::node::NodeObject;

/// An address of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The link that has it.
    pub link: InterfaceName,
    /// The address with the prefix length of its network.
    pub address: InterfaceAddress,
    /// Whether packets to the world leave by that link.
    pub is_way_out: bool,
}

/// What is asked of the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRules {
    /// Where internal addresses lie. Empty allows any private one. Kilo's `--internal-cidr`.
    pub internal: Vec<Cidr>,
    /// Whether others dial an internal address even if there is a public one. Kilo's
    /// `--prioritise-private-addresses`.
    pub prefer_internal: bool,
    /// The port of endpoints. Kilo's `--port`.
    pub port: NonZeroU16,
    /// The ranges of the mesh itself, whose addresses are never taken.
    pub overlay: Overlay,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The host's addresses in its location: at most one of each family, IPv4 first.
    pub internal_addresses: Vec<InterfaceAddress>,
    /// Where others dial it, the best first.
    pub endpoints: Vec<Endpoint>,
}

/// The beginnings of names of links that belong to networks of pods and containers.
const NETWORKS_ON_HOST: &[&str] = &[
    "br-",
    "cali",
    "cilium",
    "cni",
    "docker",
    "flannel",
    "kube-",
    "lxc",
    "nodelocaldns",
    "tunl",
    "veth",
    "virbr",
    "vxlan.calico",
    "weave",
    "wl-",
];

/// Chooses from a host's addresses. `pods` are the prefixes of its own pods.
pub fn find(rules: &AddressRules, host: &[HostAddress], node: &NodeObject, pods: &[Cidr]) -> Found {
    let known: Vec<IpAddr> = node.addresses("InternalIP").collect();
    let is_own = |candidate: &&HostAddress| {
        let address = candidate.address.address();
        let of_network = NETWORKS_ON_HOST.iter().any(|n| candidate.link.as_str().starts_with(n));
        let in_mesh = rules.overlay.contains(address) || pods.iter().any(|p| p.contains(address));
        is_of_one_host(address) && !in_mesh && (known.contains(&address) || !of_network)
    };
    let mut candidates: Vec<&HostAddress> = host.iter().filter(is_own).collect();
    candidates.sort_by_key(|candidate| {
        let address = candidate.address;
        let is_known = known.contains(&address.address());
        (!is_known, !candidate.is_way_out, address.family(), address.address(), address.length())
    });
    let is_internal = |address: IpAddr| {
        if rules.internal.is_empty() {
            is_private(address) || (known.contains(&address) && !is_public(address))
        } else {
            rules.internal.iter().any(|prefix| prefix.contains(address)) && !is_public(address)
        }
    };
    let internal_addresses: Vec<InterfaceAddress> = Family::BOTH
        .into_iter()
        .filter_map(|family| {
            let of_family = candidates.iter().filter(|c| c.address.family() == family);
            of_family.map(|c| c.address).find(|address| is_internal(address.address()))
        })
        .collect();
    let of_cloud = node.addresses("ExternalIP");
    let on_host = candidates.iter().map(|candidate| candidate.address.address());
    let public = of_cloud.chain(on_host).filter(|address| is_public(*address));
    let internal = internal_addresses.iter().map(|address| address.address());
    let dialled: Vec<IpAddr> = if rules.prefer_internal {
        internal.chain(public).collect()
    } else {
        public.chain(internal).collect()
    };
    let mut found = Found { internal_addresses, endpoints: Vec::new() };
    for address in dialled {
        let endpoint = Endpoint::at(address, rules.port);
        if !found.endpoints.contains(&endpoint) {
            found.endpoints.push(endpoint);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> AddressRules {
        AddressRules {
            internal: Vec::new(),
            prefer_internal: false,
            port: NonZeroU16::new(51820).unwrap(),
            overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
        }
    }

    /// `link address`, with a `!` behind the link by which packets leave.
    fn host(lines: &[&str]) -> Vec<HostAddress> {
        let parse = |line: &&str| {
            let (link, address) = line.split_once(' ').unwrap();
            HostAddress {
                link: link.trim_end_matches('!').parse().unwrap(),
                address: address.parse().unwrap(),
                is_way_out: link.ends_with('!'),
            }
        };
        lines.iter().map(parse).collect()
    }

    fn node(addresses: &[(&str, &str)]) -> NodeObject {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|(kind, address)| json!({ "type": kind, "address": address }))
            .collect();
        serde_json::from_value(json!({ "metadata": {}, "status": { "addresses": addresses } }))
            .unwrap()
    }

    fn found(rules: &AddressRules, lines: &[&str], addresses: &[(&str, &str)]) -> [String; 2] {
        let pods: Vec<Cidr> = vec!["10.42.0.0/24".parse().unwrap()];
        let found = find(rules, &host(lines), &node(addresses), &pods);
        let texts = |items: Vec<String>| items.join(" ");
        [
            texts(found.internal_addresses.iter().map(ToString::to_string).collect()),
            texts(found.endpoints.iter().map(ToString::to_string).collect()),
        ]
    }

    #[test]
    fn internal_is_the_private_one_and_the_public_one_is_dialled() {
        let lines = ["eth0! 203.0.113.5/24", "eth1 10.0.0.5/24"];
        assert_eq!(
            found(&rules(), &lines, &[]),
            ["10.0.0.5/24", "203.0.113.5:51820 10.0.0.5:51820"]
        );
        let preferring = AddressRules { prefer_internal: true, ..rules() };
        assert_eq!(found(&preferring, &lines, &[])[1], "10.0.0.5:51820 203.0.113.5:51820");
    }

    #[test]
    fn what_the_cluster_says_comes_first() {
        let lines = ["eth0! 192.168.1.5/24", "ens9 10.0.0.7/24", "cilium_host 10.244.0.9/32"];
        assert_eq!(found(&rules(), &lines, &[])[0], "192.168.1.5/24");
        assert_eq!(found(&rules(), &lines, &[("InternalIP", "10.0.0.7")])[0], "10.0.0.7/24");
        // Even on a link whose name says otherwise, and for addresses that only providers share.
        let odd = ["eth0! 192.168.1.5/24", "br-lan 100.64.3.2/24"];
        assert_eq!(found(&rules(), &odd, &[("InternalIP", "100.64.3.2")])[0], "100.64.3.2/24");
    }

    #[test]
    fn networks_on_the_host_are_left_alone() {
        let lines = [
            "lo 127.0.0.1/8",
            "kilo0 10.4.0.1/16",
            "cni0 10.42.0.1/24",
            "docker0 172.17.0.1/16",
            "eth0! 10.0.0.5/24",
            "eth0! fe80::1/64",
            "dummy0 169.254.1.1/16",
            "pods 10.42.0.9/32",
        ];
        assert_eq!(found(&rules(), &lines, &[]), ["10.0.0.5/24", "10.0.0.5:51820"]);
        // The pods' gateway of a prefix that was the node's.
        let former = ["eth0! 203.0.113.5/24", "wl-pods0 10.43.0.1/24"];
        assert_eq!(found(&rules(), &former, &[])[0], "");
    }

    #[test]
    fn both_families_have_their_own() {
        let lines = ["eth0! 10.0.0.5/24", "eth0! fd12::5/64", "eth0! 2001:db8::5/64"];
        assert_eq!(
            found(&rules(), &lines, &[]),
            ["10.0.0.5/24 fd12::5/64", "[2001:db8::5]:51820 10.0.0.5:51820 [fd12::5]:51820"]
        );
    }

    #[test]
    fn the_clouds_address_is_dialled_though_no_link_has_it() {
        let lines = ["eth0! 10.0.0.5/24"];
        let says = [("InternalIP", "10.0.0.5"), ("ExternalIP", "198.51.100.9"), ("Hostname", "n1")];
        assert_eq!(found(&rules(), &lines, &says)[1], "198.51.100.9:51820 10.0.0.5:51820");
    }

    #[test]
    fn internal_ones_lie_where_they_are_asked_to() {
        let rules = AddressRules { internal: vec!["10.9.0.0/16".parse().unwrap()], ..rules() };
        let lines = ["eth0! 10.0.0.5/24", "eth1 10.9.0.5/24"];
        assert_eq!(found(&rules, &lines, &[])[0], "10.9.0.5/24");
        assert_eq!(found(&rules, &["eth0! 10.0.0.5/24"], &[]), ["", ""]);
    }
}
