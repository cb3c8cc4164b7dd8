//! Mermaid flowcharts (<https://mermaid.js.org/syntax/flowchart.html>).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wireloom_model::NodeName;

use super::Graph;

pub(super) fn draw(graph: &Graph) -> String {
    let mut out = String::from("flowchart LR\n");
    // Names may be words of the language, so nodes go by number.
    let all = graph.segments.iter().flat_map(|segment| &segment.nodes);
    let ids: BTreeMap<&NodeName, usize> =
        all.enumerate().map(|(at, node)| (&node.name, at)).collect();
    let id = |name: &NodeName| ids.get(name).map_or_else(String::new, |at| format!("n{at}"));
    let mut line = |text: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "  {text}");
    };
    for (at, segment) in graph.segments.iter().enumerate() {
        line(format!("subgraph s{at}[\"{}\"]", escape(segment.segment.as_str())));
        for node in &segment.nodes {
            let details = node.details().map(|detail| escape(&detail));
            let label: Vec<String> =
                [escape(node.name.as_str())].into_iter().chain(details).collect();
            let (open, close) = if node.gateway { ("{{", "}}") } else { ("(", ")") };
            line(format!("  {}{open}\"{}\"{close}", id(&node.name), label.join("<br/>")));
        }
        for node in segment.nodes.iter().filter(|node| !node.gateway) {
            line(format!("  {} -.- {}", id(&node.name), id(&node.home)));
        }
        line("end".to_owned());
    }
    for tunnel in &graph.tunnels {
        let arrow = if tunnel.dialable { "===" } else { "x-.-x" };
        line(format!("{} {arrow} {}", id(&tunnel.from), id(&tunnel.to)));
    }
    for (at, peer) in graph.peers.iter().enumerate() {
        let prefixes = peer.allowed_ips.iter().map(|prefix| escape(&prefix.to_string()));
        let label: Vec<String> = [escape(peer.name.as_str())].into_iter().chain(prefixes).collect();
        line(format!("p{at}([\"{}\"])", label.join("<br/>")));
        for anchor in &peer.anchors {
            line(format!("p{at} -.- {}", id(anchor)));
        }
    }
    out
}

/// Writes every character that could mean something to Mermaid or HTML as a numbered entity.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '.' | '-' | '_' | ':' | '/' | '[' | ']') {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}
