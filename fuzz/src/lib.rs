//! What must hold for any bytes, one function for each fuzz target.
//!
//! With a nightly compiler, `cargo fuzz run --features libfuzzer TARGET` searches for bytes that break a function.
//! On stable, `tests/tests/fuzz_replay.rs` runs each function over its committed corpus.

#![forbid(unsafe_code)]

mod io;
mod packet;
mod tunnel;

pub use io::io_control;
pub use packet::{packet_merge, packet_split, packet_view};
pub use tunnel::{tunnel_answer, tunnel_datagram, tunnel_uapi};
