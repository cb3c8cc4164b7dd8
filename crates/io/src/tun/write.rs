//! Writing frames, and super-packets as packets where the kernel refuses them.

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wireloom_packet::{Frame, GsoKind, Segments, VnetHeader};

use super::WriteSwitches;
use crate::seam::TunWrite;

/// The parts of a frame that are written without being copied together first: a 64 KiB super-packet of MTU 1420 has
/// 48, one of small datagrams more.
const PARTS: usize = 128;

/// The side of a device that takes frames.
#[derive(Debug)]
pub struct TunWriter {
    fd: Arc<OwnedFd>,
    switches: Arc<WriteSwitches>,
}

impl TunWriter {
    pub(super) const fn new(fd: Arc<OwnedFd>, switches: Arc<WriteSwitches>) -> Self {
        Self { fd, switches }
    }

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
            self.switches.refused.fetch_add(1, Ordering::Relaxed);
            let switch = match frame.header.gso {
                GsoKind::Tcp4 => &self.switches.tcp4,
                GsoKind::Tcp6 => &self.switches.tcp6,
                _ => &self.switches.udp,
            };
            switch.store(false, Ordering::Relaxed);
        }
        result
    }
}

impl TunWrite for TunWriter {
    fn write(&self, header: &VnetHeader, parts: &[Range<usize>], bytes: &[u8]) -> io::Result<()> {
        let place = |part: &Range<usize>| bytes.get(part.clone()).unwrap_or_default();
        let head = header.encode();
        let result = if parts.len() < PARTS {
            let mut slices = [IoSlice::new(&[]); PARTS];
            slices[0] = IoSlice::new(&head);
            for (slice, part) in slices[1..].iter_mut().zip(parts) {
                *slice = IoSlice::new(place(part));
            }
            self.write_slices(&slices[..=parts.len()])
        } else {
            let packet: Vec<u8> = parts.iter().flat_map(place).copied().collect();
            self.write_packet(header, &packet)
        };
        match result {
            Err(refusal) if header.gso != GsoKind::None && is_refused_batch(&refusal) => {
                let packet: Vec<u8> = parts.iter().flat_map(place).copied().collect();
                self.write_split(&Frame { header: *header, packet: &packet }, refusal)
            }
            result => result,
        }
    }
}

/// Whether the device may take the same packets one by one.
fn is_refused_batch(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}
