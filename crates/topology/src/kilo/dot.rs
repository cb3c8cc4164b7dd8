//! The mesh in Graphviz's language as `kgctl graph` prints it: what `Topology.Dot` of Kilo draws, in the order and with
//! the blanks of the library that it draws with (gographviz 2.0.3, `write.go` and `ast/ast.go`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Part, View, internal, pods, range};
use crate::segment::Segment;

/// How an edge between two nodes looks, and one to a peer.
const SOLID: &str = "dir=both";
const DASHED: &str = "dir=both, style=dashed";

impl View<'_> {
    /// The graph in Graphviz's DOT language, as kgctl prints it: edges in the order of names, then a cluster for each
    /// segment, and one for the peers.
    pub fn dot(&self) -> String {
        let label = range(self.mesh).map_or_else(String::new, |range| range.to_string());
        let mut statements = vec![
            format!("label={}", quote(&label)),
            "labelloc=t".to_owned(),
            "outputorder=nodesfirst".to_owned(),
            "overlap=false".to_owned(),
        ];
        let edge = |((from, to), look)| format!("{from}->{to}[ {look} ]");
        statements.extend(self.edges().into_iter().map(edge));
        statements.extend(self.clusters().into_values());
        format!("digraph kilo {{\n{}\n}}\n", lines(&statements))
    }

    /// How the edge between two quoted names looks.
    fn edges(&self) -> BTreeMap<(String, String), &'static str> {
        let quoted = |node: &wireloom_model::Node| quote(node.name.as_str());
        let mut edges = BTreeMap::new();
        for (at, part) in self.parts.iter().enumerate() {
            let leader = quoted(part.leader());
            let members = part.nodes.iter().enumerate().filter(|(at, _)| *at != part.leader);
            let near = members.map(|(_, node)| quoted(node));
            let away = self.parts[at + 1..].iter().map(|other| quoted(other.leader()));
            edges.extend(near.chain(away).map(|to| ((leader.clone(), to), SOLID)));
            let peers = self.peers.iter().map(|outsider| quote(outsider.peer.name.as_str()));
            edges.extend(peers.map(|to| ((leader.clone(), to), DASHED)));
        }
        edges
    }

    /// The clusters by their quoted names.
    fn clusters(&self) -> BTreeMap<String, String> {
        let segment = |part: &Part<'_>| {
            let key = key(&part.name);
            let node = |at: usize| {
                let rank = if at == part.leader { ", rank=1" } else { "" };
                let label = quote(&label_of(part, at).join("\\n"));
                statement(part.nodes[at].name.as_str(), &label, rank)
            };
            cluster(&format!("location_{key}"), &key, (0..part.nodes.len()).map(node))
        };
        let peers = self.peers.iter().map(|outsider| {
            let name = outsider.peer.name.as_str();
            let endpoint = outsider.peer.endpoint.as_ref().map(ToString::to_string);
            // The last line ends in a line break as it is.
            let label = quote(&format!("{name}\\n{}\n", endpoint.unwrap_or_default()));
            statement(name, &label, "")
        });
        let peers = cluster("peers", "peers", peers);
        self.parts.iter().map(segment).chain([peers]).collect()
    }
}

/// A node with its label, quoted already.
fn statement(name: &str, label: &str, rank: &str) -> String {
    format!("{} [ label={label}{rank}, shape=ellipse ]", quote(name))
}

/// A cluster of this name: its quoted name, and its text.
fn cluster(name: &str, label: &str, nodes: impl Iterator<Item = String>) -> (String, String) {
    let name = quote(&format!("cluster_{name}"));
    let head = [format!("label={}", quote(label)), "style=\"dashed,rounded\"".to_owned()];
    let statements: Vec<String> = head.into_iter().chain(nodes).collect();
    let text = format!("subgraph {name} {{\n{}\n}}\n", lines(&statements));
    (name, text)
}

/// Statements below each other. What is within a cluster is moved in no further.
fn lines(statements: &[String]) -> String {
    statements.iter().map(|statement| format!("\t{statement};\n")).collect()
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

/// A quoted string. Line breaks within are written `\n` already.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}
