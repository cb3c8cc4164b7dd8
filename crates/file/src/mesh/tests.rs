use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use insta::{assert_debug_snapshot, assert_snapshot};
use proptest::prelude::*;
use tempfile::TempDir;
use wireloom_model::{Endpoint, ProblemKind, Subject};

use super::*;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const PSK: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";
const DOCUMENT: &str = include_str!("../../../../docs/mesh-file.md");

/// A mesh of one node, with these lines in its entry.
fn node_with(lines: &str) -> Snapshot {
    let text = format!("[[node]]\nname = \"a\"\npublic-key = \"{KEY}\"\n{lines}\n");
    parse(&text, Path::new("mesh.toml")).unwrap()
}

/// What is said of a whole file that is wrong.
fn refused(text: &str) -> String {
    parse(text, Path::new("mesh.toml")).unwrap_err().to_string()
}

fn write(directory: &TempDir, name: &str, text: &str, mode: u32) -> std::path::PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn the_documents_examples_are_read_without_a_problem() {
    let directory = TempDir::new().unwrap();
    write(&directory, "laptop.psk", PSK, 0o600);
    let examples: Vec<_> =
        DOCUMENT.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let path = directory.path().join("mesh.toml");
    let [small, whole] = examples[..] else { panic!("{} examples", examples.len()) };
    assert_eq!(parse(small, &path).unwrap().problems, []);
    let snapshot = parse(whole, &path).unwrap();
    assert_debug_snapshot!("example", snapshot);
}

#[test]
fn the_document_describes_every_key_in_its_own_section() {
    let sections = DOCUMENT.split("\n### ").skip(1);
    let section = |name: &str| {
        sections.clone().find(|text| text.starts_with(&format!("`{name}`"))).unwrap().to_owned()
    };
    let keys = |told: &str| {
        let keys = told.split("its keys are ").nth(1).unwrap();
        keys.split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let nobody = "zzzzzzzzzzzzzzzzzzzzzzzz = 1";
    let mesh = refused(&format!("[mesh]\n{nobody}"));
    let node = node_with("zzzzzzzzzzzzzzzzzzzzzzzz = 1").problems[0].message.clone();
    let peer = node_with(&format!("[[peer]]\nname = \"p\"\n{nobody}"));
    let peer = peer.problems.last().unwrap().message.clone();
    for (name, told) in [("[mesh]", mesh), ("[[node]]", node), ("[[peer]]", peer)] {
        for key in keys(&told) {
            assert!(section(name).contains(&format!("\n| `{key}` |")), "{key} of {name}");
        }
    }
}

#[test]
fn every_bad_entry_is_named_and_the_good_ones_stay() {
    let snapshot = parse(include_str!("bad.toml"), Path::new("/etc/mesh.toml")).unwrap();
    let names: Vec<_> = snapshot.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["good"]);
    assert!(snapshot.peers.is_empty());
    let told: Vec<_> = snapshot.problems.iter().map(ToString::to_string).collect();
    assert_snapshot!("bad", told.join("\n"));
}

#[test]
fn the_whole_file_is_refused_with_line_column_and_reason() {
    let node = format!("[[node]]\nname = \"a\"\npublic-key = \"{KEY}\"\n");
    let told: Vec<_> = [
        "",
        "# only a comment",
        "[[node]\nname = 1",
        "[mesh]\nport = 0\nport = 1",
        "mesh = 5",
        "[node]\nname = \"a\"",
        "node = [5]",
        "[[nodes]]\nname = \"a\"",
        "[mesh]\nport = 0",
        "[mesh]\n  port = 70000",
        "[mesh]\nport = \"51820\"",
        "[mesh]\ngateways = 0",
        "[mesh]\ngateways = -1",
        "[mesh]\ngateways = \"some\"",
        "[mesh]\ngateways = 1.5",
        "[mesh]\nmtu = 500",
        "[mesh]\nmtu = 1000",
        "[mesh]\noverlay = []",
        "[mesh]\noverlay = [\"10.4.0.0/16\", \"10.5.0.0/16\"]",
        "[mesh]\noverlay = [\"10.4.0.1/16\"]",
        "[mesh]\noverlay = [\"10.4.0.0/31\"]",
        "[mesh]\ncarry-internal-addresses = 1",
        "[mesh]\ncarry-internal-adresses = true",
    ]
    .iter()
    .map(|text| match text {
        mesh if mesh.starts_with("[mesh]") => refused(&format!("{mesh}\n{node}")),
        whole => refused(whole),
    })
    .collect();
    assert_snapshot!("refused", told.join("\n"));
}

#[test]
fn what_is_left_out_has_a_default() {
    let snapshot = node_with("");
    let ranges: Vec<_> = snapshot.mesh.overlay.ranges().map(|range| range.to_string()).collect();
    assert_eq!(ranges, OVERLAY);
    assert_eq!(snapshot.mesh.port.get(), 51820);
    assert_eq!(snapshot.mesh.gateways.to_string(), "1");
    assert!(snapshot.mesh.carry_internal_addresses);
    let name = "a".parse().unwrap();
    let expected = wireloom_model::Node::new(name, KEY.parse().unwrap(), "".parse().unwrap());
    assert_eq!(snapshot.nodes, [expected]);
}

#[test]
fn an_endpoint_takes_the_meshs_port_if_it_names_none() {
    for (written, meant) in [
        ("203.0.113.1", "203.0.113.1:51820"),
        ("203.0.113.1:1", "203.0.113.1:1"),
        ("[2001:db8::1]", "[2001:db8::1]:51820"),
        ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]:51820"),
        ("gw.example.com", "gw.example.com:51820"),
    ] {
        let snapshot = node_with(&format!("endpoint = \"{written}\""));
        let meant: Endpoint = meant.parse().unwrap();
        assert_eq!(snapshot.nodes[0].endpoint.as_ref(), Some(&meant), "{written}");
    }
}

#[test]
fn gateway_false_is_weight_0() {
    let weight = |lines| node_with(lines).nodes[0].gateway;
    assert_eq!((weight("").declared, weight("").weight), (false, 100));
    assert_eq!(weight("gateway = false"), weight("gateway-weight = 0"));
    assert!(weight("gateway = true").declared);
    assert_eq!(weight("gateway = true\ngateway-weight = 7").weight, 7);
}

#[test]
fn entries_are_ordered_by_their_place_in_the_file() {
    let text = format!(
        "node = [{{name = \"b\", public-key = \"{KEY}\"}}, {{name = 5}}, {{name = \"a\", public-key = \"{KEY}\"}}]"
    );
    let snapshot = parse(&text, Path::new("mesh.toml")).unwrap();
    let order: Vec<_> = snapshot.nodes.iter().map(|n| (n.name.as_str(), n.since)).collect();
    assert_eq!(order, [("b", 0), ("a", 2)]);
    let subject = Subject::Entry("[[node]] number 2".to_owned());
    assert!(snapshot.problems.iter().all(|problem| problem.subject == subject));
}

#[test]
fn a_preshared_key_that_others_can_read_is_a_warning() {
    let directory = TempDir::new().unwrap();
    let peer = |line: &str| {
        format!(
            "[[node]]\nname = \"a\"\npublic-key = \"{KEY}\"\n\n[[peer]]\nname = \"p\"\npublic-key = \"{KEY}\"\n\
             allowed-ips = [\"10.5.0.1/32\"]\n{line}\n"
        )
    };
    let inline = peer(&format!("preshared-key = \"{PSK}\""));
    let file = peer("preshared-key-file = \"psk\"");
    for (text, mesh_mode, key_mode, warned) in [
        (&inline, 0o600, 0o600, None),
        (&inline, 0o640, 0o600, Some("mesh.toml; chmod 600")),
        (&file, 0o644, 0o600, None),
        (&file, 0o644, 0o604, Some("psk; chmod 600")),
    ] {
        write(&directory, "psk", &format!("{PSK}\n"), key_mode);
        let snapshot = load(&write(&directory, "mesh.toml", text, mesh_mode)).unwrap();
        assert_eq!(snapshot.peers[0].preshared_key, PSK.parse().ok(), "{text}");
        let [warning] = &snapshot.problems[..] else {
            assert_eq!((snapshot.problems.len(), warned), (0, None), "{text}");
            continue;
        };
        assert_eq!(warning.severity, Severity::Warning);
        assert_eq!(warning.kind, ProblemKind::ExposedSecret);
        assert!(warning.message.contains(warned.unwrap()), "{warning}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = TempDir::new().unwrap();
    let missing = load(&directory.path().join("mesh.toml")).unwrap_err();
    assert!(matches!(missing, FileError::Read { .. }));
    assert!(missing.to_string().contains("mesh.toml can't be read: No such file"), "{missing}");
    let told = load(directory.path()).unwrap_err().to_string();
    assert!(told.contains("no regular file"), "{told}");
    let path = directory.path().join("latin-1.toml");
    fs::write(&path, b"# a\n# \xe9\n").unwrap();
    let told = load(&path).unwrap_err().to_string();
    assert!(told.ends_with("latin-1.toml line 2, column 3: the byte here is no UTF-8"), "{told}");
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in ".*") {
        let _ = parse(&text, Path::new("mesh.toml"));
    }

    /// Texts near the format: whole lines of the bad file in any order, each perhaps cut short.
    #[test]
    fn no_text_like_a_mesh_file_is_a_panic(
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0usize..200), 0..40),
    ) {
        let lines: Vec<_> = include_str!("bad.toml").lines().collect();
        let text: String = picks
            .iter()
            .map(|(pick, length)| format!("{}\n", pick.get(&lines).chars().take(*length).collect::<String>()))
            .collect();
        if let Ok(snapshot) = parse(&text, Path::new("mesh.toml")) {
            // Each entry is there, or there is a reason why it is not.
            let entries = text.lines().filter(|line| line.trim() == "[[node]]").count();
            prop_assert!(snapshot.nodes.len() + snapshot.problems.len() >= entries);
        }
    }

    #[test]
    fn positions_lie_in_the_text(text in "[a\u{e9}\n\r]*", offset in 0usize..64) {
        let (line, column) = position(&text, offset);
        prop_assert!(line <= text.split('\n').count());
        let longest = text.split('\n').map(|line| line.chars().count()).max().unwrap_or(0);
        prop_assert!(column <= longest + 2);
    }
}
