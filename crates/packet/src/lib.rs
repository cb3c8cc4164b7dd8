//! Packets as bytes.
//!
//! Owns the [batches](batch) that cross every seam of the hot path, and the pure functions over them: header views,
//! checksums, super-packets split and merged.
//!
//! Floor 0: imports no other crate of the workspace and does no IO.

pub mod batch;
pub mod checksum;
pub mod ecn;
pub mod icmp;
pub mod ip;
#[cfg(test)]
mod matrix;
pub mod merge;
#[cfg(test)]
mod samples;
pub mod split;
pub mod vnet;

pub use batch::{Arena, Frame, Local, Outbox, Path, Received, Transmit};
pub use ecn::{Ecn, TrafficClass};
pub use ip::{IpError, IpPacket, IpVersion};
pub use merge::{MergeOffloads, Merger};
pub use split::{Segments, SplitError};
pub use vnet::{GsoKind, VnetHeader};
