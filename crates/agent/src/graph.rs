//! The graph of a mesh as text.

use wireloom_model::Snapshot;
use wireloom_topology::{Graph, Topology};

use crate::control::GraphFormat;

/// The graph of this mesh in this form.
pub fn text(snapshot: &Snapshot, format: GraphFormat) -> String {
    let graph = Graph::of(&Topology::of(snapshot));
    match format {
        GraphFormat::Dot => graph.dot(),
        // A graph is texts, numbers and lists, all of which serialise.
        GraphFormat::Json => serde_json::to_string_pretty(&graph).unwrap_or_default(),
        GraphFormat::Mermaid => graph.mermaid(),
        GraphFormat::Svg => graph.svg(),
    }
}
