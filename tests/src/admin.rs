//! What a person does at a cluster: the commands that our documents tell.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use wireloom_cluster::Cluster;

use crate::cluster::DEPLOY;

/// How long a command may take that keeps to [`LONG`](crate::cluster::LONG).
const LIMIT: Duration = Duration::from_secs(200);

/// Where the commands of documents are run: a checkout.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Tells what pods said last, for whoever looks into a failure: those of a namespace with this label.
pub fn last_words(cluster: &Cluster, namespace: &str, label: &str) {
    let selector = format!("--selector={label}");
    let logs = ["logs", "-n", namespace, &selector, "--prefix", "--all-containers", "--tail=40"];
    let logs = cluster.api().kubectl(logs).unwrap_or_else(|error| error.to_string());
    eprintln!("the last words of {label}:\n{logs}");
}

/// Runs a line as a person's shell would, in a checkout where the control plane is, and returns what it printed.
///
/// # Panics
///
/// If it fails, with what it wrote.
pub fn shell(cluster: &Cluster, line: &str) -> String {
    let kubectl = cluster.api().kubectl_line();
    let script = format!("cd {CHECKOUT} && kubectl() {{ {kubectl} \"$@\"; }}\n{line}");
    let shell = cluster.api().host().spawn("sh", ["-c", &script]).unwrap();
    shell.success(LIMIT).unwrap().stdout
}

/// The commands of a document that begin like this.
///
/// # Panics
///
/// If there is none.
pub fn commands(document: &'static str, beginning: &str) -> Vec<&'static str> {
    let lines = document.lines().map(str::trim).filter(|line| line.starts_with(beginning));
    let found: Vec<&str> = lines.collect();
    assert!(!found.is_empty(), "the document says nothing that begins with: {beginning}");
    found
}

/// Writes a kustomization as documents show it, for a checkout, into a folder of its own inside this one.
///
/// # Panics
///
/// If it can't be written.
pub fn kustomization(inside: &str, shown: &str) -> TempDir {
    let folder = tempfile::tempdir_in(inside).unwrap();
    // Paths must be relative.
    let up = "../".repeat(folder.path().components().count() - 1);
    let deploy = fs::canonicalize(DEPLOY).unwrap();
    let deploy = format!("{}{}/", up.trim_end_matches('/'), deploy.display());
    fs::write(folder.path().join("kustomization.yaml"), shown.replace("deploy/", &deploy)).unwrap();
    folder
}

/// The part of a document below this heading, up to the next.
///
/// # Panics
///
/// If there is no such heading.
pub fn section(document: &'static str, heading: &str) -> &'static str {
    let (_, rest) = document
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the document has no heading {heading}"));
    rest.split_once("\n#").map_or(rest, |(part, _)| part)
}

/// The commands of a part of a document, all of its first block of them.
///
/// # Panics
///
/// If it has none.
pub fn script(part: &'static str) -> &'static str {
    let block = part.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```"));
    block.map(|(script, _)| script).unwrap_or_else(|| panic!("no commands are in: {part}"))
}
