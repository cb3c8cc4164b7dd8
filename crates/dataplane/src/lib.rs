//! The threads that carry packets between a TUN device and the network.
//!
//! Owns the loops that join the sans-IO device of `wireloom-tunnel` to the devices and sockets of `wireloom-io`, their
//! counters, and the UAPI socket by which `wg` drives the device. For each queue of the TUN device one thread seals and
//! one a socket opens; one more waits for timers and one for routes that move. Each blocks in the kernel while it has nothing to do, so a silent tunnel costs nothing.
//!
//! Floor 3: imports `wireloom-io`, `wireloom-tunnel`, `wireloom-packet` and `wireloom-model`. Never reaches an async
//! runtime, Kubernetes or netlink, not even through others: no wakeup of a runtime stands between two packets.

mod clock;
mod counters;
mod dataplane;
mod offloads;
mod receive;
mod refusal;
mod routes;
mod send;
mod shared;
mod sockets;
mod timer;
pub mod uapi_socket;

pub use counters::{Counter, Counters};
pub use dataplane::{Config, Dataplane, SetError, StartError};
pub use offloads::Offloads;
pub use shared::Ended;
pub use uapi_socket::{UapiSocket, UapiSocketError};
