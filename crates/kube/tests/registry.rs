//! The registry against a real API server: what it tells of Nodes and Peers, what it writes, and how it bears outages.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod rig;

use std::time::Duration;

use rig::{Rig, eventually, key, mesh, names, next, node, peer, rights};
use serde_json::{Value, json};
use wireloom_kube::KubeConfig;
use wireloom_model::{Held, Mesh, NodeName, Snapshot};
use wireloom_registry::{Next, Publication, Registry as _, Update};
use wireloom_testkit::need;

fn publication(name: &str, byte: u8) -> Publication {
    Publication {
        node: name.parse().unwrap(),
        key: key(byte),
        held: Held {
            gateway: true,
            overlay_addresses: vec!["10.4.0.7".parse().unwrap()],
            ..Held::default()
        },
        discovered_endpoints: std::collections::BTreeMap::new(),
    }
}

fn location(snapshot: &Snapshot, name: &str) -> Option<String> {
    let node = snapshot.nodes.iter().find(|node| node.name.as_str() == name);
    node.map(|node| node.location.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_peers_as_they_come_change_and_go() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    let nodes = [node("own", "nl", None), node("a", "nl", Some(key(2))), node("new", "pl", None)];
    rig.api
        .apply(&json!({ "apiVersion": "v1", "kind": "List", "items": nodes }).to_string())
        .unwrap();
    let (mut registry, _facts) = rig.registry("own", 1, KubeConfig::HEARTBEAT).await;

    // Its own key is published by itself; who has none is not in the mesh. No Peers: said, and no reason to wait.
    let known = mesh(&mut registry, "own has its key", |mesh| names(mesh) == ["a", "own"]).await;
    assert!(
        known.problems.iter().any(|problem| problem.message.contains("Peers can't be read")),
        "{:?}",
        known.problems
    );
    rig.define_peers();
    let good = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) });
    rig.api.apply(&peer("laptop", good.clone())).unwrap();
    let known = mesh(&mut registry, "the Peer is there", |mesh| mesh.peers.len() == 1).await;
    assert_eq!(known.problems, []);

    rig.kubectl("label node a topology.kubernetes.io/region=pl --overwrite");
    mesh(&mut registry, "a has moved", |mesh| location(mesh, "a").as_deref() == Some("pl")).await;
    rig.kubectl(&format!("annotate node a --overwrite kilo.squat.ai/key={}", key(3)));
    let is_re_keyed = |mesh: &Snapshot| mesh.nodes.iter().any(|node| node.key == key(3));
    mesh(&mut registry, "a has another key", is_re_keyed).await;
    rig.kubectl(&format!("annotate node new kilo.squat.ai/key={}", key(4)));
    mesh(&mut registry, "new has come", |mesh| names(mesh) == ["a", "new", "own"]).await;
    rig.kubectl("delete node a");
    mesh(&mut registry, "a is gone", |mesh| names(mesh) == ["new", "own"]).await;

    // What no agent would take, the API refuses, and says why.
    for (field, value, said) in [
        ("publicKey", json!("foo"), "publicKey"),
        ("allowedIPs", json!(["10.5.0.1"]), "allowedIPs"),
        ("persistentKeepalive", json!(-1), "persistentKeepalive"),
        ("endpoint", json!({ "dnsOrIP": {}, "port": 1 }), "an endpoint needs dns or ip"),
        ("endpoint", json!({ "dnsOrIP": { "ip": "192.0.2.1" }, "port": 0 }), "port"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let refusal = rig.api.apply(&peer("bad", bad)).unwrap_err().to_string();
        assert!(refusal.contains(said), "{refusal}");
    }
    // What Kilo's agents make use of, it takes.
    for (name, spec) in [
        ("host-bits", json!({ "allowedIPs": ["10.6.0.1/24"], "publicKey": key(10) })),
        ("lines", json!({ "allowedIPs": ["10.7.0.1/32"], "publicKey": format!("{}\n", key(11)) })),
        (
            "both",
            json!({ "allowedIPs": ["fd08::1/128"], "publicKey": key(12), "endpoint": { "dnsOrIP": { "dns": "gw.example.com", "ip": "192.0.2.1" }, "port": 51820 } }),
        ),
        ("empty", json!({ "allowedIPs": [], "publicKey": key(13) })),
    ] {
        rig.api.apply(&peer(name, spec)).unwrap();
    }
    let known = mesh(&mut registry, "three more Peers", |mesh| mesh.peers.len() == 4).await;
    assert!(known.peers.iter().all(|peer| peer.name.as_str() != "empty"));
    rig.api
        .apply(&peer("empty", json!({ "allowedIPs": ["10.9.0.1/32"], "publicKey": key(13) })))
        .unwrap();
    mesh(&mut registry, "a Peer that was fixed", |mesh| mesh.peers.len() == 5).await;
    rig.kubectl("delete peer laptop both");
    mesh(&mut registry, "two Peers are gone", |mesh| mesh.peers.len() == 3).await;
    let columns = rig.kubectl("get peers");
    assert!(columns.contains("ALLOWED IPS") && columns.contains("10.6.0.1/24"), "{columns}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_what_it_is_once_and_what_is_wrong_with_it() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    rig.api.apply(&node("own", "nl", None).to_string()).unwrap();
    let beat = Duration::from_secs(2);
    let (mut registry, facts) = rig.registry("own", 1, beat).await;
    mesh(&mut registry, "it is in the mesh", |mesh| names(mesh) == ["own"]).await;
    registry.publish(&publication("own", 1)).await;
    eventually("what it holds is published", || {
        rig.annotations("own")["wireloom.dev/held"].is_string()
    })
    .await;
    let mut said = rig.annotations("own");
    let mesh_said = said.as_object_mut().unwrap().remove("wireloom.dev/mesh").unwrap();
    let plans_by: Mesh = serde_json::from_str(mesh_said.as_str().unwrap()).unwrap();
    assert_eq!(plans_by.overlay.ranges().collect::<Vec<_>>(), ["10.4.0.0/16".parse().unwrap()]);
    assert_eq!(
        said,
        json!({
            "kilo.squat.ai/discovered-endpoints": "{}",
            "kilo.squat.ai/endpoint": "10.0.0.1:51820",
            "kilo.squat.ai/granularity": "location",
            "kilo.squat.ai/internal-ip": "10.0.0.1/24",
            "kilo.squat.ai/key": key(1),
            "kilo.squat.ai/wireguard-ip": "10.4.0.7/16",
            "wireloom.dev/algorithm": "wireloom",
            "wireloom.dev/held": "{\"overlay-addresses\":[\"10.4.0.7\"],\"gateway\":true}",
        })
    );
    let lease = || rig.json("get lease own --namespace=kube-system");
    let first = lease();
    assert_eq!(first["metadata"]["ownerReferences"][0]["name"], "own");
    eventually("the heartbeat goes on", || lease()["spec"] != first["spec"]).await;
    // Visitors go by the server's note of when.
    let noted = || {
        let lease = rig.json("get lease own --namespace=kube-system --show-managed-fields");
        lease["metadata"]["managedFields"][0]["time"].clone()
    };
    let before = noted();
    assert!(before.is_string());
    eventually("the server notes the heartbeat", || noted() != before).await;

    // Somebody else's agent of the same node, after a restart: nothing is written, and what it held is not forgotten.
    let version = || rig.json("get node own")["metadata"]["resourceVersion"].clone();
    let before = version();
    drop(registry);
    let (mut registry, _facts) = rig.registry("own", 1, beat).await;
    mesh(&mut registry, "it is back", |mesh| names(mesh) == ["own"]).await;
    registry.publish(&publication("own", 1)).await;
    let beats = lease();
    eventually("its heartbeat goes on", || lease()["spec"] != beats["spec"]).await;
    assert_eq!(version(), before);
    drop(facts);

    // What people ask is followed, and forgotten when they do not ask it any longer.
    rig.kubectl("annotate node own kilo.squat.ai/force-endpoint=[2001:db8::1]:4500");
    let endpoint = || rig.annotations("own")["kilo.squat.ai/endpoint"].clone();
    eventually("the endpoint is the forced one", || endpoint() == "[2001:db8::1]:4500").await;
    rig.kubectl("annotate node own kilo.squat.ai/force-endpoint-");
    eventually("the endpoint is its own", || endpoint() == "10.0.0.1:51820").await;

    // A mistake is an Event on the Node, and the rest goes on.
    // So is each of several, however long what is said of it.
    let long = "x".repeat(2000);
    rig.kubectl(&format!(
        "annotate node own kilo.squat.ai/force-endpoint={long} kilo.squat.ai/persistent-keepalive=25s \
         wireloom.dev/gateway-weight=much"
    ));
    let known = mesh(&mut registry, "the mistakes are told", |mesh| mesh.problems.len() == 3).await;
    assert_eq!(names(&known), ["own"]);
    // The server has Events of its own to tell.
    let notes = || {
        let events = rig.json("get events.events.k8s.io --namespace=default")["items"].clone();
        let events = events.as_array().cloned().unwrap_or_default().into_iter();
        let of_own = events.filter(|event| event["regarding"]["name"] == "own");
        of_own.map(|event| event["note"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (key, value) in
        [("force-endpoint", "xxx"), ("persistent-keepalive", "\"25s\""), ("gateway-weight", "much")]
    {
        eventually("there is an Event", || {
            notes().iter().any(|note| note.contains(key) && note.contains(value))
        })
        .await;
    }
    assert_eq!(notes().len(), 3);
    rig.kubectl("annotate node own kilo.squat.ai/force-endpoint- wireloom.dev/gateway-weight-");

    // Kilo's stamp is written while one of its agents gives signs of life, and not by us alone.
    assert_eq!(rig.annotations("own")["kilo.squat.ai/last-seen"], Value::Null);
    let mut kilos = node("kilos", "nl", Some(key(5)));
    kilos["metadata"]["annotations"]["kilo.squat.ai/last-seen"] = json!("1");
    rig.api.apply(&kilos.to_string()).unwrap();
    let stamp = || rig.annotations("own")["kilo.squat.ai/last-seen"].clone();
    eventually("there is a stamp", || stamp().is_string()).await;
    eventually("it goes when Kilo does", || stamp() == Value::Null).await;
    let known = mesh(&mut registry, "Kilo's node is lost", |mesh| {
        mesh.nodes.iter().any(|node| node.name.as_str() == "kilos" && !node.healthy)
    })
    .await;
    assert_eq!(names(&known), ["kilos", "own"], "a node that is not healthy is not gone");

    // Who starts later finds the server's word on when it was seen, and does not wait for it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig.api.apply(&node("late", "nl", None).to_string()).unwrap();
    let (mut late, _late_facts) = rig.registry("late", 6, beat).await;
    let known = mesh(&mut late, "it knows any mesh", |_| true).await;
    let healthy: Vec<bool> = known.nodes.iter().take(2).map(|node| node.healthy).collect();
    assert_eq!((&names(&known)[..2], healthy), (&["kilos", "own"][..], vec![false, true]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for a minute; `cargo xtask test` runs it beside the others"]
async fn an_outage_removes_nothing_and_what_it_hid_is_found() {
    need!(root);
    need!(cluster);
    let mut rig = Rig::start().await;
    rig.define_peers();
    let mut nodes =
        [node("own", "nl", None), node("a", "nl", Some(key(2))), node("b", "pl", Some(key(3)))];
    for node in &mut nodes {
        node["metadata"]["annotations"]["wireloom.dev/algorithm"] = json!("wireloom");
    }
    rig.api
        .apply(&json!({ "apiVersion": "v1", "kind": "List", "items": nodes }).to_string())
        .unwrap();
    let spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) });
    rig.api.apply(&peer("laptop", spec)).unwrap();
    let (mut registry, _facts) = rig.registry("own", 1, Duration::from_secs(2)).await;
    let whole = |mesh: &Snapshot| names(mesh) == ["a", "b", "own"] && mesh.peers.len() == 1;
    mesh(&mut registry, "all are there", whole).await;

    // The server stops: it is said that the mesh may be old, and nothing else.
    rig.api.stop();
    let reason = stale(&mut registry).await;
    assert!(!reason.is_empty());
    let silence = tokio::time::timeout(Duration::from_secs(15), async {
        loop {
            if let Update::Mesh(mesh) = registry.next().await.unwrap() {
                return mesh;
            }
        }
    });
    assert!(silence.await.is_err(), "no mesh is told during an outage");
    rig.api.resume().unwrap();
    let back = mesh(&mut registry, "the server is back", whole).await;
    assert!(back.nodes.iter().all(|node| node.healthy), "nobody died of the outage");

    // The wire is cut, and meanwhile much happens, and the history of it is lost.
    rig.cut();
    stale(&mut registry).await;
    rig.kubectl("delete node a");
    rig.kubectl("delete peer laptop");
    rig.api.apply(&node("c", "ie", Some(key(4))).to_string()).unwrap();
    rig.api.stop();
    rig.api.compact().unwrap();
    rig.api.resume().unwrap();
    rig.mend();
    let found = mesh(&mut registry, "what was missed is found", |mesh| {
        names(mesh) == ["b", "c", "own"] && mesh.peers.is_empty()
    })
    .await;
    assert_eq!(found.problems, []);

    // And the watches live.
    rig.kubectl("delete node b");
    mesh(&mut registry, "b is gone", |mesh| names(mesh) == ["c", "own"]).await;
}

/// Waits until a registry says that it can't be read, and why.
async fn stale(registry: &mut wireloom_kube::KubeRegistry) -> String {
    loop {
        if let Update::Stale(reason) = next(registry).await {
            return reason;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_the_cluster_does_not_have_is_told_so_and_not_made() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    rig.api.apply(&node("a", "nl", Some(key(2))).to_string()).unwrap();
    let (mut registry, _facts) = rig.registry("stranger", 1, Duration::from_secs(1)).await;
    let known = mesh(&mut registry, "the others are known", |mesh| names(mesh) == ["a"]).await;
    assert!(known.problems[0].message.contains("no Node stranger"), "{:?}", known.problems);
    rig.api.apply(&node("stranger", "nl", None).to_string()).unwrap();
    let known = mesh(&mut registry, "it is in", |mesh| names(mesh) == ["a", "stranger"]).await;
    let own: NodeName = "stranger".parse().unwrap();
    assert_eq!(known.nodes.iter().find(|node| node.name == own).unwrap().key, key(1));
    assert_eq!(known.problems, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_documented_are_enough_and_without_them_the_mesh_goes_on() {
    need!(root);
    need!(cluster);
    let mut rig = Rig::start().await;
    rig.define_peers();
    let mut own = node("own", "nl", None);
    own["metadata"]["annotations"]["kilo.squat.ai/persistent-keepalive"] = json!("25s");
    rig.api.apply(&own.to_string()).unwrap();
    rig.api.apply(&rights()).unwrap();
    let token = rig.kubectl("create token agent --namespace=kube-system");
    rig.bearer = Some(token.trim().to_owned());
    let (mut registry, _facts) = rig.registry("own", 1, Duration::from_secs(2)).await;
    let known = mesh(&mut registry, "it is in the mesh", |mesh| names(mesh) == ["own"]).await;
    assert_eq!(known.problems.len(), 1, "the mistake alone: {:?}", known.problems);
    eventually("its heartbeat is there", || {
        rig.api.kubectl(["get", "lease", "own", "--namespace=kube-system"]).is_ok()
    })
    .await;
    eventually("its Event is there", || {
        rig.kubectl("get events.events.k8s.io --namespace=default").contains("InvalidAnnotation")
    })
    .await;

    // Only Nodes can be read: what else there is to say is said in problems.
    let role = "patch clusterrole agent --type=json --patch";
    let only_nodes = "[{\"op\":\"replace\",\"path\":\"/rules\",\"value\":[{\"apiGroups\":[\"\"],\"resources\":[\"nodes\"],\"verbs\":[\"get\",\"list\",\"watch\"]}]}]";
    rig.kubectl(&format!("{role} {only_nodes}"));
    drop(registry);
    rig.kubectl("annotate node own kilo.squat.ai/key- kilo.squat.ai/persistent-keepalive-");
    rig.api.apply(&node("a", "nl", Some(key(2))).to_string()).unwrap();
    let (mut registry, _facts) = rig.registry("own", 1, Duration::from_secs(2)).await;
    let known =
        mesh(&mut registry, "all that is refused is named", |mesh| mesh.problems.len() == 4).await;
    assert_eq!(names(&known), ["a"]);
    let said: Vec<String> = known.problems.iter().map(ToString::to_string).collect();
    for what in
        ["Peers", "heartbeats", "the heartbeat of this node", "the annotations of this node"]
    {
        assert!(said.iter().any(|text| text.contains(what)), "{what}: {said:#?}");
    }
}

/// The DaemonSet that agents of the rig are of.
fn daemon_set() -> String {
    let labels = json!({ "app": "agent" });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "wireloom", "namespace": "kube-system" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "agent", "image": "agent" }] },
            },
        },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_for_good_takes_back_what_it_said_and_nothing_else() {
    need!(root);
    need!(cluster);
    let mut rig = Rig::start().await;
    rig.define_peers();
    let mut own = node("own", "nl", None);
    own["metadata"]["annotations"]["kilo.squat.ai/persistent-keepalive"] = json!("25");
    rig.api.apply(&own.to_string()).unwrap();
    rig.api.apply(&rights()).unwrap();
    rig.api.apply(&daemon_set()).unwrap();
    let token = rig.kubectl("create token agent --namespace=kube-system");
    rig.bearer = Some(token.trim().to_owned());

    let selector = "{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"mesh\":\"yes\"}}}}}";
    let passes_by = format!("patch daemonset wireloom --namespace=kube-system --patch {selector}");
    let get = "get daemonset wireloom --namespace=kube-system";
    // Kilo's agent said the same before ours did.
    let said_by_kilo = format!(
        "annotate node own --overwrite kilo.squat.ai/key={} kilo.squat.ai/endpoint=10.0.0.1:51820 \
         kilo.squat.ai/internal-ip=10.0.0.1/24 kilo.squat.ai/granularity=location",
        key(1)
    );
    for (before, change, next) in [
        (get, get, Next::Agent),
        (get, passes_by.as_str(), Next::Nobody),
        ("label node own mesh=yes", get, Next::Agent),
        (get, "label node own mesh-", Next::Nobody),
        (
            "label node own mesh=yes",
            "delete daemonset wireloom --namespace=kube-system",
            Next::Nobody,
        ),
    ] {
        rig.kubectl(before);
        rig.kubectl(&said_by_kilo);
        let (mut registry, _facts) = rig.registry("own", 1, Duration::from_secs(2)).await;
        mesh(&mut registry, "it is in the mesh", |mesh| names(mesh) == ["own"]).await;
        let lease = || rig.api.kubectl(["get", "lease", "own", "--namespace=kube-system"]).is_ok();
        eventually("its heartbeat is there", lease).await;
        rig.kubectl(change);
        assert_eq!(registry.leave().await, next, "{change}");
        let own: Value = serde_json::from_str(&rig.kubectl("get node own --output=json")).unwrap();
        let says = own["metadata"]["annotations"].as_object().unwrap();
        let asked = "kilo.squat.ai/persistent-keepalive";
        assert!(says.contains_key(asked), "{says:?}");
        assert_eq!(says.len() > 1, next == Next::Agent, "{change}: {says:?}");
        assert_eq!(lease(), next == Next::Agent, "{change}");
        if change.starts_with("delete") {
            // It is done with, whatever changes of the Node.
            let before = rig.writes();
            rig.kubectl("label node own other=yes");
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(rig.writes() - before, 1, "the label alone is written");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kilos_agents_go_by_stays_when_a_node_leaves_for_good() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    rig.api.apply(&node("own", "nl", None).to_string()).unwrap();
    let mut kilos = node("kilos", "nl", Some(key(9)));
    kilos["metadata"]["annotations"]["kilo.squat.ai/last-seen"] = json!("1");
    rig.api.apply(&kilos.to_string()).unwrap();
    rig.api.apply(&daemon_set()).unwrap();
    let (mut registry, _facts) = rig.registry("own", 1, rig::PATIENCE).await;
    mesh(&mut registry, "both are in the mesh", |mesh| names(mesh) == ["kilos", "own"]).await;
    registry.publish(&publication("own", 1)).await;
    let says = |key: &str| rig.annotations("own")[key].is_string();
    eventually("what it holds is published", || says("wireloom.dev/held")).await;
    let lease = || rig.api.kubectl(["get", "lease", "own", "--namespace=kube-system"]).is_ok();
    eventually("its heartbeat is there", lease).await;
    rig.kubectl("delete daemonset wireloom --namespace=kube-system");
    assert_eq!(registry.leave().await, Next::Nobody);
    for key in ["endpoint", "granularity", "internal-ip", "key", "last-seen", "wireguard-ip"] {
        assert!(says(&format!("kilo.squat.ai/{key}")), "{key}");
    }
    // That the agent can plan by our algorithm, and does, would be untrue of the next one.
    for key in ["algorithm", "endpoints", "held", "internal-ips", "mesh"] {
        assert!(!says(&format!("wireloom.dev/{key}")), "{key}");
    }
    assert!(!lease());
}

/// Has every such change fail, which is no refusal for good.
fn out_of_order(operation: &str, resource: &str) -> String {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "out-of-order" },
        "webhooks": [{
            "name": "out-of-order.example.com",
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": [resource] }],
            "clientConfig": { "url": "https://127.0.0.1:1/" },
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }],
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_could_not_be_written_is_made_up_for_though_nothing_changes() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    rig.api.apply(&out_of_order("CREATE", "events")).unwrap();
    let probe = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": "probe", "namespace": "default" },
        "involvedObject": { "kind": "Node", "name": "nobody" },
    });
    let is_out_of_order = || {
        let made = rig.api.apply(&probe.to_string()).is_ok();
        if made {
            rig.kubectl("delete event probe --namespace=default");
        }
        !made
    };
    eventually("an Event fails", is_out_of_order).await;
    let failed = || {
        let metrics = rig.kubectl("get --raw /metrics");
        let of_events = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total{")
                && line.contains("code=\"500\"")
                && line.contains("group=\"events.k8s.io\"")
        });
        of_events.count() > 0
    };
    let mut own = node("own", "nl", None);
    own["metadata"]["annotations"]["kilo.squat.ai/persistent-keepalive"] = json!("25s");
    rig.api.apply(&own.to_string()).unwrap();
    let (mut registry, _facts) = rig.registry("own", 1, KubeConfig::HEARTBEAT).await;
    mesh(&mut registry, "it is in the mesh", |mesh| names(mesh) == ["own"]).await;
    eventually("our Event fails", failed).await;
    rig.kubectl("delete validatingwebhookconfiguration out-of-order");
    eventually("there is an Event", || {
        rig.kubectl("get events.events.k8s.io --namespace=default").contains("InvalidAnnotation")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_leaves_for_good_only_if_its_daemon_set_was_there() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    rig.api.apply(&node("own", "nl", None).to_string()).unwrap();
    // No heartbeat that is missed has it look again: it does so by itself.
    let (mut registry, _facts) = rig.registry("own", 1, rig::PATIENCE).await;
    mesh(&mut registry, "it is in the mesh", |mesh| names(mesh) == ["own"]).await;
    assert_eq!(registry.leave().await, Next::Agent, "its name may be wrong");

    rig.api.apply(&daemon_set()).unwrap();
    let says_key = || rig.annotations("own")["kilo.squat.ai/key"].is_string();
    assert!(says_key());
    // Every change of a Node fails for a while, and is not refused for good.
    rig.api.apply(&out_of_order("UPDATE", "nodes")).unwrap();
    eventually("a change fails", || rig.api.kubectl(["annotate", "node", "own", "a=b"]).is_err())
        .await;
    rig.kubectl("delete daemonset wireloom --namespace=kube-system");
    assert_eq!(registry.leave().await, Next::Nobody);
    assert!(says_key());
    rig.kubectl("delete validatingwebhookconfiguration out-of-order");
    eventually("what it said is taken back", || !says_key()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for a minute; `cargo xtask test` runs it beside the others"]
async fn two_machines_of_one_name_are_told_so_and_do_not_storm_the_server() {
    need!(root);
    need!(cluster);
    let rig = Rig::start().await;
    rig.define_peers();
    rig.api.apply(&node("own", "nl", None).to_string()).unwrap();
    // A machine and its copy, at other addresses.
    let (mut one, one_facts) = rig.registry("own", 1, KubeConfig::HEARTBEAT).await;
    let (mut copy, facts) = rig.registry("own", 2, KubeConfig::HEARTBEAT).await;
    let is_told = |mesh: &Snapshot| {
        mesh.problems.iter().any(|problem| problem.message.contains("two machines"))
    };
    mesh(&mut one, "one is told", is_told).await;
    mesh(&mut copy, "so is the other", is_told).await;
    let before = rig.writes();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let written = rig.writes() - before;
    // Both tell who they are each 15 s, and give signs of life each 20 s.
    assert!(written <= 10, "{written} writes in 30 s");

    // The copy is stopped.
    drop((copy, facts));
    eventually("the Node is the first one's", || {
        rig.annotations("own")["kilo.squat.ai/key"] == json!(key(1))
    })
    .await;
    mesh(&mut one, "and it knows", |mesh| !is_told(mesh)).await;
    drop(one_facts);
}
