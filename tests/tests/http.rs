//! What an agent answers over HTTP, asked as Kubernetes and Prometheus ask.

use wireloom_lab::Host;
use wireloom_testkit::need;
use wireloom_tests::mesh::{Mesh, OVERLAY};
use wireloom_tests::{eventually, ok, ping, run};

/// The status and the text of an answer.
fn ask(host: &Host, path: &str) -> (String, String) {
    let asked = run(host, &format!("curl -s -g -w %{{http_code}} http://[::1]:1107{path}"));
    let (text, code) = asked.stdout.split_at(asked.stdout.len().saturating_sub(3));
    (code.to_owned(), text.to_owned())
}

/// The value of a metric's first series with this beginning.
fn value(host: &Host, series: &str) -> Option<f64> {
    let (_, text) = ask(host, "/metrics");
    text.lines().find(|line| line.starts_with(series))?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn an_agent_tells_its_health_its_metrics_and_the_mesh() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "ping");
    need!(program "curl");
    let mesh = Mesh::new();
    let (a, _b) = (mesh.up_with("a", "--listen :1107"), mesh.up("b"));
    let host = mesh.host("a");
    eventually("a is ready", || ask(host, "/readyz").0 == "200");
    assert_eq!(ask(host, "/healthz").0, "200");
    assert_eq!(ask(host, "/health").1, "ok\n");
    let (_, ready) = ask(host, "/readyz");
    for condition in ["ok   device", "ok   plan", "ok   snapshot: current"] {
        assert!(ready.contains(condition), "{ready}");
    }
    ok(host, "curl -s -f http://127.0.0.1:1107/healthz");

    ping(host, OVERLAY[1][0]);
    assert_eq!(value(host, "kilo_nodes"), Some(2.0));
    assert_eq!(value(host, "kilo_leader"), Some(1.0));
    assert_eq!(value(host, "wireloom_plan_applied"), Some(1.0));
    assert_eq!(value(host, "wireloom_registry_stale"), Some(0.0));
    let age = value(host, "wireloom_peer_handshake_age_seconds{kind=\"node\",peer=\"b\"}").unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(
        value(host, "wireloom_peer_sent_bytes_total{kind=\"node\",peer=\"b\"}").unwrap() > 100.0
    );
    assert!(value(host, "wireloom_kernel_writes_total").unwrap() >= 2.0);
    assert!(value(host, "process_resident_memory_bytes").unwrap() > 1e6);
    let info =
        "wireloom_peer_info{endpoint=\"192.0.2.2:51820\",kind=\"node\",path=\"planned\",peer=\"b\"";
    assert!(value(host, info).is_some());

    for (asked, sign) in [
        ("", "<svg"),
        ("?format=&layout=", "<svg"),
        ("?format=dot", "graph wireloom"),
        ("?format=json", "{"),
        ("?layout=circo", "<svg"),
        ("?format=svg&layout=dot", "<svg"),
        ("?layout=neato&format=json", "{"),
        ("?layout=twopi", "<svg"),
        ("?layout=fdp", "<svg"),
    ] {
        let (code, text) = ask(host, &format!("/graph{asked}"));
        assert!(code == "200" && text.contains(sign), "{asked}: {text}");
    }
    for (asked, said) in
        [("format=bmp", "mermaid"), ("layout=fake", "neato"), ("format=svg&layout=fake", "neato")]
    {
        let (code, text) = ask(host, &format!("/graph?{asked}"));
        assert!(code == "500" && text.contains(said), "{asked}: {code} {text}");
    }

    // The registry can't be read, and the node knows it: that takes nobody out of service.
    mesh.write("[[node");
    eventually("the outage shows", || value(host, "wireloom_registry_stale") == Some(1.0));
    let (code, ready) = ask(host, "/readyz");
    assert!(code == "200" && ready.contains("s old: "), "{ready}");

    // A node that the mesh no longer has is not ready, and its agent works all the same.
    let text = mesh.text("", "");
    let (_, b) = text.split_once("[[node]]").unwrap();
    let (_, only_b) = b.split_once("[[node]]").unwrap();
    let (head, _) = text.split_once("[[node]]").unwrap();
    mesh.write(&format!("{head}[[node]]{only_b}"));
    eventually("a is not ready", || ask(host, "/readyz").0 == "503");
    assert!(ask(host, "/readyz").1.contains("fail plan"));
    assert_eq!(ask(host, "/healthz").0, "200");
    drop(a);
}

#[test]
fn nothing_is_listened_for_unless_asked_and_a_taken_port_is_said() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "ss");
    need!(program "curl");
    let mesh = Mesh::new();
    let first = mesh.up("a");
    let host = mesh.host("a");
    assert!(!ok(host, "ss -Hltn").contains("1107"));
    drop(first);
    eventually("a has ended", || !run(host, "wireloom status").status.success());
    let _second = mesh.up_with("a", "--listen 127.0.0.1:1107");
    assert!(ok(host, "ss -Hltn").contains("127.0.0.1:1107"));
    let args = format!("wireloom up {} --interface wl1 --listen :1107", mesh.args("a"));
    let refused = run(host, &args);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains(":1107") && refused.stderr.contains("--listen"),
        "{}",
        refused.stderr
    );
}

#[test]
fn several_places_may_be_listened_at() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "curl");
    let mesh = Mesh::new();
    // As a manifest fills in the address of a node, by brackets whatever its family.
    let _a = mesh.up_with("a", "--listen 127.0.0.1:1107,[127.0.0.2]:1108,[::1]:1107");
    for there in ["127.0.0.1:1107", "127.0.0.2:1108", "[::1]:1107"] {
        ok(mesh.host("a"), &format!("curl -s -g -f http://{there}/metrics"));
    }
}
