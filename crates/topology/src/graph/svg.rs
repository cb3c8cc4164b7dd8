//! An SVG picture without any other program: segments are boxes on a ring, each with its nodes in a grid, gateways
//! first; peers stand on a wider ring around them.

use std::collections::BTreeMap;
use std::f64::consts::{FRAC_PI_2, TAU};
use std::fmt::Write as _;

use wireloom_model::NodeName;

use super::{Graph, GraphNode, GraphSegment};

/// A node's box and what surrounds it, in pixels.
const NODE: (f64, f64) = (168.0, 40.0);
const GAP: f64 = 16.0;
const TITLE: f64 = 26.0;

/// As many characters of a name as fit into a node's box.
const FITS: usize = 22;

/// Above this many tunnels they are drawn faintly, or they would hide everything else.
const MANY: usize = 60;

const STYLE: &str = "\
svg{font:12px system-ui,sans-serif;background:#fff}\
text{fill:#1b2733;text-anchor:middle}\
.title{font-size:14px;font-weight:600;stroke:#f1f5f9;stroke-width:5;paint-order:stroke}\
.small{font-size:10px;fill:#51606e}\
.legend{text-anchor:start}\
.box{fill:#f1f5f9;stroke:#b6c2cf}\
.node{fill:#fff;stroke:#7c8b9a}\
.gateway{stroke:#0b6e99;stroke-width:2.5}\
.sick{stroke:#c0392b}\
.peer{fill:#fff7e6;stroke:#c98a1b}\
line{stroke:#0b6e99;stroke-width:1.5}\
.faint{stroke-opacity:.2}\
.home{stroke:#7c8b9a;stroke-dasharray:5 4}\
.anchor{stroke:#c98a1b;stroke-dasharray:5 4}\
.broken{stroke:#c0392b;stroke-dasharray:2 4}\
@media(prefers-color-scheme:dark){\
svg{background:#11181f}text{fill:#dfe7ee}.small{fill:#9fb0bf}\
.title{stroke:#1a242e}.box{fill:#1a242e;stroke:#3b4a58}.node{fill:#22303c}.peer{fill:#33291a}}";

/// A box by its middle and its size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

pub(super) fn draw(graph: &Graph) -> String {
    let plan = Layout::of(graph);
    let mut svg = Svg::default();
    for frame in &plan.segments {
        svg.rect("box", frame, 10.0);
    }
    let faint = if graph.tunnels.len() > MANY { "tunnel faint" } else { "tunnel" };
    for tunnel in &graph.tunnels {
        let class = if tunnel.dialable { faint } else { "broken" };
        svg.line(class, plan.nodes.get(&tunnel.from), plan.nodes.get(&tunnel.to));
    }
    for (peer, frame) in graph.peers.iter().zip(&plan.peers) {
        for anchor in &peer.anchors {
            svg.line("anchor", Some(frame), plan.nodes.get(anchor));
        }
    }
    for (segment, frame) in graph.segments.iter().zip(&plan.segments) {
        let title = Frame { y: frame.y - frame.height / 2.0 + 20.0, ..*frame };
        svg.text("title", &title, segment.segment.as_str(), fits(frame.width));
    }
    let nodes = || graph.segments.iter().flat_map(|segment| &segment.nodes);
    for node in nodes().filter(|node| !node.gateway) {
        svg.line("home", plan.nodes.get(&node.name), plan.nodes.get(&node.home));
    }
    for node in nodes() {
        let Some(frame) = plan.nodes.get(&node.name) else { continue };
        svg.open("g");
        svg.title(&title_of(node));
        svg.rect(&class_of(node), frame, 6.0);
        let below = node.overlay_addresses.first().map(ToString::to_string);
        svg.label(frame, node.name.as_str(), below.as_deref());
        svg.close("g");
    }
    for (peer, frame) in graph.peers.iter().zip(&plan.peers) {
        svg.open("g");
        svg.rect("peer", frame, NODE.1 / 2.0);
        let below = peer.allowed_ips.first().map(ToString::to_string);
        svg.label(frame, peer.name.as_str(), below.as_deref());
        svg.close("g");
    }
    svg.legend(&plan.around);
    svg.document(&plan.around)
}

fn class_of(node: &GraphNode) -> String {
    let gateway = if node.gateway { " gateway" } else { "" };
    let sick = if node.healthy { "" } else { " sick" };
    format!("node{gateway}{sick}")
}

fn title_of(node: &GraphNode) -> String {
    let mut lines = vec![node.name.to_string()];
    lines.extend(node.details());
    lines.join("\n")
}

/// The characters of a title that fit into this width.
fn fits(width: f64) -> usize {
    (width / NODE.0 * FITS as f64) as usize
}

/// Where everything stands; the ring's middle is at (0, 0).
struct Layout<'a> {
    segments: Vec<Frame>,
    nodes: BTreeMap<&'a NodeName, Frame>,
    peers: Vec<Frame>,
    /// What holds all of it, with room for the legend below.
    around: Frame,
}

impl<'a> Layout<'a> {
    fn of(graph: &'a Graph) -> Self {
        let sizes: Vec<(f64, f64)> = graph.segments.iter().map(size).collect();
        let diagonals: Vec<f64> = sizes.iter().map(|(w, h)| w.hypot(*h) + GAP).collect();
        let (inner, middles) = ring(&diagonals, 0.0, 0.0);
        let segments: Vec<Frame> = sizes
            .iter()
            .zip(middles)
            .map(|(&(width, height), (x, y))| Frame { x, y, width, height })
            .collect();
        let mut nodes = BTreeMap::new();
        for (segment, frame) in graph.segments.iter().zip(&segments) {
            place(segment, frame, &mut nodes);
        }
        let widest = diagonals.iter().copied().fold(0.0, f64::max);
        let spans = vec![NODE.0 + GAP; graph.peers.len()];
        // Peers look through the gaps between segments, not over their middles.
        let turn = TAU / 2.0 / diagonals.len().max(2) as f64;
        let (_, middles) = ring(&spans, inner + (widest + NODE.0) / 2.0 + GAP, turn);
        let peers: Vec<Frame> = middles
            .into_iter()
            .map(|(x, y)| Frame { x, y, width: NODE.0, height: NODE.1 })
            .collect();
        let around = around(segments.iter().chain(&peers));
        Self { segments, nodes, peers, around }
    }
}

fn around<'a>(frames: impl Iterator<Item = &'a Frame>) -> Frame {
    let (mut left, mut right, mut top, mut bottom) = (-NODE.0, NODE.0, 0.0f64, 0.0f64);
    for Frame { x, y, width, height } in frames {
        left = left.min(x - width / 2.0);
        right = right.max(x + width / 2.0);
        top = top.min(y - height / 2.0);
        bottom = bottom.max(y + height / 2.0);
    }
    let (width, height) = (right - left + 2.0 * GAP, bottom - top + 2.0 * GAP + TITLE);
    Frame { x: (left + right) / 2.0, y: (top + bottom + TITLE) / 2.0, width, height }
}

/// The columns and rows of a segment's grid: wider than high, as boxes of text are not.
fn grid(count: usize) -> (usize, usize) {
    let columns = (count as f64 / 3.0).sqrt().ceil().max(1.0) as usize;
    (columns, count.div_ceil(columns))
}

fn size(segment: &GraphSegment) -> (f64, f64) {
    let (columns, rows) = grid(segment.nodes.len());
    let along = |count: usize, one: f64| count as f64 * (one + GAP) + GAP;
    (along(columns, NODE.0), along(rows, NODE.1) + TITLE)
}

/// Puts circles of these diameters on a ring of at least this radius, the first at the top, turned by so much. Returns
/// the radius and the middles. An arc as long as a circle's share of the whole ring keeps neighbours apart when the radius is a quarter of
/// the sum, since `sin x >= 2x/pi` up to a right angle.
fn ring(diameters: &[f64], least: f64, turn: f64) -> (f64, Vec<(f64, f64)>) {
    let sum: f64 = diameters.iter().sum();
    let radius = if diameters.len() > 1 { (sum / 4.0).max(least) } else { least };
    let mut before = -diameters.first().map_or(0.0, |first| first / 2.0);
    let middles = diameters.iter().map(|diameter| {
        let angle = TAU * (before + diameter / 2.0) / sum - FRAC_PI_2 + turn;
        before += diameter;
        (radius * angle.cos(), radius * angle.sin())
    });
    (radius, middles.collect())
}

/// Puts a segment's nodes into its grid, gateways first.
fn place<'a>(segment: &'a GraphSegment, frame: &Frame, nodes: &mut BTreeMap<&'a NodeName, Frame>) {
    let (columns, _) = grid(segment.nodes.len());
    let mut order: Vec<&GraphNode> = segment.nodes.iter().collect();
    order.sort_by_key(|node| !node.gateway);
    let left = frame.x - frame.width / 2.0 + GAP + NODE.0 / 2.0;
    let top = frame.y - frame.height / 2.0 + TITLE + GAP + NODE.1 / 2.0;
    for (at, node) in order.into_iter().enumerate() {
        let x = left + (at % columns) as f64 * (NODE.0 + GAP);
        let y = top + (at / columns) as f64 * (NODE.1 + GAP);
        nodes.insert(&node.name, Frame { x, y, width: NODE.0, height: NODE.1 });
    }
}

/// The text of the document. Coordinates are whole pixels, so that it is the same on every machine.
#[derive(Default)]
struct Svg {
    out: String,
}

impl Svg {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn open(&mut self, element: &str) {
        self.push(&format!("<{element}>"));
    }

    fn close(&mut self, element: &str) {
        self.push(&format!("</{element}>"));
    }

    fn title(&mut self, text: &str) {
        self.push(&format!("<title>{}</title>", escape(text)));
    }

    fn rect(&mut self, class: &str, frame: &Frame, round: f64) {
        let [x, y] = pixels([frame.x - frame.width / 2.0, frame.y - frame.height / 2.0]);
        let [width, height, round] = pixels([frame.width, frame.height, round]);
        self.push(&format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{round}\"/>"
        ));
    }

    fn line(&mut self, class: &str, from: Option<&Frame>, to: Option<&Frame>) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let [x1, y1, x2, y2] = pixels([from.x, from.y, to.x, to.y]);
        self.push(&format!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
        ));
    }

    /// Writes text in a frame's middle, cut to this many characters.
    fn text(&mut self, class: &str, frame: &Frame, text: &str, most: usize) {
        let mut shown: String = text.chars().take(most).collect();
        if shown.len() < text.len() {
            shown.pop();
            shown.push('…');
        }
        let [x, y] = pixels([frame.x, frame.y]);
        self.push(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
            escape(&shown)
        ));
    }

    fn label(&mut self, frame: &Frame, name: &str, below: Option<&str>) {
        let shift = if below.is_some() { -3.0 } else { 4.0 };
        self.text("name", &Frame { y: frame.y + shift, ..*frame }, name, FITS);
        if let Some(below) = below {
            self.text("small", &Frame { y: frame.y + 12.0, ..*frame }, below, FITS + 4);
        }
    }

    /// What the lines mean, at the bottom.
    fn legend(&mut self, around: &Frame) {
        let y = around.y + around.height / 2.0 - GAP;
        let lines = [("tunnel", "tunnel"), ("home", "home gateway"), ("anchor", "peer")];
        for (at, (class, meaning)) in lines.into_iter().enumerate() {
            let x = around.x + (at as f64 - 1.0) * 120.0;
            let point = |x: f64| Frame { x, y: y - 4.0, width: 0.0, height: 0.0 };
            self.line(class, Some(&point(x - 54.0)), Some(&point(x - 34.0)));
            self.text("small legend", &Frame { x: x - 26.0, y, ..*around }, meaning, FITS);
        }
    }

    fn document(self, around: &Frame) -> String {
        let (left, top) = (around.x - around.width / 2.0, around.y - around.height / 2.0);
        let [x, y, width, height] = pixels([left, top, around.width, around.height]);
        let mut out = String::with_capacity(self.out.len() + STYLE.len() + 256);
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{x} {y} {width} {height}\" width=\"{width}\" height=\"{height}\">"
        );
        let _ = writeln!(out, "<style>{STYLE}</style>");
        out.push_str(&self.out);
        out.push_str("</svg>\n");
        out
    }
}

/// The boxes of segments, of nodes, and what holds them all.
#[cfg(test)]
pub(super) fn frames(graph: &Graph) -> (Vec<Frame>, Vec<Frame>, Frame) {
    let layout = Layout::of(graph);
    (layout.segments, layout.nodes.into_values().collect(), layout.around)
}

#[cfg(test)]
impl Frame {
    pub(super) fn touches(&self, other: &Self) -> bool {
        (self.x - other.x).abs() < (self.width + other.width) / 2.0
            && (self.y - other.y).abs() < (self.height + other.height) / 2.0
    }

    pub(super) fn holds(&self, other: &Self) -> bool {
        (self.x - other.x).abs() <= (self.width - other.width) / 2.0
            && (self.y - other.y).abs() <= (self.height - other.height) / 2.0
    }
}

/// Whole pixels.
fn pixels<const N: usize>(lengths: [f64; N]) -> [i64; N] {
    lengths.map(|length| length.round() as i64)
}

/// Text for XML content.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
