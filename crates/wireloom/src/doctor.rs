//! `wireloom doctor`.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::Args;
use wireloom_agent::cleanup::Sockets;
use wireloom_agent::doctor::facts::{self, Key, Subject};
use wireloom_agent::doctor::{self, Finding, Severity};
use wireloom_dataplane::uapi_socket;
use wireloom_file::key::{self, KeyFileError};
use wireloom_io::udp::SOCKET_BUFFER_BYTES;
use wireloom_kernel::Host;

use crate::output::{self, Output, OutputArg};
use crate::up::NodeArgs;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArg,
}

/// Exit code 0: nothing is wrong; there may be notes. 1: there are errors or warnings.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts =
        runtime.block_on(async { facts::gather(&Host::new()?, subject(&args.node)).await })?;
    let findings = doctor::findings(&facts);
    match args.output.output {
        Output::Json => output::json(&findings)?,
        Output::Text => output::line(&text(&findings))?,
    }
    let is_well = findings.iter().all(|finding| finding.severity == Severity::Note);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn subject(args: &NodeArgs) -> Subject {
    let key = match key::load(&args.key) {
        Ok(key) => Key::Good(key.public_key()),
        Err(KeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Key::Missing(args.key.clone())
        }
        Err(error) => Key::Unusable(error.to_string()),
    };
    Subject {
        mesh: wireloom_file::load(&args.config).map_err(|error| error.to_string()),
        identity: args.identity(),
        key,
        interface: args.interface.clone(),
        mark: args.fwmark,
        sockets: Sockets { control: args.run_dir.clone(), uapi: uapi_socket::DIRECTORY.into() },
        udp_buffer: SOCKET_BUFFER_BYTES,
        made: made(),
        written_here: vec![args.config.clone(), args.key.clone()],
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
