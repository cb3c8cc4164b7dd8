//! The demo on Kubernetes and the article's story, held to what they promise.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use wireloom_lab::demo::Voice;
use wireloom_story::{Settings, article, mesh};
use wireloom_testkit::{need, wireloom_binary};

/// One cluster at a time: each is busy enough for a small machine.
static MACHINE: Mutex<()> = Mutex::new(());

macro_rules! need_all {
    () => {
        need!(root);
        need!(cluster);
        need!(device "/dev/net/tun");
        need!(program "busybox");
        need!(program "containerd");
        need!(program "ldd");
        need!(program "nft");
        need!(program "ping");
        need!(program "runc");
        need!(program "sysctl");
        need!(program "wg");
    };
}

fn settings() -> Settings {
    Settings { program: wireloom_binary(), seconds: 0 }
}

#[test]
fn the_article_comes_true() {
    need_all!();
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let told = article::tell(&settings(), &Voice::new(false), None).unwrap();
    assert!(told.is_whole(), "{told:#?}");
    // Fourteen pods, two addresses each.
    assert_eq!(told.http_pairs, 14 * 13 * 2);
    assert!(told.anti_affinity.reason.contains("anti-affinity"), "{told:#?}");
    // That a pod is never chosen in 64 asks happens once in a hundred runs; that three quarters are not, never.
    assert!(told.service.pods > 3, "{told:#?}");
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!((&json["nodes"], &json["regions"]), (&json!(4), &json!(4)));
    assert_eq!(json["spread"], json!([3, 3, 2, 2]));
    assert_kubernetes(&json);
}

#[test]
fn a_late_node_and_a_machine_outside_are_in_the_mesh() {
    need_all!();
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let report = mesh::show(&settings(), &Voice::new(false), None).unwrap();
    assert!(report.is_whole(), "{report:#?}");
    let json = serde_json::to_value(&report).unwrap();
    // Four nodes and the machine outside, by one address; four pods, by two.
    assert_eq!((&json["nodes"], &json["pairs"]), (&json!(4), &json!(5 * 4 + 4 * 3 * 2)));
    assert_eq!(json["reachable"], json["pairs"]);
    assert_kubernetes(&json);
}

fn assert_kubernetes(report: &Value) {
    let kubernetes = &report["kubernetes"];
    assert!(kubernetes["server"].as_str().unwrap().starts_with("v1."), "{kubernetes}");
    assert_eq!(kubernetes["daemonset_ready"], 4);
    assert!(kubernetes["join_seconds"].as_f64().unwrap() > 0.0, "{kubernetes}");
}
