//! The plugin: what a runtime calls for every pod, last in the list of a network.
//!
//! It makes no link and gives out no address; those before it do. It has the pod's packets to other locations fit the
//! mesh, keeps pods off the mesh that ask for it, and tells the agent of addresses that the mesh does not know the way
//! to. What those before it said passes through it unchanged.

mod bell;
mod call;
mod pod;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::attachment::{Attachment, Attachments};
use crate::guidance::Guidance;

use call::{Call, Command, Pod};
use refusal::{Code, Refusal};

pub use bell::PATIENCE;
pub(crate) use call::ANNOTATIONS;

/// The versions of the specification that it speaks, the oldest first.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

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
    let guidance = guidance(call)?;
    let mut attachment = Attachment {
        network: call.network.clone(),
        container: pod.container.clone(),
        interface: pod.interface.clone(),
        addresses: addresses(previous),
        limited: BTreeMap::new(),
        off_mesh: call.config["runtimeConfig"][ANNOTATIONS][ANNOTATION] == "false",
    };
    if let Some(guidance) = &guidance {
        let routes = pod::open(namespace)
            .and_then(|pod| pod.follow(&attachment.interface, guidance, attachment.off_mesh));
        attachment.limited = routes.map_err(|error| {
            Refusal::new(Code::Io, format!("the pod's routes can't be set: {error}"))
        })?;
    }
    let attachments = Attachments::of(&call.run);
    attachments.put(&attachment).map_err(Refusal::io("what the pod has can't be kept"))?;
    tell(guidance.as_ref(), &attachment);
    Ok(previous.clone())
}

/// Takes away what was kept of a pod. Its routes go with its namespace, which may be gone already.
fn del(call: &Call, pod: &Pod) -> Result<(), Refusal> {
    let attachments = Attachments::of(&call.run);
    let known = attachments.find(&pod.container, &pod.interface).unwrap_or_default();
    attachments
        .remove(&pod.container, &pod.interface)
        .map_err(Refusal::io("what was kept of the pod can't be removed"))?;
    if let Some(attachment) = known {
        tell(guidance(call).unwrap_or_default().as_ref(), &attachment);
    }
    Ok(())
}

/// Looks at what was made for the pod, and at nothing else.
fn check(call: &Call, pod: &Pod, namespace: &Path) -> Result<(), Refusal> {
    let attachments = Attachments::of(&call.run);
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
    let attachments = Attachments::of(&call.run);
    let all = attachments.all().map_err(Refusal::io("what was kept of pods can't be read"))?;
    let guidance = guidance(call).unwrap_or_default();
    let mut failed = Vec::new();
    for attachment in all.into_iter().filter(|attachment| attachment.network == call.network) {
        let Attachment { container, interface, .. } = &attachment;
        if valid.contains(&(container.clone(), interface.clone())) {
            continue;
        }
        match attachments.remove(container, interface) {
            Ok(()) => tell(guidance.as_ref(), &attachment),
            Err(error) => failed.push(format!("{container} {interface}: {error}")),
        }
    }
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
        None => Err(Refusal::new(
            Code::NotAvailable,
            format!("no agent has told of the mesh yet in {}: start one", call.run.display()),
        )),
    }
}

fn guidance(call: &Call) -> Result<Option<Guidance>, Refusal> {
    Guidance::read(&call.run).map_err(Refusal::io("what the agent told of the mesh can't be read"))
}

/// Has the agent look, where a pod is news to it. What it misses now, it finds later.
fn tell(guidance: Option<&Guidance>, attachment: &Attachment) {
    let Some(guidance) = guidance else { return };
    let is_news = attachment.off_mesh || !attachment.addresses.iter().all(|a| guidance.knows(*a));
    if is_news && let Err(error) = bell::ring(&guidance.agent) {
        eprintln!("wireloom: {}: {error}; the agent looks once it runs", guidance.agent.display());
    }
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
