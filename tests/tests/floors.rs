//! The house rules that a compiler does not know: floors, what each crate never reaches, where `unsafe` may stand, and
//! how long a file may be. ARCHITECTURE.md has the picture; each message says what to do.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// The longest file that may be kept, in lines.
const LONGEST_FILE: usize = 600;

/// The floor of the binary. Above it are packages that test and measure, and ship nothing.
const TOP_FLOOR: u64 = 4;

/// The only crate that may hold `unsafe`.
const UNSAFE_CRATE: &str = "wireloom-io";

/// Whatever opens a socket, a file or a device, or runs tasks. A name that ends in `*` is a prefix.
///
/// nix is not among them: boringtun takes its clock from there.
const IO: &[&str] =
    &["kube*", "mio", "netlink-*", "notify", "rtnetlink", "rustix", "socket2", "tokio*"];

/// What a crate never reaches, not even through others, and why.
const NEVER_REACHES: &[(&str, &[&str], &str)] = &[
    ("wireloom-model", IO, "the words of the mesh are plain data"),
    ("wireloom-packet", IO, "packets are pure functions over bytes"),
    ("wireloom-topology", IO, "the same snapshot gives the same plan on every node"),
    ("wireloom-tunnel", IO, "the device takes time and packets as arguments"),
    ("wireloom-path", IO, "a probe takes time as an argument"),
    ("wireloom-registry", IO, "a registry's face knows no runtime"),
    ("wireloom-io", &["kube*", "tokio*"], "the hot path runs on threads that block"),
    ("wireloom-kernel", &["kube*"], "a host without Kubernetes is a host all the same"),
    ("wireloom-file", &["kube*"], "a host without Kubernetes is a host all the same"),
    (
        "wireloom-kube",
        &["netlink-*", "rtnetlink", "wireloom-kernel", "wireloom-topology", "wireloom-tunnel"],
        "what a cluster says is the same for whoever reads it, on a node or elsewhere",
    ),
    ("wireloom-cni", &["kube*", "tokio*"], "a runtime starts it for every pod and waits"),
    (
        "wireloom-dataplane",
        &["kube*", "netlink-*", "rtnetlink", "tokio*"],
        "no wakeup of a runtime and no message of the kernel stands between two packets",
    ),
    ("wireloom-lab", &["kube*"], "the demo runs on any machine"),
    ("wireloom-testkit", &["wireloom-*"], "any crate may have it among its dev-dependencies"),
    ("wireloom-image", &["wireloom-*"], "an image is files, whatever program is among them"),
    ("wireloom", &["wireloom-image"], "what builds the image is no part of it"),
];

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .unwrap()
});

#[test]
fn every_package_stands_on_a_floor() {
    let missing: Vec<_> = METADATA
        .workspace_packages()
        .into_iter()
        .filter(|package| floor(package).is_none())
        .map(|package| package.name.as_str())
        .collect();
    assert!(
        missing.is_empty(),
        "{missing:?}: add `floor = N` to [package.metadata.wireloom] in Cargo.toml; ARCHITECTURE.md draws the floors"
    );
}

#[test]
fn a_package_imports_only_from_lower_floors() {
    let floors: BTreeMap<_, _> = METADATA
        .workspace_packages()
        .into_iter()
        .filter_map(|package| Some((package.name.as_str(), floor(package)?)))
        .collect();
    for package in METADATA.workspace_packages() {
        let own = floors[package.name.as_str()];
        for dependency in &package.dependencies {
            let Some(&other) = floors.get(dependency.name.as_str()) else { continue };
            assert!(
                dependency.kind == DependencyKind::Development || other < own,
                "{} (floor {own}) imports {} (floor {other}): move what both need to a lower floor, or let a higher \
                 one join the two",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn the_testkit_is_for_tests_only() {
    let shipped = |package: &&Package| floor(package) <= Some(TOP_FLOOR);
    for package in METADATA.workspace_packages().into_iter().filter(shipped) {
        for dependency in &package.dependencies {
            assert!(
                dependency.name != "wireloom-testkit"
                    || dependency.kind == DependencyKind::Development,
                "{} ships the testkit: move it to [dev-dependencies]",
                package.name
            );
        }
    }
}

#[test]
fn no_crate_reaches_what_it_must_not() {
    for (name, forbidden, why) in NEVER_REACHES {
        if let Some(chain) = reaches(name, forbidden) {
            panic!(
                "{name} reaches {}: {why}; move the code that needs it to a higher floor, or turn off the feature \
                 that brings it",
                chain.join(" -> ")
            );
        }
    }
}

/// The search above would be worth nothing if it found nothing.
#[test]
fn the_search_finds_what_is_far_away() {
    let chain = reaches("wireloom-kernel", &["mio"]).unwrap();
    assert_eq!((chain.first().unwrap(), chain.last().unwrap()), (&"wireloom-kernel", &"mio"));
    assert!(reaches("wireloom", &["netlink-*"]).is_some());
    assert!(reaches("wireloom-kernel", &["no-such-crate"]).is_none());
}

#[test]
fn unsafe_stands_in_one_crate() {
    let workspace = manifest(&root());
    assert_eq!(
        workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(),
        Some("forbid"),
        "Cargo.toml of the workspace must forbid unsafe_code"
    );
    for package in METADATA.workspace_packages() {
        let manifest = manifest(package.manifest_path.parent().unwrap().as_std_path());
        let inherits = manifest["lints"].get("workspace").and_then(toml::Value::as_bool);
        if package.name == UNSAFE_CRATE {
            let lints = &manifest["lints"];
            assert_eq!(
                (
                    lints["rust"]["unsafe_code"].as_str(),
                    lints["clippy"]["undocumented_unsafe_blocks"].as_str()
                ),
                (Some("deny"), Some("deny")),
                "{UNSAFE_CRATE}: one module allows unsafe_code, and every block has its SAFETY comment"
            );
        } else {
            assert_eq!(
                inherits,
                Some(true),
                "{}: say `workspace = true` under [lints]; unsafe code belongs to {UNSAFE_CRATE}",
                package.name
            );
        }
    }
}

#[test]
fn pure_crates_ban_clocks() {
    for package in METADATA.workspace_packages() {
        if floor(package).is_some_and(|floor| floor <= 1) {
            let path = package.manifest_path.with_file_name("clippy.toml");
            let rules = fs::read_to_string(&path).unwrap_or_default();
            for banned in ["std::time::Instant::now", "std::time::SystemTime::now"] {
                assert!(rules.contains(banned), "{path}: ban {banned} as crates/model does");
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let mut long = Vec::new();
    for file in sources(&root()) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > LONGEST_FILE {
            long.push(format!("{} ({lines} lines)", file.display()));
        }
    }
    assert!(
        long.is_empty(),
        "longer than {LONGEST_FILE} lines: {long:?}; split by what the parts own, and move tests to a sibling tests.rs"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn floor(package: &Package) -> Option<u64> {
    package.metadata.get("wireloom")?.get("floor")?.as_u64()
}

fn manifest(directory: &Path) -> toml::Value {
    let text = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

/// Returns the shortest chain of normal and build dependencies from a package to one that matches a pattern.
fn reaches(from: &str, patterns: &[&str]) -> Option<Vec<&'static str>> {
    let nodes: BTreeMap<&PackageId, _> =
        METADATA.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id: &PackageId| METADATA[id].name.as_str();
    let start = METADATA.workspace_packages().into_iter().find(|package| package.name == from)?;
    let mut came_from: BTreeMap<&PackageId, &PackageId> = BTreeMap::new();
    let mut seen = BTreeSet::from([&start.id]);
    let mut queue = VecDeque::from([&start.id]);
    while let Some(id) = queue.pop_front() {
        if id != &start.id && patterns.iter().any(|pattern| matches(pattern, name(id))) {
            let mut chain = vec![name(id)];
            let mut at = id;
            while let Some(&previous) = came_from.get(at) {
                chain.push(name(previous));
                at = previous;
            }
            chain.reverse();
            return Some(chain);
        }
        for dependency in &nodes[id].deps {
            let ships =
                dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if ships && seen.insert(&dependency.pkg) {
                came_from.insert(&dependency.pkg, id);
                queue.push_back(&dependency.pkg);
            }
        }
    }
    None
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// Returns the Rust files below a directory, without what cargo built.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
