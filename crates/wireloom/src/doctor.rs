//! `wireloom doctor`.

#[cfg(feature = "kubernetes")]
mod cluster;
#[cfg(feature = "kubernetes")]
mod runtime;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::Args;
use wireloom_agent::cleanup::Sockets;
use wireloom_agent::doctor::facts::{self, Key, Source, Subject};
use wireloom_agent::doctor::{self, Finding, Severity};
use wireloom_agent::{Identity, Planner, pods};
use wireloom_dataplane::uapi_socket;
use wireloom_file::key::{self, KeyFileError};
use wireloom_io::udp::SOCKET_BUFFER_BYTES;
use wireloom_kernel::Host;
use wireloom_model::{NodeName, Snapshot};

use crate::output::{self, Output, OutputArg};
use crate::up::{DEFAULT_FILE, MachineArgs};

/// What the agent of this machine is told.
#[cfg(feature = "kubernetes")]
type Told = cluster::AgentArgs;
#[cfg(not(feature = "kubernetes"))]
type Told = MachineArgs;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The mesh file. Without it /etc/wireloom/mesh.toml, unless this is a node of a cluster.
    #[arg(short, long, env = "WIRELOOM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which node of the mesh file this machine is. Without it, the one with this machine's public key.
    #[arg(long, env = "WIRELOOM_NODE", value_name = "NAME")]
    node: Option<NodeName>,
    #[command(flatten)]
    output: OutputArg,
    #[command(flatten)]
    told: Told,
}

/// What is looked at, and what was found on the way there.
struct Examined {
    subject: Subject,
    findings: Vec<Finding>,
}

/// Exit code 0: nothing is wrong; there may be notes. 1: there are errors or warnings.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(async {
        let Examined { subject, mut findings } = args.examine().await?;
        findings.extend(doctor::findings(&facts::gather(&Host::new()?, subject).await?));
        findings.sort();
        anyhow::Ok(findings)
    })?;
    match args.output.output {
        Output::Json => output::json(&findings)?,
        Output::Text => output::line(&text(&findings))?,
    }
    let is_well = findings.iter().all(|finding| finding.severity == Severity::Note);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl DoctorArgs {
    #[cfg(feature = "kubernetes")]
    async fn examine(&self) -> anyhow::Result<Examined> {
        let names_file = self.config.is_some() || self.node.is_some();
        if !names_file && self.told.are_of_a_cluster(Path::new(DEFAULT_FILE).exists())? {
            return cluster::examine(&self.told).await;
        }
        Ok(self.of_file(&self.told.machine()?))
    }

    #[cfg(not(feature = "kubernetes"))]
    async fn examine(&self) -> anyhow::Result<Examined> {
        Ok(self.of_file(&self.told))
    }

    fn of_file(&self, machine: &MachineArgs) -> Examined {
        let file = self.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let mesh = wireloom_file::load(&file).map_err(|error| error.to_string());
        let identity = self.node.clone().map_or(Identity::Key, Identity::Name);
        let written_here = vec![file, machine.key.clone()];
        let subject = subject(machine, (mesh, Source::File), identity, written_here);
        Examined { subject, findings: Vec::new() }
    }
}

/// This machine, as the one with this identity in this mesh.
fn subject(
    machine: &MachineArgs,
    (mesh, source): (Result<Snapshot, String>, Source),
    identity: Identity,
    written_here: Vec<PathBuf>,
) -> Subject {
    let sockets = Sockets { control: machine.run_dir.clone(), uapi: uapi_socket::DIRECTORY.into() };
    Subject {
        mesh,
        source,
        planner: Planner::default(),
        networks: Vec::new(),
        registry: Vec::new(),
        identity,
        key: own_key(&machine.key),
        interface: machine.interface.clone(),
        mark: machine.fwmark,
        sockets,
        udp_buffer: SOCKET_BUFFER_BYTES,
        made: made(),
        written_here,
        lists: directory_of(Path::new(pods::FILE)),
        programs: pods::PROGRAMS.into(),
    }
}

fn directory_of(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

fn own_key(path: &Path) -> Key {
    match key::load(path) {
        Ok(key) => Key::Good(key.public_key()),
        Err(KeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Key::Missing(path.to_owned())
        }
        Err(error) => Key::Unusable(error.to_string()),
    }
}

/// When this program was made, in seconds since 1970: not before its first release, and not before its file.
fn made() -> u64 {
    const FIRST_RELEASE: u64 = 1_767_225_600; // 2026-01-01
    let written =
        |path: &Path| path.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok();
    let file = std::env::current_exe().ok().and_then(|path| written(&path));
    file.map_or(FIRST_RELEASE, |file| file.as_secs().max(FIRST_RELEASE))
}

fn text(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let paragraphs = findings.iter().map(|finding| {
        let Finding { severity, what, why, remedy, .. } = finding;
        format!("{severity}: {what}\n  why: {why}\n  do:  {remedy}\n")
    });
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let verdict = match (errors, warnings) {
        (0, 0) => "nothing is wrong".to_owned(),
        _ => format!("errors: {errors}, warnings: {warnings}"),
    };
    paragraphs.chain([verdict]).collect::<Vec<_>>().join("\n")
}
