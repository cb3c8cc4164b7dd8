//! A real API server, a wire to it that can be cut, and registries of nodes.

#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod rights;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use wireloom_cluster::ApiServer;
use wireloom_kube::{AddressRules, Connection, Facts, HostAddress, KubeConfig, KubeRegistry};
use wireloom_model::annotations::Granularity;
use wireloom_model::{
    Encapsulation, Filter, GatewayCount, Mesh, Overlay, PrivateKey, PublicKey, Snapshot,
};
use wireloom_registry::{Registry as _, Update};

pub(crate) use rights::rights;

/// How long anything may take that is expected to happen, on a machine with much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster without anything in it but Kilo's resource.
pub(crate) struct Rig {
    pub(crate) api: ApiServer,
    /// Whose token registries bear, instead of that of a user who may do everything.
    pub(crate) bearer: Option<String>,
    wire: Wire,
    folder: TempDir,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let api = ApiServer::start().unwrap();
        let wire = Wire::to(api.url().trim_start_matches("https://").parse().unwrap()).await;
        Self { api, bearer: None, wire, folder: tempfile::tempdir().unwrap() }
    }

    /// Makes the `Peer` resource known.
    pub(crate) fn define_peers(&self) {
        self.api.apply(include_str!("../../../../deploy/base/crds.yaml")).unwrap();
        self.kubectl("wait --for=condition=Established crd/peers.kilo.squat.ai");
    }

    /// Runs kubectl with a line of arguments, split at blanks.
    pub(crate) fn kubectl(&self, line: &str) -> String {
        self.api.kubectl(line.split_whitespace()).unwrap()
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("{line} --output=json"))).unwrap()
    }

    pub(crate) fn annotations(&self, node: &str) -> Value {
        self.json(&format!("get node {node}"))["metadata"]["annotations"].clone()
    }

    /// The writes to Nodes, Leases and Events that the server has counted so far.
    pub(crate) fn writes(&self) -> u64 {
        let metrics = self.kubectl("get --raw /metrics");
        let counted = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total{")
                && ["verb=\"APPLY\"", "verb=\"PATCH\"", "verb=\"POST\"", "verb=\"PUT\""]
                    .iter()
                    .any(|verb| line.contains(verb))
                && ["resource=\"nodes\"", "resource=\"leases\"", "resource=\"events\""]
                    .iter()
                    .any(|resource| line.contains(resource))
                // The server's own lease, by which it is known to others of its kind.
                && !line.contains("verb=\"PUT\"")
        });
        counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// The registry of a node, whose key is made of the byte, and what its agent knows of its machine.
    pub(crate) async fn registry(
        &self,
        node: &str,
        byte: u8,
        heartbeat: Duration,
    ) -> (KubeRegistry, watch::Sender<Option<Facts>>) {
        let kubeconfig = self.folder.path().join("kubeconfig");
        let here = format!("https://{}", self.wire.address);
        let text = match &self.bearer {
            Some(token) => self.api.kubeconfig_of_bearer(token),
            None => self.api.kubeconfig(),
        };
        std::fs::write(&kubeconfig, text).unwrap();
        let connection = Connection { kubeconfig: Some(kubeconfig), master: Some(here) };
        let client = connection.client().await.unwrap();
        let overlay = Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap();
        let config = KubeConfig {
            node: node.parse().unwrap(),
            mesh: Mesh {
                overlay,
                gateways: GatewayCount::All,
                port: "51820".parse().unwrap(),
                mtu: None,
                carry_internal_addresses: true,
                encapsulation: Encapsulation::default(),
                filter: Filter::default(),
            },
            topology_label: "topology.kubernetes.io/region".to_owned(),
            granularity: Granularity::Location,
            addresses: AddressRules {
                internal: Vec::new(),
                prefer_internal: false,
                port: "51820".parse().unwrap(),
                overlay,
            },
            namespace: "kube-system".to_owned(),
            heartbeat,
            daemon_set: Some("kube-system/wireloom".parse().unwrap()),
        };
        let facts = Facts {
            key: key(byte),
            addresses: vec![HostAddress {
                link: "eth0".parse().unwrap(),
                address: format!("10.0.0.{byte}/24").parse().unwrap(),
                is_way_out: true,
            }],
            cni_address: None,
        };
        let (sender, facts) = watch::channel(Some(facts));
        (KubeRegistry::start(client, config, facts, None), sender)
    }

    /// Cuts every registry off from the API.
    pub(crate) fn cut(&self) {
        self.wire.whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.wire.whole.send_replace(true);
    }
}

pub(crate) fn key(byte: u8) -> PublicKey {
    PrivateKey::from_random([byte; 32]).public_key()
}

/// A Node in a region; one that has a key is in the mesh.
pub(crate) fn node(name: &str, region: &str, key: Option<PublicKey>) -> Value {
    let annotations = key.map_or_else(
        || json!({}),
        |key| {
            json!({
                "kilo.squat.ai/key": key,
                "kilo.squat.ai/endpoint": "192.0.2.1:51820",
            })
        },
    );
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": { "topology.kubernetes.io/region": region },
            "annotations": annotations,
        },
    })
}

pub(crate) fn peer(name: &str, spec: Value) -> String {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": name },
        "spec": spec,
    })
    .to_string()
}

/// The next thing that a registry tells.
pub(crate) async fn next(registry: &mut KubeRegistry) -> Update {
    timeout(PATIENCE, registry.next()).await.unwrap().unwrap()
}

/// Waits for a mesh of which something holds.
pub(crate) async fn mesh(
    registry: &mut KubeRegistry,
    what: &str,
    holds: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let found = async {
        loop {
            match registry.next().await.unwrap() {
                Update::Mesh(snapshot) if holds(&snapshot) => return snapshot,
                update => println!("while waiting until {what}: {update:?}"),
            }
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Waits until something holds of the cluster.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(crate) fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.nodes.iter().map(|node| node.name.as_str()).collect()
}

/// A way to the API that can be cut: then connections end, and new ones come to nothing.
struct Wire {
    address: SocketAddr,
    whole: watch::Sender<bool>,
}

impl Wire {
    async fn to(api: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, is_whole) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_whole = is_whole.clone();
                tokio::spawn(async move {
                    if !*is_whole.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(api).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_whole.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { address, whole }
    }
}
