//! The mesh on Kubernetes: five nodes in four regions, one of which joins late, and a machine elsewhere that is no node.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use wireloom_lab::demo::throughput::{self, End};
use wireloom_lab::demo::{Layer, Pair, Report, Trial, Voice, reach, tenths};
use wireloom_lab::{Child, Flow};
use wireloom_model::Family;

use crate::pods::{self, Pod};
use crate::stage::{
    self, BEHIND_NAT, CONTROL, InMesh, Kubernetes, LIMIT, MACHINES, OFFICE, REGION, Stage,
};
use crate::{Keep, Settings};

/// The office's address in the mesh, its device and port, and where it keeps its key and what it is told of the mesh.
const ADDRESS: &str = "10.5.0.1";
const DEVICE: &str = "wg0";
const PORT: u16 = 51820;
const KEY: &str = "/run/office/key";
const CONFIGURATION: &str = "/run/office/peers.conf";

/// The address of the node behind NAT that the API server reaches: one of the overlay that no other node has.
const HIDDEN: Ipv4Addr = Ipv4Addr::new(10, 4, 200, 1);

/// The pods that ping.
const PODS: &str = "pods";

/// How long agents may take to hear of the office.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was found, for programs.
#[derive(Debug, Serialize)]
pub struct MeshReport {
    /// What every demo finds.
    #[serde(flatten)]
    pub report: Report,
    /// What this one's cluster said of itself.
    pub kubernetes: Kubernetes,
    /// The longest time for which nothing arrived on a TCP connection while every agent was replaced, in seconds.
    pub rollout_held_up_seconds: f64,
    /// What differs on the nodes since the mesh is gone from them. Empty where it is kept.
    pub left_behind: Vec<String>,
}

impl MeshReport {
    /// Whether everybody reached everybody and nothing was left.
    pub const fn is_whole(&self) -> bool {
        self.report.unreachable.is_empty() && self.left_behind.is_empty()
    }
}

/// Builds the cluster and the mesh and tells of them. `keep` is called while they stand, with what a person may do then;
/// without it they are taken down by kubectl.
///
/// # Errors
///
/// Whatever stops the story.
pub fn show(
    settings: &Settings,
    voice: &Voice,
    keep: Option<Keep<'_, MeshReport>>,
) -> Result<MeshReport> {
    let begin = Instant::now();
    let mut stage = Stage::build(&settings.program, voice)?;
    let (late, others): (Vec<_>, Vec<_>) =
        MACHINES.into_iter().partition(|machine| machine.name == BEHIND_NAT);
    let first = [&[CONTROL], &others[..]].concat();

    voice.head("Its machine and three more join by a token, each by one command")?;
    stage.join(&first, voice)?;
    voice.head("One command puts the mesh on them")?;
    stage.install(voice)?;

    voice.head("A fifth joins behind NAT, and the DaemonSet comes by itself")?;
    let mut started = Instant::now();
    for machine in late {
        started = stage.join_at(machine, HIDDEN.into(), voice)?;
    }
    let join_seconds = stage.in_mesh_after(BEHIND_NAT, started)?;
    voice.say(&format!(
        " {BEHIND_NAT} is in the mesh {join_seconds:.1} s after its kubelet's start"
    ))?;

    voice.head(&format!("The mesh, {:.1} s after the beginning", begin.elapsed().as_secs_f64()))?;
    let nodes = stage.introduce(voice)?;
    stage.show(&["get", "daemonset", "wireloom", "--namespace=kube-system"], voice)?;
    stage.show(&["get", "nodes", &format!("--label-columns={REGION}")], voice)?;
    let kubernetes = stage.describe(join_seconds)?;

    voice
        .head("The API server speaks to the node behind NAT, whose only address is of the mesh")?;
    is_spoken_to(&stage, voice)?;

    voice.head("A machine elsewhere joins as a Peer, by WireGuard alone")?;
    let _office = office(&stage, voice)?;

    voice.head("Every node gets a pod")?;
    stage.apply(&pods::daemon_set(PODS), voice)?;
    stage.kubectl(&["rollout", "status", "daemonset", PODS, LIMIT])?;
    let pods = pods::running(&stage, Some(PODS))?;
    pods::tell(&stage, &pods, voice)?;

    voice.head("Round trips in ms, the best of node to node and pod to pod, IPv4 and IPv6")?;
    let trials = reachability(&stage, &nodes, &pods, voice)?;
    // One of each region.
    let ends = nodes.iter().filter(|node| node.name != CONTROL.name);
    let ends: Vec<End> = ends.filter_map(end).collect();
    let throughput = throughput::between(stage.cluster.lab(), &ends, settings.seconds, voice)?;

    voice.head("Every agent is replaced while a connection is open")?;
    let rollout_held_up_seconds = rollout(&stage, &nodes, voice)?;
    let graph = picture(&stage)?;
    voice.say(&format!("\nThe graph of the mesh: {}", graph.display()))?;

    let report = Report::new(nodes.len(), trials, throughput, Some(graph), begin);
    let left_behind = Vec::new();
    let mut report = MeshReport { report, kubernetes, rollout_held_up_seconds, left_behind };
    if let Some(keep) = keep {
        keep(&report, &stage::explanation(&stage))?;
        return Ok(report);
    }
    voice.head("One command takes the mesh off again")?;
    stage.kubectl(&["delete", "daemonset", PODS, LIMIT])?;
    stage.await_empty()?;
    report.left_behind = stage.remove(voice)?;
    report.report.seconds = tenths(begin.elapsed());
    voice.say(&format!("Done in {:.1} s.", report.report.seconds))?;
    Ok(report)
}

/// Runs a command in a pod of the node behind NAT and reads its log, which its kubelet gives to the API server.
fn is_spoken_to(stage: &Stage, voice: &Voice) -> Result<()> {
    let tells = format!("--for=jsonpath={{.status.addresses[0].address}}={HIDDEN}");
    stage.kubectl(&["wait", "node", BEHIND_NAT, &tells, LIMIT])?;
    let addresses = "--output=jsonpath={.status.addresses[*].address}";
    stage.show(&["get", "node", BEHIND_NAT, addresses], voice)?;
    let pod = stage.agent(BEHIND_NAT)?;
    let of_pod = ["--namespace=kube-system", &pod];
    stage.show(&[&["exec"], &of_pod[..], &["--", "wireloom", "--version"]].concat(), voice)?;
    stage.show(&[&["logs"], &of_pod[..], &["--tail=1"]].concat(), voice)
}

/// Replaces every agent by what a person would type while one node sends to another, and returns the longest time in
/// seconds for which nothing arrived.
fn rollout(stage: &Stage, nodes: &[InMesh], voice: &Voice) -> Result<f64> {
    let [from, to] = [MACHINES[0].name, BEHIND_NAT];
    let there = nodes.iter().find(|node| node.name == to);
    let Some(address) = there.and_then(|node| node.overlay.first()) else {
        bail!("{to} has no overlay address");
    };
    let flow = Flow::start(stage.host(from)?, stage.host(to)?, *address)?;
    stage.show(&["rollout", "restart", "daemonset/wireloom", "--namespace=kube-system"], voice)?;
    stage.rolled_out()?;
    let held_up = tenths(flow.stop()?);
    voice.say(&format!(
        " the connection from {from} to {to} lasted; nothing arrived for {held_up:.1} s at most"
    ))?;
    Ok(held_up)
}

/// Makes the office a Peer and dials in from it. All that it needs is WireGuard and what `showconf` prints.
fn office(stage: &Stage, voice: &Voice) -> Result<Child> {
    let host = stage.host(OFFICE)?;
    host.write(KEY, stage.wireloom(OFFICE, &["keygen"])?.stdout)?;
    let public = stage.shell(OFFICE, &format!("chmod 600 {KEY} && wireloom pubkey < {KEY}"))?;
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": OFFICE },
        "spec": {
            "allowedIPs": [format!("{ADDRESS}/32")],
            "publicKey": public.trim(),
            "endpoint": { "dnsOrIP": { "ip": stage.public_address(OFFICE)? }, "port": PORT },
        },
    });
    stage.apply(&peer, voice)?;

    voice.say(&format!(" $ wireloom showconf peer {OFFICE} # on {}", MACHINES[0].name))?;
    let deadline = Instant::now() + PATIENCE;
    let configuration = loop {
        let shown = stage.wireloom(MACHINES[0].name, &["showconf", "peer", OFFICE])?;
        if shown.status.success() {
            break shown.stdout;
        }
        if Instant::now() > deadline {
            bail!("no agent knows the Peer: {}", shown.stderr);
        }
        // The agent is told by its watch, and says nothing of it.
        thread::sleep(Duration::from_millis(100));
    };
    let begin = "(echo '[Interface]' && echo PrivateKey = $(cat";
    host.write(CONFIGURATION, configuration)?;
    let device = stage.tunnel(OFFICE, DEVICE)?;
    stage.shell(
        OFFICE,
        &format!(
            "set -e
             until wg show {DEVICE} > /dev/null 2>&1; do sleep 0.05; done
             {begin} {KEY}) && cat {CONFIGURATION}) > /run/office/whole.conf
             wg setconf {DEVICE} /run/office/whole.conf
             wg set {DEVICE} listen-port {PORT}
             ip address add {ADDRESS}/32 dev {DEVICE}
             ip link set {DEVICE} up
             ip route add 10.4.0.0/16 dev {DEVICE}"
        ),
    )?;
    let peers = stage.shell(OFFICE, &format!("wg show {DEVICE} endpoints"))?;
    let regions = peers.lines().count();
    voice
        .say(&format!(" $ wg setconf {DEVICE} {OFFICE}.conf # on the {OFFICE}: {regions} peers"))?;
    Ok(device)
}

/// Pings from every node to every other and to the office, from there to all, and from every pod to every other.
fn reachability(
    stage: &Stage,
    nodes: &[InMesh],
    pods: &[Pod],
    voice: &Voice,
) -> Result<Vec<Trial>> {
    let mut ends: Vec<(&str, Vec<IpAddr>)> =
        nodes.iter().map(|node| (node.name, node.overlay.clone())).collect();
    ends.push((OFFICE, vec![ADDRESS.parse()?]));
    let mut pairs = Vec::new();
    for (from, own) in &ends {
        for (to, addresses) in ends.iter().filter(|(to, _)| to != from) {
            // A pair speaks the families that both have.
            for family in own.iter().map(|address| Family::of(*address)) {
                let address = addresses.iter().copied().find(|a| Family::of(*a) == family);
                let (from, to) = ((*from).to_owned(), (*to).to_owned());
                let asks = from.clone();
                pairs.push(Pair { from, to, family, layer: Layer::Node, asks, address });
            }
        }
    }
    let mut trials = reach::try_all(stage.cluster.lab(), pairs)?;
    trials.extend(pods::ping_all(stage, pods)?);
    let names: Vec<&str> = ends.iter().map(|(name, _)| *name).collect();
    reach::tell(&names, &trials, voice)?;
    Ok(trials)
}

fn end(node: &InMesh) -> Option<End> {
    let address = node.overlay.iter().copied().find(IpAddr::is_ipv4)?;
    Some(End { region: node.region.to_owned(), node: node.name.to_owned(), address })
}

/// Has an agent draw the mesh into a file that stays.
fn picture(stage: &Stage) -> Result<PathBuf> {
    let svg = stage.wireloom(MACHINES[0].name, &["graph", "--format", "svg"])?.stdout;
    Ok(wireloom_lab::demo::keep_picture(&svg)?)
}
