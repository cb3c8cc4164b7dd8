use std::path::Path;

use tokio::runtime::Builder;
use wireloom_model::Severity;
use wireloom_model::kernel::ROUTE_PROTOCOL;
use wireloom_testkit::{in_new_network, ip, need};
use wireloom_tunnel::uapi::SetDevice;

use super::*;

/// A device that takes everything and tells nothing.
struct Patient;

impl TunnelDevice for Patient {
    fn set(&self, _: &SetDevice) -> Result<(), DeviceError> {
        Ok(())
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        Ok(DeviceStatus::default())
    }
}

fn private_key(node: u8) -> PrivateKey {
    PrivateKey::from_random([node; 32])
}

/// A mesh of these nodes.
fn mesh(nodes: &[u8]) -> Arc<Snapshot> {
    let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\"]\n".to_owned();
    for node in nodes {
        let key = private_key(*node).public_key();
        text += &format!(
            "[[node]]\nname = \"n{node}\"\npublic-key = \"{key}\"\nendpoint = \"192.0.2.{node}\"\n"
        );
    }
    Arc::new(wireloom_file::parse(&text, Path::new("mesh.toml")).unwrap())
}

#[test]
fn what_an_earlier_agent_left_stays_until_the_host_can_be_read() {
    need!(root);
    need!(program "ip");
    let folder = tempfile::tempdir().unwrap();
    let interface: InterfaceName = "wl0".parse().unwrap();
    let config = Config {
        identity: Identity::Key,
        private_key: private_key(1),
        interface: interface.clone(),
        mark: 0x20,
        metric: 0,
        planner: Planner::default(),
        control: folder.path().join("wl0.sock"),
        listen: None,
        legacy: None,
        resync: Config::RESYNC,
        clean_up: true,
        pods: None,
    };
    in_new_network(|| {
        ip("link set lo up");
        ip("link add wl0 type veth peer name wl0-far");
        ip("link set wl0-far up");
        ip("link set wl0 up");
        let leave = || ip(&format!("route replace 10.9.0.0/16 dev wl0 proto {ROUTE_PROTOCOL}"));
        let is_left = || ip("route show").contains("10.9.0.0/16");
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        // Its connection ends with the runtime that it was opened on.
        let deaf = runtime().block_on(async { Host::new().unwrap() });
        runtime().block_on(async {
            let host = Host::new().unwrap();
            let news = Arc::new(Notify::new());
            let mut node = Reconciler::new(&config, &news, host.clone()).await.unwrap();
            node.network = Network::new(deaf, interface.clone(), config.mark);
            leave();
            node.adopt(&mesh(&[1, 2])).await;
            let problems = node.reconcile(&Patient).await;
            assert!(node.is_blind() && is_left());
            let problem = problems.iter().find(|one| one.message.contains("could not be read"));
            assert_eq!(problem.unwrap().severity, Severity::Error);

            // Who is no part of the mesh needs to know nothing.
            node.adopt(&mesh(&[2, 3])).await;
            node.reconcile(&Patient).await;
            assert!(!node.is_blind() && !is_left());

            leave();
            node.forget_host();
            node.network = Network::new(host, interface.clone(), config.mark);
            node.adopt(&mesh(&[1, 2])).await;
            node.reconcile(&Patient).await;
            assert!(!node.is_blind() && !is_left());
            assert!(node.underlay().is_some());
        });
    });
}
