//! What is written, and what is told, as the API answers. Watches are spoken for by the tests.

use std::sync::Mutex;

use http::{Request, Response};
use kube::Error;
use kube::client::Body;
use kube::core::Status;
use serde_json::{Value, json};
use wireloom_model::annotations::Granularity;
use wireloom_model::{Held, PrivateKey, PublicKey};

use super::*;
use crate::addresses::AddressRules;
use crate::cluster::tests::mesh;

/// A follower of a cluster whose API refuses everything, and what it was asked.
struct Scene {
    follower: Follower,
    facts: watch::Sender<Option<Facts>>,
    publication: watch::Sender<Option<Publication>>,
    known: watch::Receiver<Known>,
    asked: Arc<Mutex<Vec<String>>>,
}

fn key() -> PublicKey {
    PrivateKey::from_random([7; 32]).public_key()
}

fn forbidden() -> Error {
    Error::Api(Box::new(Status::failure("no right", "Forbidden").with_code(403)))
}

impl Scene {
    /// Of a cluster with the Nodes own and b.
    fn begin() -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let server = tower::service_fn(move |request: Request<Body>| {
            let asked = format!("{} {}", request.method(), request.uri().path());
            noted.lock().unwrap().push(asked);
            let status = json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": "no right",
                "reason": "Forbidden",
                "code": 403,
            });
            let mut answer = Response::new(Body::from(status.to_string().into_bytes()));
            *answer.status_mut() = http::StatusCode::FORBIDDEN;
            std::future::ready(Ok::<_, Error>(answer))
        });
        let config = KubeConfig {
            node: "own".parse().unwrap(),
            mesh: mesh(),
            topology_label: String::new(),
            granularity: Granularity::Location,
            addresses: AddressRules {
                internal: Vec::new(),
                prefer_internal: false,
                port: mesh().port,
                overlay: mesh().overlay,
            },
            namespace: "kube-system".to_owned(),
            heartbeat: KubeConfig::HEARTBEAT,
            daemon_set: None,
        };
        let (facts, of_facts) = watch::channel(None);
        let (publication, published) = watch::channel(None);
        let (_, planned) = watch::channel(Vec::new());
        let (known_by_task, known) = watch::channel(Known::default());
        let (standing, _) = watch::channel(Standing::default());
        let agent = FromAgent { facts: of_facts, publication: published, planned };
        let client = Client::new(server, "default");
        let mut follower = Follower::new(client, config, agent, known_by_task, standing);
        follower.hear_nodes(Change::All(vec![node("own"), node("b")]));
        follower.nodes.is_listed = true;
        Self { follower, facts, publication, known, asked }
    }

    fn know_machine(&self) {
        let facts = Facts { key: key(), addresses: Vec::new(), cni_address: None };
        self.facts.send_replace(Some(facts));
    }

    fn publish(&self, gateway: bool) {
        self.publication.send_replace(Some(Publication {
            node: "own".parse().unwrap(),
            key: key(),
            held: Held { gateway, ..Held::default() },
            discovered_endpoints: BTreeMap::new(),
        }));
    }

    /// How often the Node was to be changed so far.
    fn writes(&self) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| *asked == "PATCH /api/v1/nodes/own").count()
    }

    /// What is told of the mesh.
    fn told(&mut self) -> Arc<Snapshot> {
        self.follower.tell();
        self.known.borrow().snapshot.clone().unwrap()
    }
}

/// A Node that says where it is found.
fn node(name: &str) -> NodeObject {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "uid": name,
            "annotations": {
                "kilo.squat.ai/key": PrivateKey::from_random([name.len() as u8; 32]).public_key(),
                "kilo.squat.ai/endpoint": "192.0.2.1:51820",
                "wireloom.dev/algorithm": "wireloom",
            },
        },
    }))
    .unwrap()
}

/// A Lease that the API server took at this time.
fn lease(name: &str, time: &str) -> PartialObjectMeta<Lease> {
    let fields: Value = json!([{ "manager": "wireloom", "time": time }]);
    serde_json::from_value(json!({
        "metadata": { "name": name, "resourceVersion": time, "managedFields": fields },
    }))
    .unwrap()
}

#[tokio::test]
async fn nothing_is_written_until_the_agent_knows_its_machine() {
    let mut scene = Scene::begin();
    scene.follower.write().await;
    scene.publish(false);
    scene.follower.write().await;
    assert_eq!(scene.writes(), 0, "what the Node says may be right");
    scene.know_machine();
    scene.follower.write().await;
    assert_eq!(scene.writes(), 1);
}

#[tokio::test]
async fn what_is_refused_is_counted_and_left_alone_until_it_is_something_else() {
    let mut scene = Scene::begin();
    scene.know_machine();
    scene.follower.write().await;
    assert_eq!(scene.writes(), 1);
    // As if it had been refused again and again, so that the next time is far from now.
    let shall = scene.follower.shall_say(scene.follower.cluster.own().unwrap()).unwrap();
    let until = scene.follower.refused.put("own", shall, Instant::now() + RETRY * 10);
    scene.follower.write().await;
    scene.follower.write().await;
    assert_eq!((scene.writes(), scene.follower.write_due), (1, Some(until)));
    scene.publish(true);
    scene.follower.write_soon();
    assert!(scene.follower.write_due.unwrap() <= Instant::now() + RETRY);
    scene.follower.write().await;
    assert_eq!(scene.writes(), 2);
    scene.follower.beat().await;
    assert_eq!(scene.known.borrow().contact.publish_errors, 3, "the heartbeat too");
}

#[tokio::test]
async fn a_refusal_at_the_start_takes_no_peers_away() {
    let spec = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "laptop" },
        "spec": { "allowedIPs": ["10.5.0.1/32"], "publicKey": key() },
    });
    let laptop: DynamicObject = serde_json::from_value(spec).unwrap();
    let mut before = Scene::begin();
    before.follower.hear_leases(Change::All(Vec::new()));
    before.follower.leases.is_listed = true;
    before.follower.hear_peers(Change::All(vec![laptop]));
    before.follower.peers.is_listed = true;
    let last = before.told();
    assert_eq!(last.peers.len(), 1);

    for remembered in [None, Some(&*last)] {
        let mut scene = Scene::begin();
        if let Some(last) = remembered {
            scene.follower.remember(last);
        }
        scene.follower.leases.is_listed = true;
        let error = watcher::Error::InitialListFailed(forbidden());
        scene.follower.hear_peers(Change::Failed(error));
        let told = scene.told();
        assert_eq!(told.peers, remembered.map(|last| last.peers.clone()).unwrap_or_default());
        let is_said = |told: &Snapshot| {
            told.problems.iter().any(|problem| problem.message.contains("Peers can't be read"))
        };
        assert!(is_said(&told));
        scene.follower.hear_peers(Change::All(Vec::new()));
        let told = scene.told();
        assert_eq!((told.peers.len(), is_said(&told)), (0, false));
    }
}

#[tokio::test]
async fn who_was_overdue_at_the_start_is_so_though_leases_could_not_be_read_at_first() {
    let mut scene = Scene::begin();
    scene.follower.peers.is_listed = true;
    scene.follower.hear_leases(Change::Failed(watcher::Error::InitialListFailed(forbidden())));
    let healthy =
        |told: &Snapshot| -> Vec<bool> { told.nodes.iter().map(|node| node.healthy).collect() };
    assert_eq!(healthy(&scene.told()), [true, true]);
    let leases = vec![lease("own", "2026-11-30T12:00:00Z"), lease("b", "2026-11-30T11:00:00Z")];
    scene.follower.hear_leases(Change::All(leases));
    assert_eq!(healthy(&scene.told()), [false, true], "b, own");
}

#[tokio::test]
async fn a_node_of_kilos_lives_on_while_nodes_cannot_be_watched() {
    let mut scene = Scene::begin();
    scene.follower.fail(Use::Nodes, &watcher::Error::InitialListFailed(forbidden()));
    assert!(scene.follower.outage.is_blind() && !scene.follower.outage.is_deaf());
    let mut kilos = node("kilos");
    kilos.metadata.annotations.as_mut().unwrap().remove("wireloom.dev/algorithm");
    let seen = ("kilo.squat.ai/last-seen".to_owned(), "1".to_owned());
    kilos.metadata.annotations.as_mut().unwrap().extend([seen]);
    scene.follower.cluster.put_node(kilos, Instant::now());
    let much_later = Instant::now() + 10 * KubeConfig::HEARTBEAT * MISSES;
    let is_healthy = |scene: &Scene| {
        let snapshot = scene.follower.cluster.snapshot(much_later);
        snapshot.nodes.iter().any(|node| node.name.as_str() == "kilos" && node.healthy)
    };
    assert!(is_healthy(&scene));
    scene.follower.outage.works(Use::Nodes);
    scene.follower.listen(Instant::now());
    assert!(!is_healthy(&scene));
}
