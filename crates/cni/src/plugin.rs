//! The plugin: what a runtime calls for every pod, last in the list of a network.
//!
//! It makes no link and gives out no address; those before it do. It has the pod's packets to other locations fit the
//! mesh, keeps pods off the mesh that ask for it, has the bridge of our own list serve the pod, and tells the agent of
//! addresses that the mesh does not know the way to. What those before it said passes through it unchanged.

mod bell;
mod call;
mod pod;
mod refusal;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use wireloom_model::InterfaceAddress;

use crate::attachment::{Attachment, Attachments};
use crate::bridge::Bridge;
use crate::guidance::Guidance;

use call::{Call, Command, Pod};
use refusal::{Code, Refusal};

pub use bell::PATIENCE;
pub(crate) use call::{ANNOTATIONS, BRIDGE, RUN_DIRECTORY, STATE_DIRECTORY};

/// The versions of the specification that it speaks, the oldest first: those by which plugins know of those before them.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The annotation by which a pod stays off the mesh, as `"false"`: it is reached in its own location and nowhere else.
pub const ANNOTATION: &str = "wireloom.dev/mesh";

/// What there is to tell a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For standard output; empty if there is nothing to say.
    pub text: String,
    /// Whether it is good.
    pub is_success: bool,
}

/// Does what a runtime asks: by its environment, and by the configuration on standard input (CNI specification 1.1,
/// section 2).
///
/// Waits for the agent for at most [`PATIENCE`], and does without it.
pub fn run(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Answer {
    let outcome = Call::read(variable, input).and_then(|call| {
        let done = answer(&call).map_err(|refusal| refusal.in_version(&call.version));
        done.map(|value| value.map_or_else(String::new, |value| value.to_string()))
    });
    match outcome {
        Ok(text) => Answer { text, is_success: true },
        Err(refusal) => Answer { text: refusal.to_json().to_string(), is_success: false },
    }
}

fn answer(call: &Call) -> Result<Option<Value>, Refusal> {
    match &call.command {
        Command::Add { pod, namespace } => add(call, pod, Path::new(namespace)).map(Some),
        Command::Check { pod, namespace } => check(call, pod, Path::new(namespace)).map(|()| None),
        Command::Del { pod } => del(call, pod).map(|()| None),
        Command::Gc { valid } => gc(call, valid).map(|()| None),
        Command::Status => status(call).map(|()| None),
        Command::Version => {
            let newest = VERSIONS[VERSIONS.len() - 1];
            Ok(Some(json!({"cniVersion": newest, "supportedVersions": VERSIONS})))
        }
    }
}

fn add(call: &Call, pod: &Pod, namespace: &Path) -> Result<Value, Refusal> {
    let Some(previous) = call.config.get("prevResult") else {
        return Err(Refusal::new(
            Code::Config,
            "it has no network to stand behind: put it last in a list of plugins",
        ));
    };
    let Some(guidance) = guidance(call)? else {
        return Err(Refusal::new(Code::Later, nothing_said(call)));
    };
    if let Some(bridge) = &call.bridge {
        Bridge::new(bridge.clone())
            .serve(&gateways(previous))
            .map_err(Refusal::io(format!("the bridge {bridge} gets no gateway for the pod")))?;
    }
    let off_mesh = call.config["runtimeConfig"][ANNOTATIONS][ANNOTATION] == "false";
    let routed = pod::open(namespace)
        .and_then(|mut network| network.follow(&pod.interface, &guidance, off_mesh))
        .map_err(Refusal::io("the pod's routes can't be set"))?;
    let attachment = Attachment {
        network: call.network.clone(),
        container: pod.container.clone(),
        interface: pod.interface.clone(),
        host_end: routed.host_end,
        addresses: addresses(previous),
        limited: routed.limited,
        off_mesh,
    };
    let attachments = Attachments::of(&call.directories.run);
    attachments.put(&attachment).map_err(Refusal::io("what the pod has can't be kept"))?;
    tell(Some(&guidance), [&attachment]);
    Ok(previous.clone())
}

/// Takes away what was kept of a pod. Its routes go with its namespace, which may be gone already.
fn del(call: &Call, pod: &Pod) -> Result<(), Refusal> {
    let attachments = Attachments::of(&call.directories.run);
    let known = attachments.find(&pod.container, &pod.interface).unwrap_or_default();
    attachments
        .remove(&pod.container, &pod.interface)
        .map_err(Refusal::io("what was kept of the pod can't be removed"))?;
    if let Some(attachment) = known {
        tell(guidance(call).unwrap_or_default().as_ref(), [&attachment]);
    }
    Ok(())
}

/// Looks at what was made for the pod, and at nothing else.
fn check(call: &Call, pod: &Pod, namespace: &Path) -> Result<(), Refusal> {
    let attachments = Attachments::of(&call.directories.run);
    let known = attachments
        .find(&pod.container, &pod.interface)
        .map_err(Refusal::io("what was kept of the pod can't be read"))?;
    let Some(attachment) = known else {
        return Err(Refusal::new(
            Code::Lost,
            "nothing is known of the pod: it was never added here",
        ));
    };
    let wrong = pod::open(namespace)
        .and_then(|pod| pod.compare(&attachment))
        .map_err(Refusal::io("the pod's routes can't be read"))?;
    match wrong {
        None => Ok(()),
        Some(route) => Err(Refusal::new(
            Code::Lost,
            format!("the pod's route to {route} is not as it was made: restart the pod"),
        )),
    }
}

/// Takes away what was kept of pods that the runtime no longer knows, and goes on after one that can't be.
fn gc(call: &Call, valid: &BTreeSet<(String, String)>) -> Result<(), Refusal> {
    let attachments = Attachments::of(&call.directories.run);
    let all = attachments.all().map_err(Refusal::io("what was kept of pods can't be read"))?;
    let mut failed: Vec<String> = all.unreadable.iter().map(ToString::to_string).collect();
    let mut gone = Vec::new();
    for attachment in all.pods.into_iter().filter(|attachment| attachment.network == call.network) {
        let Attachment { container, interface, .. } = &attachment;
        if valid.contains(&(container.clone(), interface.clone())) {
            continue;
        }
        match attachments.remove(container, interface) {
            Ok(()) => gone.push(attachment),
            Err(error) => failed.push(format!("{container} {interface}: {error}")),
        }
    }
    tell(guidance(call).unwrap_or_default().as_ref(), &gone);
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Refusal::new(
            Code::Io,
            format!("what was kept of pods can't be removed: {}", failed.join(", ")),
        )),
    }
}

/// Whether pods can be added: as soon as an agent has said what the mesh is like, whether it runs now or not.
fn status(call: &Call) -> Result<(), Refusal> {
    match guidance(call)? {
        Some(_) => Ok(()),
        None => Err(Refusal::new(Code::NotAvailable, nothing_said(call))),
    }
}

fn guidance(call: &Call) -> Result<Option<Guidance>, Refusal> {
    Guidance::read(&call.directories.state)
        .map_err(Refusal::io("what the agent told of the mesh can't be read"))
}

fn nothing_said(call: &Call) -> String {
    let state = call.directories.state.display();
    format!("no agent has told of the mesh yet in {state}: start one")
}

/// Has the agent look, where pods are news to it. What it misses now, it finds later.
fn tell<'a>(guidance: Option<&Guidance>, attachments: impl IntoIterator<Item = &'a Attachment>) {
    let Some(guidance) = guidance else { return };
    let is_news = |attachment: &Attachment| {
        attachment.off_mesh || !attachment.addresses.iter().all(|a| guidance.knows(*a))
    };
    if attachments.into_iter().any(is_news)
        && let Err(error) = bell::ring(&guidance.agent)
    {
        eprintln!("wireloom: {}: {error}; the agent looks once it runs", guidance.agent.display());
    }
}

/// The addresses by which the pod goes out, with the lengths of the prefixes that they serve.
fn gateways(result: &Value) -> BTreeSet<InterfaceAddress> {
    let gateway = |entry: &Value| {
        let length = entry["address"].as_str()?.split('/').nth(1)?.parse().ok()?;
        InterfaceAddress::new(entry["gateway"].as_str()?.parse().ok()?, length)
    };
    result["ips"].as_array().into_iter().flatten().filter_map(gateway).collect()
}

/// The addresses that the plugins before gave the pod (CNI specification 1.1, section 5).
fn addresses(result: &Value) -> BTreeSet<IpAddr> {
    let entries = result["ips"].as_array().into_iter().flatten();
    // Of the links that the result names, those of the pod have its namespace.
    let is_pods = |entry: &Value| {
        let link = entry["interface"].as_u64().and_then(|at| usize::try_from(at).ok());
        link.and_then(|at| result["interfaces"].get(at))
            .is_none_or(|link| link["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()))
    };
    let address = |entry: &Value| entry["address"].as_str()?.split('/').next()?.parse().ok();
    entries.filter(|entry| is_pods(entry)).filter_map(address).collect()
}

#[cfg(test)]
mod tests;
