//! The demo as it is told: what is built, who reaches whom, and how fast.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use comfy_table::Table;
use wireloom_agent::status::Status;
use wireloom_kernel::{Feature, Host};
use wireloom_lab::demo::throughput::{self, End};
use wireloom_lab::demo::{self, Report, Throughput, Trial, Voice};
use wireloom_lab::program::Program;
use wireloom_lab::{Lab, Latency};
use wireloom_model::{EncapsulateBy, EncapsulateWhen, Encapsulation, Family};
use wireloom_topology::{Graph, Topology};

use super::mesh::Mesh;
use super::{ShowArgs, reach, story};
use crate::output::{self, Output};

/// Builds the mesh and tells of it. The code is a success if everybody reached everybody.
pub(super) fn show(args: &ShowArgs) -> anyhow::Result<(Mesh, ExitCode)> {
    let begin = Instant::now();
    let voice = voice(args);
    require_programs()?;
    require_encapsulation(args.encapsulation())?;
    let lab = Lab::build(&story::layout())?;
    introduce_regions(&lab, begin, &voice)?;
    let mut mesh = Mesh::start(lab, args.gateways, args.encapsulation())?;
    let nodes = mesh.wait()?;
    introduce_nodes(&nodes, args, begin, &voice)?;
    let trials = reachability(&mut mesh, &nodes, &voice)?;
    let throughput = throughputs(&mesh.lab, &nodes, args.seconds, &voice)?;
    let graph = picture(&mesh, &voice)?;

    let report = Report::new(nodes.len(), trials, throughput, graph, begin);
    match args.output.output {
        Output::Json => output::json(&report)?,
        Output::Text => voice.say(&format!("Done in {:.1} s.", report.seconds))?,
    }
    let whole = report.unreachable.is_empty();
    Ok((mesh, if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// Adds to the story.
pub(super) fn tell(args: &ShowArgs, text: &str) -> anyhow::Result<()> {
    Ok(voice(args).say(text)?)
}

fn voice(args: &ShowArgs) -> Voice {
    Voice::new(args.output.output == Output::Json)
}

/// Names all programs that are missing at once, so that one visit to the package manager is enough.
fn require_programs() -> anyhow::Result<()> {
    let missing = Program::missing();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package()).collect();
    packages.dedup();
    let names: Vec<&str> = missing.iter().map(|program| program.name()).collect();
    bail!(
        "the demo needs {}, which this machine lacks: apt-get install {}",
        names.join(" and "),
        packages.join(" ")
    )
}

/// Refuses what this kernel can't wrap, before anything is built.
fn require_encapsulation(Encapsulation { when, by }: Encapsulation) -> anyhow::Result<()> {
    let feature = match (when, by) {
        // WireGuard is our own.
        (EncapsulateWhen::Never, _) | (_, EncapsulateBy::WireGuard) => return Ok(()),
        (_, EncapsulateBy::Ipip) => Feature::Ipip,
        (_, EncapsulateBy::Vxlan) => Feature::Vxlan,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_there = runtime.block_on(async { Host::new()?.has(feature).await });
    if is_there.context("ask the kernel what it can do")? {
        return Ok(());
    }
    bail!("this kernel has no {feature}: {}", feature.remedy())
}

fn introduce_regions(lab: &Lab, begin: Instant, voice: &Voice) -> anyhow::Result<()> {
    let seconds = begin.elapsed().as_secs_f64();
    voice.head(&format!("Four regions and an internet between them, built in {seconds:.1} s"))?;
    let mut table = output::table(&["REGION", "NODE", "PRIVATE", "ENDPOINT", "POD"]);
    for region in &lab.plan().regions {
        for (place, host) in region.hosts.iter().enumerate() {
            let endpoint = story::endpoint(region, host);
            let pod = host.pod.as_ref().map(|pod| pod.address[0].address().to_string());
            table.add_row([
                if place == 0 { region.name.clone() } else { String::new() },
                host.name.clone(),
                host.private[0].address().to_string(),
                endpoint.map_or_else(|| "none: behind NAT".to_owned(), |at| at.to_string()),
                pod.unwrap_or_default(),
            ]);
        }
    }
    voice.table(&table)?;
    match lab.latency() {
        Latency::Unavailable { reason } => voice.say(&format!(" latency: not available, {reason}")),
        _ => Ok(()),
    }?;
    Ok(())
}

fn introduce_nodes(
    nodes: &[Status],
    args: &ShowArgs,
    begin: Instant,
    voice: &Voice,
) -> anyhow::Result<()> {
    let ShowArgs { gateways, encapsulation, encapsulate_by, .. } = args;
    let wrapping = match encapsulation {
        EncapsulateWhen::Never => String::new(),
        when => format!(", encapsulation: {when} by {encapsulate_by}"),
    };
    let seconds = begin.elapsed().as_secs_f64();
    voice.head(&format!(
        "`wireloom up` on each node, gateways per location: {gateways}{wrapping}, after {seconds:.1} s"
    ))?;
    voice.table(&roles(nodes))?;
    for node in nodes {
        for problem in &node.problems {
            let name = node.node.as_ref().map_or("-", |name| name.as_str());
            voice.say(&format!(" {name} says: {}: {}", problem.subject, problem.message))?;
        }
    }
    Ok(())
}

fn roles(nodes: &[Status]) -> Table {
    let mut table = output::table(&["NODE", "LOCATION", "ROLE", "OVERLAY"]);
    for node in nodes {
        let role = match &node.home {
            _ if node.gateway => "gateway".to_owned(),
            Some(home) => format!("home {home}"),
            None => "-".to_owned(),
        };
        let addresses: Vec<String> =
            node.overlay_addresses.iter().map(ToString::to_string).collect();
        table.add_row([
            node.node.as_ref().map_or_else(String::new, ToString::to_string),
            node.location.as_ref().map_or_else(String::new, ToString::to_string),
            role,
            addresses.join(" "),
        ]);
    }
    table
}

fn reachability(mesh: &mut Mesh, nodes: &[Status], voice: &Voice) -> anyhow::Result<Vec<Trial>> {
    voice.head("Round trips in ms, the best of node to node and pod to pod, IPv4 and IPv6")?;
    let trials = demo::reach::try_all(&mesh.lab, reach::pairs(&mesh.lab, nodes))?;
    let names: Vec<&str> = mesh.lab.plan().hosts().map(|host| host.name.as_str()).collect();
    demo::reach::tell(&names, &trials, voice)?;
    for (name, words) in mesh.ended()? {
        voice.say(&format!("   node {name} has ended: {words}"))?;
    }
    Ok(trials)
}

/// One stream from the first node of each region to the first of the next.
fn throughputs(
    lab: &Lab,
    nodes: &[Status],
    seconds: u32,
    voice: &Voice,
) -> anyhow::Result<Vec<Throughput>> {
    let mut ends = Vec::new();
    for region in &lab.plan().regions {
        let Some(first) = region.hosts.first() else { continue };
        let address = reach::overlay_address(nodes, &first.name, Family::V4)
            .with_context(|| format!("{} has no IPv4 address in the overlay", first.name))?;
        ends.push(End { region: region.name.clone(), node: first.name.clone(), address });
    }
    Ok(throughput::between(lab, &ends, seconds, voice)?)
}

/// Draws the mesh, and says where the picture lies. That it could not be drawn is no reason to fail.
fn picture(mesh: &Mesh, voice: &Voice) -> anyhow::Result<Option<PathBuf>> {
    match draw(mesh) {
        Ok(path) => {
            voice.say(&format!("\nThe graph of the mesh: {}", path.display()))?;
            Ok(Some(path))
        }
        Err(error) => {
            voice.say(&format!("\nThe graph of the mesh could not be drawn: {error:#}"))?;
            Ok(None)
        }
    }
}

/// Draws the mesh into a file that stays.
fn draw(mesh: &Mesh) -> anyhow::Result<PathBuf> {
    let snapshot = wireloom_file::parse(&mesh.file, Path::new("mesh.toml"))?;
    let svg = Graph::of(&Topology::of(&snapshot)).svg();
    Ok(demo::keep_picture(&svg)?)
}
