use std::num::{NonZeroU16, NonZeroU32};

use wireloom_model::{
    Encapsulation, Filter, GatewayCount, Mesh, Node, Overlay, PublicKey, Snapshot,
};

use super::svg::frames;
use super::*;

/// A mesh of so many nodes, dealt to so many locations.
fn mesh(nodes: usize, locations: &[&str]) -> Snapshot {
    let node = |at: usize| {
        let mut key = [0; 32];
        key[0] = u8::try_from(at).unwrap();
        let location = locations[at % locations.len()].parse().unwrap();
        let name = format!("node-{at}").parse().unwrap();
        let mut node = Node::new(name, PublicKey::from_bytes(key), location);
        node.internal_addresses = vec![format!("10.0.0.{}/24", at + 1).parse().unwrap()];
        node
    };
    Snapshot {
        mesh: Mesh {
            overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
            gateways: GatewayCount::AtMost(NonZeroU32::MIN),
            port: NonZeroU16::MAX,
            mtu: None,
            carry_internal_addresses: true,
            encapsulation: Encapsulation::default(),
            filter: Filter::default(),
        },
        nodes: (0..nodes).map(node).collect(),
        peers: Vec::new(),
        problems: Vec::new(),
    }
}

#[test]
fn boxes_never_overlap() {
    let names: Vec<String> = (0..60).map(|at| format!("location-{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (nodes, locations) in [(1, 1), (2, 2), (6, 4), (60, 2), (60, 7), (60, 60)] {
        let snapshot = mesh(nodes, &names[..locations]);
        let graph = Graph::of(&Topology::of(&snapshot));
        let (segments, boxes, around) = frames(&graph);
        assert_eq!((segments.len(), boxes.len()), (locations, nodes));
        for list in [&segments, &boxes] {
            for (at, one) in list.iter().enumerate() {
                assert!(list[at + 1..].iter().all(|other| !one.touches(other)));
                assert!(around.holds(one));
            }
        }
    }
}

#[test]
fn names_that_mean_something_to_a_language_are_only_names() {
    let evil = r#"<b>"end" & \ #1; --> ]]"#;
    let snapshot = mesh(2, &[evil, "end"]);
    let graph = Graph::of(&Topology::of(&snapshot));
    assert!(graph.svg().contains("&lt;b&gt;&quot;end&quot; &amp; \\ #1; --&gt;"));
    assert!(!graph.svg().contains("<b>"));
    assert!(graph.dot().contains(r##"label="<b>\"end\" & \\ #1; --> ]]";"##));
    let mermaid = graph.mermaid();
    assert!(
        mermaid.contains("[\"#60;b#62;#34;end#34; #38; #92; #35;1#59; --#62; ]]\"]"),
        "{mermaid}"
    );
}
