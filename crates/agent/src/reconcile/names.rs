//! What a node does while the names of endpoints have no answers yet.

use std::path::Path;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use tokio::runtime::Builder;
use wireloom_model::{Algorithm, DnsName, Endpoint};
use wireloom_testkit::{in_new_network, ip, need};
use wireloom_tunnel::uapi::SetDevice;

use super::*;
use crate::resolve::Answer;

/// A device that points at a peer, and what has been asked of it since.
struct Pointing {
    peer: PeerStatus,
    asked: Mutex<Vec<SetDevice>>,
}

impl Pointing {
    /// Where it was to dial.
    fn dialled(&self) -> BTreeSet<SocketAddr> {
        let asked = self.asked.lock().unwrap();
        asked.iter().flat_map(|request| &request.peers).filter_map(|peer| peer.endpoint).collect()
    }
}

impl TunnelDevice for Pointing {
    fn set(&self, request: &SetDevice) -> Result<(), DeviceError> {
        self.asked.lock().unwrap().push(request.clone());
        Ok(())
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        Ok(DeviceStatus { peers: vec![self.peer.clone()], ..DeviceStatus::default() })
    }
}

fn key(node: u8) -> PrivateKey {
    PrivateKey::from_random([node; 32])
}

fn place(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51820))
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// The answer to every name. It is known only once somebody takes it.
fn answer(_: DnsName) -> BoxFuture<'static, Answer> {
    let answer: Answer = Ok(vec![place(9).ip()]);
    Box::pin(std::future::ready(answer))
}

/// Two nodes, the second of which is dialled at this endpoint.
fn mesh(second: &str) -> Snapshot {
    let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\"]\n".to_owned();
    for (node, at) in [(1, "192.0.2.1:51820"), (2, second)] {
        let key = key(node).public_key();
        text += &format!(
            "[[node]]\nname = \"n{node}\"\npublic-key = \"{key}\"\nendpoint = \"{at}\"\n\
             prefixes = [\"10.42.{node}.0/24\"]\n"
        );
    }
    wireloom_file::parse(&text, Path::new("mesh.toml")).unwrap()
}

/// The first of them.
async fn first(planner: Planner, folder: &Path) -> Reconciler {
    let config = Config {
        identity: Identity::Key,
        private_key: key(1),
        interface: "wl0".parse().unwrap(),
        mark: 0x20,
        metric: 0,
        planner,
        control: folder.join("wl0.sock"),
        listen: None,
        legacy: None,
        resync: Config::RESYNC,
        clean_up: true,
        pods: None,
    };
    let news = Arc::new(Notify::new());
    let mut node = Reconciler::new(&config, &news, Host::new().unwrap()).await.unwrap();
    node.resolver.lookup = answer;
    node
}

#[test]
fn a_peer_stays_where_it_is_until_its_name_has_an_answer() {
    need!(root);
    need!(program "ip");
    let folder = tempfile::tempdir().unwrap();
    in_new_network(|| {
        ip("link add wl0 type veth peer name wl0-far");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut node = first(Planner::default(), folder.path()).await;
            let other = key(2).public_key();
            let peer = PeerStatus { endpoint: Some(place(2)), ..PeerStatus::new(other) };
            let device = Pointing { peer, asked: Mutex::default() };
            let two = "two.example:51820";
            node.adopt(&Arc::new(mesh(two))).await;
            assert!(node.resolver.is_awaited(&endpoint(two)), "nobody waits for its answer");
            node.reconcile(&device).await;
            assert!(node.plan().is_some());
            assert_eq!(node.endpoints.get(&other), Some(&place(2)));
            assert!(device.dialled().iter().all(|at| *at == place(2)), "it is dialled elsewhere");

            while !matches!(node.next().await, Occurrence::Names) {}
            assert!(node.hear(Occurrence::Names).await);
            node.reconcile(&device).await;
            assert!(device.dialled().contains(&place(9)));

            // A new name changes nothing before its answer, either.
            node.adopt(&Arc::new(mesh("three.example:51820"))).await;
            node.reconcile(&device).await;
            assert_eq!(node.dialled.get(&other), Some(&place(9)));
        });
    });
}

#[test]
fn kilos_leaders_are_found_by_the_names_of_the_first_mesh_and_wait_for_no_later_ones() {
    need!(root);
    let folder = tempfile::tempdir().unwrap();
    let mesh = |second| {
        let mut mesh = mesh(second);
        for node in &mut mesh.nodes {
            node.algorithm = Algorithm::Kilo;
        }
        Arc::new(mesh)
    };
    in_new_network(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut node = first(Planner::beside_kilo(), folder.path()).await;
            node.adopt(&mesh("two.example:51820")).await;
            assert!(!node.resolver.is_awaited(&endpoint("two.example:51820")));
            let names: Vec<IpAddr> = node.seen.names.values().copied().collect();
            assert_eq!(names, [place(9).ip()]);
            node.adopt(&mesh("three.example:51820")).await;
            assert!(node.resolver.is_awaited(&endpoint("three.example:51820")));
        });
    });
}
