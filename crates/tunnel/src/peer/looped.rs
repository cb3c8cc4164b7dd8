//! Messages of ours that come back because the way to the peer's endpoint leads into the tunnel itself. Sealed again, each
//! would return larger than before, in fragments at last, and soon there would be nothing else.

use wireloom_packet::ip::{IPV6_FRAGMENT, UDP};
use wireloom_packet::{IpPacket, Path};

/// The type and the index that a message begins with: of our initiation, our own index; of our data, the one that the
/// peer has chosen. Nobody else sends either to the peer. `None` before the first message.
type Beginning = Option<[u8; 8]>;

/// What our last initiation and our last data message to a peer began with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beginnings {
    initiation: Beginning,
    data: Beginning,
}

impl Beginnings {
    /// An initiation was made.
    pub(super) fn initiated(&mut self, message: &[u8]) {
        self.initiation = message.first_chunk().copied();
    }

    /// A data message was sealed.
    pub(super) fn sealed(&mut self, message: &[u8]) {
        self.data = message.first_chunk().copied();
    }

    /// Data messages were sealed by somebody who began with these.
    pub(super) const fn sealed_as(&mut self, theirs: &Self) {
        self.data = theirs.data;
    }

    /// Whether a packet is, or begins with, a message that was sent on this path.
    pub(super) fn begin(&self, packet: &[u8], path: &Path) -> bool {
        let Ok(packet) = IpPacket::parse(packet) else { return false };
        packet.destination() == path.remote.ip()
            && datagram(&packet).is_some_and(|datagram| {
                let beginning: Beginning = datagram.get(8..).and_then(|m| m.first_chunk()).copied();
                datagram.get(2..4) == Some(&path.remote.port().to_be_bytes())
                    && beginning.is_some()
                    && (beginning == self.initiation || beginning == self.data)
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
