//! The graph of a mesh as text.

use wireloom_model::Snapshot;
use wireloom_topology::kilo::{Seen, View};

use crate::control::GraphFormat;
use crate::planner::Planner;

/// The graph of this mesh in this form.
pub fn text(snapshot: &Snapshot, planner: &Planner, format: GraphFormat) -> String {
    let graph = || planner.graph(snapshot);
    match format {
        GraphFormat::Dot => graph().dot(),
        // A graph is texts, numbers and lists, all of which serialise.
        GraphFormat::Json => serde_json::to_string_pretty(&graph()).unwrap_or_default(),
        GraphFormat::Kgctl => {
            let settings = planner.compatibility.clone().unwrap_or_default();
            View::of(snapshot, settings, &Seen::default(), None).dot()
        }
        GraphFormat::Mermaid => graph().mermaid(),
        GraphFormat::Svg => graph().svg(),
    }
}
