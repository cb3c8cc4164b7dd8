//! Pods that the reference for a runtime adds, by Debian's plugins and ours: our own list, and another's with ours in it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wireloom_lab::{Child, Host, Output};
use wireloom_testkit::{built, need, promised};
use wireloom_tests::mesh::Mesh;
use wireloom_tests::{NetworkState, SOON, eventually, ok, run, within};

/// Where Debian has its plugins.
const DEBIANS: &str = "/usr/lib/cni";

/// Where the hosts' runtimes have theirs.
const BIN: &str = "/var/lib/cni/bin";

const CNITOOL: &str = "peers/bin/cnitool";

/// The prefixes of the nodes' pods.
const PREFIXES: [&str; 2] = [
    "prefixes = [\"10.71.0.0/24\", \"fd71::/64\"]",
    "prefixes = [\"10.72.0.0/24\", \"fd72::/64\"]",
];

macro_rules! need_all {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ip");
        need!(program "nsenter");
        need!(program "ping");
        need!(program "sysctl");
        need!(program "/usr/lib/cni/bridge");
        need!(built CNITOOL);
    };
}

/// A mesh of two nodes with a runtime each.
struct Runtimes {
    mesh: Mesh,
}

impl Runtimes {
    fn new() -> Self {
        let mesh = Mesh::new();
        mesh.write(&mesh.text(PREFIXES[0], PREFIXES[1]));
        for host in [&mesh.pair.a, &mesh.pair.b] {
            // What runtimes remember of pods is the host's own; its /run takes no programs.
            host.own("/var/lib").unwrap();
            host.run(|| -> std::io::Result<()> {
                fs::create_dir_all("/run/cni/net.d")?;
                fs::create_dir_all(BIN)?;
                for entry in fs::read_dir(DEBIANS)? {
                    let entry = entry?;
                    symlink(entry.path(), Path::new(BIN).join(entry.file_name()))?;
                }
                Ok(())
            })
            .unwrap()
            .unwrap();
        }
        Self { mesh }
    }

    fn up(&self, name: &str, mode: &str) -> Child {
        let more = format!(
            "{mode} --cni-path /run/cni/net.d/10-wireloom.conflist --cni-bin /var/lib/cni/bin"
        );
        self.mesh.up_with(name, &more)
    }

    fn host(&self, name: &str) -> &Host {
        self.mesh.host(name)
    }
}

/// Runs a script of a shell.
fn shell(host: &Host, script: &str) -> Output {
    host.exec("sh", ["-c", script], Duration::from_secs(240)).unwrap()
}

/// The reference's command line. What it is told beside it stands before.
fn cnitool(arguments: &str) -> String {
    format!(
        "CNI_PATH=/var/lib/cni/bin NETCONFPATH=/run/cni/net.d {} {arguments}",
        built(CNITOOL).display()
    )
}

/// Has a runtime do something about a pod, and returns what the plugins say.
fn asked(host: &Host, verb: &str, network: &str, pod: &str) -> Value {
    let done = shell(host, &cnitool(&format!("{verb} {network} /run/netns/{pod}")));
    assert!(done.status.success(), "{verb} {pod}: {}{}", done.stdout, done.stderr);
    serde_json::from_str(&done.stdout).unwrap_or_default()
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|entry| entry["address"].as_str().unwrap().split('/').next().unwrap().to_owned())
        .collect()
}

fn in_pod(host: &Host, pod: &str, line: &str) -> Output {
    run(host, &format!("nsenter --net=/run/netns/{pod} {line}"))
}

/// The files of a directory, but for what `host-local` keeps beside its leases.
fn names(host: &Host, directory: &str) -> Vec<String> {
    let listed = run(host, &format!("ls {directory}")).stdout;
    let is_kept = |name: &&str| !name.starts_with("last_reserved_ip") && *name != "lock";
    listed.lines().filter(is_kept).map(str::to_owned).collect()
}

const LIST: &str = "/run/cni/net.d/10-wireloom.conflist";

/// Our plugin among those of a host's runtime.
const PROGRAM: &str = "/var/lib/cni/bin/wireloom";

fn has(host: &Host, path: &str) -> bool {
    run(host, &format!("test -e {path}")).status.success()
}

#[test]
fn pods_of_two_locations_are_added_reached_checked_and_gone() {
    need_all!();
    let runtimes = Runtimes::new();
    let before = NetworkState::of(runtimes.host("a"));
    let (a, _b) = (runtimes.up("a", "--cni"), runtimes.up("b", "--cni"));
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        let host = runtimes.host(name);
        eventually("the runtime is told", || has(host, LIST));
        ok(host, "ip netns add pod");
        // What the plugin loopback does.
        ok(host, "ip -n pod link set lo up");
        pods.push((host, addresses(&asked(host, "add", "wireloom", "pod"))));
        asked(host, "check", "wireloom", "pod");
    }
    for (from, _) in &pods {
        for to in pods.iter().flat_map(|(_, addresses)| addresses) {
            within(SOON, &format!("{} reaches {to}", from.name()), || {
                in_pod(from, "pod", &format!("ping -c 1 -W 1 {to}")).status.success()
            });
        }
    }
    // An agent that ends for good takes nothing from pods that run, and what it said to the runtime.
    let host = runtimes.host("a");
    let list = ok(host, &format!("cat {LIST}"));
    ok(host, "wireloom down");
    assert!(a.wait(SOON).unwrap().status.success());
    assert!(!has(host, LIST));
    assert!(has(host, PROGRAM), "a runtime that remembers the list ends the pod by it");
    assert!(in_pod(host, "pod", "ping -c 1 -W 5 10.71.0.1").status.success());
    // The next one finds the address taken.
    let a = runtimes.up("a", "--cni");
    eventually("the runtime is told the same", || run(host, &format!("cat {LIST}")).stdout == list);
    ok(host, "ip netns add second");
    let second = addresses(&asked(host, "add", "wireloom", "second"));
    assert!(!pods[0].1.iter().any(|taken| second.contains(taken)), "{second:?}");
    // Gone with its namespace before the runtime says so, and again.
    ok(host, "ip netns delete pod");
    for pod in ["pod", "pod", "second", "second"] {
        asked(host, "del", "wireloom", pod);
    }
    ok(host, "ip netns delete second");
    assert_eq!(names(host, "/run/wireloom/pods"), [""; 0]);
    assert_eq!(names(host, "/run/wireloom/leases/wireloom"), [""; 0]);
    ok(host, "wireloom down");
    assert!(a.wait(SOON).unwrap().status.success());
    assert!(!has(host, PROGRAM));
    NetworkState::of(host).assert_same(&before);
}

#[test]
fn two_hundred_pods_at_once_without_an_error_or_a_leak() {
    need_all!();
    const PODS: usize = 200;
    let runtimes = Runtimes::new();
    let _a = runtimes.up("a", "--cni");
    let host = runtimes.host("a");
    eventually("the runtime is told", || has(host, LIST));
    let all = |verb: &str| {
        let each = cnitool(&format!("{verb} wireloom /run/netns/p$i"));
        let script = format!(
            "for i in $(seq {PODS}); do ({each} >/run/{verb}.$i 2>&1 || {{ echo p$i; cat /run/{verb}.$i; }}) & done; wait"
        );
        let done = shell(host, &script);
        assert_eq!(done.stdout, "", "{verb}: those failed");
    };
    shell(host, &format!("for i in $(seq {PODS}); do ip netns add p$i; done"));
    let links = ok(host, "ip -o link").lines().count();
    all("add");
    let mut given = BTreeSet::new();
    for number in 1..=PODS {
        let result: Value =
            serde_json::from_str(&ok(host, &format!("cat /run/add.{number}"))).unwrap();
        given.extend(addresses(&result));
    }
    assert_eq!(given.len(), 2 * PODS, "an address of each family for each pod");
    assert_eq!(names(host, "/run/wireloom/pods").len(), PODS);
    assert_eq!(names(host, "/run/wireloom/pod-addresses").len(), 2 * PODS);
    all("check");
    all("del");
    assert_eq!(names(host, "/run/wireloom/pods"), [""; 0]);
    assert_eq!(names(host, "/run/wireloom/pod-addresses"), [""; 0]);
    assert_eq!(names(host, "/run/wireloom/leases/wireloom"), [""; 0]);
    eventually("their links are gone", || ok(host, "ip -o link").lines().count() == links);
}

/// Another plugin's list, as its owner writes it.
fn anothers(mtu: u32) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "other",
        "plugins": [{
            "type": "bridge", "bridge": "other0", "isGateway": true, "mtu": mtu,
            "ipam": {
                "type": "host-local", "dataDir": "/run/other",
                "ranges": [[{ "subnet": "10.71.0.0/24" }], [{ "subnet": "fd71::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        }],
    });
    format!("{list}\n")
}

const OTHERS: &str = "/run/cni/net.d/05-other.conflist";

#[test]
fn behind_another_plugin_far_packets_fit_the_mesh_and_near_ones_the_link() {
    need_all!();
    let runtimes = Runtimes::new();
    let _b = runtimes.up("b", "--cni");
    let (a, b) = (runtimes.host("a"), runtimes.host("b"));
    let agent = runtimes.up("a", "--cni-chain");
    // Alone, nothing is written that pods would start on.
    eventually("it says that there is nobody to be chained to", || {
        ok(a, "wireloom status").contains("no plugin has a list there yet")
    });
    assert_eq!(names(a, "/run/cni/net.d"), [""; 0]);
    a.write(OTHERS, anothers(1500)).unwrap();
    let is_chained = || ok(a, &format!("cat {OTHERS}")).contains("wireloom");
    let soon = |what: &str| {
        let begin = Instant::now();
        eventually(what, is_chained);
        assert!(begin.elapsed() < CHAINED, "{what}, after {:?}", begin.elapsed());
    };
    soon("ours is in the list");

    for (host, network, pods) in [(a, "other", &["one", "two"][..]), (b, "wireloom", &["far"])] {
        for pod in pods {
            ok(host, &format!("ip netns add {pod}"));
            let result = asked(host, "add", network, pod);
            host.write(format!("/run/{pod}.json"), result.to_string()).unwrap();
        }
    }
    let of = |host: &Host, pod: &str| {
        addresses(&serde_json::from_str(&ok(host, &format!("cat /run/{pod}.json"))).unwrap())
    };
    let mtu: u64 =
        serde_json::from_str::<Value>(&ok(a, "wireloom status -o json")).unwrap()["pod_mtu"]
            .as_u64()
            .unwrap();
    assert!(mtu < 1500);
    let ping = |to: &str, size: u64| {
        let payload = size - if to.contains(':') { 48 } else { 28 };
        in_pod(a, "one", &format!("ping -M do -c 1 -W 2 -s {payload} {to}"))
    };
    for to in of(b, "far") {
        within(SOON, &format!("{to} is reached"), || ping(&to, mtu).status.success());
        let larger = ping(&to, mtu + 1);
        let said = larger.stdout + &larger.stderr;
        assert!(
            !larger.status.success()
                && said.contains(&format!("mtu{}{mtu}", if to.contains(':') { ": " } else { "=" })),
            "{said}"
        );
    }
    for to in of(a, "two") {
        let near = ping(&to, 1500);
        assert!(near.status.success(), "{to}: {}{}", near.stdout, near.stderr);
    }
    asked(a, "check", "other", "one");

    // Its owner writes the list anew, and gets its own back when we leave.
    a.write(OTHERS, anothers(1400)).unwrap();
    soon("ours is in the new list");
    ok(a, "wireloom down");
    assert!(agent.wait(SOON).unwrap().status.success());
    assert_eq!(ok(a, &format!("cat {OTHERS}")), anothers(1400));
    assert_eq!(names(a, "-A /run/cni/net.d"), ["05-other.conflist"]);
    for pod in ["one", "two"] {
        asked(a, "del", "other", pod);
    }
}

#[test]
fn a_pod_off_the_mesh_stays_off_what_joins_later() {
    need_all!();
    let runtimes = Runtimes::new();
    let (_a, _b) = (runtimes.up("a", "--cni"), runtimes.up("b", "--cni"));
    let (host, far) = (runtimes.host("a"), runtimes.host("b"));
    let all = ["10.72.0.1", "fd72::1", "10.73.0.1", "fd73::1"];
    for address in all {
        ok(far, &format!("ip address add {address} dev lo"));
    }
    eventually("the runtime is told", || has(host, LIST));
    for pod in ["loner", "other"] {
        ok(host, &format!("ip netns add {pod}"));
    }
    let others = addresses(&asked(host, "add", "wireloom", "other"));
    let annotations =
        json!({ "io.kubernetes.cri.pod-annotations": { "wireloom.dev/mesh": "false" } });
    let add = cnitool("add wireloom /run/netns/loner");
    let done = shell(host, &format!("CAP_ARGS='{annotations}' {add}"));
    assert!(done.status.success(), "{}{}", done.stdout, done.stderr);
    // Whatever the pod does to its own routes.
    for family in ["-4", "-6"] {
        in_pod(host, "loner", &format!("ip {family} route flush type unreachable"));
    }
    let later = "prefixes = [\"10.72.0.0/24\", \"fd72::/64\", \"10.73.0.0/24\", \"fd73::/64\"]";
    runtimes.mesh.write(&runtimes.mesh.text(PREFIXES[0], later));
    for to in all {
        let ping = |pod| in_pod(host, pod, &format!("ping -c 1 -W 1 {to}"));
        within(SOON, &format!("another pod reaches {to}"), || ping("other").status.success());
        let told = ping("loner");
        let said = (told.stdout + &told.stderr).to_lowercase();
        assert!(!told.status.success(), "{to} is reached: {said}");
        assert!(said.contains("host unreachable") || said.contains("no route"), "{to}: {said}");
    }
    // The node itself and its other pods are reached.
    for near in ["10.71.0.1", "fd71::1"].into_iter().chain(others.iter().map(String::as_str)) {
        let told = in_pod(host, "loner", &format!("ping -c 1 -W 5 {near}"));
        assert!(told.status.success(), "{near}: {}{}", told.stdout, told.stderr);
    }
    assert!(ok(host, "ip rule").contains("lookup 51109"));
    for pod in ["loner", "other"] {
        asked(host, "del", "wireloom", pod);
    }
    within(SOON, "nothing is left of it", || {
        !ok(host, "ip rule").contains("51109")
            && run(host, "ip route show table 51109").stdout.is_empty()
    });
}

#[test]
fn cleanup_takes_back_what_a_killed_agent_told_the_runtime() {
    need_all!();
    let mesh = Mesh::new();
    mesh.write(&mesh.text(PREFIXES[0], PREFIXES[1]));
    let host = &mesh.pair.a;
    // The usual places, of this host alone.
    for directory in ["/etc", "/opt", "/var/lib"] {
        host.own(directory).unwrap();
    }
    // What the machine itself may have there is not the host's.
    ok(host, "rm -rf /etc/cni /opt/cni");
    ok(host, "mkdir -p /etc/cni/net.d");
    let (list, plugin) = ("/etc/cni/net.d/10-wireloom.conflist", "/opt/cni/bin/wireloom");
    let agent = mesh.up_with("a", "--cni");
    eventually("the runtime is told", || has(host, list) && has(host, plugin));
    host.write("/etc/cni/net.d/87-podman.conflist", "{\"name\": \"podman\"}").unwrap();
    drop(agent);
    eventually("the agent is dead", || !run(host, "wireloom status").status.success());
    let report = ok(host, "wireloom cleanup");
    assert!(report.contains(list) && report.contains(plugin), "{report}");
    assert_eq!(names(host, "-A /etc/cni/net.d"), ["87-podman.conflist"]);
    assert!(!has(host, plugin) && !has(host, "/var/lib/wireloom/cni.json"));
    assert!(!ok(host, "wireloom cleanup").contains("conflist"));
}

/// How soon a list that others write has ours in it: sooner than by looking at everything once in ten seconds.
const CHAINED: Duration = Duration::from_secs(8);

#[test]
fn the_reference_asks_for_status_and_collects_what_is_lost() {
    need_all!();
    let runtimes = Runtimes::new();
    let agent = runtimes.up("a", "--cni");
    let host = runtimes.host("a");
    eventually("the runtime is told", || has(host, LIST));
    ok(host, "ip netns add pod");
    asked(host, "add", "wireloom", "pod");
    assert_eq!(names(host, "/run/wireloom/pods").len(), 1);
    // The same network as a newer runtime asks of it; Debian's plugins are older than that.
    let newer = json!({
        "cniVersion": "1.1.0", "name": "wireloom",
        "plugins": [{ "type": "wireloom", "runDirectory": "/run/wireloom" }],
    });
    host.write("/run/newer/05-newer.conflist", newer.to_string()).unwrap();
    let newer = |arguments: &str| {
        let path = built(CNITOOL);
        let line = format!(
            "CNI_PATH=/var/lib/cni/bin NETCONFPATH=/run/newer {} {arguments}",
            path.display()
        );
        shell(host, &line)
    };
    let status = newer("status wireloom /run/netns/pod");
    assert!(status.status.success(), "{}{}", status.stdout, status.stderr);
    // A kubelet asks every few seconds. On a busy machine one of a few answers shows what it takes.
    let status = "echo '{\"cniVersion\":\"1.1.0\",\"name\":\"wireloom\"}' | \
                  CNI_COMMAND=STATUS CNI_PATH=/ /var/lib/cni/bin/wireloom";
    let spans = (0..10).map(|_| {
        let start = Instant::now();
        assert!(shell(host, status).status.success());
        start.elapsed()
    });
    let least = spans.min().unwrap();
    assert!(least < promised(Duration::from_millis(50)), "{least:?}");

    // A machine that lost power has lost what its runtime knew.
    ok(host, "rm -r /var/lib/cni/results");
    let collected = newer("gc wireloom /run/netns/pod");
    assert!(collected.status.success(), "{}{}", collected.stdout, collected.stderr);
    assert_eq!(names(host, "/run/wireloom/pods"), [""; 0]);

    ok(host, "wireloom down");
    assert!(agent.wait(SOON).unwrap().status.success());
    assert!(
        !newer("status wireloom /run/netns/pod").status.success(),
        "there is no plugin any longer"
    );
}

#[test]
fn pods_have_addresses_of_all_prefixes_and_keep_those_that_are_the_nodes_no_longer() {
    need_all!();
    let runtimes = Runtimes::new();
    let host = runtimes.host("a");
    let prefixes = |text: &str| {
        runtimes.mesh.write(&runtimes.mesh.text(&format!("prefixes = [{text}]"), PREFIXES[1]));
    };
    // Room for one pod each.
    prefixes("\"10.71.0.0/30\", \"10.71.4.0/30\", \"fd71::/64\"");
    let (_a, _b) = (runtimes.up("a", "--cni"), runtimes.up("b", "--cni"));
    eventually("the runtime is told", || has(host, LIST));
    let add = |pod: &str| {
        ok(host, &format!("ip netns add {pod}"));
        ok(host, &format!("ip -n {pod} link set lo up"));
        addresses(&asked(host, "add", "wireloom", pod))
    };
    let both = [add("one"), add("two")];
    assert_eq!(both.each_ref().map(|pod| &*pod[0]), ["10.71.0.2", "10.71.4.2"]);
    let reaches =
        |pod: &str, to: &str| in_pod(host, pod, &format!("ping -c 1 -W 1 {to}")).status.success();
    for pod in ["one", "two"] {
        for to in ["10.71.0.2", "10.71.4.2", "10.72.0.1", "fd72::1"] {
            within(SOON, &format!("{pod} reaches {to}"), || reaches(pod, to));
        }
        asked(host, "check", "wireloom", pod);
    }
    // The node gets others, and pods that run keep what they have.
    prefixes("\"10.71.8.0/24\", \"fd78::/64\"");
    eventually("the runtime is told", || {
        let list = ok(host, &format!("cat {LIST}"));
        list.contains("10.71.8.0/24") && !list.contains("10.71.4.0")
    });
    assert_eq!(add("three"), ["10.71.8.2", "fd78::2"]);
    for pod in ["one", "two"] {
        for to in ["10.71.8.2", "10.71.8.1", "fd78::2"] {
            within(SOON, &format!("{pod} reaches {to}"), || reaches(pod, to));
        }
    }
    let gateways = || ok(host, "ip -o address show dev wl-pods0 scope global");
    assert!(gateways().contains("10.71.0.1/30") && gateways().contains("10.71.4.1/30"));
    for pod in ["one", "two"] {
        asked(host, "del", "wireloom", pod);
        ok(host, &format!("ip netns delete {pod}"));
    }
    within(SOON, "nothing is left of the former prefixes", || gateways().lines().count() == 2);
    assert!(reaches("three", "10.71.8.1"));
    asked(host, "del", "wireloom", "three");
    assert_eq!(names(host, "/run/wireloom/leases/wireloom"), [""; 0]);
}

#[test]
fn pods_start_after_a_reboot_before_the_agent_does_and_no_address_is_lost() {
    need_all!();
    let runtimes = Runtimes::new();
    let (a, b) = (runtimes.host("a"), runtimes.host("b"));
    b.write(OTHERS, anothers(1500).replace("71", "72")).unwrap();
    let agents = [runtimes.up("a", "--cni"), runtimes.up("b", "--cni-chain")];
    eventually("a's runtime is told", || has(a, LIST));
    within(CHAINED, "ours is in b's list", || ok(b, &format!("cat {OTHERS}")).contains("wireloom"));
    let hosts = [(a, "wireloom", "wl-pods0", "10.71.0.1"), (b, "other", "other0", "10.72.0.1")];
    let add = |host: &Host, network: &str| {
        ok(host, "ip netns add pod");
        addresses(&asked(host, "add", network, "pod"))
    };
    let before = hosts.map(|(host, network, ..)| add(host, network));
    drop(agents);
    for (host, network, bridge, _) in hosts {
        // What a machine loses with its power.
        ok(host, "ip netns delete pod");
        ok(host, &format!("ip link delete {bridge}"));
        ok(host, "rm -rf /run/wireloom /run/other");
        assert_eq!(ok(host, "ls /run/cni/net.d").lines().count(), 1, "the list is there");
        let after = add(host, network);
        assert_eq!(names(host, "/run/wireloom/pods").len(), 1);
        assert_eq!(after.len(), 2);
        asked(host, "check", network, "pod");
    }
    for ((host, network, _, gateway), before) in hosts.into_iter().zip(before) {
        assert!(in_pod(host, "pod", &format!("ping -c 1 -W 5 {gateway}")).status.success());
        asked(host, "del", network, "pod");
        ok(host, "ip netns delete pod");
        // No lease keeps what was given out before.
        assert_eq!(add(host, network).len(), before.len());
        assert_eq!(names(host, &format!("{}/{network}", leases(network))).len(), 2);
    }
    let routes = in_pod(b, "pod", "ip route show default").stdout;
    assert!(routes.contains("mtu "), "far packets fit the mesh: {routes}");
    let _agents = [runtimes.up("a", "--cni"), runtimes.up("b", "--cni-chain")];
    for to in ["10.72.0.1", "fd72::1"] {
        within(SOON, &format!("{to} is reached"), || {
            in_pod(a, "pod", &format!("ping -c 1 -W 1 {to}")).status.success()
        });
    }
}

/// Where `host-local` keeps the addresses of a network that are taken.
fn leases(network: &str) -> &'static str {
    if network == "other" { "/run/other" } else { "/run/wireloom/leases" }
}
