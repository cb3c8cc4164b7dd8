//! What the host has of its own, in namespaces of the tests' own.

use std::net::UdpSocket;
use std::process;

use wireloom_kernel::{Forwarding, Host, PortOwner, is_forwarding, port_owner};
use wireloom_model::Family;
use wireloom_testkit::need;

use crate::support::*;

#[test]
fn overlapping_routes_of_others_are_conflicts() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &mesh()).await;
        ip("route add default via 192.0.2.254");
        ip("route add 10.0.0.0/8 via 192.0.2.254");
        ip("-6 route add fd04:1::/48 dev eth0 table 99");
        ip("address add 10.4.9.9/32 dev lo");
        ip("address add 10.4.8.1/24 dev wl0");
        ip("link add wl0-v4 group 107 type vxlan id 107 dstport 51107 local 192.0.2.1");
        ip("address add 10.4.7.7/32 dev wl0-v4");
        let ranges =
            ["10.4.0.0/16", "fd04::/16", "172.16.0.0/12"].map(|text| text.parse().unwrap());
        let conflicts = host.route_conflicts(&ranges, &[wl0()]).await.unwrap();
        let told: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "10.4.0.0/16 overlaps this host's route to 10.0.0.0/8 on eth0 (table 254)",
                "10.4.0.0/16 overlaps this host's route to 10.4.9.9/32 on lo (table 255)",
                "fd04::/16 overlaps this host's route to fd04:1::/48 on eth0 (table 99)",
            ]
        );
    });
}

#[test]
fn the_packet_size_is_that_of_the_link_on_the_way() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("link set eth0 mtu 1400");
        ip("route add 203.0.113.0/24 via 192.0.2.9 mtu 1300");
        let host = Host::new().unwrap();
        for (address, mtu) in [
            ("192.0.2.9", Some(1400)),
            ("2001:db8::9", Some(1400)),
            ("203.0.113.1", Some(1300)),
            ("198.51.100.1", None),
            ("2001:db8:1::1", None),
        ] {
            let told = host.ways_to(&[address.parse().unwrap()], 0).await.unwrap();
            assert_eq!(told[0].as_ref().map(|way| way.mtu), mtu, "{address}");
        }
    });
}

#[test]
fn an_address_whose_route_drops_packets_has_no_way_and_the_others_have() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("route add blackhole 198.51.100.0/26");
        ip("route add prohibit 198.51.100.64/26");
        ip("route add unreachable 198.51.100.128/26");
        ip("-6 route add blackhole 2001:db8:1::/48");
        ip("-6 route add prohibit 2001:db8:2::/48");
        ip("-6 route add unreachable 2001:db8:3::/48");
        let asked = [
            ("192.0.2.9", true),
            ("198.51.100.1", false),
            ("198.51.100.65", false),
            ("198.51.100.129", false),
            ("192.0.2.10", true),
            ("2001:db8:1::1", false),
            ("2001:db8:2::1", false),
            ("2001:db8:3::1", false),
            ("2001:db8::9", true),
        ];
        let addresses = asked.map(|(address, _)| address.parse().unwrap());
        let ways = Host::new().unwrap().ways_to(&addresses, 0).await.unwrap();
        for ((address, has_way), way) in asked.into_iter().zip(&ways) {
            assert_eq!(way.is_some(), has_way, "{address}");
        }
        assert_eq!(ways.len(), asked.len());
    });
}

#[test]
fn a_mark_takes_the_way_that_rules_give_it() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        for (family, address) in [("-4", "192.0.2.9"), ("-6", "2001:db8::9")] {
            ip(&format!("{family} rule add fwmark 0x20/0x20 lookup 99"));
            ip(&format!("{family} route add default dev wl0 table 99"));
            let address = address.parse().unwrap();
            let host = Host::new().unwrap();
            for (mark, link) in [(0, "eth0"), (0x20, "wl0")] {
                // More of them than go to the kernel at once.
                let ways = host.ways_to(&[address; 200], mark).await.unwrap();
                let links = ways.iter().map(|way| way.as_ref().unwrap().link.name.as_str());
                assert!(links.eq([link; 200]), "{mark:#x}");
            }
        }
    });
}

#[test]
fn links_have_kinds_and_addresses_that_last() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("address add 2001:db8::2/64 dev eth0 preferred_lft 0");
        let host = Host::new().unwrap();
        let link = host.link(&"eth0".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((link.kind.as_deref(), link.up, link.carrier), (Some("veth"), true, true));
        assert_eq!(host.link(&"lo".parse().unwrap()).await.unwrap().unwrap().kind, None);
        let told: Vec<String> =
            host.addresses().await.unwrap().iter().map(|a| a.address.to_string()).collect();
        assert_eq!(told, ["192.0.2.1/24", "2001:db8::1/64"]);
    });
}

#[test]
fn the_owner_of_a_port_is_looked_for_in_this_namespace() {
    need!(root);
    in_namespace(|| async {
        assert_eq!(port_owner(51820, Family::V4), None);
        let _socket = UdpSocket::bind("0.0.0.0:51820").unwrap();
        let Some(PortOwner::Process { pid, .. }) = port_owner(51820, Family::V4) else {
            panic!("nobody holds the port");
        };
        assert_eq!(pid, process::id());
    });
}

#[test]
fn forwarding_is_put_back_as_it_was_on_every_link() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let files: Vec<String> = ["ipv4", "ipv6"]
            .into_iter()
            .flat_map(|family| {
                ["all", "default", "wl0", "eth0"]
                    .map(|link| format!("/proc/sys/net/{family}/conf/{link}/forwarding"))
            })
            .chain(["/proc/sys/net/ipv4/conf/all/accept_redirects".to_owned()])
            .collect();
        let read = || -> Vec<String> {
            files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
        };
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "0").unwrap();
            std::fs::write(format!("/proc/sys/net/{family}/conf/eth0/forwarding"), "1").unwrap();
        }
        let before = read();
        let forwarding = Forwarding::enable(&Family::BOTH).unwrap();
        assert!(forwarding.changed());
        assert!(Family::BOTH.into_iter().all(|family| is_forwarding(family).unwrap()));
        assert!(!Forwarding::enable(&Family::BOTH).unwrap().changed());
        ip("link delete wl0");
        our_link();
        forwarding.restore().unwrap();
        assert_eq!(read(), before);
    });
}
