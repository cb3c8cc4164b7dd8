//! The control groups of a cluster's containers.
//!
//! Everything else of a cluster ends with its processes; these directories would stay. Each cluster has one directory in
//! every hierarchy of the machine, named after the process that holds it, so that a later one can clear up after a
//! process that was killed. Each node has one below it, and takes that for the whole.
//!
//! Source: `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst` in Linux.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::mount_bind;

/// Where a machine has its control groups.
const ROOT: &str = "/sys/fs/cgroup";

/// What the directories' names begin with.
const PREFIX: &str = "wireloom-cluster-";

/// How long the last processes of a group may take to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// The group, in a node's own, of the programs that are in no container: in version 2 a group has either processes or
/// groups in it.
const PROGRAMS: &str = "programs";

/// A shell's part: it moves itself to the group `$g` of each hierarchy.
pub(crate) const MOVE: &str = r#"for h in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if [ -e "$h$g/cgroup.procs" ]; then echo 0 > "$h$g/cgroup.procs"; fi
done
"#;

/// A cluster's own groups. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Groups {
    name: String,
}

impl Groups {
    /// Names new ones, and removes those of processes that are gone.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        found().filter(|path| !holder_lives(path)).for_each(|stale| remove(&stale));
        let process = std::process::id();
        Self { name: format!("{PREFIX}{process}-{}", COUNT.fetch_add(1, Ordering::Relaxed)) }
    }

    /// Returns what gives the mount namespace of the calling thread a group of the cluster's as if it were the whole, with
    /// a group in it for programs. A namespace of control groups must be begun in that group, or what `/proc` says of a
    /// process leads nowhere.
    pub(crate) fn for_node(&self, node: &str) -> impl FnOnce() -> io::Result<()> + use<> {
        let path = Path::new(&self.name).join(node);
        move || {
            for hierarchy in hierarchies() {
                let mut group = hierarchy.clone();
                for name in &path {
                    let above = group.clone();
                    group.push(name);
                    fs::create_dir_all(&group)?;
                    inherit(&above, &group)?;
                }
                let programs = group.join(PROGRAMS);
                fs::create_dir_all(&programs)?;
                inherit(&group, &programs)?;
                mount_bind(&group, &hierarchy)?;
            }
            Ok(())
        }
    }
}

/// Removes what clusters of processes that are gone have left on the machine. What they started may still be ending; it
/// is waited for.
pub fn clear_up() {
    let deadline = Instant::now() + GRACE;
    loop {
        let stale: Vec<_> = found().filter(|path| !holder_lives(path)).collect();
        stale.iter().for_each(|path| remove(path));
        if stale.is_empty() || Instant::now() > deadline {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let deadline = Instant::now() + GRACE;
        loop {
            let mine: Vec<_> = found().filter(|path| path.ends_with(&self.name)).collect();
            mine.iter().for_each(|path| remove(path));
            if mine.is_empty() || Instant::now() > deadline {
                return;
            }
            // The kernel is still ending what was killed.
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The roots of the machine's hierarchies: of version 2 one, of version 1 one for each kind of resource.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    directories_in(root).filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// Lets a new group do what the one above it may.
fn inherit(above: &Path, group: &Path) -> io::Result<()> {
    // Version 1: a new group has no processor and no memory until it is told.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(above.join(file)) {
            fs::write(group.join(file), value)?;
        }
    }
    // Version 2: the kinds that the group above has are for the groups in it too. What can't be had, runc names.
    if group.ends_with(PROGRAMS) {
        return Ok(());
    }
    if let Ok(kinds) = fs::read_to_string(above.join("cgroup.controllers")) {
        for kind in kinds.split_whitespace() {
            let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{kind}"));
        }
    }
    Ok(())
}

/// The directories of clusters, in all hierarchies.
fn found() -> impl Iterator<Item = PathBuf> {
    let directories = hierarchies().into_iter().flat_map(|hierarchy| directories_in(&hierarchy));
    directories.filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
    })
}

/// Whether the process that a group is named after is still there.
fn holder_lives(group: &Path) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    let process = name.trim_start_matches(PREFIX).split('-').next().unwrap_or_default();
    Path::new("/proc").join(process).exists()
}

/// Removes a group and those below it, as far as no process is in them: the files in them go with them.
fn remove(group: &Path) {
    directories_in(group).for_each(|below| remove(&below));
    let _ = fs::remove_dir(group);
}

fn directories_in(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path())
}

/// The processes in the groups of clusters that this process holds.
#[cfg(test)]
pub(crate) fn processes_of(holder: u32) -> Vec<String> {
    fn within(group: &Path) -> Vec<String> {
        let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let own = own.lines().map(str::to_owned).collect();
        directories_in(group).fold(own, |all: Vec<String>, below| [all, within(&below)].concat())
    }
    groups_of(holder).flat_map(|group| within(&group)).collect()
}

/// Whether clusters that this process holds have groups.
#[cfg(test)]
pub(crate) fn exist_for(holder: u32) -> bool {
    groups_of(holder).next().is_some()
}

#[cfg(test)]
fn groups_of(holder: u32) -> impl Iterator<Item = PathBuf> {
    let name = format!("{PREFIX}{holder}-");
    found().filter(move |path| path.to_string_lossy().contains(&name))
}

#[cfg(test)]
mod tests {
    use wireloom_lab::Host;
    use wireloom_testkit::need;

    use super::*;

    #[test]
    fn a_node_takes_its_group_for_the_whole_and_all_goes_with_the_cluster() {
        need!(root);
        let groups = Groups::new();
        let host = Host::start("node").unwrap();
        host.run(groups.for_node("node")).unwrap().unwrap();
        let all = hierarchies();
        assert!(!all.is_empty(), "no control groups below {ROOT}");
        let make = all.clone();
        host.run(move || make.iter().try_for_each(|root| fs::create_dir(root.join("pod"))))
            .unwrap()
            .unwrap();
        for hierarchy in &all {
            let pod = hierarchy.join(&groups.name).join("node/pod");
            assert!(pod.is_dir(), "{}", pod.display());
        }
        let name = groups.name.clone();
        drop(groups);
        assert!(!found().any(|path| path.ends_with(&name)));
    }

    #[test]
    fn a_group_whose_holder_is_gone_is_removed_by_the_next() {
        need!(root);
        // Higher than any process number (`PID_MAX_LIMIT` in `include/linux/threads.h`).
        let stale = format!("{PREFIX}99999999-0");
        for hierarchy in hierarchies() {
            fs::create_dir_all(hierarchy.join(&stale).join("node")).unwrap();
        }
        drop(Groups::new());
        assert!(!found().any(|path| path.ends_with(&stale)));
    }
}
