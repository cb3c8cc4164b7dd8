//! The list of metrics against what is really told, and against what dashboard and alerts ask for.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::device::PathReport;
use crate::status::{NodeReport, ProblemReport, Work};

/// An agent of which every metric has a value.
fn sample() -> Sample {
    let key = wireloom_model::PublicKey::from_bytes([7; 32]);
    let peer = |kind, name: &str, age| PeerReport {
        name: name.to_owned(),
        kind: Some(kind),
        public_key: key,
        endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
        path: Some(PeerPath::Heard),
        state: PeerState::of(None, age),
        handshake_age: age,
        rx_bytes: 1_000,
        tx_bytes: 2_000,
        persistent_keepalive: 25,
        mtu: Some(1420),
        allowed_ips: Vec::new(),
    };
    let problem = |kind: &str| ProblemReport {
        severity: "error".to_owned(),
        subject: "mesh".to_owned(),
        kind: kind.to_owned(),
        message: "with \"quotes\" and \\".to_owned(),
    };
    let node = |name: &str, healthy| NodeReport {
        name: name.parse().unwrap(),
        location: "nl-ams".to_owned(),
        home: None,
        overlay_addresses: Vec::new(),
        healthy,
    };
    let status = Status {
        node: Some("ams-1".parse().unwrap()),
        public_key: key,
        interface: "wl0".parse().unwrap(),
        listen_port: Some(51820),
        mtu: Some(1420),
        pod_mtu: Some(1420),
        location: None,
        gateway: true,
        home: None,
        overlay_addresses: Vec::new(),
        stale: Some("the file can't be read".to_owned()),
        nodes: vec![node("ams-1", true), node("waw-1", true), node("waw-2", false)],
        peers: vec![
            peer(PeerKind::Node, "waw-1", Some(12)),
            peer(PeerKind::Node, "laptop", Some(99)),
            peer(PeerKind::Peer, "laptop", None),
        ],
        path: PathReport {
            engine: Some("noise".to_owned()),
            offloads: [("tun-tso".to_owned(), true), ("udp-gso".to_owned(), false)].into(),
            drops: [("replayed".to_owned(), 3)].into(),
        },
        work: Work { reconciles: 9, device_writes: 4, kernel_reads: 2, kernel_writes: 40 },
        problems: vec![problem("kernel"), problem("device"), problem("kernel")],
    };
    Sample {
        status,
        outside_peers: 1,
        age: Some(Duration::from_millis(2_500)),
        clock_ahead: Some(-59.0),
        is_applied: true,
        gateway_changes: 5,
        apply_errors: 6,
        publish_errors: 7,
    }
}

#[test]
fn every_metric_is_told_and_no_other() {
    let text = text(&sample()).unwrap();
    let told: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let mut listed: Vec<&str> =
        METRICS.iter().map(|metric| metric.name).chain(PROCESS_METRICS.iter().copied()).collect();
    listed.sort_unstable();
    assert_eq!(told, listed);
    assert!(METRICS.is_sorted_by_key(|metric| metric.name));
}

#[test]
fn values_are_told_in_base_units() {
    let text = text(&sample()).unwrap();
    for line in [
        "kilo_errors_total{event=\"apply\"} 6",
        "kilo_errors_total{event=\"checkin\"} 7",
        "kilo_leader 1",
        "kilo_nodes 2",
        "kilo_peers 1",
        "kilo_reconciles_total 9",
        "wireloom_clock_ahead_seconds -59",
        "wireloom_drops_total{reason=\"replayed\"} 3",
        "wireloom_gateway_changes_total 5",
        "wireloom_offload_active{offload=\"udp-gso\"} 0",
        "wireloom_nodes 3",
        "wireloom_nodes_healthy 2",
        "wireloom_peer_handshake_age_seconds{kind=\"node\",peer=\"waw-1\"} 12",
        "wireloom_peer_handshake_age_seconds{kind=\"node\",peer=\"laptop\"} 99",
        "wireloom_peer_received_bytes_total{kind=\"node\",peer=\"laptop\"} 1000",
        "wireloom_peer_received_bytes_total{kind=\"peer\",peer=\"laptop\"} 1000",
        "wireloom_problems{kind=\"kernel\",severity=\"error\"} 2",
        "wireloom_registry_age_seconds 2.5",
        "wireloom_registry_stale 1",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("handshake_age_seconds{kind=\"peer\""), "there was none");
    let info = "wireloom_peer_info{endpoint=\"[2001:db8::1]:51820\",kind=\"peer\",path=\"heard\",peer=\"laptop\"";
    assert!(text.contains(info), "{text}");
}

#[test]
fn counters_are_named_as_such() {
    for metric in METRICS {
        let is_total = metric.name.ends_with("_total");
        assert_eq!(is_total, metric.kind == Kind::Counter, "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
    }
}

/// The words of PromQL that the dashboard and the alerts use: functions, operators and modifiers.
const PROMQL: &[&str] =
    &["and", "by", "count", "increase", "max", "on", "or", "rate", "sum", "topk", "vector"];

/// Labels that Prometheus adds to what it scrapes.
const SCRAPED: &[&str] = &["instance", "job"];

/// The expressions under `expr`, wherever they stand.
fn expressions(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Splits an expression into words and single signs, without what stands in quotes.
fn tokens(expression: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let (mut quoted, mut in_word) = (false, false);
    for sign in expression.chars() {
        if sign == '"' {
            quoted = !quoted;
            in_word = false;
        } else if !quoted {
            let word = sign.is_ascii_alphanumeric() || "_.$".contains(sign);
            match tokens.last_mut() {
                Some(last) if word && in_word => last.push(sign),
                _ if !sign.is_whitespace() => tokens.push(sign.to_string()),
                _ => {}
            }
            in_word = word;
        }
    }
    assert!(!quoted, "a quotation mark is missing: {expression}");
    tokens
}

/// Checks that brackets match, and that each word is a metric of ours, a label of one, a number, or PromQL's.
fn check(expression: &str) -> BTreeSet<String> {
    let names: Vec<&str> =
        METRICS.iter().map(|metric| metric.name).chain(PROCESS_METRICS.iter().copied()).collect();
    let (mut open, mut used) = (Vec::new(), BTreeSet::new());
    let mut labels = SCRAPED.to_vec();
    for metric in METRICS.iter().filter(|metric| expression.contains(metric.name)) {
        labels.extend(metric.labels);
    }
    for token in tokens(expression) {
        let token = token.as_str();
        match token {
            "(" | "[" | "{" => open.push(token.to_owned()),
            ")" | "]" | "}" => {
                let pair = open.pop().map(|open| open + token);
                assert!(matches!(pair.as_deref(), Some("()" | "[]" | "{}")), "{expression}");
            }
            _ if names.contains(&token) => {
                used.insert(token.to_owned());
            }
            _ if PROMQL.contains(&token) || labels.contains(&token) => {}
            _ if token.starts_with("$__") || token.starts_with(|c: char| c.is_ascii_digit()) => {}
            _ if "=~!<>,+-*/".contains(token) => {}
            _ => panic!("{token} is no metric of ours: {expression}"),
        }
    }
    assert!(open.is_empty(), "a bracket is missing: {expression}");
    assert!(!used.is_empty(), "no metric is asked for: {expression}");
    used
}

fn deployed(path: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    std::fs::read_to_string(folder.join(path)).unwrap()
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&deployed("grafana/wireloom.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(found.len() >= panels.len() && panels.len() > 10);
    let used: BTreeSet<String> = found.iter().flat_map(|expression| check(expression)).collect();
    for metric in METRICS.iter().filter(|metric| metric.name.starts_with("wireloom_")) {
        let instance = metric.name == "wireloom_info" && found.len() > 10;
        assert!(used.contains(metric.name) || instance, "{} is not shown", metric.name);
    }
}

#[test]
fn the_alerts_ask_for_what_there_is_and_say_what_to_do() {
    let rules: Value = serde_saphyr::from_str(&deployed("prometheus/alerts.yaml")).unwrap();
    let alerts = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(alerts.len() > 5);
    let lasting = alerts.iter().find(|alert| {
        let expression = alert["expr"].as_str().unwrap();
        expression.contains("wireloom_problems{severity=\"error\"}")
    });
    assert_eq!(lasting.unwrap()["for"], "15m", "errors that stand are told of");
    for alert in alerts {
        check(alert["expr"].as_str().unwrap());
        let name = alert["alert"].as_str().unwrap();
        assert!(alert["labels"]["severity"].is_string(), "{name}");
        for text in ["summary", "description"] {
            assert!(alert["annotations"][text].is_string(), "{name}");
        }
        // Tunnels that nobody uses are silent too.
        if name.starts_with("WireloomPeer") {
            let tried = "on (instance, kind, peer) rate(wireloom_peer_sent_bytes_total[5m]) > 0";
            assert!(alert["expr"].as_str().unwrap().ends_with(tried), "{name}");
        }
        if let Some(wait) = alert.get("for") {
            assert!(wait.as_str().unwrap().ends_with('m'), "{name}");
        }
    }
}

#[test]
fn what_is_wrong_with_an_expression_is_seen() {
    for bad in [
        "wireloom_nodez",
        "sum(wireloom_nodes",
        "wireloom_nodes{reason=\"x\"}",
        "1",
        "rate(wireloom_nodes[5m)",
    ] {
        assert!(std::panic::catch_unwind(|| check(bad)).is_err(), "{bad}");
    }
}
