//! A WireGuard device without any IO.
//!
//! Owns handshakes, sessions, timers, cookies, the lookup of allowed IPs, and the [UAPI text](uapi) by which a device is
//! configured. A [`Device`] takes frames, datagrams and the time, and writes what is to be sent; sockets, threads and
//! clocks are its caller's.
//!
//! Floor 1: imports floor 0 only; no IO and no runtime. What does the cryptography stands behind one narrow seam, and
//! [`EngineKind`] chooses it. It draws ephemeral keys from the operating system and reads the wall clock for the
//! timestamps of initiations.

mod allowed_ips;
mod cookie;
mod device;
mod drops;
mod engine;
mod gate;
mod message;
mod moment;
mod peer;
mod timers;
pub mod uapi;

pub use allowed_ips::Routes;
pub use device::{Device, Effects, Ready, Refusal, Sealer};
pub use drops::{DropCounts, DropReason};
pub use engine::{EngineKind, UnknownEngine};
pub use moment::Moment;
