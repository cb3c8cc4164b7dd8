//! The mesh in Graphviz's language as `kgctl graph` lays it out (`Topology.Dot` in Kilo).

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Part, View, internal, pods, range};
use crate::segment::Segment;

impl View<'_> {
    /// The graph in Graphviz's DOT language, in kgctl's layout: a cluster for each segment, one for the peers.
    pub fn dot(&self) -> String {
        let mut out = String::from("digraph kilo {\n");
        let mut line = |depth: usize, text: String| {
            // Writing to a String can't fail.
            let _ = writeln!(out, "{:1$}{text}", "", 2 * depth);
        };
        let label = range(self.mesh).map_or_else(String::new, |range| range.to_string());
        line(1, format!("label={};", quote(&label)));
        line(1, "labelloc=t;".to_owned());
        line(1, "outputorder=nodesfirst;".to_owned());
        line(1, "overlap=false;".to_owned());
        for part in &self.parts {
            let key = key(&part.name);
            line(1, format!("subgraph {} {{", quote(&format!("cluster_location_{key}"))));
            line(2, format!("label={};", quote(&key)));
            line(2, "style=\"dashed,rounded\";".to_owned());
            for at in 0..part.nodes.len() {
                let rank = if at == part.leader { ", rank=1" } else { "" };
                let name = quote(part.nodes[at].name.as_str());
                let label = quote(&label_of(part, at).join("\\n"));
                line(2, format!("{name} [label={label}{rank}, shape=ellipse];"));
            }
            line(1, "}".to_owned());
        }
        line(1, "subgraph \"cluster_peers\" {".to_owned());
        line(2, "label=\"peers\";".to_owned());
        line(2, "style=\"dashed,rounded\";".to_owned());
        for outsider in &self.peers {
            let name = outsider.peer.name.as_str();
            let endpoint = outsider.peer.endpoint.as_ref().map(ToString::to_string);
            let label = quote(&format!("{name}\\n{}", endpoint.unwrap_or_default()));
            line(2, format!("{} [label={label}, shape=ellipse];", quote(name)));
        }
        line(1, "}".to_owned());
        let leaders: Vec<String> =
            self.parts.iter().map(|part| quote(part.leader().name.as_str())).collect();
        for (part, leader) in self.parts.iter().zip(&leaders) {
            for (_, node) in part.nodes.iter().enumerate().filter(|(at, _)| *at != part.leader) {
                line(1, format!("{leader}->{} [dir=both];", quote(node.name.as_str())));
            }
        }
        for (at, from) in leaders.iter().enumerate() {
            for to in &leaders[at + 1..] {
                line(1, format!("{from}->{to} [dir=both];"));
            }
        }
        for from in &leaders {
            for outsider in &self.peers {
                let to = quote(outsider.peer.name.as_str());
                line(1, format!("{from}->{to} [dir=both, style=dashed];"));
            }
        }
        out.push_str("}\n");
        out
    }
}

/// What Kilo calls a segment.
fn key(segment: &Segment) -> String {
    match segment {
        Segment::Location(location) => format!("location:{location}"),
        Segment::Node(node) => format!("node:{node}"),
    }
}

fn label_of(part: &Part<'_>, at: usize) -> Vec<String> {
    let node = part.nodes[at];
    let is_leader = at == part.leader;
    let mut label = vec![key(&part.name), node.name.to_string()];
    label.extend(pods(node).map(|pods| pods.to_string()));
    label.extend(internal(node).map(|address| address.address().to_string()));
    label.extend(part.address.filter(|_| is_leader).as_ref().map(IpAddr::to_string));
    let endpoint = node.endpoint.as_ref().filter(|_| is_leader);
    label.extend(endpoint.map(ToString::to_string));
    label
}

/// A quoted string. Line breaks are written `\n` already.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}
