use serde_json::json;
use wireloom_model::PrivateKey;

use super::*;

fn node(name: &str, labels: &[&str]) -> NodeObject {
    let labels: serde_json::Map<_, _> =
        labels.iter().map(|label| ((*label).to_owned(), json!("x"))).collect();
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap()
}

/// A cluster in which nothing is wrong.
fn healthy() -> Survey {
    Survey {
        clock_ahead: Some(0.0),
        lacking: Vec::new(),
        refused: Vec::new(),
        nodes: vec![node("a", &["region", ZONE]), node("b", &["region", ZONE])],
        services: Vec::new(),
        servers: None,
        clocks: Vec::new(),
        mesh: None,
    }
}

/// With nothing else to see.
fn seen<'a>(survey: &'a Result<Survey, Unseen>, server: &'a Server) -> Seen<'a> {
    Seen { survey, status: None, server, topology_label: "region", lists: None, runtime: None }
}

fn found(survey: Result<Survey, Unseen>) -> Vec<Finding> {
    let server = Server { url: "https://192.0.2.1:6443/".to_owned(), ..Server::default() };
    findings(&seen(&survey, &server))
}

/// An agent that runs, and says this of what is wrong.
fn status(problems: &[&str]) -> Status {
    let problem = |text: &&str| json!({ "severity": "warning", "subject": "n", "kind": "clock", "message": text });
    let problems: Vec<_> = problems.iter().map(problem).collect();
    serde_json::from_value(json!({
        "node": null, "public_key": PrivateKey::from_random([1; 32]).public_key(), "interface": "wl0",
        "listen_port": null, "mtu": null, "pod_mtu": null, "location": null, "gateway": false, "home": null,
        "overlay_addresses": [], "stale": null, "nodes": [], "peers": [],
        "path": { "engine": null, "offloads": {}, "drops": {} },
        "work": { "reconciles": 0, "device_writes": 0, "kernel_reads": 0, "kernel_writes": 0 },
        "problems": problems,
    }))
    .unwrap()
}

fn only(survey: Survey) -> Finding {
    let found = found(Ok(survey));
    let [found] = found.as_slice() else { panic!("{found:#?}") };
    found.clone()
}

#[test]
fn where_nothing_is_wrong_nothing_is_said() {
    assert_eq!(found(Ok(healthy())), []);
}

#[test]
fn an_api_server_that_is_not_reached_is_named_unless_an_agent_knows_better() {
    let found = |unseen| found(Err(unseen)).remove(0);
    let silent = found(Unseen::NoAnswer("refused".to_owned()));
    assert_eq!((silent.severity, silent.check), (Error, Check::Api));
    assert!(silent.what.contains("192.0.2.1") && silent.what.contains("refused"), "{silent:?}");
    let no_way = found(Unseen::NoWay("no pod".to_owned()));
    assert_eq!((no_way.severity, no_way.check), (Error, Check::Api));
    assert!(no_way.remedy.contains("--kubeconfig"), "{no_way:?}");
    let runs = status(&[]);
    let no_way = Err(Unseen::NoWay("no pod".to_owned()));
    let knows = findings(&Seen { status: Some(&runs), ..seen(&no_way, &Server::default()) });
    assert_eq!((knows.len(), knows[0].severity), (1, Note));
}

#[test]
fn each_missing_right_has_the_rule_that_grants_it() {
    let right =
        Right { group: "", resource: "nodes", verbs: vec!["patch"], namespace: None, name: None };
    let events = Right { group: "events.k8s.io", resource: "events", ..right.clone() };
    let told = found(Ok(Survey { lacking: vec![right, events], ..healthy() }));
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].severity, told[0].check), (Error, Check::Rights));
    assert_eq!(told[0].what, "the agent may not patch nodes");
    assert!(told[0].remedy.contains("resources: [nodes], verbs: [patch]"), "{told:?}");
    assert_eq!(told[1].severity, Warning, "the mesh does without Events");
    let refused = vec![("the heartbeat of this machine's Node", "no such namespace".to_owned())];
    let refused = only(Survey { refused, ..healthy() });
    assert!(refused.severity == Error && refused.what.contains("no such namespace"));
}

#[test]
fn clocks_that_are_apart_are_named() {
    let own = only(Survey { clock_ahead: Some(-70.0), ..healthy() });
    assert_eq!((own.severity, own.check), (Warning, Check::Clock));
    assert!(own.what.contains("more than a minute behind the API server's"), "{own:?}");
    // What the agent says itself is not said again.
    let survey = Ok(Survey { clock_ahead: Some(-70.0), ..healthy() });
    let says = status(&["this machine's clock is more than a minute behind the API server's"]);
    let again = findings(&Seen { status: Some(&says), ..seen(&survey, &Server::default()) });
    assert_eq!(again, []);
    let clocks = vec![("b".to_owned(), "more than 10 s ahead of".to_owned())];
    let other = only(Survey { clocks, ..healthy() });
    assert!(other.what.contains("node b was more than 10 s ahead of"), "{other:?}");
}

#[test]
fn labels_that_nodes_lack_are_worth_a_note() {
    let nodes = vec![node("a", &["region", ZONE]), node("b", &["region"]), node("c", &["region"])];
    let zones = only(Survey { nodes, ..healthy() });
    assert_eq!((zones.severity, zones.check), (Note, Check::Zones));
    assert!(zones.what.contains(ZONE) && zones.what.ends_with("node b and 1 more"), "{zones:?}");
    let region = only(Survey { nodes: vec![node("a", &[ZONE])], ..healthy() });
    assert!(region.what.contains("no label region on node a"), "{region:?}");
    let mut located = node("a", &[ZONE]);
    located.metadata.annotations = Some([(LOCATION.to_owned(), "here".to_owned())].into());
    assert_eq!(found(Ok(Survey { nodes: vec![located], ..healthy() })), []);
}

#[test]
fn a_services_address_hides_the_way_unless_it_is_known() {
    let told = |reached: &[&str]| {
        let reached = reached.iter().map(|text| text.parse().unwrap()).collect();
        service(&Server { url: "https://10.43.0.1/".to_owned(), is_service: true, reached })
    };
    assert!(told(&[]).unwrap().what.contains("10.43.0.1"));
    assert_eq!(told(&["192.0.2.1"]), None);
}

#[test]
fn a_runtime_that_looks_elsewhere_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
    std::fs::create_dir(&ours).unwrap();
    std::os::unix::fs::symlink(&ours, folder.path().join("link")).unwrap();
    let look = |directory: PathBuf| {
        let runtime = Some((PathBuf::from("/etc/containerd/config.toml"), directory));
        let survey = Ok(healthy());
        findings(&Seen { lists: Some(&ours), runtime, ..seen(&survey, &Server::default()) })
    };
    assert_eq!(look(ours.clone()), []);
    assert_eq!(look(folder.path().join("link")), [], "by whatever links");
    let told = look(theirs.clone());
    assert!(told.len() == 1 && told[0].check == Check::Cni && told[0].severity == Error);
    assert!(told[0].what.contains(theirs.to_str().unwrap()), "{told:?}");
}
