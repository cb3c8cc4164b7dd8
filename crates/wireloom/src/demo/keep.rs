//! A demo that stays up: the process that holds it, and how others find it.
//!
//! The holder keeps a lock on its record for as long as it lives, so a record without a lock is a dead holder's. The
//! names under `/run/netns` are symbolic links into the holder's `/proc`: they work for `ip netns exec`, and unlike
//! mounts they keep nothing alive.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use wireloom_lab::Lab;
use wireloom_lab::host::Namespace;
use wireloom_lab::program::Program;

use super::{ShowArgs, show};
use crate::output;

const RECORD: &str = "/run/wireloom-demo.json";

/// Where `ip netns` looks for names, and how ours begin.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "wireloom-demo-";

/// How long a holder may take to end, in seconds.
const PATIENCE: i64 = 10;

/// A kept demo, as its record says.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The holder's process id.
    process: i32,
    /// The namespaces of the lab's hosts, by name.
    hosts: BTreeMap<String, Namespaces>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Namespaces {
    network: PathBuf,
    mount: PathBuf,
}

/// The right to be the holder, for as long as it is not dropped.
struct Claim {
    record: File,
}

/// Starts a holder, and waits until it has told its story.
pub(super) fn start(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    refuse_second()?;
    let (mut ours, theirs) = UnixStream::pair().context("make a socket pair")?;
    let output = args.output.output.to_possible_value();
    let output = output.as_ref().map_or("text", |value| value.get_name());
    let program = std::env::current_exe().context("find the path of this program")?;
    let mut holder = Command::new(program)
        .args(["demo", "hold", "--gateways", &args.gateways.to_string()])
        .args(["--encapsulation", args.encapsulation.as_str()])
        .args(["--encapsulate-by", args.encapsulate_by.as_str()])
        .args(["--seconds", &args.seconds.to_string(), "--output", output])
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .context("start the process that holds the demo")?;
    let mut code = [0];
    match ours.read(&mut code).context("wait for the demo")? {
        0 => {
            // It has said why on standard error.
            holder.wait().context("wait for the process that held the demo")?;
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::from(code[0])),
    }
}

/// Is the holder: builds the mesh, tells of it, and then keeps it until it is told to end (SIGTERM).
pub(super) fn hold(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let mut starter = starter().context("keep the way to the starter")?;
    // A session of its own outlives the terminal.
    rustix::process::setsid().context("leave the terminal")?;
    let mut claim = Claim::take()?.ok_or_else(second)?;
    let kept = Arc::new(AtomicBool::new(false));
    let watched = starter.try_clone().context("keep the way to the starter")?;
    end_with(watched, Arc::clone(&kept));

    // Held until the end, and ended before the claim.
    let (mesh, code) = show::show(args)?;
    claim.publish(&mesh.lab).context("say where the demo is")?;
    show::tell(args, &explanation())?;
    kept.store(true, Ordering::Release);
    silence().context("let go of the terminal")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut end = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let told = starter.write_all(&[u8::from(code != ExitCode::SUCCESS)]);
        told.and_then(|()| starter.shutdown(Shutdown::Both)).context("tell the starter")?;
        end.recv().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// What a person can do with a kept demo.
fn explanation() -> String {
    let program = own_name();
    format!(
        "\nThe mesh stays up. To look around in it, and to take it down:
  {program} demo exec ams-1 -- {program} status
  {program} demo exec ams-1-pod -- ping 10.42.6.2
  {program} demo down"
    )
}

/// How a shell finds this program: by its name alone if PATH leads to it.
fn own_name() -> String {
    let Ok(program) = std::env::current_exe() else { return "wireloom".to_owned() };
    let name = program.file_name().unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|place| place.join(name)).find(|at| at.is_file());
    let leads_here = found.and_then(|at| at.canonicalize().ok()).is_some_and(|at| at == program);
    if leads_here { name.display().to_string() } else { program.display().to_string() }
}

/// The starter's end is standard input. It moves away from there, out of reach of the programs that are started.
fn starter() -> io::Result<UnixStream> {
    let stdin = rustix::stdio::stdin();
    Ok(UnixStream::from(rustix::io::fcntl_dupfd_cloexec(stdin, 3)?))
}

/// Ends this process if the starter is gone before the demo is kept.
fn end_with(mut starter: UnixStream, kept: Arc<AtomicBool>) {
    thread::spawn(move || {
        // The starter never writes, so the read ends with it.
        let _ = starter.read(&mut [0]);
        if !kept.load(Ordering::Acquire) {
            withdraw();
            std::process::exit(1);
        }
    });
}

fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    std::env::set_current_dir("/")
}

/// Ends the kept demo, if there is one.
pub(super) fn down() -> anyhow::Result<ExitCode> {
    let Some(kept) = find()? else {
        output::line("no demo is up")?;
        return Ok(ExitCode::SUCCESS);
    };
    let process = Pid::from_raw(kept.process).context("the demo's record names no process")?;
    let holder = pidfd_open(process, PidfdFlags::empty()).context("find the demo's process")?;
    pidfd_send_signal(&holder, Signal::TERM).context("end the demo's process")?;
    let patience = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
    let ended = rustix::io::retry_on_intr(|| {
        poll(&mut [PollFd::new(&holder, PollFlags::IN)], Some(&patience))
    });
    if ended.context("wait for the demo's end")? == 0 {
        bail!("process {} holds the demo and did not end within {PATIENCE} s", kept.process);
    }
    withdraw();
    output::line("the demo is down")?;
    Ok(ExitCode::SUCCESS)
}

/// Becomes a command inside one of the kept demo's hosts. Returns only if that fails.
pub(super) fn exec(host: &str, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let kept = find()?.context("no demo is up: start one by `wireloom demo --keep`")?;
    let Some(namespaces) = kept.hosts.get(host) else {
        let names: Vec<&str> = kept.hosts.keys().map(String::as_str).collect();
        bail!("the demo has no node {host:?}; it has {}", names.join(", "));
    };
    let nsenter = Program::Nsenter.path().ok_or(wireloom_lab::Error::Missing(Program::Nsenter))?;
    let error = Command::new(nsenter)
        .arg(format!("--net={}", namespaces.network.display()))
        .arg(format!("--mount={}", namespaces.mount.display()))
        .arg("--")
        .args(command)
        .exec();
    Err(error).context("run nsenter")
}

/// Errors if a demo is kept already.
pub(super) fn refuse_second() -> anyhow::Result<()> {
    if live_record()?.is_some() { Err(second()) } else { Ok(()) }
}

fn second() -> anyhow::Error {
    anyhow!(
        "a demo is up already: enter it by `wireloom demo exec`, or end it by `wireloom demo down`"
    )
}

/// The kept demo, once it is complete.
fn find() -> anyhow::Result<Option<Kept>> {
    let Some(mut record) = live_record()? else { return Ok(None) };
    let mut text = String::new();
    record.read_to_string(&mut text).with_context(|| format!("read {RECORD}"))?;
    if text.is_empty() {
        bail!("the demo is still being built: wait for it, or stop it where it was started");
    }
    serde_json::from_str(&text)
        .with_context(|| format!("{RECORD} is no record of a demo"))
        .map(Some)
}

/// The record of a holder that lives. What a dead one left is removed.
fn live_record() -> anyhow::Result<Option<File>> {
    let record = match File::open(RECORD) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        record => record.with_context(|| format!("open {RECORD}"))?,
    };
    match record.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(Some(record)),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {RECORD}")),
        Ok(()) => {
            withdraw();
            Ok(None)
        }
    }
}

impl Claim {
    /// Takes the record. `None` if another holder has it.
    fn take() -> anyhow::Result<Option<Self>> {
        loop {
            let record = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(RECORD)
                .with_context(|| format!("make {RECORD}"))?;
            match record.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                locked => locked.with_context(|| format!("lock {RECORD}"))?,
            }
            // Somebody who took the file for a dead holder's may have removed it before it was locked.
            let here = fs::metadata(RECORD)
                .is_ok_and(|there| record.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
            if here {
                return Ok(Some(Self { record }));
            }
        }
    }

    /// Writes down where the lab's hosts are, and names their networks for `ip netns`.
    fn publish(&mut self, lab: &Lab) -> anyhow::Result<()> {
        fs::create_dir_all(NAMES)?;
        let mut hosts = BTreeMap::new();
        for host in lab.hosts() {
            let network = host.namespace(Namespace::Network);
            let name = Path::new(NAMES).join(format!("{PREFIX}{}", host.name()));
            symlink(&network, &name).with_context(|| format!("make {}", name.display()))?;
            let mount = host.namespace(Namespace::Mount);
            hosts.insert(host.name().to_owned(), Namespaces { network, mount });
        }
        let process = rustix::process::getpid().as_raw_nonzero().get();
        let text = serde_json::to_string(&Kept { process, hosts })?;
        self.record.set_len(0)?;
        Ok(self.record.write_all(text.as_bytes())?)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        withdraw();
    }
}

/// Removes a holder's record and names. What is gone already, or cannot be removed, is no reason to stop.
fn withdraw() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    // It goes only if it is empty; `ip netns` makes it anew when it needs it.
    let _ = fs::remove_dir(NAMES);
    let _ = fs::remove_file(RECORD);
}
