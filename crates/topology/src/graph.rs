//! The whole mesh as a picture.
/// The graph.
pub struct Graph;
