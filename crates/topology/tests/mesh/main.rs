//! The whole mesh at once: whether both ends of every tunnel agree, and whether things stay as they are.

mod agreement;
mod generator;
mod golden;
mod stability;
mod walker;
