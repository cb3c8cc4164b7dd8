//! Peers: a machine outside the cluster that joins its mesh by WireGuard.

use std::time::Duration;

use serde_json::{Value, json};
use wireloom_lab::Region;
use wireloom_tests::device::{configuration, tunnel};
use wireloom_tests::{Keys, answers, ok, within};

use crate::rig::{Cluster, PATIENCE, complains};
use crate::{need_all, regions};

const ALL: [&str; 2] = ["ams-1", "waw-1"];

/// The laptop's addresses inside.
const INSIDE: [&str; 2] = ["10.5.0.1/32", "fd05::1/128"];

fn peer(name: &str, spec: Value) -> String {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": name },
        "spec": spec,
    })
    .to_string()
}

fn has_peer(status: &Value, name: &str) -> bool {
    let peers = status["peers"].as_array().into_iter().flatten();
    peers.clone().any(|peer| peer["name"] == name)
}

/// Has the laptop take this key. It dials the gateway of each location.
fn dial(cluster: &Cluster, keys: &Keys) {
    let laptop = cluster.host("laptop");
    let key = configuration(laptop, &keys.private);
    ok(laptop, &format!("wg set wg0 private-key {key}"));
    for name in ALL {
        let public_key = cluster.status(name)["public_key"].as_str().unwrap().to_owned();
        let endpoint = cluster.plan(name).public.unwrap()[0].address();
        let [v4, v6] = cluster.pod(name).prefixes;
        ok(
            laptop,
            &format!(
                "wg set wg0 peer {public_key} endpoint {endpoint}:51820 allowed-ips {v4},{v6} persistent-keepalive 1"
            ),
        );
    }
}

/// Waits until the laptop gets an echo from every pod.
fn reaches_all(cluster: &Cluster) {
    for name in ALL {
        for address in cluster.pod(name).address {
            cluster.meet("laptop", name, address.address());
        }
    }
}

pub(crate) fn a_peer_comes_changes_and_goes_and_a_wrong_one_hurts_nobody() {
    need_all!();
    wireloom_testkit::need!(program "wg");
    let home = Region::new("home", &["laptop"]).behind_nat();
    let cluster = Cluster::of([regions(), vec![home]].concat(), &ALL);
    cluster.all_pods_meet(&ALL);
    let laptop = cluster.host("laptop");
    let _device = tunnel(laptop, "wg0");
    let keys = Keys::new();
    dial(&cluster, &keys);
    for address in INSIDE {
        ok(laptop, &format!("ip address add {address} dev wg0"));
    }
    ok(laptop, "ip link set wg0 up");
    for prefix in ALL.map(|name| cluster.pod(name).prefixes).concat() {
        ok(laptop, &format!("ip route replace {prefix} dev wg0"));
    }

    let good = json!({ "allowedIPs": INSIDE, "publicKey": keys.public });
    cluster.api.apply(&peer("laptop", good.clone())).unwrap();
    for name in ALL {
        cluster.until(name, "the laptop is a peer", |status| has_peer(status, "laptop"));
    }
    reaches_all(&cluster);
    for address in INSIDE.map(|prefix| prefix.split('/').next().unwrap().parse().unwrap()) {
        cluster.meet("ams-1-pod", "ams-1", address);
    }

    // What no agent would take, the API refuses. What gets past it is skipped and named, and the rest goes on.
    let mut bad = good.clone();
    bad["publicKey"] = json!("foo");
    let refusal = cluster.api.apply(&peer("bad", bad)).unwrap_err().to_string();
    assert!(refusal.contains("publicKey"), "{refusal}");
    let empty = json!({ "allowedIPs": [], "publicKey": Keys::new().public });
    cluster.api.apply(&peer("empty", empty)).unwrap();
    let nowhere = json!({
        "allowedIPs": ["10.6.0.1/32"],
        "publicKey": Keys::new().public,
        "endpoint": { "dnsOrIP": { "dns": "nowhere.invalid" }, "port": 51820 },
    });
    cluster.api.apply(&peer("nowhere", nowhere)).unwrap();
    for name in ALL {
        cluster.until(name, "the empty one is skipped and named", |status| {
            !has_peer(status, "empty") && complains(status, &["empty", "allowedIPs"])
        });
        cluster.until(name, "the other waits for its name", |status| {
            has_peer(status, "nowhere") && complains(status, &["nowhere.invalid"])
        });
    }
    let events = |name: &str| {
        let events = cluster.json("get events.events.k8s.io --namespace=default")["items"].clone();
        let of_peer = |event: &&Value| {
            let about = &event["regarding"];
            about["kind"] == "Peer" && about["name"] == name && about["uid"].is_string()
        };
        events.as_array().unwrap().iter().filter(of_peer).cloned().collect::<Vec<_>>()
    };
    within(PATIENCE, "an Event says so", || !events("empty").is_empty());
    let note = events("empty")[0]["note"].clone();
    assert!(note.as_str().unwrap().contains("allowedIPs"), "{note}");
    reaches_all(&cluster);

    // One that is corrected is there at once.
    let corrected = json!({ "allowedIPs": ["10.7.0.1/32"], "publicKey": Keys::new().public });
    cluster.api.apply(&peer("empty", corrected)).unwrap();
    for name in ALL {
        cluster.until(name, "the corrected one is a peer", |status| {
            has_peer(status, "empty") && !complains(status, &["allowedIPs"])
        });
    }
    // Two of one key or of one prefix: the older one stands.
    let twin = json!({ "allowedIPs": ["10.8.0.1/32"], "publicKey": keys.public });
    cluster.api.apply(&peer("twin", twin)).unwrap();
    let rival = json!({ "allowedIPs": ["10.5.0.0/24"], "publicKey": Keys::new().public });
    cluster.api.apply(&peer("rival", rival)).unwrap();
    for name in ALL {
        cluster.until(name, "both are named on both sides", |status| {
            complains(status, &["twin", "laptop"]) && complains(status, &["rival", "laptop"])
        });
    }
    // And by an Event on each, of one node.
    let reasons = |name: &str| -> Vec<String> {
        let reason = |event: &Value| event["reason"].as_str().unwrap().to_owned();
        let mut reasons: Vec<String> = events(name).iter().map(reason).collect();
        reasons.sort_unstable();
        reasons
    };
    let clashes = [
        ("twin", &["DuplicateKey"][..]),
        ("rival", &["DuplicatePrefix", "InvalidPeer"]),
        ("laptop", &["DuplicateKey", "DuplicatePrefix"]),
    ];
    for (name, told) in clashes {
        within(PATIENCE, "Events say so", || reasons(name).len() >= told.len());
    }
    reaches_all(&cluster);
    for (name, told) in clashes {
        assert_eq!(reasons(name), told, "{:?}", events(name));
    }

    // It has another key: the old one is nothing any more.
    let new = Keys::new();
    let changed = json!({ "allowedIPs": INSIDE, "publicKey": new.public });
    cluster.api.apply(&peer("laptop", changed)).unwrap();
    let first = cluster.pod("ams-1").address[0].address().to_string();
    within(PATIENCE, "the old key gets no answer", || !answers(laptop, &first));
    dial(&cluster, &new);
    reaches_all(&cluster);

    // It goes, and within a moment nobody answers it.
    let mut bystanders = cluster.connect("ams-1", "waw-1");
    cluster.kubectl("delete peers laptop twin rival empty nowhere");
    within(Duration::from_secs(30), "nobody answers it", || !answers(laptop, &first));
    for name in ALL {
        cluster.until(name, "nothing is left of it", |status| {
            status["peers"].as_array().unwrap().len() == 1 && status["problems"] == json!([])
        });
    }
    bystanders.iter_mut().for_each(|connection| connection.goes_on());
}
