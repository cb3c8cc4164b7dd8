//! Graphviz's DOT language (<https://graphviz.org/doc/info/lang.html>).

use std::fmt::Write as _;

use super::Graph;

pub(super) fn draw(graph: &Graph) -> String {
    let mut out = String::from("graph wireloom {\n");
    let ranges: Vec<String> = graph.overlay.iter().map(ToString::to_string).collect();
    line(&mut out, 1, &format!("label={};", quote(&ranges.join(" "))));
    line(&mut out, 1, "layout=fdp; overlap=false; splines=true; node [shape=box, style=rounded];");
    for (at, segment) in graph.segments.iter().enumerate() {
        line(&mut out, 1, &format!("subgraph cluster_{at} {{"));
        line(&mut out, 2, &format!("label={};", quote(segment.segment.as_str())));
        for node in &segment.nodes {
            let mut label = vec![node.name.to_string()];
            label.extend(node.details());
            let style = if node.gateway { ", penwidth=3" } else { "" };
            let label = quote(&label.join("\n"));
            line(
                &mut out,
                2,
                &format!("{} [label={label}{style}];", id("node", node.name.as_str())),
            );
        }
        for node in segment.nodes.iter().filter(|node| !node.gateway) {
            let (from, to) = (id("node", node.name.as_str()), id("node", node.home.as_str()));
            line(&mut out, 2, &format!("{from} -- {to} [style=dashed];"));
        }
        line(&mut out, 1, "}");
    }
    for tunnel in &graph.tunnels {
        let (from, to) = (id("node", tunnel.from.as_str()), id("node", tunnel.to.as_str()));
        let style = if tunnel.dialable { "" } else { " [color=red, style=dotted]" };
        line(&mut out, 1, &format!("{from} -- {to}{style};"));
    }
    for peer in &graph.peers {
        let mut label = vec![peer.name.to_string()];
        label.extend(peer.allowed_ips.iter().map(ToString::to_string));
        let from = id("peer", peer.name.as_str());
        line(&mut out, 1, &format!("{from} [label={}, shape=ellipse];", quote(&label.join("\n"))));
        for anchor in &peer.anchors {
            let to = id("node", anchor.as_str());
            line(&mut out, 1, &format!("{from} -- {to} [style=dashed];"));
        }
    }
    out.push_str("}\n");
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{:1$}{text}", "", 2 * depth);
}

fn id(kind: &str, name: &str) -> String {
    quote(&format!("{kind} {name}"))
}

/// A quoted string: quotes and backslashes are escaped, and a line break is written `\n`.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
