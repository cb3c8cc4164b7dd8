//! Taking everything of ours out of a host on which no agent runs, and what [Kilo](kilo) left there.
//!
//! What is to go is decided by pure functions over what was observed; the rest is thin.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use wireloom_kernel::{Change, Host, HostError, diff};
use wireloom_model::InterfaceName;
use wireloom_model::kernel::KernelState;

use crate::control::{self, Listener, listener};
use crate::forwarder;
use crate::heard;
use crate::memory::Memory;
use crate::pods::{self, Outcome};

pub mod kilo;
mod packet_filter;

/// What was done, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is gone now.
    pub removed: Vec<String>,
    /// What was found and left alone, and why.
    pub kept: Vec<String>,
    /// What should be gone and is not, and why.
    pub failed: Vec<String>,
}

/// Why nothing was taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// An agent runs, whose things these are.
    #[error(
        "an agent runs for {interface}{}, and all of this is its own; `wireloom down {interface}` stops it, and \
         it cleans up after itself",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    AgentRuns {
        /// Its interface.
        interface: InterfaceName,
        /// Its process, unless it can't be seen from here.
        pid: Option<i32>,
    },
    /// The host can't be read or changed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Kilo's agent runs, and would make everything anew.
    #[error(
        "Kilo's agent runs (process {pid}) and would make everything anew; delete its DaemonSet first: \
         kubectl -n kube-system delete daemonset kilo"
    )]
    KiloRuns {
        /// Its process.
        pid: i32,
    },
}

/// Where agents and devices have their sockets, each named after its interface.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// The folder of [control sockets](control).
    pub control: PathBuf,
    /// The folder of UAPI sockets.
    pub uapi: PathBuf,
}

impl Sockets {
    /// The interfaces that have a control socket, with who listens there, in order of names.
    pub async fn agents(&self) -> Vec<(InterfaceName, Listener)> {
        let entries = fs::read_dir(&self.control).into_iter().flatten().flatten();
        let mut names: Vec<InterfaceName> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok())
            .collect();
        names.sort();
        let mut agents = Vec::with_capacity(names.len());
        for name in names {
            let listens = listener(&control::socket_path(&self.control, &name)).await;
            agents.push((name, listens));
        }
        agents
    }

    /// The sockets that dead agents left, and those of their devices. Sockets of devices without an agent are somebody
    /// else's, unless the device is `named`.
    pub async fn dead(&self, named: Option<&InterfaceName>) -> Vec<PathBuf> {
        let agents = self.agents().await.into_iter();
        let mut dead: Vec<InterfaceName> = agents
            .filter(|(name, listens)| {
                *listens == Listener::Nobody && named.is_none_or(|named| named == name)
            })
            .map(|(name, _)| name)
            .collect();
        dead.extend(named.filter(|named| !dead.contains(named)).cloned());
        let mut paths = Vec::new();
        for name in dead {
            for directory in [&self.control, &self.uapi] {
                let path = control::socket_path(directory, &name);
                if path.exists() && listener(&path).await == Listener::Nobody {
                    paths.push(path);
                }
            }
        }
        paths
    }
}

/// What of ours is on the host: everything with a mark of ours, whichever agent made it. Whatever stands on one of these
/// links goes with it.
pub async fn ours(host: &Host) -> Result<Vec<Change>, HostError> {
    let mut changes = diff(&KernelState::default(), &host.observe(&[]).await?);
    if !host.forward_accepts()?.is_empty() {
        changes.push(Change::AcceptPassed(0));
    }
    Ok(changes)
}

/// Takes everything of ours out of the host: routes, rules, links, the nftables table, what the container runtime was
/// told, forwarding that dead agents switched on, and the sockets that they left; of these two, those of the `named`
/// interface alone.
///
/// # Errors
///
/// If any agent runs: routes and rules carry no agent's name. If the kernel can't be talked to.
pub async fn clean_up(
    host: &Host,
    sockets: &Sockets,
    named: Option<&InterfaceName>,
) -> Result<Report, CleanupError> {
    for (interface, listens) in sockets.agents().await {
        if let Listener::Agent { pid } = listens {
            return Err(CleanupError::AgentRuns { interface, pid });
        }
    }
    let changes = ours(host).await?;
    let outcome = host.apply(&changes).await?;
    let mut report = Report::default();
    let is_made = |change: &Change| {
        !outcome.failed.iter().any(|error| error.change() == change)
            && !outcome.skipped.contains(change)
    };
    report.removed.extend(changes.iter().filter(|change| is_made(change)).filter_map(thing));
    report.failed.extend(outcome.failed.iter().map(ToString::to_string));
    for (what, outcome) in pods::clean_up(&sockets.control) {
        match outcome {
            Outcome::Removed => report.removed.push(what),
            Outcome::Kept(why) => report.kept.push(format!("{what}: {why}")),
            Outcome::Failed(error) => report.failed.push(format!("cannot remove {what}: {error}")),
        }
    }
    for (memory, outcome) in forwarder::clean_up(&sockets.control, named) {
        let interface = memory.file_stem().unwrap_or_default().display().to_string();
        match outcome {
            Ok(()) => report.removed.push(format!("the forwarding that {interface} needed")),
            Err(error) => report.failed.push(error.to_string()),
        }
    }
    for memory in Memory::all(&sockets.control, heard::EXTENSION, named) {
        report.remove_file(memory.path(), "where peers were heard,");
    }
    for path in sockets.dead(named).await {
        report.remove_file(&path, "the socket");
    }
    Ok(report)
}

impl Report {
    fn remove_file(&mut self, path: &Path, what: &str) {
        let shown = format!("{what} {}", path.display());
        match fs::remove_file(path) {
            Ok(()) => self.removed.push(shown),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.failed.push(format!("cannot remove {shown}: {error}")),
        }
    }
}

/// What a change takes away, in words. `None` for what goes with its link.
pub(crate) fn thing(change: &Change) -> Option<String> {
    Some(change.to_string().strip_prefix("delete ")?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use wireloom_model::kernel::{Address, Nft, Route, RouteKey};

    use super::*;

    #[test]
    fn what_goes_is_told_once() {
        let link: InterfaceName = "wlx".parse().unwrap();
        let route = Route { link: Some(link.clone()), ..Route::default() };
        let mut state = KernelState { nft: Some(Nft::default()), ..KernelState::default() };
        let key = RouteKey { table: 107, ..RouteKey::main("10.7.0.0/24".parse().unwrap()) };
        state.routes.insert(key, route);
        state.addresses.insert(Address { link, address: "10.7.0.1/32".parse().unwrap() });
        let told: Vec<String> =
            diff(&KernelState::default(), &state).iter().filter_map(thing).collect();
        assert_eq!(told, ["the route to 10.7.0.0/24 table 107", "the nftables table"]);
    }

    #[tokio::test]
    async fn sockets_of_the_dead_are_told_from_those_of_the_living_and_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let sockets =
            Sockets { control: folder.path().join("run"), uapi: folder.path().join("uapi") };
        fs::create_dir(&sockets.control).unwrap();
        fs::create_dir(&sockets.uapi).unwrap();
        let path = |directory: &Path, name: &str| directory.join(format!("{name}.sock"));
        let leave =
            |directory: &Path, name: &str| UnixListener::bind(path(directory, name)).unwrap();
        // One agent lives; one is dead, and its device with it; one device never had an agent.
        let _lives = leave(&sockets.control, "alive");
        drop(leave(&sockets.control, "dead"));
        drop(leave(&sockets.uapi, "dead"));
        drop(leave(&sockets.uapi, "foreign"));
        let own = [path(&sockets.control, "dead"), path(&sockets.uapi, "dead")];
        assert_eq!(sockets.dead(None).await, own);
        assert_eq!(sockets.dead(Some(&"alive".parse().unwrap())).await, [] as [PathBuf; 0]);
        let named = sockets.dead(Some(&"foreign".parse().unwrap())).await;
        assert_eq!(named, [path(&sockets.uapi, "foreign")]);
        let listens: Vec<Listener> =
            sockets.agents().await.into_iter().map(|(_, listens)| listens).collect();
        let pid = i32::try_from(std::process::id()).ok();
        assert_eq!(listens, [Listener::Agent { pid }, Listener::Nobody]);
    }
}
