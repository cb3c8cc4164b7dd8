//! Socket addresses as the kernel passes them (`struct sockaddr_in`, ip(7), and `struct sockaddr_in6`, ipv6(7)).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const NAME_BYTES: usize = 28;
const V4_BYTES: usize = 16;

/// A socket address in the kernel's form. Its fields are in network byte order but the family and the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(4))]
pub(crate) struct SocketName {
    bytes: [u8; NAME_BYTES],
    length: usize,
}

impl SocketName {
    pub(crate) const fn as_raw(&self) -> (*const u8, usize) {
        (self.bytes.as_ptr(), self.length)
    }

    /// The place for the kernel to write a name, with its room.
    pub(crate) const fn as_raw_mut(&mut self) -> (*mut u8, usize) {
        (self.bytes.as_mut_ptr(), NAME_BYTES)
    }

    /// Says how much the kernel wrote.
    pub(crate) fn set_length(&mut self, length: usize) {
        self.length = length.min(NAME_BYTES);
    }
}

impl Default for SocketName {
    fn default() -> Self {
        Self { bytes: [0; NAME_BYTES], length: 0 }
    }
}

impl From<SocketAddr> for SocketName {
    fn from(address: SocketAddr) -> Self {
        let mut name = Self::default();
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16;
        name.bytes[..2].copy_from_slice(&family.to_ne_bytes());
        name.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                name.bytes[4..8].copy_from_slice(&v4.ip().octets());
                name.length = V4_BYTES;
            }
            SocketAddr::V6(v6) => {
                name.bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                name.bytes[8..24].copy_from_slice(&v6.ip().octets());
                name.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                name.length = NAME_BYTES;
            }
        }
        name
    }
}

impl SocketName {
    /// The address, if the kernel wrote one of a family that we know. A flow label is left out: it is not part of who
    /// the far end is.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let bytes = &self.bytes[..self.length];
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
                Some(SocketAddrV4::new(address, port).into())
            }
            libc::AF_INET6 => {
                let (address, rest) = rest.get(4..)?.split_first_chunk::<16>()?;
                let scope = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:1", "[fe80::1%7]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketName::from(address).address(), Some(address));
        }
    }

    #[test]
    fn what_the_kernel_cut_off_is_no_address() {
        let mut name = SocketName::from(SocketAddr::from(([192, 0, 2, 1], 1)));
        name.set_length(7);
        assert_eq!(name.address(), None);
        assert_eq!(SocketName::default().address(), None);
    }
}
