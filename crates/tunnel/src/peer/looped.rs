//! Messages of ours that come back because the way to the peer's endpoint leads into the tunnel itself. Sealed again, each
//! would return larger than before, in fragments at last, and soon there would be nothing else.

use wireloom_packet::IpPacket;
use wireloom_packet::ip::{IPV6_FRAGMENT, UDP};

use super::Turn;

/// The type and the index that a message begins with: of our initiation, our own index; of our data, the one that the
/// peer has chosen. Nobody else sends either to the peer. `None` before the first message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Opening(Option<[u8; 8]>);

impl Opening {
    pub(super) fn of(message: &[u8]) -> Self {
        Self(message.first_chunk().copied())
    }
}

impl Turn<'_> {
    /// Whether a packet is, or begins with, a message that was sent to the peer.
    pub(crate) fn has_sent(&self, packet: &[u8]) -> bool {
        let (Some(path), Ok(packet)) = (self.state.path, IpPacket::parse(packet)) else {
            return false;
        };
        packet.destination() == path.remote.ip()
            && datagram(&packet).is_some_and(|datagram| {
                let opening = Opening::of(datagram.get(8..).unwrap_or_default());
                datagram.get(2..4) == Some(&path.remote.port().to_be_bytes())
                    && opening != Opening::default()
                    && self.state.openings.contains(&opening)
            })
    }
}

/// The UDP datagram in a packet, or its beginning in the first of several fragments.
fn datagram<'a>(packet: &IpPacket<'a>) -> Option<&'a [u8]> {
    if packet.is_later_fragment() {
        return None;
    }
    match (packet.protocol(), packet.payload()) {
        (UDP, datagram) => Some(datagram),
        (IPV6_FRAGMENT, [UDP, _, _, _, _, _, _, _, datagram @ ..]) => Some(datagram),
        _ => None,
    }
}
