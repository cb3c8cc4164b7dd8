//! A laptop at home behind NAT that joins the mesh of a cluster by itself, and what is told of that mesh to whoever has
//! the cluster's API alone.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_lab::{Child, Host, Lab, Layout, Region};
use wireloom_testkit::need;
use wireloom_tests::{NetworkState, SOON, ok, run, wireloom, within};

/// How long anything may take that several agents take part in, on a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(90);

const NODES: [&str; 3] = ["ams-1", "ams-2", "waw-1"];

/// The arguments by which a command knows the cluster.
const CLUSTER: &str = "--kubeconfig /run/test/kubeconfig --namespace kube-system";

struct Cluster {
    _agents: Vec<Child>,
    api: ApiServer,
    lab: Lab,
}

impl Cluster {
    fn start() -> Self {
        let layout = Layout {
            regions: vec![
                Region::new("provider", &["control"]),
                Region::new("nl-ams", &["ams-1", "ams-2"]),
                Region::new("pl-waw", &["waw-1"]),
                Region::new("home", &["laptop"]).behind_nat(),
            ],
            pods: true,
        };
        let lab = Lab::build(&layout).unwrap();
        let addresses = lab.plan().regions[0].hosts[0].public.unwrap();
        let addresses = addresses.map(|public| public.address());
        let api = ApiServer::start_on(lab.host("control").unwrap(), &addresses).unwrap();
        api.apply(include_str!("../../deploy/base/crds.yaml")).unwrap();
        let mut agents = Vec::new();
        for region in &lab.plan().regions[1..] {
            for host in &region.hosts {
                let machine = lab.host(&host.name).unwrap();
                machine.write("/run/test/kubeconfig", api.kubeconfig()).unwrap();
                if !NODES.contains(&host.name.as_str()) {
                    continue;
                }
                let pods = host.pod.as_ref().unwrap().prefixes.map(|prefix| prefix.to_string());
                let node = json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": host.name,
                        "labels": { "topology.kubernetes.io/region": region.name },
                    },
                    "spec": { "podCIDR": pods[0], "podCIDRs": pods },
                });
                api.apply(&node.to_string()).unwrap();
                let line = format!(
                    "agent {CLUSTER} --hostname {} --key /run/test/key --state-dir /run/test/state --gateways 2 \
                     --cni=false --subnet 10.4.0.0/16,fd04::/64",
                    host.name
                );
                agents.push(wireloom(machine, &line));
            }
        }
        Self { _agents: agents, api, lab }
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    fn peers(&self) -> String {
        self.api.kubectl(["get", "peers", "-o=name"]).unwrap()
    }

    /// Fails unless a host gets an echo from a node's pod and from its overlay addresses, by both families.
    fn reaches(&self, host: &str, node: &str) {
        let plan = self.lab.plan().hosts().find(|host| host.name == node).unwrap();
        let pod = plan.pod.clone().unwrap();
        let status = status(self.host(node));
        let overlay = status["overlay_addresses"].as_array().unwrap().iter();
        let overlay = overlay.map(|address| address.as_str().unwrap().parse().unwrap());
        for address in pod.address.map(|address| address.address()).into_iter().chain(overlay) {
            let deadline = Instant::now() + PATIENCE;
            let answer = wireloom_lab::measure::ping(self.host(host), address, deadline).unwrap();
            assert!(answer.is_some(), "{host} gets no echo from {node} at {address}");
        }
    }
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&run(host, "wireloom status -o json").stdout).unwrap_or_default()
}

fn count(host: &Host, what: &str) -> usize {
    status(host)[what].as_array().map_or(0, Vec::len)
}

/// The peers of a WireGuard configuration, by their lines.
fn sections(conf: &str) -> Vec<&str> {
    conf.split("\n\n").map(str::trim).collect()
}

#[test]
fn a_laptop_joins_by_itself_and_whoever_reads_the_cluster_sees_what_agents_see() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(cluster);
    let cluster = Cluster::start();
    let (gateway, laptop) = (cluster.host("ams-1"), cluster.host("laptop"));
    for name in NODES {
        within(PATIENCE, "all nodes are in the mesh", || {
            count(cluster.host(name), "nodes") == NODES.len()
                && status(cluster.host(name))["gateway"] == true
        });
    }

    // kgctl's verbs, by the API alone, from a machine that is no node. It is told nothing of the agents' settings.
    let asked = |line: &str| ok(laptop, &format!("wireloom {line} {CLUSTER}"));
    within(PATIENCE, "what nodes hold is published", || {
        asked("graph -f json") == ok(gateway, "wireloom graph -f json")
    });
    assert!(asked("graph -f kgctl").starts_with("digraph kilo"));
    let theirs = asked("showconf node ams-1");
    let own = ok(gateway, "wireloom showconf node ams-1");
    assert_eq!(sections(&theirs), sections(&own));
    assert!(theirs.contains("[Interface]\nListenPort = 51820\n"), "{theirs}");
    for (form, begin) in
        [("json", "{"), ("yaml", "apiVersion: kilo.squat.ai/v1alpha1"), ("wireguard", "[Peer]")]
    {
        let line = format!("showconf node waw-1 --as-peer --allowed-ips 10.43.0.0/16 -o {form}");
        let shown = asked(&line);
        assert!(shown.starts_with(begin) && shown.contains("10.43.0.0/16"), "{form}: {shown}");
    }

    let before = NetworkState::of(laptop);
    let connect = |more: &str| {
        let line =
            format!("connect {CLUSTER} -a 10.5.0.1/32,fd05::1/128 --resync-period 1s {more}");
        wireloom(laptop, &line)
    };
    let child = connect("laptop --allowed-ips 10.96.0.0/16");
    within(PATIENCE, "the laptop has its tunnels", || count(laptop, "peers") == 2);
    assert_eq!(cluster.peers().trim(), "peer.kilo.squat.ai/laptop");
    for name in NODES {
        cluster.reaches("laptop", name);
    }
    assert!(ok(laptop, "ip route show 10.96.0.0/16").contains("wl0"));
    assert!(asked("showconf peer laptop").contains("PersistentKeepalive = 10"));

    // What changes in the mesh while it is there comes to it.
    let site = "kilo.squat.ai/allowed-location-ips=192.0.2.128/25";
    cluster.api.kubectl(["annotate", "node", "waw-1", site]).unwrap();
    within(PATIENCE, "a new network is routed to", || {
        ok(laptop, "ip route show 192.0.2.128/25").contains("wl0")
    });

    let ended = child.stop(SOON).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(cluster.peers(), "");
    NetworkState::of(laptop).assert_same(&before);

    // A Peer that somebody made keeps its addresses, gets the machine's key, and stays.
    let mut peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": "guest" },
        "spec": { "allowedIPs": ["10.6.0.1/32"], "publicKey": wireloom_tests::Keys::new().public },
    });
    cluster.api.apply(&peer.to_string()).unwrap();
    let child = connect("guest");
    within(PATIENCE, "the guest has its tunnels", || count(laptop, "peers") == 2);
    assert!(ok(laptop, "ip address show dev wl0").contains("10.6.0.1/32"));
    let ended = child.stop(SOON).unwrap();
    assert!(
        ended.status.success() && ended.stderr.contains("was there before"),
        "{}",
        ended.stderr
    );
    peer = serde_json::from_str(&cluster.api.kubectl(["get", "peer", "guest", "-o=json"]).unwrap())
        .unwrap();
    assert_eq!(peer["spec"]["allowedIPs"], json!(["10.6.0.1/32"]));
    NetworkState::of(laptop).assert_same(&before);
}
