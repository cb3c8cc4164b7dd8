//! The whole mesh at once: whether both ends of every tunnel agree, and whether things stay as they are.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod agreement;
mod generator;
mod golden;
mod kilo;
mod kilo_agreement;
mod scenarios;
mod stability;
mod underlay;
mod walker;
