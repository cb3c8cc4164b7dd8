//! `wireloom webhook`, asked by a real API server and as one would ask.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_testkit::{cluster_program, need, wireloom_binary};
use wireloom_tests::eventually;

const GOOD: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
/// What the definition of the resource lets pass and no agent takes.
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A webhook that ends with its owner.
struct Webhook {
    child: Child,
    address: String,
    metrics: String,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a new certificate for 127.0.0.1 and its key, and returns the certificate.
fn certify(folder: &Path) -> String {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("cert.pem"), certified.cert.pem()).unwrap();
    certified.cert.pem()
}

fn webhook(folder: &Path) -> Command {
    let mut command = Command::new(wireloom_binary());
    command.args(["webhook", "--listen", "127.0.0.1:0", "--listen-metrics", "127.0.0.1:0"]);
    command.arg("--cert-file").arg(folder.join("cert.pem"));
    command.arg("--key-file").arg(folder.join("key.pem"));
    command
}

fn start(folder: &Path) -> Webhook {
    let mut command = webhook(folder);
    command.args(["--log-format", "json"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        (line["fields"]["message"] == "answering").then_some(line)
    });
    let said = said.unwrap();
    let text = |field: &str| said["fields"][field].as_str().unwrap().to_owned();
    let (address, metrics) = (text("address"), text("metrics"));
    // Somebody has to read what it goes on to say.
    std::thread::spawn(move || lines.for_each(drop));
    Webhook { child, address, metrics }
}

/// Asks, trusting the certificate in the folder alone. Returns the status and the text.
fn ask(folder: &Path, webhook: &Webhook, kind: &str, body: &str) -> (String, String) {
    let asked = Command::new("curl")
        .args(["-s", "-w", "%{http_code}", "--cacert"])
        .arg(folder.join("cert.pem"))
        .args(["-H", &format!("Content-Type: {kind}"), "--data-binary", body])
        .arg(format!("https://{}/validate", webhook.address))
        .output()
        .unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    let (text, code) = text.split_at(text.len().saturating_sub(3));
    (code.to_owned(), text.to_owned())
}

fn numbers(webhook: &Webhook) -> String {
    let url = format!("http://{}/metrics", webhook.metrics);
    String::from_utf8(Command::new("curl").args(["-s", &url]).output().unwrap().stdout).unwrap()
}

fn peer(key: &str, allowed: &str) -> Value {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "laptop" },
        "spec": { "allowedIPs": [allowed], "publicKey": key },
    })
}

fn question(key: &str) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": { "uid": "42", "operation": "CREATE", "object": peer(key, "10.5.0.1/32") },
    })
    .to_string()
}

#[test]
fn an_api_server_takes_no_peer_that_agents_would_skip() {
    need!(root);
    need!(cluster);
    need!(program "curl");
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let webhook = start(folder.path());
    let api = ApiServer::start().unwrap();
    api.apply(include_str!("../../deploy/base/crds.yaml")).unwrap();
    let bundle = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, certificate);
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "peers" },
        "webhooks": [{
            "name": "peers.kilo.squat.ai",
            "clientConfig": {
                "url": format!("https://{}/validate", webhook.address),
                "caBundle": bundle,
            },
            "rules": [{
                "apiGroups": ["kilo.squat.ai"],
                "apiVersions": ["v1alpha1"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
                "resources": ["peers"],
                "scope": "Cluster",
            }],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
        }],
    });
    api.apply(&configuration.to_string()).unwrap();

    // The server needs a moment until it asks; a Peer that it lets pass until then goes again.
    let refusal = || api.apply(&peer(ZERO, "10.5.0.1/32").to_string()).err();
    let mut refused = String::new();
    eventually("the API server asks", || match refusal() {
        Some(error) => {
            refused = error.to_string();
            true
        }
        None => api.kubectl(["delete", "peer", "laptop"]).is_err(),
    });
    assert!(refused.contains("the key is all zero"), "{refused}");

    api.apply(&peer(GOOD, "10.5.0.0/24").to_string()).unwrap();
    let changed = api.apply(&peer(ZERO, "10.5.0.0/24").to_string()).unwrap_err().to_string();
    assert!(changed.contains("all zero"), "{changed}");
    let patch = r#"{"spec":{"allowedIPs":["10.5.0.7/24"]}}"#;
    let patch = ["patch", "peer", "laptop", "--type=merge", "-p", patch];
    let patched = api.spawn_kubectl(patch).unwrap().wait(wireloom_tests::SOON).unwrap();
    assert!(
        patched.stderr.contains("Warning") && patched.stderr.contains("10.5.0.0/24"),
        "{patched:?}"
    );
    api.kubectl(["delete", "peer", "laptop"]).unwrap();
    let told = numbers(&webhook);
    for answer in
        [r#"operation="UPDATE",response="denied""#, r#"operation="DELETE",response="allowed""#]
    {
        assert!(told.contains(&format!("admission_requests_total{{{answer}}}")), "{told}");
    }
}

#[test]
fn the_contract_is_kilos_and_a_renewed_certificate_is_taken_up() {
    need!(program "curl");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certify(folder);
    let webhook = start(folder);
    for (key, allowed) in [(GOOD, true), ("foo", false)] {
        let (code, text) = ask(folder, &webhook, "application/json", &question(key));
        assert_eq!(code, "200", "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["response"]["uid"], "42");
        assert_eq!(answer["response"]["allowed"], allowed, "{text}");
        let reason = answer["response"]["status"]["message"].as_str();
        assert_eq!(reason.is_some_and(|reason| reason.contains("foo")), !allowed);
    }
    assert_eq!(ask(folder, &webhook, "text/plain", &question(GOOD)).0, "400");
    assert_eq!(ask(folder, &webhook, "application/json", "{}").0, "400");
    let told = numbers(&webhook);
    for line in [
        "admission_requests_total{operation=\"CREATE\",response=\"allowed\"} 1",
        "admission_requests_total{operation=\"CREATE\",response=\"denied\"} 1",
        "errors_total 2",
        "http_requests_total{handler=\"/validate\",method=\"POST\"} 4",
    ] {
        assert!(told.lines().any(|other| other == line), "{line} is not in\n{told}");
    }

    let old = fs::read_to_string(folder.join("cert.pem")).unwrap();
    certify(folder);
    eventually("the new certificate is used", || {
        ask(folder, &webhook, "application/json", &question(GOOD)).0 == "200"
    });
    // Half of a new one leaves the last in force.
    let new = fs::read_to_string(folder.join("cert.pem")).unwrap();
    fs::write(folder.join("cert.pem"), old).unwrap();
    let trusted = tempfile::tempdir().unwrap();
    fs::write(trusted.path().join("cert.pem"), new).unwrap();
    let (code, _) = ask(trusted.path(), &webhook, "application/json", &question(GOOD));
    assert_eq!(code, "200");
}

#[test]
fn a_missing_certificate_is_said() {
    let output = webhook(Path::new("/nonexistent")).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/nonexistent/cert.pem"), "{said}");
}

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

fn printed(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn kustomize_and_helm_install_the_same_webhook_and_the_api_server_takes_it() {
    need!(root);
    need!(cluster);
    let api = ApiServer::start().unwrap();
    let component = format!("{DEPLOY}/components/webhook");
    let mut kustomize = Command::new(cluster_program("kubectl"));
    let kustomized = printed(kustomize.args(["kustomize", &component]));
    let mut helm = Command::new(cluster_program("helm"));
    helm.args(["template", "wireloom", &format!("{DEPLOY}/helm"), "--kube-version=1.34.4"]);
    let rendered = printed(helm.args(["--set=webhook=true", "--show-only=templates/webhook.yaml"]));

    let dry_run = |manifests: &str| -> Vec<Value> {
        api.host().write("/run/webhook.yaml", manifests).unwrap();
        let apply = ["apply", "--dry-run=server", "--output=json", "-f", "/run/webhook.yaml"];
        let list: Value = serde_json::from_str(&api.kubectl(apply).unwrap()).unwrap();
        let spec = |object: &Value| {
            let mut object = object.clone();
            if object["kind"] == "Service" {
                // Addresses are given out anew each time.
                object["spec"] = json!([object["spec"]["ports"], object["spec"]["selector"]]);
            }
            object["metadata"] = object["metadata"]["name"].clone();
            object
        };
        let mut objects: Vec<Value> = list["items"].as_array().unwrap().iter().map(spec).collect();
        objects.sort_by_key(|object| object["kind"].to_string());
        objects
    };
    let (kustomized, mut rendered) = (dry_run(&kustomized), dry_run(&rendered));
    let secret = rendered.iter().position(|object| object["kind"] == "Secret").unwrap();
    let secret = rendered.remove(secret);
    let is_configuration = |object: &&mut Value| object["kind"] == "ValidatingWebhookConfiguration";
    let configuration = rendered.iter_mut().find(is_configuration).unwrap();
    let client = configuration["webhooks"][0]["clientConfig"].as_object_mut().unwrap();
    assert_eq!(client.remove("caBundle"), Some(secret["data"]["tls.crt"].clone()));
    assert_eq!(kustomized, rendered);
    assert_eq!(kustomized.len(), 3);
}

#[test]
fn a_certificate_is_read_until_it_is_good_and_not_once_a_time_stamp() {
    need!(program "curl");
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let webhook = start(folder.path());
    let asked = |folder: &Path| ask(folder, &webhook, "application/json", &question(GOOD)).0;
    assert_eq!(asked(folder.path()), "200");
    let of_yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    let stamp = || {
        for name in ["cert.pem", "key.pem"] {
            let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(of_yesterday).unwrap();
        }
    };
    let old = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join("cert.pem"), old.path().join("cert.pem")).unwrap();
    fs::write(folder.path().join("cert.pem"), "half").unwrap();
    stamp();
    assert_eq!(asked(old.path()), "200", "the last one stays in force");
    certify(folder.path());
    stamp();
    assert_eq!(asked(folder.path()), "200", "the new one is taken up");
}

#[test]
fn connections_beyond_the_most_wait_and_are_answered_when_others_end() {
    need!(program "curl");
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let webhook = start(folder.path());
    let address: std::net::SocketAddr = webhook.address.parse().unwrap();
    let idle: Vec<_> = (0..256).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let asked = || {
        let asked = Command::new("curl")
            .args(["-s", "-k", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg(format!("https://{address}/validate"))
            .output()
            .unwrap();
        String::from_utf8(asked.stdout).unwrap()
    };
    assert_eq!(asked(), "000", "it waits");
    drop(idle);
    eventually("it is answered", || asked() == "405");
}
