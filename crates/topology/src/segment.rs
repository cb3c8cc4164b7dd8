//! The unit that has gateways: a location, or a node that stands alone.

use std::fmt;

use serde::Serialize;
use wireloom_model::{Location, NodeName};

/// Nodes that reach each other without a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Segment {
    /// The nodes of a location that have an internal address.
    Location(Location),
    /// One node that has no internal address to be reached by.
    Node(NodeName),
}

impl Segment {
    /// The name of the location or the node.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Location(location) => location.as_str(),
            Self::Node(node) => node.as_str(),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Location(location) => write!(f, "location {location}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}
