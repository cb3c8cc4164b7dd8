//! What a run leaves behind on the machine: nothing, or the run has failed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a process or link that is going away may take.
const GRACE: Duration = Duration::from_secs(10);

/// The programs that our tests start, by at most 15 bytes of their names (proc_pid_comm(5)). One that outlives its test is
/// a fault.
const PROCESSES: [&str; 15] = [
    "boringtun-cli",
    "etcd",
    "flanneld",
    "gotatun",
    "iperf3",
    "kube-apiserver",
    "kube-controller",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "qemu-system-x86",
    "wireguard",
    "wireguard-go",
    "wireloom",
    "wireloom-story",
];

/// Where programs under test write on a node. Hosts of a lab that have such programs have directories of their own.
const DIRECTORIES: [&str; 8] = [
    "/etc/cni",
    "/etc/cni/net.d",
    "/opt/cni",
    "/opt/cni/bin",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/wireloom",
    "/run/wireloom",
];

/// What can be left behind in the machine's own network namespace and on its disk, one line for each thing.
pub(crate) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at the machine.
    pub(crate) fn take() -> Self {
        let mut things = BTreeSet::new();
        let present = DIRECTORIES.into_iter().filter(|directory| Path::new(directory).exists());
        things.extend(present.map(str::to_owned));
        for directory in
            DIRECTORIES.into_iter().chain(["/run/netns", "/run/wireguard", "/sys/class/net"])
        {
            things.extend(names_in(directory).map(|name| format!("{directory}/{name}")));
        }
        for (kind, program, args) in [
            ("route", "ip", ["-4", "route", "show", "table", "all"].as_slice()),
            ("route", "ip", &["-6", "route", "show", "table", "all"]),
            ("rule", "ip", &["-4", "rule", "show"]),
            ("rule", "ip", &["-6", "rule", "show"]),
            ("nftables", "nft", &["list", "tables"]),
        ] {
            let listing = Command::new(program).args(args).output();
            let listing = listing.map(|done| done.stdout).unwrap_or_default();
            let listing = String::from_utf8_lossy(&listing).into_owned();
            things.extend(listing.lines().map(|line| format!("{kind} {}", without_lifetime(line))));
        }
        things.extend(processes());
        things.extend(control_groups());
        Self(things)
    }

    /// Fails if something is on the machine now that was not there at the time of the snapshot.
    pub(crate) fn compare(&self) -> Result<()> {
        let deadline = Instant::now() + GRACE;
        loop {
            let new: Vec<String> = Self::take().0.difference(&self.0).cloned().collect();
            if new.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind on this machine:\n  {}", new.join("\n  "));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Returns the processes that bear a name of ours, with their numbers.
fn processes() -> impl Iterator<Item = String> {
    names_in("/proc").filter_map(|process| {
        let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
        let name = name.trim_end();
        PROCESSES.contains(&name).then(|| format!("process {process} ({name})"))
    })
}

/// Returns the control groups of clusters.
fn control_groups() -> impl Iterator<Item = String> {
    let root = "/sys/fs/cgroup";
    let places = names_in(root).map(move |name| format!("{root}/{name}")).chain([root.to_owned()]);
    places.flat_map(|place| {
        let groups = names_in(&place).filter(|name| name.starts_with("wireloom-"));
        groups.map(|name| format!("{place}/{name}")).collect::<Vec<_>>()
    })
}

fn names_in(directory: &str) -> impl Iterator<Item = String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Takes out what changes by itself: routes learnt from router advertisements count their seconds.
fn without_lifetime(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "expires" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_ages_stays_the_same() {
        let route = "default via fe80::1 dev eth0 proto ra metric 1024 expires 1790sec pref medium";
        assert_eq!(
            without_lifetime(route),
            "default via fe80::1 dev eth0 proto ra metric 1024 pref medium"
        );
    }

    #[test]
    fn what_is_new_is_named() {
        let mut before = Snapshot::take();
        let lo = "/sys/class/net/lo";
        assert!(before.0.remove(lo), "every namespace has a loopback link");
        let new: Vec<String> = Snapshot::take().0.difference(&before.0).cloned().collect();
        assert!(new.iter().any(|thing| thing == lo), "{new:?}");
    }
}
