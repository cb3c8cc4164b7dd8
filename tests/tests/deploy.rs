//! What `deploy/` installs: accepted by a real API server, the same by kustomize and by Helm, and with no more rights
//! than said.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_lab::Output;
use wireloom_testkit::{cluster_program, need, wireloom_binary};
use wireloom_tests::admin;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

const ACCOUNT: &str = "wireloom";

fn kustomize(overlay: &str) -> String {
    let mut kubectl = Command::new(cluster_program("kubectl"));
    output(kubectl.arg("kustomize").arg(format!("{DEPLOY}/overlays/{overlay}")))
}

/// The chart, as it comes out with these values.
fn chart(values: &str) -> String {
    let mut helm = Command::new(cluster_program("helm"));
    helm.args(["template", "wireloom", &format!("{DEPLOY}/helm"), "--include-crds"]);
    output(helm.args(["--kube-version=1.34.4", "--set", values]))
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// What the API server would make of these manifests, by kind and name.
fn dry_run(api: &ApiServer, manifests: &str) -> BTreeMap<String, Value> {
    api.host().write("/run/deploy.yaml", manifests).unwrap();
    let arguments = ["apply", "--dry-run=server", "--output=json", "-f", "/run/deploy.yaml"];
    let list: Value = serde_json::from_str(&api.kubectl(arguments).unwrap()).unwrap();
    let objects = list["items"].as_array().unwrap().iter().cloned().map(|mut object| {
        let metadata = object["metadata"].as_object_mut().unwrap();
        for changes in ["uid", "creationTimestamp", "annotations", "resourceVersion"] {
            metadata.remove(changes);
        }
        (format!("{}/{}", object["kind"], object["metadata"]["name"]), object)
    });
    objects.collect()
}

#[test]
fn kustomize_and_helm_install_the_same_and_the_api_server_takes_it() {
    need!(root);
    need!(cluster);
    let api = ApiServer::start().unwrap();
    // A dry run makes no namespace for what comes after it.
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "wireloom" } });
    api.apply(&namespace.to_string()).unwrap();
    let known = Command::new(wireloom_binary()).args(["agent", "--help"]).output().unwrap().stdout;
    let known = String::from_utf8(known).unwrap();
    for (overlay, values) in [
        ("k3s", "cluster=k3s"),
        ("k3s-cilium", "cluster=k3s,compatibility=cilium"),
        ("k3s-flannel", "cluster=k3s,compatibility=flannel"),
        ("kubeadm", "cluster=kubeadm"),
        ("kubeadm-cilium", "cluster=kubeadm,compatibility=cilium"),
        ("kubeadm-flannel", "cluster=kubeadm,compatibility=flannel"),
        ("listen-on-node", "listenOnNode=true"),
        ("separate-tunnel", "separateTunnel=true"),
    ] {
        let kustomized = dry_run(&api, &kustomize(overlay));
        assert!(kustomized.contains_key("\"DaemonSet\"/\"wireloom\""), "{:?}", kustomized.keys());
        let rendered = dry_run(&api, &chart(values));
        assert!(kustomized.keys().eq(rendered.keys()), "{overlay}: {:?}", rendered.keys());
        for (name, object) in &kustomized {
            assert_eq!(object, &rendered[name], "{overlay}: {name} differs");
        }
        let agent = &kustomized["\"DaemonSet\"/\"wireloom\""]["spec"]["template"]["spec"];
        for variable in agent["containers"][0]["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let is_known =
                !name.starts_with("WIRELOOM_") || known.contains(&format!("[env: {name}="));
            assert!(is_known, "{overlay}: the agent does not know {name}");
        }
    }
    for overlay in ["k3s-kilo", "kubeadm-kilo"] {
        let objects = dry_run(&api, &kustomize(overlay));
        assert!(objects.contains_key("\"ValidatingAdmissionPolicy\"/\"wireloom-from-kilo\""));
        let agent = &objects["\"DaemonSet\"/\"wireloom\""]["spec"]["template"]["spec"];
        let container = &agent["containers"][0];
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let is_known =
                !name.starts_with("WIRELOOM_") || known.contains(&format!("[env: {name}="));
            assert!(is_known, "{overlay}: the agent does not know {name}");
        }
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], 1108, "Kilo's agent has 1107");
        }
    }
    for overlay in ["k3s-kilo-userspace", "kubeadm-kilo-userspace"] {
        let objects = dry_run(&api, &kustomize(overlay));
        let agent = &objects["\"DaemonSet\"/\"wireloom\""]["spec"]["template"]["spec"];
        assert_eq!(agent["nodeSelector"]["wireloom.dev/moved"], "true");
        assert_eq!(agent["initContainers"][0]["args"], json!(["cleanup", "--kilo"]));
    }
    let mut helm = Command::new(cluster_program("helm"));
    helm.args(["template", "w", &format!("{DEPLOY}/helm"), "--set", "cluster=kubespray"]);
    let refused = helm.arg("--kube-version=1.34.4").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("neither k3s nor kubeadm"));
}

/// The kustomizations that pages show, as they are in a checkout.
fn shown() -> Vec<String> {
    let pages = [
        include_str!("../../docs/kubernetes.md"),
        include_str!("../../docs/migrating-from-kilo.md"),
        include_str!("../../deploy/README.md"),
    ];
    let blocks = pages.into_iter().flat_map(|page| page.split("```yaml\n").skip(1));
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let blocks = blocks.filter(|block| block.contains("resources:"));
    // One is part of a list.
    let lines = |block: &str| block.replace("\n   ", "\n").trim_start().to_owned();
    let whole = |block: &str| if block.starts_with(' ') { lines(block) } else { block.to_owned() };
    blocks.map(|block| whole(block).replace("https://example.org/wireloom//", "")).collect()
}

#[test]
fn agents_are_deleted_before_their_rights_by_our_kustomizations_and_by_those_that_pages_show() {
    need!(root);
    need!(cluster);
    let api = ApiServer::start().unwrap();
    let before_its_rights = |directory: &Path| {
        let dry = ["apply", "--dry-run=client", "--output=name", "-k", directory.to_str().unwrap()];
        // The order in which `kubectl delete -k` goes, too.
        let names = api.kubectl(dry).unwrap();
        let at = |kind: &str| names.lines().position(|name| name.starts_with(kind)).unwrap();
        for right in ["serviceaccount/", "clusterrole.", "clusterrolebinding.", "namespace/"] {
            assert!(at("daemonset.apps/wireloom") < at(right), "{}: {names}", directory.display());
        }
    };
    before_its_rights(&Path::new(DEPLOY).join("base"));
    for overlay in fs::read_dir(Path::new(DEPLOY).join("overlays")).unwrap() {
        before_its_rights(&overlay.unwrap().path());
    }
    let shown = shown();
    assert_eq!(shown.len(), 5, "{shown:#?}");
    for kustomization in shown {
        before_its_rights(admin::kustomization(env!("CARGO_TARGET_TMPDIR"), &kustomization).path());
    }
}

#[test]
fn an_agent_writes_its_own_node_and_of_that_its_annotations_alone() {
    need!(root);
    need!(cluster);
    let api = ApiServer::start().unwrap();
    for node in ["own", "other"] {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": {
            "name": node, "annotations": { "example.org/colour": "red" },
        }});
        api.apply(&node.to_string()).unwrap();
    }
    api.apply(&kustomize("k3s")).unwrap();
    let bound = ["--bound-object-kind=Node", "--bound-object-name=own"];
    let create = ["create", "token", ACCOUNT, "--namespace=kube-system"];
    let token = |bound: &[&str]| api.kubectl(create.iter().chain(bound)).unwrap();
    let agent = Agent { api: &api, token: token(&bound) };

    // The policies need a moment until the server enforces them: until then everything is allowed.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while agent.annotate("other", "wireloom.dev/probe", "1").status.success()
        || agent.annotate("own", "example.org/probe", "1").status.success()
    {
        assert!(std::time::Instant::now() < deadline, "the policies are never enforced");
        std::thread::sleep(Duration::from_millis(200));
    }

    agent.may(agent.annotate("own", "wireloom.dev/endpoint", "192.0.2.1:51820"));
    agent.may(agent.annotate("own", "kilo.squat.ai/key", "key"));
    // What Kilo's agent said of it is taken back too.
    api.kubectl(["annotate", "node", "own", "kilo.squat.ai/granularity=location"]).unwrap();
    agent.may(agent.run(&["annotate", "node", "own", "kilo.squat.ai/granularity-"]));
    agent.may(agent.run(&["get", "nodes"]));
    agent.may(agent.run(&["get", "peers.kilo.squat.ai"]));
    agent.may(agent.apply(&lease("own", "wireloom")));
    agent.may(agent.run(&["delete", "lease", "own", "--namespace=wireloom"]));
    agent.may(agent.run(&["get", "daemonset", "wireloom", "--namespace=kube-system"]));
    api.apply(&lease("other", "wireloom")).unwrap();

    let mine = "an agent writes the Node and the Lease of its own node alone";
    agent.may_not(agent.annotate("other", "wireloom.dev/endpoint", "192.0.2.1:51820"), mine);
    agent.may_not(agent.apply(&lease("other", "wireloom")), mine);
    agent.may_not(agent.run(&["delete", "lease", "other", "--namespace=wireloom"]), mine);
    let annotations = "no annotations but those of kilo.squat.ai and wireloom.dev";
    agent.may_not(agent.annotate("own", "example.org/colour", "blue"), annotations);
    agent.may_not(agent.annotate("own", "example.org/size", "large"), annotations);
    agent.may_not(agent.run(&["annotate", "node", "own", "example.org/colour-"]), annotations);
    let nothing = "an agent writes nothing of a Node but its annotations";
    agent.may_not(agent.run(&["label", "node", "own", "role=control"]), nothing);
    let spec = r#"--patch={"spec":{"unschedulable":true}}"#;
    agent.may_not(agent.run(&["patch", "node", "own", spec]), nothing);

    // What no rule allows.
    agent.may_not(agent.run(&["delete", "node", "own"]), "forbidden");
    agent.may_not(agent.run(&["get", "secrets", "--namespace=kube-system"]), "forbidden");
    agent.may_not(agent.run(&["get", "daemonsets", "--namespace=kube-system"]), "forbidden");
    agent.may_not(agent.apply(&lease("own", "kube-system")), "forbidden");

    // A token that names no node is nobody's.
    let stray = Agent { api: &api, token: token(&[]) };
    stray.may_not(stray.annotate("own", "wireloom.dev/endpoint", "192.0.2.2:51820"), mine);
}

/// Somebody with an agent's token.
struct Agent<'a> {
    api: &'a ApiServer,
    token: String,
}

impl Agent<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let config = self.api.kubeconfig_of_bearer(self.token.trim());
        self.api.host().write("/run/agent.kubeconfig", config).unwrap();
        let arguments = ["--kubeconfig=/run/agent.kubeconfig"].iter().chain(arguments);
        let kubectl = cluster_program("kubectl");
        self.api.host().exec(kubectl, arguments, Duration::from_secs(60)).unwrap()
    }

    fn annotate(&self, node: &str, key: &str, value: &str) -> Output {
        self.run(&["annotate", "node", node, "--overwrite", &format!("{key}={value}")])
    }

    fn apply(&self, manifest: &str) -> Output {
        self.api.host().write("/run/agent.json", manifest).unwrap();
        self.run(&["apply", "--server-side", "-f", "/run/agent.json"])
    }

    #[track_caller]
    fn may(&self, output: Output) {
        assert!(output.status.success(), "{}", output.stderr);
    }

    #[track_caller]
    fn may_not(&self, output: Output, why: &str) {
        assert!(!output.status.success(), "{}", output.stdout);
        assert!(output.stderr.contains(why), "{}", output.stderr);
    }
}

fn lease(name: &str, namespace: &str) -> String {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "holderIdentity": name },
    })
    .to_string()
}
