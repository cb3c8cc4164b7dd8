//! One binary: every command of Wireloom.
fn main() {}
