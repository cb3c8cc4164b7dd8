//! Writing frames, and super-packets as packets where the device refuses them.

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wireloom_packet::{Frame, GsoKind, MergeOffloads, Segments, VnetHeader};

/// The most parts of a frame whose list is kept small: a 64 KiB super-packet of MTU 1420 has 48.
const FEW_PARTS: usize = 64;
/// The most parts of a frame: those of a super-packet of small datagrams.
const MANY_PARTS: usize = 512;

/// What a frame is written to in one call: the virtio-net header, then the packet.
pub(crate) trait FrameSink {
    /// Takes a frame whole or not at all.
    fn take(&self, frame: &[IoSlice<'_>]) -> io::Result<()>;
}

/// The super-packets that are written to a device, switched at run time by hand or by a refusal.
#[derive(Debug, Default)]
pub(crate) struct WriteSwitches {
    tcp4: AtomicBool,
    tcp6: AtomicBool,
    udp: AtomicBool,
    refused: AtomicU64,
}

impl WriteSwitches {
    /// What may be written.
    pub(crate) fn offloads(&self) -> MergeOffloads {
        MergeOffloads {
            tcp4: self.tcp4.load(Ordering::Relaxed),
            tcp6: self.tcp6.load(Ordering::Relaxed),
            udp: self.udp.load(Ordering::Relaxed),
        }
    }

    /// Says what may be written from now on.
    pub(crate) fn set(&self, offloads: MergeOffloads) {
        self.tcp4.store(offloads.tcp4, Ordering::Relaxed);
        self.tcp6.store(offloads.tcp6, Ordering::Relaxed);
        self.udp.store(offloads.udp, Ordering::Relaxed);
    }

    /// The super-packets that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Writes a frame from its parts, with no copy of ours, or as packets if that is refused.
    pub(crate) fn write(
        &self,
        sink: &impl FrameSink,
        header: &VnetHeader,
        parts: &[Range<usize>],
        bytes: &[u8],
    ) -> io::Result<()> {
        let result = match parts.len() {
            0..=FEW_PARTS => write_parts::<{ FEW_PARTS + 1 }>(sink, header, parts, bytes),
            _ => write_parts::<{ MANY_PARTS + 1 }>(sink, header, parts, bytes),
        };
        match result {
            Err(refusal) if header.gso != GsoKind::None && is_refused_batch(&refusal) => {
                let packet: Vec<u8> =
                    parts.iter().flat_map(|part| place(part, bytes)).copied().collect();
                self.write_split(sink, &Frame { header: *header, packet: &packet }, refusal)
            }
            result => result,
        }
    }

    /// Writes a refused super-packet as its packets. Its kind is switched off if the device takes those: it is up then,
    /// and the super-packet was what it did not like.
    #[cold]
    fn write_split(
        &self,
        sink: &impl FrameSink,
        frame: &Frame<'_>,
        refusal: io::Error,
    ) -> io::Result<()> {
        let Ok(mut segments) = Segments::new(frame) else { return Err(refusal) };
        let mut packet = vec![0; segments.largest()];
        let mut result = Ok(());
        let mut taken = false;
        let head = VnetHeader::default().encode();
        while let Some(length) = segments.next_into(&mut packet) {
            match sink.take(&[IoSlice::new(&head), IoSlice::new(&packet[..length])]) {
                Ok(()) => taken = true,
                Err(error) => result = Err(error),
            }
        }
        if taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let switch = match frame.header.gso {
                GsoKind::Tcp4 => &self.tcp4,
                GsoKind::Tcp6 => &self.tcp6,
                _ => &self.udp,
            };
            switch.store(false, Ordering::Relaxed);
        }
        result
    }
}

/// Writes a frame from its parts; `N` is one more than the most of them.
fn write_parts<const N: usize>(
    sink: &impl FrameSink,
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
        Some(slices) => sink.take(slices),
        None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn place<'a>(part: &Range<usize>, bytes: &'a [u8]) -> &'a [u8] {
    bytes.get(part.clone()).unwrap_or_default()
}

/// Whether the device may take the same packets one by one.
fn is_refused_batch(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}
