//! UDP through the tunnel, and the ECN bits of what passes.

use crate::cases::Case;
use crate::ends::{Devices, Ends, Side, outside};
use crate::peer::Peer;

/// The largest packet in the tunnel less what a VXLAN adds over IPv4 and IPv6: its own header with the inner Ethernet
/// header, UDP's and IP's.
const VXLAN_MTU: [usize; 2] = [1420 - 50, 1420 - 70];
/// One that is not VXLAN's own: our device merges datagrams to all ports but those.
const VXLAN_PORT: u16 = 9999;
/// ECN-capable transport (RFC 3168 section 5), as ping's option and as nft's word.
const CAPABLE: [(u8, &str); 2] = [(1, "ect1"), (2, "ect0")];

/// All kinds of traffic, over sessions of either outer family.
pub(crate) fn all(peer: Peer) {
    let ends = Ends::start(peer);
    for engine in Case::Datagrams.engines(peer) {
        let devices = ends.devices(*engine, 0);
        for family in [0, 1] {
            println!("{}: {engine:?}: over {}", peer.name(), outside(Side::Far, family));
            devices.join(Side::Near, &outside(Side::Far, family), "", "");
            devices.reach(Side::Near, 0);
            (0..2).for_each(|inside| datagrams(&devices, inside));
            let tells_congestion = Case::Congestion.engines(peer).contains(engine);
            for to in Side::BOTH {
                ecn(&devices, to, tells_congestion);
            }
            devices.part();
        }
    }
}

/// Echoes over a VXLAN whose datagrams go through the tunnel: each is one, its sum is right, and ping compares what
/// comes back with what it sent.
fn datagrams(devices: &Devices<'_>, family: usize) {
    for side in Side::BOTH {
        let [own, other] = [side, side.other()].map(|side| devices.inside(side)[family].clone());
        devices.machine(side).ok(&format!(
            "ip link add vx0 type vxlan id 7 local {own} remote {other} dstport {VXLAN_PORT} udpcsum
             ip address add 10.77.0.{}/24 dev vx0
             ip link set vx0 mtu {} up",
            side.number(),
            VXLAN_MTU[family]
        ));
    }
    let full = VXLAN_MTU[family] - 28;
    for from in Side::BOTH {
        let to = from.other().number();
        for size in [8, full] {
            devices
                .machine(from)
                .ok(&format!("ping -n -q -c 20 -i 0.02 -W 20 -M do -s {size} 10.77.0.{to}"));
        }
    }
    for side in Side::BOTH {
        devices.machine(side).ok("ip link delete vx0");
    }
}

/// Echo requests of either family with ECN bits, as they come out at one side: unchanged, or marked if the wire marks
/// their outer packets.
fn ecn(devices: &Devices<'_>, to: Side, tells_congestion: bool) {
    let receiver = devices.machine(to);
    for marks in [false, true] {
        if marks && !tells_congestion {
            continue;
        }
        let mark = |family| {
            format!("iifname eth0 meta l4proto udp {family} ecn != not-ect {family} ecn set ce")
        };
        let rules = if marks { [mark("ip"), mark("ip6")].join("\n") } else { String::new() };
        for (bits, word) in CAPABLE {
            let seen = if marks { "ce" } else { word };
            receiver.ok(&format!(
                "nft 'table inet seen {{
                    chain wire {{ type filter hook prerouting priority raw;
                        {rules}
                    }}
                    chain inside {{ type filter hook input priority filter;
                        icmp type echo-request ip ecn {seen} counter
                        icmpv6 type echo-request ip6 ecn {seen} counter
                    }}
                }}'"
            ));
            for address in devices.inside(to) {
                let ping = format!("ping -n -q -c 3 -i 0.05 -W 20 -Q {bits} {address}");
                devices.machine(to.other()).ok(&ping);
            }
            let counted = receiver.ok("nft list table inet seen; nft delete table inet seen");
            let both = counted.matches("counter packets 3 ").count();
            assert_eq!(both, 2, "sent with {word} to {to:?}, marked: {marks}: {counted}");
        }
    }
}
