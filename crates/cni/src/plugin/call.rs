//! What a runtime asks (CNI specification 1.1, sections 1 and 2).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::directories::Directories;

use super::VERSIONS;
use super::refusal::{Code, Refusal};

/// The capability by which a runtime passes a pod's annotations on, which is also their name in `runtimeConfig`.
pub(crate) const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The key of the agent's run directory, `/run/wireloom` unless it is there.
pub(crate) const RUN_DIRECTORY: &str = "runDirectory";

/// The key of its state directory, `/var/lib/wireloom` unless it is there.
pub(crate) const STATE_DIRECTORY: &str = "stateDirectory";

/// The key of the bridge that needs the pods' gateways, if one does.
pub(crate) const BRIDGE: &str = "bridge";

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: Command,
    pub(super) config: Value,
    /// The version of the specification that the runtime speaks.
    pub(super) version: String,
    /// The network's name.
    pub(super) network: String,
    /// The agent's.
    pub(super) directories: Directories,
    /// The bridge that the pod hangs on, if that is a [`Bridge`](crate::Bridge).
    pub(super) bridge: Option<String>,
}

#[derive(Debug)]
pub(super) enum Command {
    Add { pod: Pod, namespace: String },
    Check { pod: Pod, namespace: String },
    Del { pod: Pod },
    Gc { valid: BTreeSet<(String, String)> },
    Status,
    Version,
}

/// Whom a call is about.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) container: String,
    pub(super) interface: String,
}

impl Call {
    /// Reads the environment and standard input.
    pub(super) fn read(
        variable: impl Fn(&str) -> Option<String>,
        input: &[u8],
    ) -> Result<Self, Refusal> {
        let config: Value = serde_json::from_slice(input).map_err(|error| {
            Refusal::new(Code::Decode, format!("no JSON on standard input: {error}"))
        })?;
        // Before versions could be named there was this one.
        let version = config["cniVersion"].as_str().unwrap_or("0.1.0").to_owned();
        let read = || {
            let command = Command::read(&variable, &config)?;
            // A pod goes, whatever its network has become.
            let is_free = matches!(command, Command::Version | Command::Del { .. });
            if !is_free && !VERSIONS.contains(&version.as_str()) {
                let message =
                    format!("version {version} is not known, those are: {}", VERSIONS.join(", "));
                return Err(Refusal::new(Code::Version, message));
            }
            let network = config["name"].as_str();
            let has_name = network.is_some() || matches!(command, Command::Version);
            if !has_name {
                return Err(Refusal::new(Code::Config, "the network has no name"));
            }
            Ok((command, network.unwrap_or_default().to_owned()))
        };
        let directory = |key: &str, usual: &str| config[key].as_str().unwrap_or(usual).into();
        let directories = Directories {
            run: directory(RUN_DIRECTORY, "/run/wireloom"),
            state: directory(STATE_DIRECTORY, "/var/lib/wireloom"),
        };
        let bridge = config[BRIDGE].as_str().map(ToOwned::to_owned);
        match read() {
            Ok((command, network)) => {
                Ok(Self { command, config, version, network, directories, bridge })
            }
            Err(refusal) if VERSIONS.contains(&version.as_str()) => {
                Err(refusal.in_version(&version))
            }
            Err(refusal) => Err(refusal),
        }
    }
}

impl Command {
    fn read(variable: &impl Fn(&str) -> Option<String>, config: &Value) -> Result<Self, Refusal> {
        let needed = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| Refusal::new(Code::Environment, format!("{name} is not set")))
        };
        let pod = || -> Result<Pod, Refusal> {
            let pod =
                Pod { container: needed("CNI_CONTAINERID")?, interface: needed("CNI_IFNAME")? };
            // Both become part of a file's name.
            for (name, value) in
                [("CNI_CONTAINERID", &pod.container), ("CNI_IFNAME", &pod.interface)]
            {
                if !is_plain(value) {
                    let message = format!("{name} is {value:?}, which is no name");
                    return Err(Refusal::new(Code::Environment, message));
                }
            }
            Ok(pod)
        };
        match needed("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add { pod: pod()?, namespace: needed("CNI_NETNS")? }),
            "CHECK" => Ok(Self::Check { pod: pod()?, namespace: needed("CNI_NETNS")? }),
            "DEL" => Ok(Self::Del { pod: pod()? }),
            "GC" => valid(config).map(|valid| Self::Gc { valid }),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => {
                let message = format!("CNI_COMMAND is {other:?}, which is no command");
                Err(Refusal::new(Code::Environment, message))
            }
        }
    }
}

/// The pods that a runtime still knows. The reference (`GCNetworkList`, `libcni/api.go`) leaves the list out, or has
/// `null` there, where it knows none.
fn valid(config: &Value) -> Result<BTreeSet<(String, String)>, Refusal> {
    const KEY: &str = "cni.dev/valid-attachments";
    let list = match &config[KEY] {
        Value::Null => return Ok(BTreeSet::new()),
        Value::Array(list) => list,
        _ => return Err(Refusal::new(Code::Config, format!("{KEY} is no list"))),
    };
    let pair = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().map(str::to_owned);
        text("containerID").zip(text("ifname"))
    };
    let all: Option<BTreeSet<_>> = list.iter().map(pair).collect();
    all.ok_or_else(|| Refusal::new(Code::Config, format!("{KEY} has an entry without a name")))
}

/// Whether a name is one of the specification's: letters, digits and a few signs, none of which leads elsewhere.
fn is_plain(name: &str) -> bool {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    name.chars().all(is_sign) && !name.starts_with('.')
}
