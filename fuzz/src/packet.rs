//! Super-packets split and merged.

/// Splits a frame that claims anything of itself.
pub fn packet_split(_data: &[u8]) {}

/// Merges packets of any content.
pub fn packet_merge(_data: &[u8]) {}
