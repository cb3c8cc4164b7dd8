//! One machine of a lab: a thread in a network and a mount namespace of its own.
//!
//! Namespaces belong to threads, and a process started by a thread inherits them. So a host is a thread that runs what
//! it is sent. Its mount namespace has an empty `/run`, so that programs on several hosts keep their sockets apart, and
//! a `/sys` that shows the host's own links. Both namespaces are anonymous: they end with the thread and the processes
//! that it started.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread::{self, JoinHandle};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
    move_mount, open_tree,
};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::Error;

type Task = Box<dyn FnOnce() + Send>;

/// A machine of a lab. Dropping it ends its thread, which kills the programs that still run on it.
#[derive(Debug)]
pub struct Host {
    name: String,
    thread_id: Pid,
    /// `None` only while it is dropped.
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
    /// The programs whose [`Child`](crate::Child) is still there.
    programs: Mutex<Vec<Weak<OwnedFd>>>,
}

/// The kinds of namespaces that a host has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Its mounts.
    Mount,
    /// Its network.
    Network,
}

/// Whose network a host is on.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// Another host's: the two differ in what they have mounted.
    Of(&'a Host),
    /// That of the process which holds the lab.
    Ours,
    /// Its own, which has nothing but a loopback link.
    Own,
}

impl Host {
    /// Starts a machine that has nothing but a loopback link.
    ///
    /// # Errors
    ///
    /// [`Error::Privilege`] without root, and whatever the system says to the new namespaces.
    pub fn start(name: &str) -> Result<Self, Error> {
        Self::start_on(name, Network::Own)
    }

    /// Starts a machine on this network.
    ///
    /// # Errors
    ///
    /// As of [`Host::start`].
    pub fn start_on(name: &str, network: Network<'_>) -> Result<Self, Error> {
        let io_error = |action| move |source| Error::io(name, action, source);
        let home = match network {
            Network::Of(host) => {
                let file = File::open(host.namespace(Namespace::Network));
                Home::At(file.map_err(io_error("find the other host's network"))?)
            }
            Network::Ours => Home::Here,
            Network::Own => Home::New,
        };
        let (tasks, inbox) = mpsc::channel::<Task>();
        let (ready, entered) = mpsc::sync_channel(1);
        let body = move || {
            let namespaces = enter_namespaces(&home);
            let failed = namespaces.is_err();
            let told = ready.send(namespaces.map(|()| rustix::thread::gettid()));
            if failed || told.is_err() {
                return;
            }
            for task in inbox {
                task();
            }
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(io_error("start its thread"))?;
        let thread_id = entered
            .recv()
            .map_err(|_| Error::Gone { host: name.to_owned() })?
            .map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied => Error::Privilege,
                _ => Error::io(name, "make its namespaces", source),
            })?;
        Ok(Self {
            name: name.to_owned(),
            thread_id,
            tasks: Some(tasks),
            thread: Some(thread),
            programs: Mutex::default(),
        })
    }

    /// Keeps a program in mind, to be killed when the host ends.
    pub(crate) fn remember(&self, program: Weak<OwnedFd>) {
        let mut programs = self.programs();
        programs.retain(|program| program.strong_count() > 0);
        programs.push(program);
    }

    fn programs(&self) -> MutexGuard<'_, Vec<Weak<OwnedFd>>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file of a namespace, for `nsenter`, `ip link ... netns` and the like; good as long as the host lives.
    pub fn namespace(&self, kind: Namespace) -> PathBuf {
        let kind = match kind {
            Namespace::Mount => "mnt",
            Namespace::Network => "net",
        };
        let process = rustix::process::getpid().as_raw_nonzero();
        let thread = self.thread_id.as_raw_nonzero();
        format!("/proc/{process}/task/{thread}/ns/{kind}").into()
    }

    /// Runs a function inside the host and waits for its result. What it opens there, such as a socket, stays in the
    /// host's network wherever it is used later.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if this or an earlier function panicked.
    pub fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let gone = || Error::Gone { host: self.name.clone() };
        let (answer, result) = mpsc::sync_channel(1);
        let task = move || {
            // The receiver waits below for as long as this channel is open.
            let _ = answer.send(task());
        };
        self.tasks.as_ref().ok_or_else(gone)?.send(Box::new(task)).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Writes a file as seen from inside the host, such as a setting in `/proc/sys/net` or something in its `/run`.
    /// Missing folders are made.
    ///
    /// # Errors
    ///
    /// Whatever the system says to the write.
    pub fn write(&self, path: impl Into<PathBuf>, text: impl Into<String>) -> Result<(), Error> {
        let (path, text) = (path.into(), text.into());
        let action = format!("write {}", path.display());
        self.run(move || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, text)
        })?
        .map_err(|source| Error::io(&self.name, action, source))
    }

    /// Gives the host a directory of its own, such as `/etc`: it begins as the machine's and goes its own way, in memory.
    ///
    /// # Errors
    ///
    /// Whatever the system says to an overlay; one is where the machine has no such directory.
    pub fn own(&self, directory: &str) -> Result<(), Error> {
        let place = directory.to_owned();
        self.run(move || overlay(&place))?
            .map_err(|source| Error::io(&self.name, format!("make its own {directory}"), source))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The death signal does it too, yet a program that has just started has not asked for it.
        for program in self.programs().iter().filter_map(Weak::upgrade) {
            // Fails only for one that is gone.
            let _ = pidfd_send_signal(program, Signal::KILL);
        }
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            // A panic of a task was already told to whoever sent it.
            let _ = thread.join();
        }
    }
}

/// The network namespace that a host's thread goes to.
enum Home {
    At(File),
    Here,
    New,
}

fn enter_namespaces(home: &Home) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::FS;
    flags.set(UnshareFlags::NEWNET, matches!(home, Home::New));
    #[expect(
        deprecated,
        reason = "it is unsound with UnshareFlags::FILES alone, which is not here"
    )]
    rustix::thread::unshare(flags)?;
    if let Home::At(network) = home {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if !matches!(home, Home::Here) {
        // The new /sys would hide what is mounted in the old one.
        let groups = control_groups()?;
        mount("sysfs", "/sys", "sysfs", plain, None)?;
        if let Some(groups) = groups {
            move_mount(groups, "", CWD, CONTROL_GROUPS, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
    }
    mount("wireloom-lab", "/run", "tmpfs", plain, c"mode=755")?;
    // Where it is no symbolic link to /run, it is a place of its own.
    let old = Path::new("/var/run");
    if old.is_dir() && fs::canonicalize(old)? != Path::new("/run") {
        mount("wireloom-lab", old, "tmpfs", plain, c"mode=755")?;
    }
    Ok(())
}

/// Lays a layer over a directory, which takes what is written there from now on.
fn overlay(directory: &str) -> io::Result<()> {
    let own = Path::new("/run/own").join(directory.trim_start_matches('/'));
    let [upper, work] = ["upper", "work"].map(|part| own.join(part));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let layers =
        format!("lowerdir={directory},upperdir={},workdir={}", upper.display(), work.display());
    let layers = CString::new(layers)?;
    mount("wireloom-lab", directory, "overlay", MountFlags::empty(), Some(&*layers))?;
    Ok(())
}

/// Where a machine has its control groups.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The machine's control groups, version 1 or 2, as a mount that stands nowhere yet; none where nothing is mounted.
fn control_groups() -> io::Result<Option<OwnedFd>> {
    let copy = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    match open_tree(CWD, CONTROL_GROUPS, copy) {
        Ok(tree) => Ok(Some(tree)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
