//! The demo as it is told: what is built, who reaches whom, and how fast.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use wireloom_agent::status::Status;
use wireloom_kernel::{Feature, Host};
use wireloom_lab::measure;
use wireloom_lab::program::Program;
use wireloom_lab::{Lab, Latency, Plan};
use wireloom_model::{EncapsulateBy, EncapsulateWhen, Encapsulation, Family};
use wireloom_topology::{Graph, Topology};

use super::ShowArgs;
use super::mesh::Mesh;
use super::reach::{self, Pair, Trial};
use super::story;
use crate::output::{self, Output};

/// What the demo found, for programs.
#[derive(Debug, Serialize)]
struct Report {
    nodes: usize,
    /// Every ordered pair of nodes, once per family and layer.
    pairs: usize,
    reachable: usize,
    unreachable: Vec<Pair>,
    throughput: Vec<Throughput>,
    /// What the whole demo took.
    seconds: f64,
    /// Where the picture of the mesh lies.
    graph: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Throughput {
    from: String,
    to: String,
    gbit: f64,
}

/// How many unreachable pairs are named to people.
const NAMED: usize = 12;

/// Builds the mesh and tells of it. The code is a success if everybody reached everybody.
pub(super) fn show(args: &ShowArgs) -> anyhow::Result<(Mesh, ExitCode)> {
    let begin = Instant::now();
    let voice = Voice::new(args.output.output);
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

    let (reached, missed): (Vec<Trial>, Vec<Trial>) =
        trials.into_iter().partition(|trial| trial.round_trip.is_some());
    let report = Report {
        nodes: nodes.len(),
        pairs: reached.len() + missed.len(),
        reachable: reached.len(),
        unreachable: missed.into_iter().map(|trial| trial.pair).collect(),
        throughput,
        seconds: (begin.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        graph,
    };
    match args.output.output {
        Output::Json => output::json(&report)?,
        Output::Text => voice.say(&format!("Done in {:.1} s.", report.seconds))?,
    }
    let whole = report.unreachable.is_empty();
    Ok((mesh, if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// Adds to the story.
pub(super) fn tell(args: &ShowArgs, text: &str) -> anyhow::Result<()> {
    Voice::new(args.output.output).say(text)
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
    }
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
    let trials = reach::try_all(&mesh.lab, reach::pairs(&mesh.lab, nodes))?;
    voice.table(&matrix(mesh.lab.plan(), &trials))?;
    let missed: Vec<&Trial> = trials.iter().filter(|trial| trial.round_trip.is_none()).collect();
    let (pairs, reached) = (trials.len(), trials.len() - missed.len());
    voice.verdict(missed.is_empty(), &format!("{reached} of {pairs} pairs reachable"))?;
    for trial in missed.iter().take(NAMED) {
        voice.say(&format!("   not reached: {}", trial.pair))?;
    }
    if missed.len() > NAMED {
        voice.say(&format!("   and {} more", missed.len() - NAMED))?;
    }
    for (name, words) in mesh.ended()? {
        voice.say(&format!("   node {name} has ended: {words}"))?;
    }
    Ok(trials)
}

fn matrix(plan: &Plan, trials: &[Trial]) -> Table {
    let names: Vec<&str> = plan.hosts().map(|host| host.name.as_str()).collect();
    let mut table = output::table(&[&["FROM \\ TO"], &names[..]].concat());
    for from in &names {
        let cells = names.iter().map(|to| reach::cell(trials, from, to));
        table.add_row(std::iter::once((*from).to_owned()).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// One stream from the first node of each region to the first of the next.
fn throughputs(
    lab: &Lab,
    nodes: &[Status],
    seconds: u32,
    voice: &Voice,
) -> anyhow::Result<Vec<Throughput>> {
    if seconds == 0 {
        return Ok(Vec::new());
    }
    if Program::Iperf3.path().is_none() {
        let package = Program::Iperf3.package();
        voice.head(&format!("Throughput: skipped, for want of iperf3 (package {package})"))?;
        return Ok(Vec::new());
    }
    voice.head(&format!("Throughput between regions, one TCP stream for {seconds} s each"))?;
    let firsts: Vec<(&str, &str)> = lab
        .plan()
        .regions
        .iter()
        .filter_map(|region| Some((region.name.as_str(), region.hosts.first()?.name.as_str())))
        .collect();
    let mut found = Vec::new();
    for ((here, from), (there, to)) in firsts.iter().zip(firsts.iter().cycle().skip(1)) {
        let address = reach::overlay_address(nodes, to, Family::V4)
            .with_context(|| format!("{to} has no IPv4 address in the overlay"))?;
        let path = format!(" {from} to {to}, {here} to {there}:");
        match measure::throughput(lab.host(from)?, lab.host(to)?, address, seconds) {
            Ok(rate) => {
                let gbit = (rate / 1e7).round() / 100.0;
                voice.say(&format!("{path:<40} {gbit:.2} Gbit/s"))?;
                found.push(Throughput { from: (*from).to_owned(), to: (*to).to_owned(), gbit });
            }
            Err(error) => voice.say(&format!("{path:<40} {error}"))?,
        }
    }
    Ok(found)
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
    let path = std::env::temp_dir().join(format!("wireloom-demo-{}.svg", std::process::id()));
    // Never through a link that somebody else laid there.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    file.write_all(svg.as_bytes())?;
    Ok(path)
}

/// Where the story goes: to standard output, or to standard error when a program reads the output.
struct Voice {
    output: Output,
    colour: bool,
}

impl Voice {
    fn new(output: Output) -> Self {
        let terminal = match output {
            Output::Json => io::stderr().is_terminal(),
            Output::Text => io::stdout().is_terminal(),
        };
        Self { output, colour: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        match self.output {
            Output::Text => output::line(text),
            Output::Json => {
                // The story is a courtesy here; nobody may listen.
                let _ = writeln!(io::stderr(), "{text}");
                Ok(())
            }
        }
    }

    fn head(&self, text: &str) -> anyhow::Result<()> {
        self.say(&format!("\n{}", self.painted("1", text)))
    }

    fn verdict(&self, good: bool, text: &str) -> anyhow::Result<()> {
        self.say(&format!(" {}", self.painted(if good { "32" } else { "31" }, text)))
    }

    fn table(&self, table: &Table) -> anyhow::Result<()> {
        let trimmed: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        self.say(&trimmed.join("\n"))
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
