//! `wireloom demo`, as a person or a program uses it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_testkit::need;

const PROGRAM: &str = env!("CARGO_BIN_EXE_wireloom");
const RECORD: &str = "/run/wireloom-demo.json";
const NAME: &str = "/run/netns/wireloom-demo-dub-1";

/// `need!` for all that a demo needs.
macro_rules! need_a_demo {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        for program in wireloom_lab::program::Program::NEEDED {
            need!(program program.name());
        }
    };
}

/// Keeps other tests away, those of other processes too: a kept demo is the only one.
fn alone() -> File {
    let file = File::create(std::env::temp_dir().join("wireloom-demo-test.lock")).unwrap();
    file.lock().unwrap();
    file
}

fn demo(args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("demo").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that everybody reaches everybody, and that the picture lies where the report says.
#[track_caller]
fn assert_whole(output: &Output) {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    assert!(output.status.success(), "{report:#}\n{}", text(&output.stderr));
    assert_eq!(report["nodes"], 6);
    // 6 times 5 ordered pairs, two families, nodes and pods.
    assert_eq!(report["pairs"], 120);
    assert_eq!(report["reachable"], 120, "{report:#}");
    assert_eq!(report["unreachable"], Value::Array(Vec::new()));
    let graph = report["graph"].as_str().unwrap();
    assert!(fs::read_to_string(graph).unwrap().contains("</svg>"));
    fs::remove_file(graph).unwrap();
}

/// The processes that run a node of some demo, leaving out those that are dead but not yet buried.
fn nodes() -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let command_line = |process: &Path| fs::read(process.join("cmdline")).unwrap_or_default();
    let is_node = |line: &String| line.contains("/run/wireloom-demo/mesh.toml");
    entries.map(|process| text(&command_line(&process))).filter(is_node).collect()
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn everybody_reaches_everybody_with_any_number_of_gateways_and_any_encapsulation() {
    need_a_demo!();
    let _alone = alone();
    let always = [("never", "vxlan"), ("always", "vxlan"), ("always", "wireguard")];
    let every =
        ["1", "2", "all"].into_iter().flat_map(|gateways| always.map(|way| (gateways, way)));
    // A location of the demo is one subnet, so that nothing is wrapped.
    let between = ["vxlan", "wireguard"].map(|by| ("1", ("crosssubnet", by)));
    for (gateways, (when, by)) in every.chain(between) {
        let args = ["--gateways", gateways, "--encapsulation", when, "--encapsulate-by", by];
        assert_whole(&demo(&[&["--output", "json", "--seconds", "0"], &args[..]].concat()));
        assert_eq!(nodes(), [""; 0], "with {gateways} gateways, {when} by {by}");
    }
}

#[test]
fn what_the_nodes_of_a_location_pass_on_is_wrapped() {
    need_a_demo!();
    need!(program "nsenter");
    let _alone = alone();
    let args = ["--keep", "--output", "json", "--seconds", "0", "--encapsulation", "always"];
    assert_whole(&demo(&args));
    let status = demo(&["exec", "ams-2", "--", PROGRAM, "status", "--output", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{status:#}");
    let packets = |link: &str, way: &str| {
        let shown = demo(&["exec", "ams-2", "--", "ip", "-j", "-s", "link", "show", link]);
        let links: Value = serde_json::from_slice(&shown.stdout).unwrap();
        links[0]["stats64"][way]["packets"].as_u64().unwrap()
    };
    let device = status["interface"].as_str().unwrap();
    for link in [format!("{device}-v4"), format!("{device}-v6")] {
        // Five other nodes, nodes and pods of each, there and back: none of it goes bare.
        assert!(packets(&link, "rx") >= 20, "{link}");
        assert!(packets(&link, "tx") >= 20, "{link}");
    }
    assert!(demo(&["down"]).status.success());
}

#[test]
fn an_encapsulation_that_the_kernel_lacks_is_refused() {
    need_a_demo!();
    let _alone = alone();
    let has_ipip = fs::exists("/sys/module/ipip").unwrap();
    let output = demo(&["--encapsulation", "always", "--encapsulate-by", "ipip", "--seconds", "0"]);
    if !has_ipip && !output.status.success() {
        assert!(text(&output.stderr).contains("no IPIP links: load the module"), "{output:?}");
    } else {
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_killed_demo_leaves_nothing_and_the_next_one_works() {
    need_a_demo!();
    let _alone = alone();
    let mut first = Command::new(PROGRAM)
        .args(["demo", "--seconds", "0"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("six nodes run", || nodes().len() == 6);
    first.kill().unwrap();
    first.wait().unwrap();
    wait_until("no node runs", || nodes().is_empty());
    assert_whole(&demo(&["--output", "json", "--seconds", "0"]));
}

#[test]
fn a_kept_demo_is_entered_guarded_and_taken_down() {
    need_a_demo!();
    need!(program "nsenter");
    let _alone = alone();
    assert_whole(&demo(&["--keep", "--output", "json", "--seconds", "0"]));
    assert_eq!(nodes().len(), 6);

    let second = demo(&["--seconds", "0"]);
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("wireloom demo down"), "{second:?}");

    let status = demo(&["exec", "dub-1", "--", PROGRAM, "status", "--output", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["node"], "dub-1");
    let pod = demo(&["exec", "dub-1-pod", "--", "ping", "-c", "1", "-w", "5", "10.42.1.2"]);
    assert!(pod.status.success(), "{pod:?}");
    let stranger = demo(&["exec", "nobody", "--", "true"]);
    assert!(text(&stranger.stderr).contains("ams-1"), "{stranger:?}");
    let named = Command::new("ip").args(["netns", "exec", "wireloom-demo-dub-1", "true"]).status();
    assert!(named.unwrap().success());

    let down = demo(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert_eq!(nodes(), [""; 0]);
    assert!(!fs::exists(RECORD).unwrap());
    assert!(fs::symlink_metadata(NAME).is_err());
    assert!(demo(&["down"]).status.success());
}
