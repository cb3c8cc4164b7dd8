//! That a demo which is interrupted takes its cluster with it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wireloom_testkit::{need, wireloom_binary};

#[test]
fn an_interrupted_demo_leaves_nothing() {
    need!(root);
    need!(cluster);
    for program in ["busybox", "containerd", "ldd", "nft", "runc", "sysctl"] {
        need!(program program);
    }
    let mut demo = Command::new(env!("CARGO_BIN_EXE_wireloom-story"))
        .arg("--program")
        .arg(wireloom_binary())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("kubectl apply -k")), "no node joined");
    let holder = child_of(demo.id());
    let (groups, programs) = (groups_of(holder), processes_in(&groups_of(holder)));
    assert!(!groups.is_empty());
    assert!(programs.len() > 6, "containerd and kubelet of three nodes: {programs:?}");

    kill_process(Pid::from_child(&demo), Signal::TERM).unwrap();
    assert!(!demo.wait().unwrap().success());
    assert_eq!(groups_of(holder), [] as [PathBuf; 0]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while programs.iter().chain([&holder]).any(is_there) {
        assert!(Instant::now() < deadline, "of {programs:?} some are still there");
        thread::sleep(Duration::from_millis(20));
    }
}

fn child_of(process: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.trim().parse().unwrap()
}

fn is_there(process: &u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// The control groups of the cluster that this process holds.
fn groups_of(holder: u32) -> Vec<PathBuf> {
    let name = format!("wireloom-cluster-{holder}-");
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = directories_in(root).into_iter().chain([root.to_path_buf()]);
    let groups = hierarchies.flat_map(|hierarchy| directories_in(&hierarchy));
    groups.filter(|group| group.to_string_lossy().contains(&name)).collect()
}

fn processes_in(groups: &[PathBuf]) -> Vec<u32> {
    let mut processes = Vec::new();
    for group in groups {
        let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        processes.extend(own.lines().map(|line| line.parse::<u32>().unwrap()));
        processes.extend(processes_in(&directories_in(group)));
    }
    processes.sort_unstable();
    processes.dedup();
    processes
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}
