//! TUN devices with offload and UDP sockets with GSO and GRO.
//!
//! Owns every system call of the packet path, the buffers that they fill, the clocks, and all `unsafe` code of the
//! workspace (in one private module). Reads and writes are batches, block until there is something or a [`Signal`] is
//! raised, and never wait once they have something. What the kernel refuses as a super-packet goes out again as single
//! packets.
//!
//! Floor 2: imports `wireloom-packet` only; no async runtime.

pub mod alarm;
pub mod buffer;
pub mod clock;
pub mod inherited;
pub mod memory;
mod routes;
pub mod seam;
pub mod signal;
#[allow(unsafe_code)]
mod sys;
pub mod tun;
pub mod udp;

pub use alarm::Alarm;
pub use buffer::{FrameBuffer, ReceiveBuffer};
pub use seam::{
    Binding, RouteWatch, SendReport, TunDevice, TunRead, TunWrite, UdpBind, UdpReceive, UdpSend,
};
pub use signal::{Signal, Wake};
pub use tun::{Tun, TunConfig, TunError, UnfinishedPackets};
pub use udp::{BindError, UdpBinder};
