//! Receiving super-datagrams.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use wireloom_packet::Path;

use super::UdpSocket;
use super::control;
use crate::buffer::{DATAGRAM_BYTES, ReceiveBuffer};
use crate::seam::UdpReceive;
use crate::signal::{Signal, Wake};
use crate::sys::{self, Arrival, MESSAGES};

/// How long a receiver waits for the kernel to find memory.
const PAUSE: Duration = Duration::from_millis(10);

/// The receiving side of one socket.
#[derive(Debug)]
pub struct UdpReceiver {
    socket: Arc<UdpSocket>,
    arrivals: Box<[Arrival; MESSAGES]>,
}

impl UdpReceiver {
    pub(super) fn new(socket: Arc<UdpSocket>) -> Self {
        Self { socket, arrivals: Box::new([Arrival::default(); MESSAGES]) }
    }

    /// Takes over the first `count` arrivals.
    fn accept(&self, count: usize, buffer: &mut ReceiveBuffer) {
        for (number, arrival) in self.arrivals.iter().take(count).enumerate() {
            let (Some(remote), false) = (arrival.name.address(), arrival.truncated) else {
                buffer.leave_out();
                continue;
            };
            let control = control::parse(arrival.control.bytes());
            let path = Path { remote, local: control.local };
            let segment = control.segment.unwrap_or(arrival.length);
            buffer.commit(number, arrival.length, path, control.ecn, segment);
        }
    }
}

impl UdpReceive for UdpReceiver {
    fn receive(&mut self, buffer: &mut ReceiveBuffer, stop: &Signal) -> io::Result<Wake> {
        buffer.clear();
        loop {
            let fd = rustix::fd::AsFd::as_fd(&*self.socket);
            match sys::receive_many(fd, &mut buffer.bytes, DATAGRAM_BYTES, &mut self.arrivals) {
                Ok(count) => {
                    self.accept(count, buffer);
                    return Ok(Wake::Ready);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stop.or_readable(fd, None)? == Wake::Stopped {
                        return Ok(Wake::Stopped);
                    }
                }
                // The kernel is short of memory for a while.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) =>
                {
                    if stop.or_readable(stop, Some(PAUSE))? != Wake::TimedOut {
                        return Ok(Wake::Stopped);
                    }
                }
                // What an earlier send ran into (for example an ICMP error) says nothing of this socket.
                Err(error) if is_report(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_report(error: &io::Error) -> bool {
    use libc::{ECONNREFUSED, EHOSTUNREACH, EINTR, EMSGSIZE, ENETUNREACH, EPROTO};
    matches!(
        error.raw_os_error(),
        Some(ECONNREFUSED | EHOSTUNREACH | EINTR | EMSGSIZE | ENETUNREACH | EPROTO)
    )
}
