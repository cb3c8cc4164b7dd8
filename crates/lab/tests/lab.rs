//! Labs of real namespaces: who reaches whom, and that nothing stays.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wireloom_lab::host::{Namespace, Network};
use wireloom_lab::measure::{ping, throughput};
use wireloom_lab::plan::{Dual, HostPlan};
use wireloom_lab::{Error, Host, Lab, Latency, Layout, Region};
use wireloom_model::InterfaceAddress;
use wireloom_testkit::need;

/// `need!` for all that a lab needs.
macro_rules! need_a_lab {
    () => {
        need!(root);
        for program in wireloom_lab::program::Program::NEEDED {
            need!(program program.name());
        }
    };
}

const SECOND: Duration = Duration::from_secs(1);

/// Two regions on the internet and a third behind NAT.
fn layout() -> Layout {
    let regions = vec![
        Region::new("ams", &["a1", "a2"]),
        Region::new("waw", &["w1"]),
        Region::new("dub", &["d1"]).behind_nat(),
    ];
    Layout { regions, pods: true }
}

fn lab() -> Lab {
    Lab::build(&layout()).unwrap()
}

fn planned<'a>(lab: &'a Lab, name: &str) -> &'a HostPlan {
    lab.plan().hosts().find(|host| host.name == name).unwrap()
}

#[track_caller]
fn reaches(lab: &Lab, from: &str, to: &Dual<InterfaceAddress>) {
    for address in to {
        let answer = ping(lab.host(from).unwrap(), address.address(), Instant::now() + 5 * SECOND);
        assert!(answer.unwrap().is_some(), "{from} does not reach {address}");
    }
}

#[track_caller]
fn misses(lab: &Lab, from: &str, to: &Dual<InterfaceAddress>) {
    for address in to {
        let answer = ping(lab.host(from).unwrap(), address.address(), Instant::now());
        assert_eq!(answer.unwrap(), None, "{from} reaches {address}");
    }
}

#[test]
fn regions_meet_on_the_internet_and_not_by_private_addresses() {
    need_a_lab!();
    let lab = lab();
    let (a1, a2, w1) = (planned(&lab, "a1"), planned(&lab, "a2"), planned(&lab, "w1"));
    reaches(&lab, "a1", &a2.private);
    reaches(&lab, "a1", &a2.public.unwrap());
    reaches(&lab, "a1", &w1.public.unwrap());
    reaches(&lab, "w1", &a1.public.unwrap());
    misses(&lab, "a1", &w1.private);
    misses(&lab, "w1", &a1.private);
    misses(&lab, "internet", &a1.private);
    assert_eq!(lab.latency(), &Latency::None);
}

#[test]
fn behind_nat_a_host_dials_out_and_is_not_dialled() {
    need_a_lab!();
    let lab = lab();
    let (a1, d1) = (planned(&lab, "a1"), planned(&lab, "d1"));
    let router = lab.plan().regions[2].router.clone().unwrap();
    reaches(&lab, "d1", &a1.public.unwrap());
    misses(&lab, "a1", &d1.private);

    // Even with a route to what lies behind it, the router lets nobody in.
    for (router, inside) in router.public.iter().zip(&d1.private) {
        let (via, to) = (router.address().to_string(), inside.network().to_string());
        let internet = lab.host("internet").unwrap();
        let route = internet.exec("ip", ["route", "add", &to, "via", &via], 5 * SECOND).unwrap();
        assert!(route.status.success(), "{route:?}");
    }
    misses(&lab, "internet", &d1.private);
    misses(&lab, "a1", &d1.private);
    reaches(&lab, "d1", &a1.public.unwrap());
}

#[test]
fn pods_reach_out_through_their_host() {
    need_a_lab!();
    let lab = lab();
    let a1 = planned(&lab, "a1");
    let pod = a1.pod.as_ref().unwrap();
    reaches(&lab, "a1", &pod.address);
    reaches(&lab, "a1-pod", &pod.host);
    reaches(&lab, "a1-pod", &a1.private);
    reaches(&lab, "a1-pod", &a1.public.unwrap());
    misses(&lab, "w1", &pod.address);
}

#[test]
fn throughput_is_measured_in_both_families() {
    need_a_lab!();
    need!(program "iperf3");
    let lab = lab();
    for address in planned(&lab, "w1").public.unwrap() {
        let (from, to) = (lab.host("a1").unwrap(), lab.host("w1").unwrap());
        let rate = throughput(from, to, address.address(), 1).unwrap();
        assert!(rate > 1e6, "{rate} bit/s");
    }
    let nowhere: IpAddr = "203.0.113.200".parse().unwrap();
    let error = throughput(lab.host("a1").unwrap(), lab.host("w1").unwrap(), nowhere, 1);
    assert!(matches!(error, Err(Error::Unmeasured { .. })), "{error:?}");
}

#[test]
fn latency_is_applied_or_said_to_be_missing() {
    need_a_lab!();
    let delay = Duration::from_millis(20);
    let regions = vec![Region::new("ams", &["a1"]), Region::new("waw", &["w1"]).latency(delay)];
    let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
    let to = planned(&lab, "w1").public.unwrap()[0].address();
    let from = lab.host("a1").unwrap();
    let trip = ping(from, to, Instant::now() + 5 * SECOND).unwrap().unwrap();
    match lab.latency() {
        Latency::Applied => assert!(trip >= delay, "{trip:?}"),
        Latency::Unavailable { reason } => {
            assert!(!reason.is_empty());
            assert!(trip < delay, "{trip:?}");
        }
        Latency::None => panic!("the layout asks for latency"),
    }
}

#[test]
fn hosts_have_a_run_of_their_own() {
    need_a_lab!();
    let (one, other) = (Host::start("one").unwrap(), Host::start("other").unwrap());
    one.write("/run/wireloom/wl0.sock", "here").unwrap();
    let see = |host: &Host| host.run(|| fs::exists("/run/wireloom/wl0.sock").unwrap()).unwrap();
    assert!(see(&one));
    assert!(!see(&other));
    assert!(!fs::exists("/run/wireloom/wl0.sock").unwrap_or_default());
}

#[test]
fn a_host_gets_directories_of_its_own_that_begin_as_the_machines() {
    need_a_lab!();
    let machines = names("/etc");
    let host = Host::start("host").unwrap();
    host.own("/etc").unwrap();
    assert_eq!(host.run(|| names("/etc")).unwrap(), machines);
    host.write("/etc/wireloom-lab/program", "#!/bin/sh\necho runs\n").unwrap();
    let done = host.exec("chmod", ["700", "/etc/wireloom-lab/program"], 5 * SECOND).unwrap();
    assert!(done.status.success(), "{}", done.stderr);
    let run = host.exec("/etc/wireloom-lab/program", [""; 0], 5 * SECOND).unwrap();
    assert_eq!(run.stdout, "runs\n", "{}", run.stderr);
    assert_eq!(names("/etc"), machines);
    let nowhere = host.own("/no/such/directory").unwrap_err().to_string();
    assert!(nowhere.contains("/no/such/directory"), "{nowhere}");
}

#[test]
fn hosts_on_one_network_have_files_of_their_own() {
    need_a_lab!();
    let one = Host::start("one").unwrap();
    let beside = Host::start_on("beside", Network::Of(&one)).unwrap();
    let outside = Host::start_on("outside", Network::Ours).unwrap();
    let made = one.exec("ip", ["link", "add", "wire", "type", "bridge"], 5 * SECOND).unwrap();
    assert!(made.status.success(), "{}", made.stderr);
    beside.write("/run/here", "").unwrap();
    let links = |host: &Host| host.run(|| names("/sys/class/net")).unwrap();
    assert!(links(&beside).contains(&"wire".to_owned()), "{:?}", links(&beside));
    assert_eq!(links(&outside), names("/sys/class/net"));
    for host in [&one, &outside] {
        assert!(!host.run(|| fs::exists("/run/here").unwrap()).unwrap());
    }
}

#[test]
fn hosts_see_the_control_groups_of_the_machine() {
    need_a_lab!();
    let host = Host::start("host").unwrap();
    let groups = || names("/sys/fs/cgroup");
    assert_eq!(host.run(groups).unwrap(), groups());
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_program_is_told_by_its_output_its_end_and_its_time() {
    need_a_lab!();
    let host = Host::start("host").unwrap();
    let output = host.exec("sh", ["-c", "echo out; echo err >&2; exit 3"], 5 * SECOND).unwrap();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(output.status.code(), Some(3));
    let failed = host.spawn("no-such-program", [""; 0]).unwrap().success(5 * SECOND);
    assert!(matches!(failed, Err(Error::Failed { .. })), "{failed:?}");
    let slow = host.exec("sleep", ["100"], SECOND / 10);
    assert!(matches!(slow, Err(Error::TimedOut { .. })), "{slow:?}");
    let stopped = host.spawn("sleep", ["100"]).unwrap().stop(5 * SECOND).unwrap();
    assert!(!stopped.status.success());
}

#[test]
fn a_program_that_has_just_started_ends_with_its_host() {
    need_a_lab!();
    for _ in 0..30 {
        let host = Host::start("host").unwrap();
        let sleeper = host.spawn("sleep", ["1000"]).unwrap();
        drop(host);
        assert!(!sleeper.wait(5 * SECOND).unwrap().status.success());
    }
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    need_a_lab!();
    let links = links_of_this_machine();
    let lab = lab();
    let namespaces = namespaces(&lab);
    let sleeper = lab.host("a1").unwrap().spawn("sleep", ["1000"]).unwrap();
    assert!(!users(&namespaces).is_empty());
    drop(lab);
    // The host's end has killed the program.
    let output = sleeper.wait(5 * SECOND).unwrap();
    assert!(!output.status.success());
    assert_nothing_left(&namespaces);
    assert_eq!(links_of_this_machine(), links);
}

#[test]
fn a_killed_process_leaves_nothing_of_its_lab() {
    need_a_lab!();
    let links = links_of_this_machine();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder::holds_a_lab", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find_map(|line| line.split_once("holding").map(|(_, ids)| ids.to_owned()));
    let namespaces: Vec<u64> =
        line.unwrap().split_whitespace().map(|inode| inode.parse().unwrap()).collect();
    assert!(!users(&namespaces).is_empty());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_nothing_left(&namespaces);
    assert_eq!(links_of_this_machine(), links);
}

mod holder {
    use super::*;

    #[test]
    #[ignore = "runs for ever: it is the process that another test kills"]
    fn holds_a_lab() {
        let lab = lab();
        let names = ["internet", "a1", "d1", "w1-pod"];
        let _sleepers = names.map(|name| lab.host(name).unwrap().spawn("sleep", ["1000"]).unwrap());
        let inodes = namespaces(&lab).iter().map(|inode| format!(" {inode}")).collect::<String>();
        println!("holding{inodes}");
        loop {
            thread::park();
        }
    }
}

/// The network and mount namespaces of a lab, by inode.
fn namespaces(lab: &Lab) -> Vec<u64> {
    let kinds = [Namespace::Network, Namespace::Mount];
    let files = lab.hosts().flat_map(|host| kinds.map(|kind| host.namespace(kind)));
    files.map(|file| fs::metadata(file).unwrap().ino()).collect()
}

/// The threads of this machine that are in one of these namespaces.
fn users(namespaces: &[u64]) -> Vec<String> {
    let list = |path: String| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string())
    };
    let tasks = list("/proc".to_owned()).flat_map(|process| list(format!("{process}/task")));
    let uses = |task: &String| {
        ["net", "mnt"].iter().any(|kind| {
            let file = fs::metadata(format!("{task}/ns/{kind}"));
            file.is_ok_and(|file| namespaces.contains(&file.ino()))
        })
    };
    tasks.filter(uses).collect()
}

/// Waits for the end of every thread in these namespaces. A namespace without one, and without a mount that holds it,
/// is gone.
#[track_caller]
fn assert_nothing_left(namespaces: &[u64]) {
    let deadline = Instant::now() + 5 * SECOND;
    while !users(namespaces).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", users(namespaces));
        thread::sleep(SECOND / 50);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for namespace in namespaces {
        assert!(!mounts.contains(&format!("[{namespace}]")), "{mounts}");
    }
    assert!(!mounts.contains("wireloom-lab"), "{mounts}");
}

fn links_of_this_machine() -> String {
    let output = Command::new("ip").args(["-o", "link", "show"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
