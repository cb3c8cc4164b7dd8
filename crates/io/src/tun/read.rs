//! Reading frames.

use std::io;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::buffer::FrameBuffer;
use crate::seam::TunRead;
use crate::signal::{Signal, Wake};

/// The side of a device that hands out frames.
#[derive(Debug)]
pub(super) struct TunReader {
    fd: Arc<OwnedFd>,
}

impl TunReader {
    pub(super) const fn new(fd: Arc<OwnedFd>) -> Self {
        Self { fd }
    }
}

impl TunRead for TunReader {
    fn read(&mut self, frames: &mut FrameBuffer, stop: &Signal) -> io::Result<Wake> {
        frames.clear();
        loop {
            while let Some(slot) = frames.slot() {
                match rustix::io::readv(&*self.fd, &mut [IoSliceMut::new(slot)]) {
                    Ok(length) => frames.commit(length),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if !frames.is_empty() {
                return Ok(Wake::Ready);
            }
            if stop.or_readable(&*self.fd, None)? == Wake::Stopped {
                return Ok(Wake::Stopped);
            }
        }
    }
}
