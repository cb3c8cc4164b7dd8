//! What the nftables table does to packets: a pod, its node and the rest of the world in namespaces of the test's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use wireloom_kernel::{Cached, Forwarding, Host};
use wireloom_model::Family;
use wireloom_model::kernel::{KernelState, Nft, NftSet};
use wireloom_testkit::need;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// The pod's address, one in the mesh, and one outside, in both families.
const ADDRESSES: [[&str; 3]; 2] =
    [["10.42.7.5", "10.4.0.9", "203.0.113.9"], ["fd42:7::5", "fd04::9", "2001:db8:9::9"]];

/// The node is the test's namespace; `eth0` leads to the world, whose path is narrower than the pod's.
struct Node {
    pod: Far,
    world: Far,
}

fn node() -> Node {
    two_links();
    let world = Far::begin();
    ip(&format!("link set eth0-far netns {}", world.thread));
    world.run(|| {
        ip("link set lo up");
        ip("link set eth0-far up");
        ip("address add 192.0.2.2/24 dev eth0-far");
        ip("address add 2001:db8::2/64 dev eth0-far nodad");
        ip("address add fe80::2/64 dev eth0-far nodad");
        until_usable("2001:db8::2");
        for [_, mesh, outside] in ADDRESSES {
            for address in [mesh, outside] {
                ip(&format!("address add {address} dev lo nodad"));
            }
        }
        ip("route add 10.42.7.0/24 via 192.0.2.1");
        ip("route add fd42:7::/64 via 2001:db8::1");
        until_usable("fd04::9");
        until_usable("2001:db8:9::9");
    });
    let pod = Far::begin();
    ip("link add pod0 type veth peer name pod");
    ip(&format!("link set pod netns {}", pod.thread));
    ip("link set pod0 up");
    ip("address add 10.42.7.1/24 dev pod0");
    ip("address add fd42:7::1/64 dev pod0 nodad");
    until_usable("fd42:7::1");
    pod.run(|| {
        ip("link set pod up");
        ip("address add 10.42.7.5/24 dev pod");
        ip("address add fd42:7::5/64 dev pod nodad");
        ip("route add default via 10.42.7.1");
        ip("route add default via fd42:7::1");
        until_usable("fd42:7::5");
    });
    // Who sends packets of another link's address asks for neighbours by a link-local one.
    for link in ["eth0", "pod0"] {
        ip(&format!("address add fe80::1/64 dev {link} nodad"));
    }
    until_usable("fe80::1");
    ip("link set eth0 mtu 1300");
    ip("route add default via 192.0.2.2");
    ip("route add default via 2001:db8::2");
    Node { pod, world }
}

fn table() -> KernelState {
    let nft = Nft {
        sets: [
            (NftSet::Mesh, prefixes(&["10.4.0.0/16", "fd04::/16"])),
            (NftSet::Pods, prefixes(&["10.42.7.0/24", "fd42:7::/64"])),
        ]
        .into(),
        masquerade: true,
        clamp: ["eth0".parse().unwrap()].into(),
        ..Nft::default()
    };
    KernelState { nft: Some(nft), ..KernelState::default() }
}

/// Sends a datagram from the pod, and returns the source that its receiver in the world saw.
fn source_seen(node: &Node, to: &'static str) -> String {
    source_if_seen(node, to, PATIENCE).unwrap()
}

/// The same, if it comes before patience ends.
fn source_if_seen(node: &Node, to: &'static str, patience: Duration) -> Option<String> {
    let receiver = node.world.run(move || UdpSocket::bind((to, 7777)).unwrap());
    receiver.set_read_timeout(Some(patience)).unwrap();
    node.pod.run(move || {
        let any = if to.contains(':') { "::" } else { "0.0.0.0" };
        UdpSocket::bind((any, 0)).unwrap().send_to(b"here", (to, 7777)).unwrap();
    });
    receiver.recv_from(&mut [0; 16]).ok().map(|(_, from)| from.ip().to_string())
}

#[test]
fn pods_leave_the_mesh_by_the_nodes_address_and_stay_themselves_within() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        let node = node();
        std::mem::forget(Forwarding::enable(&Family::BOTH).unwrap());
        for [pod, mesh, outside] in ADDRESSES {
            for to in [mesh, outside] {
                assert_eq!(source_seen(&node, to), pod, "without the table");
            }
        }
        bring(&Host::new().unwrap(), &table()).await;
        for ([pod, mesh, outside], own) in ADDRESSES.into_iter().zip(["192.0.2.1", "2001:db8::1"]) {
            assert_eq!(source_seen(&node, mesh), pod);
            assert_eq!(source_seen(&node, outside), own);
        }
    });
}

#[test]
fn packets_between_prefixes_of_the_mesh_pass_where_others_drop() {
    need!(root);
    need!(program "ip");
    need!(program "nft");
    in_namespace(|| async {
        let node = node();
        std::mem::forget(Forwarding::enable(&Family::BOTH).unwrap());
        nft_command("add table inet docker");
        nft_command(
            "add chain inet docker F { type filter hook forward priority 0; policy drop; }",
        );
        // Neighbours are asked by link-local addresses, which nobody passes on.
        let soon = Duration::from_millis(200);
        for [_, mesh, _] in ADDRESSES {
            assert_eq!(source_if_seen(&node, mesh, soon), None, "without the table");
        }
        let passed = prefixes(&["10.4.0.0/16", "10.42.7.0/24", "fd04::/16", "fd42:7::/64"]);
        let nft = Nft { sets: [(NftSet::Passed, passed)].into(), accept: 0x20, ..Nft::default() };
        let state = KernelState { nft: Some(nft), ..KernelState::default() };
        let mut cached = Cached::new(&Host::new().unwrap(), vec![]).await.unwrap();
        cached.bring(&state).await.unwrap();
        for [pod, mesh, outside] in ADDRESSES {
            assert_eq!(source_seen(&node, mesh), pod);
            assert_eq!(source_if_seen(&node, outside, soon), None, "not of the mesh");
        }
    });
}

/// The sizes of segments that the ends of a connection from the pod agree on.
fn segments(node: &Node, to: &'static str) -> [u32; 2] {
    let listener = node.world.run(move || TcpListener::bind((to, 7777)).unwrap());
    let near = node.pod.run(move || {
        let to = SocketAddr::new(to.parse().unwrap(), 7777);
        TcpStream::connect_timeout(&to, PATIENCE).unwrap()
    });
    let (far, _) = listener.accept().unwrap();
    // The near end knows what the far end said once something has come.
    (&far).write_all(b"!").unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    (&near).read_exact(&mut [0]).unwrap();
    [&node.pod, &node.world].map(|side| {
        let told = side.run(|| run("ss", "-tinH state established"));
        let (_, size) = told.split_once(" mss:").unwrap();
        size.split(' ').next().unwrap().parse().unwrap()
    })
}

#[test]
fn connections_agree_on_segments_that_fit_both_ways() {
    need!(root);
    need!(program "ip");
    need!(program "ss");
    in_namespace(|| async {
        let node = node();
        std::mem::forget(Forwarding::enable(&Family::BOTH).unwrap());
        // 20 or 40 bytes of IP, 20 of TCP and 12 of timestamps come on top.
        for ([_, mesh, _], header) in ADDRESSES.into_iter().zip([52, 72]) {
            assert_eq!(segments(&node, mesh), [1500 - header; 2], "without the table");
        }
        bring(&Host::new().unwrap(), &table()).await;
        for ([_, mesh, _], header) in ADDRESSES.into_iter().zip([52, 72]) {
            assert_eq!(segments(&node, mesh), [1300 - header; 2]);
        }
    });
}
