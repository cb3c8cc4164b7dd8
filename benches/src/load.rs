//! The loads, and the rig that each stands on.

use crate::rig::Shape;
use crate::subject::{NONE, OURS, Subject};

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Pings and nothing else.
    Ping,
    /// One TCP stream, and pings beside it.
    Tcp1,
    /// Eight TCP streams.
    Tcp8,
    /// TCP both ways at once.
    TcpBoth,
    /// Datagrams as fast as they can be sent, 1372 bytes each.
    Udp1372,
    /// The same with 64 bytes.
    Udp64,
    /// The highest rate of datagrams of 1372 bytes that loses next to nothing.
    UdpRate,
    /// One TCP stream from a pod behind one host to a pod behind the other.
    Forwarded,
    /// One TCP stream over a VXLAN over the tunnel.
    Vxlan,
    /// Eight hosts that send one TCP stream each to the same one.
    Eight,
    /// Devices with a thousand peers that are silent; then one TCP stream with the one that is not.
    Idle,
}

impl Load {
    /// Every load, in the order in which they are run: those that share a rig stand together.
    pub const ALL: [Self; 11] = [
        Self::Ping,
        Self::Tcp1,
        Self::Tcp8,
        Self::TcpBoth,
        Self::Udp1372,
        Self::Udp64,
        Self::UdpRate,
        Self::Forwarded,
        Self::Vxlan,
        Self::Eight,
        Self::Idle,
    ];

    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping, idle",
            Self::Tcp1 => "TCP, 1 stream, and ping under it",
            Self::Tcp8 => "TCP, 8 streams",
            Self::TcpBoth => "TCP, both ways",
            Self::Udp1372 => "UDP flood, 1372 B",
            Self::Udp64 => "UDP flood, 64 B",
            Self::UdpRate => "highest UDP rate without loss",
            Self::Forwarded => "TCP from pod to pod",
            Self::Vxlan => "TCP over VXLAN",
            Self::Eight => "TCP, 8 peers into one",
            Self::Idle => "1,000 idle peers",
        }
    }

    /// The rig that it stands on.
    pub const fn shape(self) -> Shape {
        match self {
            Self::Eight => Shape { senders: 8, idle_peers: 0 },
            Self::Idle => Shape { senders: 1, idle_peers: 1_000 },
            _ => Shape::PAIR,
        }
    }

    /// Whether a quick run has it for this subject in this round: what the targets compare, and each figure of ours at
    /// least once, within three minutes.
    pub fn is_quick(self, subject: &Subject, round: u32) -> bool {
        let ours = subject.name().starts_with(OURS);
        let first = round == 1;
        match self {
            Self::Ping | Self::Tcp1 | Self::Udp1372 | Self::Udp64 => true,
            Self::Tcp8 | Self::TcpBoth => ours || subject.name() == "wireguard-go" || first,
            Self::UdpRate => subject.name() != NONE && (ours || round != 2),
            Self::Eight => (ours || subject.name() == "wireguard-go") && first,
            Self::Forwarded | Self::Vxlan | Self::Idle => ours && !first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_of_one_rig_stand_together() {
        let mut shapes: Vec<Shape> = Load::ALL.iter().map(|load| load.shape()).collect();
        shapes.dedup();
        assert_eq!(shapes.len(), 3);
    }

    #[test]
    fn a_quick_run_has_every_load_of_ours_and_what_ours_is_compared_with() {
        let subject = |name: &str| format!("{name}=/bin/true").parse::<Subject>().unwrap();
        let quick = |name, load: Load| (1..=3).any(|round| load.is_quick(&subject(name), round));
        assert!(Load::ALL.iter().all(|load| quick(OURS, *load)));
        for load in [Load::Tcp1, Load::Tcp8, Load::TcpBoth] {
            assert!(quick("wireguard-go", load));
        }
        for load in [Load::Tcp1, Load::Udp1372, Load::Udp64, Load::UdpRate] {
            assert!(quick("gotatun", load) && quick("boringtun", load));
        }
    }
}
