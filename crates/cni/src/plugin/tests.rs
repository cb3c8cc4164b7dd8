use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use wireloom_model::{Cidr, PrivateKey};
use wireloom_testkit::{in_new_network, ip, need};

use super::*;

/// A node with guidance, whose agent listens if anybody does.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap() };
        node.guidance().write(&node.state()).unwrap();
        node
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn guidance(&self) -> Guidance {
        Guidance {
            agent: self.run().join("wl0.sock"),
            key: PrivateKey::from_random([7; 32]).public_key(),
            mtu: 1370,
            pods: prefixes(&["10.42.1.0/24", "fd42:1::/64"]),
            near: prefixes(&["10.42.2.0/24", "fd42:2::/64"]),
            elsewhere: prefixes(&["10.42.7.0/24", "fd42:7::/64"]),
        }
    }

    fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "wireloom", "runDirectory": self.run(),
            "stateDirectory": self.state(),
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn call(&self, command: &str, namespace: &str, config: &Value) -> Answer {
        let variable = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "c1",
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => namespace,
                _ => return None,
            };
            Some(value.to_owned())
        };
        run(variable, config.to_string().as_bytes())
    }

    fn add(&self, namespace: &str, more: Value) -> Answer {
        self.call("ADD", namespace, &self.config(more))
    }

    fn kept(&self) -> Vec<String> {
        let all = Attachments::of(&self.run()).all().unwrap().pods;
        all.into_iter().map(|attachment| attachment.container).collect()
    }
}

fn prefixes(texts: &[&str]) -> BTreeSet<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn code(answer: &Answer) -> u64 {
    assert!(!answer.is_success, "{}", answer.text);
    serde_json::from_str::<Value>(&answer.text).unwrap()["code"].as_u64().unwrap()
}

/// What bridge and host-local say, with things in it that we know nothing of.
fn previous() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "wl-pods0", "mac": "02:00:00:00:00:01", "mtu": 1500 },
            { "name": "eth0", "sandbox": "/ns", "socketPath": "/x", "pciID": "0000:00" },
        ],
        "ips": [
            { "interface": 1, "address": "10.42.1.5/24", "gateway": "10.42.1.1" },
            { "interface": 1, "address": "fd42:1::5/64", "gateway": "fd42:1::1" },
            { "interface": 0, "address": "192.0.2.1/24" },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "table": 7, "somethingNew": [1, null] }],
        "dns": { "nameservers": ["10.43.0.10"] },
        "ofTomorrow": { "kept": true },
    })
}

/// Gives the namespace of this thread what a bridge gives a pod, and returns its file.
fn pod() -> String {
    ip("link add eth0 mtu 1500 type veth peer name host0");
    ip("link set host0 up");
    ip("link set eth0 up");
    ip("address add 10.42.1.5/24 dev eth0");
    ip("address add fd42:1::5/64 dev eth0 nodad");
    ip("route add default via 10.42.1.1");
    ip("-6 route add default via fd42:1::1");
    // As flannel has it: one route to all pods.
    ip("route add 10.42.0.0/16 via 10.42.1.1");
    let thread = rustix::thread::gettid().as_raw_nonzero();
    format!("/proc/{}/task/{thread}/ns/net", std::process::id())
}

#[test]
fn a_pod_sends_far_what_the_mesh_carries_and_near_what_its_link_does() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let (node, namespace) = (Node::new(), pod());
        let answer = node.add(&namespace, json!({ "prevResult": previous() }));
        assert!(answer.is_success, "{}", answer.text);
        assert_eq!(serde_json::from_str::<Value>(&answer.text).unwrap(), previous());
        let is_limited = |to: &str| ip(&format!("route get {to}")).contains("mtu 1370");
        // Elsewhere, a service, the world, and a location that comes later.
        for far in
            ["10.42.7.9", "10.43.0.10", "198.51.100.1", "10.42.99.1", "fd42:7::9", "2001:db8::1"]
        {
            assert!(is_limited(far), "{far}: {}", ip("route"));
        }
        for near in ["10.42.1.9", "10.42.2.9", "fd42:1::9", "fd42:2::9"] {
            assert!(!is_limited(near), "{near}: {}", ip("-6 route"));
        }
        assert!(node.call("CHECK", &namespace, &node.config(json!({"prevResult": {}}))).is_success);
        // Added twice, nothing changes.
        let (v4, v6) = (ip("route"), ip("-6 route"));
        assert!(node.add(&namespace, json!({ "prevResult": previous() })).is_success);
        assert_eq!((ip("route"), ip("-6 route")), (v4, v6));
        // Others' things are others': only the loss of ours is one.
        ip("route add 198.51.100.0/24 via 10.42.1.1");
        assert!(node.call("CHECK", &namespace, &node.config(json!({}))).is_success);
        ip("route replace default via 10.42.1.1");
        assert_eq!(code(&node.call("CHECK", &namespace, &node.config(json!({})))), 100);
    });
}

#[test]
fn the_bridge_of_our_own_list_gets_the_pods_gateways() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let (node, namespace) = (Node::new(), pod());
        ip("link add wl-pods0 type bridge");
        ip("address add 10.42.9.1/24 dev wl-pods0");
        // Not those that the pod has: it is in the same namespace as the bridge here.
        let ips = json!([
            { "address": "10.43.1.5/24", "gateway": "10.43.1.1" },
            { "address": "fd43:1::5/64", "gateway": "fd43:1::1" },
        ]);
        let more = json!({ "prevResult": { "ips": ips }, "bridge": "wl-pods0" });
        let answer = node.add(&namespace, more);
        assert!(answer.is_success, "{}", answer.text);
        let shown = ip("-o address show dev wl-pods0");
        for gateway in ["10.43.1.1/24", "fd43:1::1/64", "10.42.9.1/24"] {
            assert!(shown.contains(gateway), "{gateway}: {shown}");
        }
        let end = Attachments::of(&node.run()).all().unwrap().pods[0].host_end;
        assert!(ip("-o link show dev host0").starts_with(&format!("{}:", end.unwrap())));
    });
}

#[test]
fn before_an_agent_has_spoken_a_pod_waits() {
    let node = Node::new();
    fs::remove_file(node.state().join("cni.json")).unwrap();
    assert_eq!(code(&node.add("/ns", json!({ "prevResult": previous() }))), 11);
    assert_eq!(node.kept(), [""; 0]);
}

#[test]
fn pods_that_are_lost_are_told_of_once() {
    let node = Node::new();
    let guidance = node.guidance();
    fs::create_dir_all(node.run()).unwrap();
    let bell = UnixListener::bind(&guidance.agent).unwrap();
    for (number, container) in (1..).zip(["a", "b", "c"]) {
        let address = format!("192.0.2.{number}").parse().unwrap();
        put(&node, container);
        let mut attachment = Attachments::of(&node.run()).find(container, "eth0").unwrap().unwrap();
        attachment.addresses.insert(address);
        Attachments::of(&node.run()).put(&attachment).unwrap();
    }
    assert!(node.call("GC", "", &node.config(json!({}))).is_success);
    assert_eq!(node.kept(), [""; 0]);
    bell.set_nonblocking(true).unwrap();
    assert!(bell.accept().is_ok());
    assert!(bell.accept().is_err(), "it is rung once");
}

#[test]
fn a_link_that_is_no_wider_than_the_mesh_is_left_alone() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let (node, namespace) = (Node::new(), pod());
        ip("link set eth0 mtu 1370");
        let (v4, v6) = (ip("route"), ip("-6 route"));
        assert!(node.add(&namespace, json!({ "prevResult": previous() })).is_success);
        assert_eq!((ip("route"), ip("-6 route")), (v4, v6));
        let all = Attachments::of(&node.run()).all().unwrap().pods;
        assert_eq!((all[0].limited.clone(), all[0].off_mesh), (BTreeMap::new(), false));
        let addresses = ["10.42.1.5", "fd42:1::5"].map(|text| text.parse().unwrap());
        assert_eq!(all[0].addresses, BTreeSet::from(addresses), "the bridge's is not the pod's");
    });
}

#[test]
fn a_pod_that_stays_off_the_mesh_has_no_way_elsewhere() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let (node, namespace) = (Node::new(), pod());
        let annotations = json!({ ANNOTATIONS: { ANNOTATION: "false", "other": "true" } });
        let more = json!({ "prevResult": previous(), "runtimeConfig": annotations });
        assert!(node.add(&namespace, more).is_success);
        assert!(Attachments::of(&node.run()).all().unwrap().pods[0].off_mesh);
        let routes = ip("route") + &ip("-6 route");
        assert!(routes.contains("unreachable 10.42.7.0/24"), "{routes}");
        assert!(routes.contains("unreachable fd42:7::/64"), "{routes}");
        ip("route get 10.42.2.9");
        ip("route get 198.51.100.1");
    });
}

#[test]
fn del_succeeds_twice_and_with_everything_gone() {
    let node = Node::new();
    let config = node.config(json!({ "prevResult": previous() }));
    for namespace in ["", "/nonexistent"] {
        assert!(node.call("DEL", namespace, &config).is_success);
    }
    put(&node, "c1");
    fs::remove_file(node.state().join("cni.json")).unwrap();
    for _ in 0..2 {
        assert_eq!(node.call("DEL", "", &config), Answer { text: String::new(), is_success: true });
    }
    assert_eq!(node.kept(), [""; 0]);
    fs::remove_dir_all(node.run()).unwrap();
    assert!(node.call("DEL", "/nonexistent", &config).is_success);
    // Whatever the list's owner calls its version by now.
    for version in [json!("0.2.0"), json!("9.0.0"), Value::Null] {
        put(&node, "c1");
        let config = node.config(json!({ "cniVersion": version }));
        assert!(node.call("DEL", "", &config).is_success, "{version}");
        assert_eq!(node.kept(), [""; 0]);
    }
}

fn put(node: &Node, container: &str) {
    let attachment = Attachment {
        network: "net".to_owned(),
        container: container.to_owned(),
        interface: "eth0".to_owned(),
        host_end: None,
        addresses: BTreeSet::new(),
        limited: BTreeMap::new(),
        off_mesh: false,
    };
    Attachments::of(&node.run()).put(&attachment).unwrap();
}

#[test]
fn gc_frees_exactly_what_is_not_listed() {
    let node = Node::new();
    for container in ["a", "b", "c"] {
        put(&node, container);
    }
    let all = Attachments::of(&node.run()).all().unwrap().pods;
    let others =
        Attachment { network: "other".to_owned(), container: "d".to_owned(), ..all[0].clone() };
    Attachments::of(&node.run()).put(&others).unwrap();
    let listed =
        json!([{ "containerID": "b", "ifname": "eth0" }, { "containerID": "c", "ifname": "net1" }]);
    let answer = node.call("GC", "", &node.config(json!({ "cni.dev/valid-attachments": listed })));
    assert!(answer.is_success, "{}", answer.text);
    assert_eq!(node.kept(), ["b", "d"]);
    for odd in [json!("all"), json!([{ "containerID": "b" }])] {
        let config = node.config(json!({ "cni.dev/valid-attachments": odd }));
        assert_eq!(code(&node.call("GC", "", &config)), 7);
    }
    assert_eq!(node.kept(), ["b", "d"]);
    for none in [json!({}), json!({ "cni.dev/valid-attachments": null })] {
        put(&node, "b");
        assert!(node.call("GC", "", &node.config(none)).is_success);
        assert_eq!(node.kept(), ["d"]);
    }
}

#[test]
fn status_asks_nobody_and_says_whether_an_agent_has_spoken() {
    let node = Node::new();
    let status = || node.call("STATUS", "", &node.config(json!({})));
    assert_eq!(status(), Answer { text: String::new(), is_success: true });
    fs::remove_file(node.state().join("cni.json")).unwrap();
    assert_eq!(code(&status()), 50);
    fs::write(node.state().join("cni.json"), "{").unwrap();
    assert_eq!(code(&status()), 5);
}

#[test]
fn an_agent_that_does_not_answer_holds_a_pod_up_for_no_longer_than_stated() {
    let node = Node::new();
    let guidance = node.guidance();
    // It takes connections as far as the kernel does that for it, and never says a word.
    fs::create_dir_all(node.run()).unwrap();
    let _mute = UnixListener::bind(&guidance.agent).unwrap();
    let mut attachment = Attachment {
        network: String::new(),
        container: "c".to_owned(),
        interface: "eth0".to_owned(),
        host_end: None,
        addresses: BTreeSet::from(["192.0.2.7".parse().unwrap()]),
        limited: BTreeMap::new(),
        off_mesh: false,
    };
    let start = Instant::now();
    tell(Some(&guidance), [&attachment]);
    let waited = start.elapsed();
    assert!(waited >= PATIENCE / 4, "{waited:?}: it is asked");
    assert!(waited <= PATIENCE, "{waited:?}");
    // What the mesh knows the way to is no news.
    attachment.addresses = BTreeSet::from(["10.42.1.7".parse().unwrap()]);
    let start = Instant::now();
    tell(Some(&guidance), [&attachment]);
    assert!(start.elapsed() < PATIENCE / 4);
}

#[test]
fn what_is_no_call_is_refused_with_the_specified_code() {
    let node = Node::new();
    let call = |command: &str, more: Value| code(&node.call(command, "/ns", &node.config(more)));
    assert_eq!(call("ADD", json!({ "cniVersion": "0.2.0", "prevResult": {} })), 1);
    assert_eq!(call("ADD", json!({ "cniVersion": "9.0.0", "prevResult": {} })), 1);
    assert_eq!(call("ADD", json!({})), 7);
    assert_eq!(call("ADD", json!({ "name": null, "prevResult": {} })), 7);
    assert_eq!(call("UPDATE", json!({})), 4);
    assert_eq!(call("CHECK", json!({})), 100);
    assert_eq!(code(&run(|_| Some("ADD".to_owned()), b"{")), 6);
    assert_eq!(code(&run(|_| None, b"{\"cniVersion\": \"1.0.0\", \"name\": \"n\"}")), 4);
    let escape = |name: &str| match name {
        "CNI_COMMAND" => Some("DEL".to_owned()),
        _ => Some("../../etc/passwd".to_owned()),
    };
    let config = node.config(json!({})).to_string();
    assert_eq!(code(&run(escape, config.as_bytes())), 4);
    let refused = node.call("ADD", "/ns", &node.config(json!({ "cniVersion": "0.4.0" })));
    assert!(refused.text.contains("\"cniVersion\":\"0.4.0\""), "{}", refused.text);
    let version = node.call("VERSION", "", &json!({ "cniVersion": "9.9.9" }));
    assert_eq!(
        serde_json::from_str::<Value>(&version.text).unwrap(),
        json!({ "cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
    );
}
