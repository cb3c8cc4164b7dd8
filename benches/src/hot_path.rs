//! The work of the hot path in pieces, each said once: criterion times them, callgrind counts their instructions.
//!
//! Nothing here is drawn at random but the ephemeral keys of handshakes, which are made before anything is measured.

#![allow(clippy::unwrap_used, reason = "a piece of work that cannot run has nothing to say")]

mod pair;
mod pieces;
mod samples;
mod turn;

pub use pair::{BATCH, CLIENT, Pair, SERVER, open, seal};
pub use pieces::prefixes;
pub use samples::packets;

use pieces::{Checksum, Lookup, Merge, Open, Seal, Split};
use turn::Turn;
use wireloom_packet::GsoKind;
use wireloom_tunnel::EngineKind;

/// One piece of work that can be done over and over.
pub trait Work {
    /// Lays ready what [`run`](Self::run) uses up. Not measured.
    fn prepare(&mut self) {}

    /// Does the work once.
    ///
    /// # Panics
    ///
    /// If it does not do what it is there for.
    fn run(&mut self);
}

/// A piece of work by name.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name: what is done, and to what.
    pub name: &'static str,
    /// How much is done at once.
    pub amount: Amount,
    make: fn() -> Box<dyn Work>,
}

/// How much a piece of work does at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes of inner packets.
    Bytes(usize),
    /// So many lookups.
    Lookups(usize),
}

/// Every piece of work.
pub const CASES: [Case; 19] = [
    bytes("seal_64x1420", 64 * 1_420, || Box::new(Seal::new(EngineKind::default(), 1_420))),
    bytes("seal_64x64", 64 * 64, || Box::new(Seal::new(EngineKind::default(), 64))),
    bytes("open_64x1420", 64 * 1_420, || Box::new(Open::new(EngineKind::default(), 1_420))),
    bytes("open_64x64", 64 * 64, || Box::new(Open::new(EngineKind::default(), 64))),
    bytes("split_tcp4", samples::LARGEST, || Box::new(Split::new(GsoKind::Tcp4))),
    bytes("split_tcp6", samples::LARGEST, || Box::new(Split::new(GsoKind::Tcp6))),
    bytes("split_udp4", samples::LARGEST, || Box::new(Split::new(GsoKind::Udp))),
    bytes("merge_tcp4", samples::LARGEST, || Box::new(Merge::new(GsoKind::Tcp4))),
    bytes("merge_tcp6", samples::LARGEST, || Box::new(Merge::new(GsoKind::Tcp6))),
    bytes("merge_udp4", samples::LARGEST, || Box::new(Merge::new(GsoKind::Udp))),
    bytes("checksum_64x1420", 64 * 1_420, || Box::new(Checksum::new(1_420))),
    bytes("checksum_64x64", 64 * 64, || Box::new(Checksum::new(64))),
    lookups("lookup_10", || Box::new(Lookup::new(10))),
    lookups("lookup_1000", || Box::new(Lookup::new(1_000))),
    lookups("lookup_100000", || Box::new(Lookup::new(100_000))),
    bytes("turn_tcp4", samples::LARGEST, || Box::new(Turn::super_packet(GsoKind::Tcp4))),
    bytes("turn_tcp6", samples::LARGEST, || Box::new(Turn::super_packet(GsoKind::Tcp6))),
    bytes("turn_udp4", samples::LARGEST, || Box::new(Turn::super_packet(GsoKind::Udp))),
    bytes("turn_64x64", 64 * 64, || Box::new(Turn::singles(64))),
];

const fn bytes(name: &'static str, bytes: usize, make: fn() -> Box<dyn Work>) -> Case {
    Case { name, amount: Amount::Bytes(bytes), make }
}

const fn lookups(name: &'static str, make: fn() -> Box<dyn Work>) -> Case {
    Case { name, amount: Amount::Lookups(pieces::LOOKUPS), make }
}

impl Case {
    /// The work, done once already, so that its buffers have grown, and ready to be done again.
    pub fn warm(&self) -> Box<dyn Work> {
        let mut work = (self.make)();
        work.prepare();
        work.run();
        work.prepare();
        work
    }

    /// The case of this name.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn named(name: &str) -> Self {
        *CASES.iter().find(|case| case.name == name).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_can_be_done_again_and_again() {
        for case in &CASES {
            let mut work = case.warm();
            for _ in 0..3 {
                work.run();
                work.prepare();
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for case in &CASES {
            assert_eq!(CASES.iter().filter(|other| other.name == case.name).count(), 1);
        }
    }
}
