//! Packets with others in them, from a host that may send them and from one that may not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType};

use wireloom_kernel::Host;
use wireloom_model::kernel::{
    Address, KernelState, Link, LinkKind, LinkSetting, MacAddress, Nft, NftSet, Outer, Route,
};
use wireloom_model::{Family, InterfaceAddress, InterfaceName};
use wireloom_testkit::need;

use crate::support::*;

const PORT: u16 = 51107;
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

/// The one that may send, and the one that may not, by family.
const SENDERS: [(Family, &str, &str); 2] =
    [(Family::V4, "192.0.2.2", "192.0.2.66"), (Family::V6, "2001:db8::2", "2001:db8::66")];

/// A VXLAN link that packets for 10.4.0.1 come in by, and a table that guards it.
fn state(family: Family, local: &str) -> KernelState {
    let link: InterfaceName = "wlvx".parse().unwrap();
    let local = local.parse().unwrap();
    let kind = LinkKind::Vxlan { id: 107, port: PORT, local, mac: MAC };
    let own = InterfaceAddress::host([10, 4, 0, 1].into());
    let back = Route { link: Some(link.clone()), ..Route::default() };
    let nft = Nft {
        sets: [(NftSet::Location, prefixes(&["192.0.2.2/32", "2001:db8::2/128"]))].into(),
        guard: [Outer::Ipip([192, 0, 2, 1].into()), Outer::Vxlan(family, PORT)].into(),
        ..Nft::default()
    };
    KernelState {
        links: [(link.clone(), Link { mtu: 1430, up: true, kind })].into(),
        addresses: [Address { link: link.clone(), address: own }].into(),
        routes: [(key("10.42.2.0/24"), back)].into(),
        settings: [((link, LinkSetting::RpFilter), 2)].into(),
        nft: Some(nft),
        ..KernelState::default()
    }
}

/// The other end of the wire, with the addresses of both senders.
fn far() -> Far {
    let far = Far::begin();
    ip(&format!("link set eth0-far netns {}", far.thread));
    far.run(|| {
        ip("link set lo up");
        ip("link set eth0-far up");
        for (family, friend, stranger) in SENDERS {
            let length = if family == Family::V4 { "24" } else { "64 nodad" };
            for address in [friend, stranger] {
                ip(&format!("address add {address}/{length} dev eth0-far"));
            }
        }
        until_usable("2001:db8::2");
        until_usable("2001:db8::66");
    });
    far
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(folded as u16 + (folded >> 16) as u16)).to_be_bytes()
}

/// An IPv4 packet from 10.42.2.1 to 10.4.0.1 with a datagram to port 7777.
fn inner(text: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + text.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(28));
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 42, 2, 1, 10, 4, 0, 1]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend([0x1e, 0x61, 0x1e, 0x61]); // 7777, twice
    packet.extend(length(8));
    packet.extend([0, 0]); // without a checksum (RFC 768)
    packet.extend(text);
    packet
}

/// The same in an Ethernet frame and a VXLAN header.
fn vxlan(text: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x08, 0, 0, 0, 0, 0, 107, 0];
    datagram.extend(MAC.0);
    datagram.extend([2, 0, 0, 0, 0, 2, 0x08, 0]);
    datagram.extend(inner(text));
    datagram
}

#[test]
fn vxlan_is_taken_from_the_location_alone() {
    need!(root);
    need!(program "ip");
    for ((family, friend, stranger), local) in SENDERS.into_iter().zip(["192.0.2.1", "2001:db8::1"])
    {
        in_namespace(move || async move {
            two_links();
            let far = far();
            let host = Host::new().unwrap();
            bring(&host, &state(family, local)).await;
            let here = UdpSocket::bind("10.4.0.1:7777").unwrap();
            here.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let send = move |from: &'static str, text: &'static [u8]| {
                far.run(move || {
                    let from: IpAddr = from.parse().unwrap();
                    let to = SocketAddr::new(local.parse().unwrap(), PORT);
                    UdpSocket::bind((from, 0)).unwrap().send_to(&vxlan(text), to).unwrap();
                });
            };
            let mut heard = [0; 16];
            let mut hear = || {
                let length = here.recv(&mut heard).unwrap();
                heard[..length].to_vec()
            };
            // The wire keeps the order: what comes first was sent first, unless it was dropped.
            send(stranger, b"spoofed");
            send(friend, b"meant");
            assert_eq!(hear(), b"meant", "{family}");
            // Without the table the same is taken from anybody: it is the table that drops it.
            bring(&host, &KernelState { nft: None, ..state(family, local) }).await;
            send(stranger, b"spoofed");
            assert_eq!(hear(), b"spoofed", "{family}");
        });
    }
}

/// What receives packets of protocol 4 here, in the place of a link that this kernel may not have.
fn raw_ipip() -> rustix::fd::OwnedFd {
    let protocol = Protocol::from_raw(NonZeroU32::new(4).unwrap());
    rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).unwrap()
}

#[test]
fn ipip_is_taken_from_the_location_alone() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let far = far();
        bring(&Host::new().unwrap(), &state(Family::V4, "192.0.2.1")).await;
        let here = raw_ipip();
        set_socket_timeout(&here, Timeout::Recv, Some(Duration::from_secs(5))).unwrap();
        let send = |from: [u8; 4], to: [u8; 4], text: &'static [u8]| {
            far.run(move || {
                let socket = raw_ipip();
                rustix::net::bind(&socket, &address_of(from)).unwrap();
                let sent =
                    rustix::net::sendto(&socket, &inner(text), SendFlags::empty(), &address_of(to));
                sent.unwrap();
            });
        };
        let hear = || {
            let mut heard = [0; 256];
            let (length, _) = rustix::net::recv(&here, &mut heard[..], RecvFlags::empty()).unwrap();
            heard[48..length].to_vec() // behind both IP headers and that of UDP
        };
        send([192, 0, 2, 66], [192, 0, 2, 1], b"spoofed");
        send([192, 0, 2, 2], [192, 0, 2, 1], b"meant");
        assert_eq!(hear(), b"meant");
        // What goes to another address of this host is for somebody else's tunnel.
        ip("address add 192.0.2.9/24 dev eth0");
        send([192, 0, 2, 66], [192, 0, 2, 9], b"another tunnel's");
        assert_eq!(hear(), b"another tunnel's");
    });
}

fn address_of(host: [u8; 4]) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(host).into(), 0)
}
