//! Writing frames, and super-packets as packets where the kernel refuses them.

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::Ordering;

use wireloom_packet::{Frame, GsoKind, Segments, VnetHeader};

use super::Tun;
use crate::seam::TunWrite;

/// The most parts of a frame whose list is kept small: a 64 KiB super-packet of MTU 1420 has 48.
const FEW_PARTS: usize = 64;
/// The most parts of a frame: those of a super-packet of small datagrams.
const MANY_PARTS: usize = 512;

impl Tun {
    /// One system call: a TUN device takes a frame whole or not at all.
    fn write_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match rustix::io::writev(&*self.fd, slices) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes a frame from its parts, with no copy of ours; `N` is one more than the most of them.
    fn write_parts<const N: usize>(
        &self,
        header: &VnetHeader,
        parts: &[Range<usize>],
        bytes: &[u8],
    ) -> io::Result<()> {
        let head = header.encode();
        let mut slices = [IoSlice::new(&[]); N];
        slices[0] = IoSlice::new(&head);
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(place(part, bytes));
        }
        match slices.get(..=parts.len()) {
            Some(slices) => self.write_slices(slices),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn write_packet(&self, header: &VnetHeader, packet: &[u8]) -> io::Result<()> {
        self.write_slices(&[IoSlice::new(&header.encode()), IoSlice::new(packet)])
    }

    /// Writes a refused super-packet as its packets. Its kind is switched off if the device takes those: it is up then,
    /// and the super-packet was what it did not like.
    #[cold]
    fn write_split(&self, frame: &Frame<'_>, refusal: io::Error) -> io::Result<()> {
        let Ok(mut segments) = Segments::new(frame) else { return Err(refusal) };
        let mut packet = vec![0; segments.largest()];
        let mut result = Ok(());
        let mut taken = false;
        while let Some(length) = segments.next_into(&mut packet) {
            match self.write_packet(&VnetHeader::default(), &packet[..length]) {
                Ok(()) => taken = true,
                Err(error) => result = Err(error),
            }
        }
        if taken {
            self.writes.refused.fetch_add(1, Ordering::Relaxed);
            let switch = match frame.header.gso {
                GsoKind::Tcp4 => &self.writes.tcp4,
                GsoKind::Tcp6 => &self.writes.tcp6,
                _ => &self.writes.udp,
            };
            switch.store(false, Ordering::Relaxed);
        }
        result
    }
}

impl TunWrite for Tun {
    fn write(&self, header: &VnetHeader, parts: &[Range<usize>], bytes: &[u8]) -> io::Result<()> {
        let result = match parts.len() {
            0..=FEW_PARTS => self.write_parts::<{ FEW_PARTS + 1 }>(header, parts, bytes),
            _ => self.write_parts::<{ MANY_PARTS + 1 }>(header, parts, bytes),
        };
        match result {
            Err(refusal) if header.gso != GsoKind::None && is_refused_batch(&refusal) => {
                let packet: Vec<u8> =
                    parts.iter().flat_map(|part| place(part, bytes)).copied().collect();
                self.write_split(&Frame { header: *header, packet: &packet }, refusal)
            }
            result => result,
        }
    }
}

fn place<'a>(part: &Range<usize>, bytes: &'a [u8]) -> &'a [u8] {
    bytes.get(part.clone()).unwrap_or_default()
}

/// Whether the device may take the same packets one by one.
fn is_refused_batch(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}
