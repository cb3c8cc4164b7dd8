use kube::core::DynamicObject;
use serde_json::{Value, json};
use wireloom_model::{Peer as MeshPeer, Problem, Severity};

use super::*;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/crds.yaml");
const HEAD: &str =
    "# Made from crates/kube/src/peer.rs: WIRELOOM_GENERATE=1 cargo test -p wireloom-kube peer\n";

fn object(spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "laptop", "creationTimestamp": "2026-11-25T09:00:00Z" },
        "spec": spec,
    }))
    .unwrap()
}

fn read(spec: Value) -> (Option<MeshPeer>, Vec<Problem>) {
    translate(&object(spec))
}

#[test]
fn the_definition_is_the_committed_one() {
    let text = HEAD.to_owned() + &serde_saphyr::to_string(&definition()).unwrap();
    if std::env::var_os("WIRELOOM_GENERATE").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(FILE).unwrap(), text, "deploy/base/crds.yaml: make it anew");
}

/// Only what a definition adds to Kilo's: words, columns and rules.
fn without_additions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A property may have such a name too; none of Kilo's has.
            for addition in [
                "description",
                "pattern",
                "minimum",
                "maximum",
                "x-kubernetes-validations",
                "additionalPrinterColumns",
            ] {
                map.remove(addition);
            }
            map.values_mut().for_each(without_additions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_additions),
        _ => {}
    }
}

#[test]
fn the_definition_is_kilos_but_for_columns_and_rules() {
    let mut ours = serde_json::to_value(definition()).unwrap();
    without_additions(&mut ours);
    let text = json!({ "type": "string" });
    let kilos = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "peers.kilo.squat.ai" },
        "spec": {
            "group": "kilo.squat.ai",
            "names": { "kind": "Peer", "plural": "peers", "singular": "peer" },
            "scope": "Cluster",
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": { "spec": {
                        "type": "object",
                        "required": ["allowedIPs", "publicKey"],
                        "properties": {
                            "allowedIPs": { "type": "array", "items": text },
                            "publicKey": text,
                            "presharedKey": text,
                            "persistentKeepalive": { "type": "integer" },
                            "endpoint": {
                                "type": "object",
                                "required": ["dnsOrIP", "port"],
                                "properties": {
                                    "dnsOrIP": { "type": "object", "properties": { "dns": text, "ip": text } },
                                    "port": { "type": "integer", "format": "int32" },
                                },
                            },
                        },
                    } },
                } },
            }],
        },
    });
    assert_eq!(ours, kilos);
}

#[test]
fn a_peer_as_kilos_documents_have_it() {
    let (peer, problems) = read(json!({
        "allowedIPs": ["10.5.0.1/32", "fd05::1/128"],
        "publicKey": KEY,
        "presharedKey": KEY,
        "persistentKeepalive": 10,
        "endpoint": { "dnsOrIP": { "ip": "2001:db8::1" }, "port": 51820 },
    }));
    let peer = peer.unwrap();
    assert_eq!(problems, []);
    assert_eq!(peer.name.as_str(), "laptop");
    assert_eq!(peer.key.to_string(), KEY);
    assert_eq!(peer.endpoint.unwrap().to_string(), "[2001:db8::1]:51820");
    assert_eq!(peer.persistent_keepalive.unwrap().get(), 10);
    assert!(peer.preshared_key.is_some());
    assert_eq!(peer.since, 1_795_597_200);
    assert_eq!(peer.allowed_ips.len(), 2);
}

#[test]
fn what_kilo_makes_use_of_stays_accepted() {
    let loose_key = KEY.replace("mo=", "mp=");
    for (what, spec) in [
        ("host bits", json!({ "allowedIPs": ["10.5.0.1/24"], "publicKey": KEY })),
        ("line feeds", json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": format!("{KEY}\n") })),
        ("loose bits", json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": loose_key })),
        (
            "bad secret",
            json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY, "presharedKey": "x" }),
        ),
        (
            "long",
            json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY, "persistentKeepalive": 99999 }),
        ),
    ] {
        let (peer, problems) = read(spec.clone());
        let peer = peer.unwrap_or_else(|| panic!("{what}: {problems:?}"));
        assert_eq!(peer.key.to_string(), KEY, "{what}");
        assert_eq!(patterns_refuse(&spec), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn the_name_beats_the_address() {
    let endpoint = json!({ "dnsOrIP": { "dns": "gw.example.com", "ip": "192.0.2.1" }, "port": 1 });
    let (peer, problems) =
        read(json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY, "endpoint": endpoint }));
    assert_eq!(peer.unwrap().endpoint.unwrap().to_string(), "gw.example.com:1");
    assert_eq!(problems[0].severity, Severity::Warning);
}

#[test]
fn what_is_wrong_is_named_and_skipped() {
    let good = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY });
    for (field, value, said) in [
        ("publicKey", json!("foo"), "publicKey: \"foo\""),
        ("publicKey", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), "all zero"),
        ("publicKey", json!(7), "spec: it is no Peer"),
        ("allowedIPs", json!([]), "allowedIPs: it is empty"),
        ("allowedIPs", json!(["10.5.0.1/32", "10.5.0.1"]), "allowedIPs: \"10.5.0.1\""),
        ("persistentKeepalive", json!(-1), "persistentKeepalive: -1"),
        ("endpoint", json!({ "dnsOrIP": { "ip": "192.0.2.1" }, "port": 0 }), "endpoint.port: 0"),
        (
            "endpoint",
            json!({ "dnsOrIP": { "ip": "192.0.2.1" }, "port": 65536 }),
            "endpoint.port: 65536",
        ),
        ("endpoint", json!({ "dnsOrIP": {}, "port": 1 }), "endpoint.dnsOrIP: it is empty"),
        (
            "endpoint",
            json!({ "dnsOrIP": { "dns": "", "ip": "" }, "port": 1 }),
            "endpoint.dnsOrIP: it is empty",
        ),
        (
            "endpoint",
            json!({ "dnsOrIP": { "ip": "192.0.2" }, "port": 1 }),
            "endpoint.dnsOrIP.ip: \"192.0.2\"",
        ),
        (
            "endpoint",
            json!({ "dnsOrIP": { "dns": "A_b" }, "port": 1 }),
            "endpoint.dnsOrIP.dns: \"A_b\"",
        ),
        ("endpoint", json!({ "dnsOrIP": { "ip": "224.0.0.1" }, "port": 1 }), "224.0.0.1"),
    ] {
        let mut spec = good.clone();
        spec[field] = value;
        let (peer, problems) = read(spec);
        assert_eq!(peer, None, "{field} {said}");
        assert_eq!(problems.len(), 1, "{problems:?}");
        let text = problems[0].to_string();
        assert!(text.starts_with("peer laptop: ") && text.contains(said), "{text}");
    }
    let mut nameless = object(good);
    nameless.metadata.name = Some("A B".to_owned());
    assert!(translate(&nameless).0.is_none());
}

/// The patterns and limits of the definition that refuse these fields; Kubernetes' own rules are tried elsewhere, on a
/// real server.
fn patterns_refuse(spec: &Value) -> Vec<String> {
    let crd = serde_json::to_value(definition()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut refused = Vec::new();
    refuse(schema, spec, "spec", &mut refused);
    refused
}

fn refuse(schema: &Value, value: &Value, path: &str, refused: &mut Vec<String>) {
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !regex::Regex::new(pattern).unwrap().is_match(text)
    {
        refused.push(path.to_owned());
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && (number < least || schema["maximum"].as_f64().is_some_and(|most| number > most))
    {
        refused.push(path.to_owned());
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        refuse(&schema["properties"][name], value, &format!("{path}.{name}"), refused);
    }
    for value in value.as_array().into_iter().flatten() {
        refuse(&schema["items"], value, &format!("{path}[]"), refused);
    }
}

#[test]
fn the_rules_refuse_what_no_agent_would_take() {
    for (bad, path) in [
        (json!({ "publicKey": "foo" }), "spec.publicKey"),
        (json!({ "allowedIPs": ["10.5.0.1"] }), "spec.allowedIPs[]"),
        (json!({ "persistentKeepalive": -1 }), "spec.persistentKeepalive"),
        (json!({ "endpoint": { "port": 0 } }), "spec.endpoint.port"),
        (json!({ "endpoint": { "port": 65536 } }), "spec.endpoint.port"),
        (json!({ "endpoint": { "dnsOrIP": { "dns": "A_b" } } }), "spec.endpoint.dnsOrIP.dns"),
        (json!({ "endpoint": { "dnsOrIP": { "ip": "gw" } } }), "spec.endpoint.dnsOrIP.ip"),
    ] {
        assert_eq!(patterns_refuse(&bad), [path], "{bad}");
    }
}
