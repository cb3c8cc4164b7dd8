//! The demo on Kubernetes and the article's story, held to what they promise and to what the documentation shows of them.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_testkit::{need, promised, wireloom_binary};

/// One cluster at a time: each is busy enough for a small machine.
static MACHINE: Mutex<()> = Mutex::new(());

const STORY: &str = include_str!("../../../docs/story.md");
const KUBERNETES: &str = include_str!("../../../docs/kubernetes.md");

macro_rules! need_all {
    () => {
        need!(root);
        need!(cluster);
        need!(device "/dev/net/tun");
        need!(program "busybox");
        need!(program "containerd");
        need!(program "iperf3");
        need!(program "ldd");
        need!(program "nft");
        need!(program "ping");
        need!(program "runc");
        need!(program "sysctl");
        need!(program "wg");
    };
}

/// What a demo found, and what it told.
fn demo(args: &[&str]) -> (Value, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_wireloom-story"))
        .args(["--output", "json", "--seconds", "0", "--program"])
        .arg(wireloom_binary())
        .args(args)
        .output()
        .unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    let found = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{told}\n{found}");
    (serde_json::from_str(&found).unwrap(), told)
}

/// The chapters' heads, without what differs from run to run.
fn heads(told: &str) -> Vec<String> {
    let first = |chapter: &str| chapter.lines().find(|line| !line.starts_with('$')).map(masked);
    told.trim_start().split("\n\n").filter_map(first).collect()
}

fn masked(line: &str) -> String {
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The block below this mark of a page.
fn block<'a>(page: &'a str, mark: &str) -> &'a str {
    let (_, below) = page.split_once(mark).unwrap();
    let (_, begun) = below.split_once("```console\n").unwrap();
    begun.split_once("\n```").unwrap().0
}

#[test]
fn the_article_comes_true_as_its_page_tells_it() {
    need_all!();
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let (found, told) = demo(&["--story"]);
    assert_eq!((&found["nodes"], &found["regions"]), (&json!(4), &json!(4)));
    let anti_affinity = &found["anti_affinity"];
    assert_eq!(anti_affinity["of_two"], 2);
    assert_eq!((&anti_affinity["running"], &anti_affinity["pending"]), (&json!(4), &json!(1)));
    assert!(anti_affinity["reason"].as_str().unwrap().contains("anti-affinity"), "{found}");
    assert_eq!(found["spread"], json!([3, 3, 2, 2]));
    // Fourteen pods, two addresses each.
    let pairs = json!(14 * 13 * 2);
    for pages in [&found, &found["after_gateway_killed"]] {
        assert_eq!((&pages["http_pairs"], &pages["http_reachable"]), (&pairs, &pairs), "{told}");
    }
    assert_eq!(found["after_gateway_killed"]["gateway"], "waw-1");
    // A pod of each region, eight times by each of two addresses.
    let service = &found["service"];
    assert_eq!((&service["asked"], &service["answered"]), (&json!(64), &json!(64)), "{told}");
    // That one of fourteen is never chosen in 64 asks happens now and then; that ten are not, never.
    assert!(service["pods"].as_u64().unwrap() > 3, "{told}");
    assert_eq!(found["left_behind"], json!([]));
    assert_kubernetes(&found, 4);
    assert_eq!(heads(&told), heads(block(STORY, "## The run")));
}

#[test]
fn a_late_node_and_a_machine_outside_are_in_the_mesh() {
    need_all!();
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let (found, told) = demo(&[]);
    // Five nodes and the machine outside, by one address; five pods, by two.
    assert_eq!((&found["nodes"], &found["pairs"]), (&json!(5), &json!(6 * 5 + 5 * 4 * 2)));
    let held_up = found["rollout_held_up_seconds"].as_f64().unwrap();
    assert!(held_up < promised(Duration::from_secs(2)).as_secs_f64(), "{held_up} s");
    assert_eq!(found["reachable"], found["pairs"], "{told}");
    assert_eq!(found["left_behind"], json!([]));
    assert_kubernetes(&found, 5);
    let told = heads(&told);
    for head in heads(block(KUBERNETES, "## What you see")) {
        assert!(told.contains(&head), "{head}: not in {told:#?}");
    }
}

fn assert_kubernetes(found: &Value, nodes: u64) {
    let kubernetes = &found["kubernetes"];
    assert!(kubernetes["server"].as_str().unwrap().starts_with("v1."), "{kubernetes}");
    assert_eq!(kubernetes["daemonset_ready"], nodes);
    let joined = kubernetes["join_seconds"].as_f64().unwrap();
    let limit = promised(Duration::from_secs(10)).as_secs_f64();
    assert!(joined > 0.0 && joined < limit, "{kubernetes}");
}
