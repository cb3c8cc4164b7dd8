//! The virtio-net header in front of every frame of a TUN device with offloads (`linux/virtio_net.h`,
//! `struct virtio_net_hdr`, 10 bytes, in the machine's byte order).

/// The length of the header in bytes.
pub const VNET_HEADER_BYTES: usize = 10;

/// What the header says of the frame behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The transport checksum holds only the pseudo-header's sum and must be completed (`NEEDS_CSUM`).
    pub needs_checksum: bool,
    /// How to cut the frame into packets.
    pub gso: GsoKind,
    /// The bytes of all headers, which every packet repeats. A hint: the kernel's own may be too large.
    pub header_bytes: u16,
    /// The payload bytes of each packet but the last.
    pub segment_bytes: u16,
    /// Where the checksummed bytes start.
    pub checksum_start: u16,
    /// Where the checksum stands, counted from `checksum_start`.
    pub checksum_offset: u16,
}

/// The kind of a super-packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GsoKind {
    /// One packet as it is.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal size, either family (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2).
    Udp,
}

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl VnetHeader {
    /// Reads a header. `None` for fewer than 10 bytes or a GSO type that nobody asked the kernel for.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; VNET_HEADER_BYTES] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let gso = match header[1] & !GSO_ECN {
            GSO_NONE => GsoKind::None,
            GSO_TCPV4 => GsoKind::Tcp4,
            GSO_TCPV6 => GsoKind::Tcp6,
            GSO_UDP_L4 => GsoKind::Udp,
            _ => return None,
        };
        Some(Self {
            needs_checksum: header[0] & NEEDS_CSUM != 0,
            gso,
            header_bytes: word(2),
            segment_bytes: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; VNET_HEADER_BYTES] {
        let mut bytes = [0; VNET_HEADER_BYTES];
        bytes[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso {
            GsoKind::None => GSO_NONE,
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        let words =
            [self.header_bytes, self.segment_bytes, self.checksum_start, self.checksum_offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
