//! The mesh of the demo: a lab, and a real `wireloom up` on each of its nodes.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use wireloom_agent::control::{RUN_DIRECTORY, Request};
use wireloom_agent::status::Status;
use wireloom_lab::{Child, Host, Lab};
use wireloom_model::{Encapsulation, GatewayCount, PrivateKey};
use zeroize::Zeroizing;

use super::story;
use crate::down::AgentArgs;
use crate::keys::random_bytes;
use crate::up::DEFAULT_INTERFACE;

/// Where a node finds its files: in the memory that is its own `/run`.
const MESH_FILE: &str = "/run/wireloom-demo/mesh.toml";
const KEY_FILE: &str = "/run/wireloom-demo/key";

/// How long nodes may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lab with a mesh on it. Dropping it ends both.
#[derive(Debug)]
pub(super) struct Mesh {
    /// Declared before the lab, so that the programs end before their hosts.
    nodes: Vec<(String, Child)>,
    pub(super) lab: Lab,
    /// What is written in every node's `mesh.toml`.
    pub(super) file: String,
}

impl Mesh {
    /// Starts a node on every host of the lab.
    pub(super) fn start(
        lab: Lab,
        gateways: GatewayCount,
        encapsulation: Encapsulation,
    ) -> anyhow::Result<Self> {
        // In the story's order, so that the node which can only dial out finds the others there.
        let keys = lab
            .plan()
            .hosts()
            .map(|host| Ok((host.name.clone(), PrivateKey::from_random(random_bytes()?))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let public = keys.iter().map(|(name, key)| (name.clone(), key.public_key())).collect();
        let file = story::mesh_file(lab.plan(), gateways, encapsulation, &public);
        let program = std::env::current_exe().context("find the path of this program")?;

        let mut nodes = Vec::new();
        for (name, key) in keys {
            let host = lab.host(&name)?;
            write_private(host, MESH_FILE, Zeroizing::new(file.clone()))?;
            write_private(host, KEY_FILE, key.to_text())?;
            let args = ["up", "-c", MESH_FILE, "--node", &name, "--key", KEY_FILE];
            let child = host.spawn(&program, args)?;
            nodes.push((name, child));
        }
        Ok(Self { nodes, lab, file })
    }

    /// Waits until every node knows all others, and gives what each says of itself, in the story's order.
    pub(super) fn wait(&mut self) -> anyhow::Result<Vec<Status>> {
        let deadline = Instant::now() + PATIENCE;
        let Self { nodes, lab, .. } = self;
        let count = nodes.len();
        let mut statuses = BTreeMap::new();
        for (name, child) in nodes.iter_mut() {
            let host = lab.host(name)?;
            loop {
                let answer = host.run(ask)?;
                match answer {
                    Ok(status) if is_complete(&status, count) => {
                        statuses.insert(name.clone(), status);
                        break;
                    }
                    _ if child.has_ended()? => bail!("node {name} ended: {}", last_words(child)?),
                    Ok(_) if Instant::now() > deadline => {
                        bail!("node {name} did not learn of all others: {}", last_words(child)?)
                    }
                    Err(error) if Instant::now() > deadline => {
                        let words = last_words(child)?;
                        return Err(error.context(format!("node {name} did not start: {words}")));
                    }
                    // Not there yet, and it has no way to say when it will be.
                    _ => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        }
        Ok(lab.plan().hosts().filter_map(|host| statuses.remove(&host.name)).collect())
    }

    /// The nodes whose program is no longer there, each with the end of its log.
    pub(super) fn ended(&mut self) -> anyhow::Result<Vec<(&str, String)>> {
        let mut ended = Vec::new();
        for (name, child) in &mut self.nodes {
            if child.has_ended()? {
                ended.push((name.as_str(), last_words(child)?));
            }
        }
        Ok(ended)
    }
}

/// Asks the agent of the calling thread's host.
fn ask() -> anyhow::Result<Status> {
    let agent = AgentArgs { interface: DEFAULT_INTERFACE.parse()?, run_dir: RUN_DIRECTORY.into() };
    agent.ask(Request::Status)
}

fn is_complete(status: &Status, count: usize) -> bool {
    !status.overlay_addresses.is_empty()
        && status.nodes.len() == count
        && status.nodes.iter().all(|node| node.home.is_some())
}

/// The end of a node's log.
fn last_words(child: &Child) -> anyhow::Result<String> {
    const LINES: usize = 5;
    let (_, log) = child.written()?;
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    Ok(if last.is_empty() { "it wrote nothing".to_owned() } else { last.join("\n  ") })
}

/// Writes a file on the host that nobody else may read.
fn write_private(host: &Host, path: &'static str, text: Zeroizing<String>) -> anyhow::Result<()> {
    let write = move || -> io::Result<()> {
        if let Some(directory) = Path::new(path).parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    host.run(write)?.with_context(|| format!("write {path} on {}", host.name()))
}
