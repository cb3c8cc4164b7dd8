//! Every test of the device runs with each engine.
#![allow(clippy::duplicate_mod, reason = "that is how one test runs with each engine")]

use super::*;

#[path = "tests"]
mod boringtun {
    use super::*;

    const ENGINE: EngineKind = EngineKind::Boringtun;
    /// How many messages its replay window spans.
    const WINDOW: usize = 1_024;

    #[path = "world.rs"]
    mod world;
}

#[path = "tests"]
mod noise {
    use super::*;

    const ENGINE: EngineKind = EngineKind::Noise;
    /// How many messages its replay window spans.
    const WINDOW: usize = 8_192;

    #[path = "world.rs"]
    mod world;
}
