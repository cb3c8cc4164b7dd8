//! Links that we make ourselves, in namespaces of the tests' own.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use wireloom_kernel::{Change, ChangeError, Feature, Host, diff};
use wireloom_model::kernel::{
    Address, KernelState, Link, LinkKind, LinkSetting, MacAddress, Route, RouteKey,
};
use wireloom_model::{Cidr, InterfaceAddress, InterfaceName};
use wireloom_testkit::need;

use crate::support::*;

const HOSTS_V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const HOSTS_V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

fn wlvx() -> InterfaceName {
    "wlvx".parse().unwrap()
}

const fn mac(node: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, node])
}

/// What node 1 or 2 needs to reach the pods of the other, 10.42.N.0/24 and fd42:N::/32.
fn node(me: u8, id: u32, hosts: [&str; 2]) -> KernelState {
    let far = 3 - me;
    let [local, remote] = [me, far].map(|n| hosts[usize::from(n - 1)].parse::<IpAddr>().unwrap());
    let kind = LinkKind::Vxlan { id, port: 4789, local, mac: mac(me) };
    let mut state = KernelState {
        links: [(wlvx(), Link { mtu: 1430, up: true, kind })].into(),
        forwarding: [((wlvx(), mac(far)), remote)].into(),
        settings: [((wlvx(), LinkSetting::RpFilter), 2)].into(),
        ..KernelState::default()
    };
    for (network, pods) in [("10.4.0.", "10.42.N.0/24"), ("fd04::", "fd42:N::/32")] {
        let [own, gateway] = [me, far].map(|n| format!("{network}{n}").parse::<IpAddr>().unwrap());
        state.addresses.insert(Address { link: wlvx(), address: InterfaceAddress::host(own) });
        state.neighbours.insert((wlvx(), gateway), mac(far));
        let route =
            |gateway| Route { gateway, link: Some(wlvx()), source: Some(own), ..Route::default() };
        state.routes.insert(RouteKey::main(Cidr::host(gateway)), route(None));
        state.routes.insert(key(&pods.replace('N', &far.to_string())), route(Some(gateway)));
    }
    state
}

/// The far end of `eth0` in a namespace of its own, as node 2 with a pod.
fn far_node(id: u32, hosts: [&'static str; 2]) -> Far {
    let far = Far::begin();
    ip(&format!("link set eth0-far netns {}", far.thread));
    far.run_async(move || async move {
        ip("link set lo up");
        ip("link set eth0-far up");
        ip("address add 192.0.2.2/24 dev eth0-far");
        ip("address add 2001:db8::2/64 dev eth0-far nodad");
        ip("address add 10.42.2.1/32 dev lo");
        ip("address add fd42:2::1/128 dev lo nodad");
        until_usable("2001:db8::2");
        until_usable("fd42:2::1");
        bring(&Host::new().unwrap(), &node(2, id, hosts)).await;
        until_usable("fd04::2");
    });
    far
}

/// Sends a datagram to a pod of the far node and asserts that it answers to the source that it saw.
fn reach(far: &Far, pod: &'static str, source: &str) {
    let patience = Some(Duration::from_secs(5));
    let there = far.run(move || UdpSocket::bind((pod, 7777)).unwrap());
    there.set_read_timeout(patience).unwrap();
    let here = UdpSocket::bind((if pod.contains(':') { "::" } else { "0.0.0.0" }, 0)).unwrap();
    here.set_read_timeout(patience).unwrap();
    here.send_to(b"there?", (pod, 7777)).unwrap();
    let mut buffer = [0; 16];
    let (_, from) = there.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip().to_string(), source);
    there.send_to(b"here", from).unwrap();
    let (length, _) = here.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"here");
}

#[test]
fn vxlan_carries_both_families_over_either() {
    need!(root);
    need!(program "ip");
    for hosts in [HOSTS_V4, HOSTS_V6] {
        in_namespace(move || async move {
            two_links();
            let far = far_node(7, hosts);
            let host = Host::new().unwrap();
            let (changes, report) = bring(&host, &node(1, 7, hosts)).await;
            assert_eq!(report.written, changes.len());
            let observed = host.observe(&[]).await.unwrap();
            assert_eq!(observed.links, node(1, 7, hosts).links);
            assert_eq!(diff(&node(1, 7, hosts), &observed), vec![]);
            until_usable("fd04::1");
            reach(&far, "10.42.2.1", "10.4.0.1");
            reach(&far, "fd42:2::1", "fd04::1");
        });
    }
}

#[test]
fn a_link_of_another_kind_is_made_anew_with_all_that_stood_on_it() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let far = far_node(8, HOSTS_V4);
        let host = Host::new().unwrap();
        bring(&host, &node(1, 7, HOSTS_V4)).await;
        let (changes, _) = bring(&host, &node(1, 8, HOSTS_V4)).await;
        assert_eq!(changes[0], Change::DeleteLink(wlvx()));
        assert!(matches!(changes[1], Change::AddLink(..)), "{:?}", changes[1]);
        assert_eq!(diff(&node(1, 8, HOSTS_V4), &host.observe(&[]).await.unwrap()), vec![]);
        reach(&far, "10.42.2.1", "10.4.0.1");
    });
}

#[test]
fn far_ends_come_and_go_and_are_repaired() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let wanted = node(1, 7, HOSTS_V4);
        bring(&host, &wanted).await;
        ip("neighbour replace 10.4.0.2 lladdr 02:00:00:00:00:09 dev wlvx nud permanent");
        ip("neighbour add 10.4.0.3 lladdr 02:00:00:00:00:03 dev wlvx nud permanent");
        ip("neighbour delete fd04::2 dev wlvx");
        let (changes, _) = bring(&host, &wanted).await;
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert_eq!(host.observe(&[]).await.unwrap().neighbours, wanted.neighbours);
        // The far node moves to another address, then goes.
        let moved = node(1, 7, ["192.0.2.1", "192.0.2.9"]);
        let (changes, _) = bring(&host, &moved).await;
        assert_eq!(changes.len(), 1, "{changes:?}");
        let mut alone = moved.clone();
        alone.neighbours.clear();
        alone.forwarding.clear();
        alone.routes.clear();
        bring(&host, &alone).await;
        assert_eq!(diff(&alone, &host.observe(&[]).await.unwrap()), vec![]);
        assert_eq!(ip("neighbour show dev wlvx nud permanent"), "");
    });
}

#[test]
fn what_a_run_under_another_name_left_is_found_and_removed() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("link add theirs type vxlan id 9 dstport 4790 local 192.0.2.1");
        let before = snapshot();
        bring(&Host::new().unwrap(), &node(1, 7, HOSTS_V4)).await;
        ip("link set wlvx down");
        ip("link set wlvx name old");
        // A later run that knows no names.
        bring(&Host::new().unwrap(), &KernelState::default()).await;
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_foreign_link_of_our_name_is_named_and_stays() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("link add wlvx type vxlan id 7 dstport 4790 local 192.0.2.1");
        let before = ip("-d link show wlvx");
        let host = Host::new().unwrap();
        let changes = diff(&node(1, 7, HOSTS_V4), &host.observe(&[wlvx()]).await.unwrap());
        let report = host.apply(&changes).await.unwrap();
        let [error @ ChangeError::ForeignLink { .. }] = report.failed.as_slice() else {
            panic!("{:?}", report.failed);
        };
        for part in ["make the vxlan link wlvx", "of kind vxlan", "not ours"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(ip("-d link show wlvx"), before);
    });
}

/// The kernel may be any, so the probe is compared with what happens when a link is made.
#[test]
fn a_kind_that_the_kernel_lacks_is_told_before_and_when_it_is_asked_for() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let before = snapshot();
        let host = Host::new().unwrap();
        assert!(host.has(Feature::Nftables).await.unwrap());
        for (kind, feature) in [
            (LinkKind::Ipip { local: [192, 0, 2, 1].into() }, Feature::Ipip),
            (node(1, 7, HOSTS_V4).links[&wlvx()].kind.clone(), Feature::Vxlan),
            (LinkKind::WireGuard, Feature::WireGuard),
        ] {
            let has = host.has(feature).await.unwrap();
            let link = Link { mtu: 1400, up: true, kind };
            let report = host.apply(&[Change::AddLink(wlvx(), link.clone())]).await.unwrap();
            match report.failed.as_slice() {
                [] => {
                    assert!(has, "{feature}");
                    assert_eq!(host.observe(&[]).await.unwrap().links[&wlvx()], link);
                    bring(&host, &KernelState::default()).await;
                }
                [error @ ChangeError::NoFeature { feature: missing, .. }] => {
                    assert_eq!((has, *missing), (false, feature));
                    assert!(error.to_string().contains(feature.remedy()), "{error}");
                }
                other => panic!("{feature}: {other:?}"),
            }
        }
        // The module of IPIP makes a link of its own when it is loaded.
        let theirs = |entry: &serde_json::Value| entry["ifname"] != "tunl0";
        assert_eq!(snapshot().into_iter().filter(theirs).collect::<Vec<_>>(), before);
    });
}
