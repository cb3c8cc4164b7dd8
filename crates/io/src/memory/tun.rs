//! The TUN device.

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wireloom_packet::{Frame, GsoKind, MergeOffloads, Segments, VnetHeader};

use super::{Pipe, lock};
use crate::buffer::FrameBuffer;
use crate::seam::{TunDevice, TunRead, TunWrite};
use crate::signal::{Signal, Wake};
use crate::tun::{DEFAULT_MTU, FrameSink, UnfinishedPackets, WriteSwitches};

/// The tunnel's end of a TUN device in memory; clones are the same device.
#[derive(Debug, Clone)]
pub struct MemoryTun(Arc<Device>);

/// The host's end of a TUN device in memory.
#[derive(Debug, Clone)]
pub struct MemoryHost(Arc<Device>);

#[derive(Debug)]
struct Device {
    to_tunnel: Pipe<Option<Vec<u8>>>,
    to_host: Pipe<Vec<u8>>,
    never: Signal,
    offered: Mutex<UnfinishedPackets>,
    reads: Mutex<UnfinishedPackets>,
    writes: WriteSwitches,
    /// The error by which super-packets are refused; 0 for none.
    refusal: AtomicI32,
}

/// Makes a TUN device in memory that takes every offload.
///
/// # Errors
///
/// If the process has no file descriptor left.
pub fn tun() -> io::Result<(MemoryTun, MemoryHost)> {
    let all = UnfinishedPackets { checksum: true, tcp: true, udp: true };
    let writes = WriteSwitches::default();
    writes.set(MergeOffloads { tcp4: true, tcp6: true, udp: true });
    let device = Arc::new(Device {
        to_tunnel: Pipe::new()?,
        to_host: Pipe::new()?,
        never: Signal::new()?,
        offered: Mutex::new(all),
        reads: Mutex::new(all),
        writes,
        refusal: AtomicI32::new(0),
    });
    Ok((MemoryTun(Arc::clone(&device)), MemoryHost(device)))
}

impl MemoryHost {
    /// Sends a packet into the tunnel.
    pub fn send(&self, packet: &[u8]) {
        self.send_frame(&VnetHeader::default(), packet);
    }

    /// Sends a frame into the tunnel, super-packet or not.
    pub fn send_frame(&self, header: &VnetHeader, packet: &[u8]) {
        self.send_frames([(*header, packet)]);
    }

    /// Sends frames into the tunnel, which are all there when its reader wakes.
    pub fn send_frames<'a>(&self, frames: impl IntoIterator<Item = (VnetHeader, &'a [u8])>) {
        let whole =
            |(header, packet): (VnetHeader, _)| Some([&header.encode()[..], packet].concat());
        self.0.to_tunnel.push_all(frames.into_iter().map(whole));
    }

    /// The next packet out of the tunnel; `None` if there is none for that long.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.0.to_host.wait(&self.0.never, Some(timeout)).ok().flatten()
    }

    /// From now on the device takes no request for other super-packets than these.
    pub fn offer(&self, offered: UnfinishedPackets) {
        *lock(&self.0.offered) = offered;
    }

    /// From now on writes of super-packets fail with this error number; 0 takes it back.
    pub fn refuse(&self, errno: i32) {
        self.0.refusal.store(errno, Ordering::Relaxed);
    }

    /// Deletes the device: its reader gets the error that a deleted interface gives.
    pub fn delete(&self) {
        self.0.to_tunnel.push(None);
    }
}

impl TunDevice for MemoryTun {
    fn readers(&self) -> Vec<Box<dyn TunRead>> {
        vec![Box::new(MemoryReader(Arc::clone(&self.0)))]
    }

    fn mtu(&self) -> io::Result<u32> {
        Ok(DEFAULT_MTU)
    }

    fn reads(&self) -> UnfinishedPackets {
        *lock(&self.0.reads)
    }

    fn set_reads(&self, wanted: UnfinishedPackets) {
        let offered = *lock(&self.0.offered);
        *lock(&self.0.reads) = wanted.narrowed(|reads| {
            reads.checksum <= offered.checksum
                && reads.tcp <= offered.tcp
                && reads.udp <= offered.udp
        });
    }

    fn writes(&self) -> MergeOffloads {
        self.0.writes.offloads()
    }

    fn set_writes(&self, offloads: MergeOffloads) {
        self.0.writes.set(offloads);
    }

    fn refused(&self) -> u64 {
        self.0.writes.refused()
    }
}

#[derive(Debug)]
struct MemoryReader(Arc<Device>);

impl TunRead for MemoryReader {
    fn read(&mut self, frames: &mut FrameBuffer, stop: &Signal) -> io::Result<Wake> {
        frames.clear();
        let Some(mut next) = self.0.to_tunnel.wait(stop, None)? else { return Ok(Wake::Stopped) };
        loop {
            let frame = next.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADFD))?;
            if let Some(slot) = frames.slot() {
                let length = frame.len().min(slot.len());
                slot[..length].copy_from_slice(&frame[..length]);
                frames.commit(length);
            }
            if frames.slot().is_none() {
                return Ok(Wake::Ready);
            }
            let Some(more) = self.0.to_tunnel.pop() else { return Ok(Wake::Ready) };
            next = more;
        }
    }
}

impl TunWrite for MemoryTun {
    fn write(
        &self,
        _queue: usize,
        header: &VnetHeader,
        parts: &[Range<usize>],
        bytes: &[u8],
    ) -> io::Result<()> {
        self.0.writes.write(&*self.0, header, parts, bytes)
    }
}

impl FrameSink for Device {
    /// The host gets single packets, as it would behind the kernel's own segmentation.
    fn take(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let (head, parts) = frame.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let header = VnetHeader::decode(head).ok_or(io::ErrorKind::InvalidInput)?;
        let refusal = self.refusal.load(Ordering::Relaxed);
        if header.gso != GsoKind::None && refusal != 0 {
            return Err(io::Error::from_raw_os_error(refusal));
        }
        let packet: Vec<u8> = parts.iter().flat_map(|part| part.iter()).copied().collect();
        let mut segments = Segments::new(&Frame { header, packet: &packet }).map_err(invalid)?;
        let mut segment = vec![0; segments.largest()];
        while let Some(length) = segments.next_into(&mut segment) {
            self.to_host.push(segment[..length].to_vec());
        }
        Ok(())
    }
}
