//! `wireloom status`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use wireloom_agent::control::{ControlError, Request};
use wireloom_agent::device::{PathReport, TunnelDevice as _, UapiClient};
use wireloom_agent::status::{PeerReport, PeerState, Status};
use wireloom_agent::view;
use wireloom_dataplane::uapi_socket;

use crate::down::AgentArgs;
use crate::output::{self, Output, OutputArg};

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArg,
}

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status: Status = match args.agent.ask(Request::Status) {
        Ok(status) => status,
        Err(error) => return bare_device(args, error),
    };
    match args.output.output {
        Output::Json => output::json(&status)?,
        Output::Text => {
            output::line(&summary(&status))?;
            output::line(&nodes(&status))?;
            output::line(&peers(&status.peers))?;
            for problem in &status.problems {
                output::line(&format!(
                    "{}: {}: {}",
                    problem.severity, problem.subject, problem.message
                ))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A device that no agent looks after, such as that of `wireloom tunnel`, answers by its own socket.
fn bare_device(args: &StatusArgs, error: anyhow::Error) -> anyhow::Result<ExitCode> {
    let not_running = matches!(error.downcast_ref(), Some(ControlError::NotRunning { .. }));
    let directory = Path::new(uapi_socket::DIRECTORY);
    let socket = uapi_socket::path(directory, args.agent.interface.as_str());
    if !not_running || !socket.exists() {
        return Err(error);
    }
    let status = UapiClient::new(&socket).status()?;
    let reports = view::peer_reports(&status, None);
    let path = PathReport::from(status.path);
    match args.output.output {
        Output::Json => {
            let interface = &args.agent.interface;
            output::json(
                &serde_json::json!({ "interface": interface, "peers": reports, "path": path }),
            )?;
        }
        Output::Text => {
            output::line(&path_lines(&path).join("\n"))?;
            output::line(&peers(&reports))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(status: &Status) -> String {
    let mut lines = Vec::new();
    let name = status.node.as_ref().map_or("(not in the mesh)", |name| name.as_str());
    let role = match (&status.home, status.gateway) {
        (_, true) => "gateway".to_owned(),
        (Some(home), false) => format!("home gateway {home}"),
        (None, false) => "no gateway".to_owned(),
    };
    let location = status.location.as_ref().map_or("-", |location| location.as_str());
    lines.push(format!("{name} in {location}, {role}"));
    let list = |values: &[std::net::IpAddr]| {
        values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    lines.push(format!(
        "  interface {}  port {}  mtu {}  addresses {}",
        status.interface,
        status.listen_port.map_or_else(dash, |port| port.to_string()),
        status.mtu.map_or_else(dash, |mtu| mtu.to_string()),
        list(&status.overlay_addresses),
    ));
    lines.push(format!("  public key {}", status.public_key));
    lines.extend(path_lines(&status.path));
    if let Some(reason) = &status.stale {
        lines.push(format!("  the mesh may be out of date: {reason}"));
    }
    lines.join("\n") + "\n"
}

/// How packets move, as far as the device says.
fn path_lines(path: &PathReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(engine) = &path.engine {
        lines.push(format!("  engine {engine}"));
    }
    let offload = |(name, on): (&String, &bool)| {
        if *on { name.clone() } else { format!("{name} off") }
    };
    if !path.offloads.is_empty() {
        let offloads: Vec<String> = path.offloads.iter().map(offload).collect();
        lines.push(format!("  offloads {}", offloads.join(", ")));
    }
    if !path.drops.is_empty() {
        let drops: Vec<String> =
            path.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        lines.push(format!("  dropped {}", drops.join(", ")));
    }
    lines
}

fn nodes(status: &Status) -> String {
    let mut table = output::table(&["NODE", "LOCATION", "HOME", "ADDRESSES"]);
    for node in &status.nodes {
        let addresses: Vec<String> =
            node.overlay_addresses.iter().map(ToString::to_string).collect();
        table.add_row([
            node.name.to_string(),
            node.location.clone(),
            node.home.as_ref().map_or_else(dash, ToString::to_string),
            addresses.join(" "),
        ]);
    }
    table.to_string() + "\n"
}

fn peers(peers: &[PeerReport]) -> String {
    let mut table = output::table(&["PEER", "STATE", "HANDSHAKE", "ENDPOINT", "RECEIVED", "SENT"]);
    for peer in peers {
        let state = match peer.state {
            PeerState::Connected => "connected",
            PeerState::Idle => "idle",
            PeerState::Waiting => "waiting",
            PeerState::Unreached => "unreached",
        };
        table.add_row([
            peer.name.clone(),
            state.to_owned(),
            peer.handshake_age.map_or_else(
                || "never".to_owned(),
                |age| format!("{} ago", humantime::format_duration(Duration::from_secs(age))),
            ),
            peer.endpoint.map_or_else(dash, |endpoint| endpoint.to_string()),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
        ]);
    }
    table.to_string()
}

/// What stands for a value that is not known.
fn dash() -> String {
    "-".to_owned()
}

/// A count of bytes for people: `1.5 MiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_for_people() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
