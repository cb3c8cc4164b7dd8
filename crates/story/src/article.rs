//! The article, replayed: a Deployment in several regions and at several providers, one cluster over all of them.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};
use wireloom_lab::demo::{Voice, tenths};

use crate::pods::{self, Fetched, Pod};
use crate::stage::{self, BEHIND_NAT, Kubernetes, LIMIT, MACHINES, REGION, Stage, text};
use crate::{Keep, Settings};

/// The pods of which no two may share a region, and those that are spread over the regions.
const APART: &str = "apart";
const SPREAD: &str = "spread";

/// How often each region asks for the Service, by each of its addresses.
const ASKS: usize = 8;

/// The node of which the agent is killed: its region's only gateway.
const KILLED: &str = "waw-1";

/// What became of the article's promises, for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// How many regions they are in.
    pub regions: usize,
    /// Five pods of which no two may share a region.
    pub anti_affinity: AntiAffinity,
    /// How many pods of ten each region has, the most first.
    pub spread: Vec<usize>,
    /// How many pages pods were to fetch from each other by pod address.
    pub http_pairs: usize,
    /// How many they did.
    pub http_reachable: usize,
    /// The Service, asked from every region.
    pub service: Service,
    /// The same pages again after a region's gateway was killed.
    pub after_gateway_killed: Recovery,
    /// What differs on the nodes since everything was deleted. Empty where it is kept.
    pub left_behind: Vec<String>,
    /// What the cluster said of itself.
    pub kubernetes: Kubernetes,
    /// What the whole story took.
    pub seconds: f64,
}

/// Pods of which no two may share a region.
#[derive(Debug, Clone, Serialize)]
pub struct AntiAffinity {
    /// How many of two run, each in a region of its own.
    pub of_two: usize,
    /// How many of five run.
    pub running: usize,
    /// How many wait for a region.
    pub pending: usize,
    /// Why, in the scheduler's words.
    pub reason: String,
}

/// What a Service's cluster addresses answered.
#[derive(Debug, Clone, Serialize)]
pub struct Service {
    /// How often it was asked.
    pub asked: usize,
    /// How often a pod answered.
    pub answered: usize,
    /// How many different pods did.
    pub pods: usize,
}

/// How the mesh comes back.
#[derive(Debug, Clone, Serialize)]
pub struct Recovery {
    /// The node of which the agent was killed.
    pub gateway: String,
    /// How long it took until every page was fetched again, in seconds.
    pub seconds: f64,
    /// How many pages pods were to fetch from each other.
    pub http_pairs: usize,
    /// How many they did.
    pub http_reachable: usize,
}

impl Told {
    /// Whether all came true.
    pub fn is_whole(&self) -> bool {
        let AntiAffinity { of_two, running, pending, .. } = self.anti_affinity;
        (of_two, running, pending) == (2, 4, 1)
            && self.spread == [3, 3, 2, 2]
            && self.http_pairs > 0
            && self.http_reachable == self.http_pairs
            && self.service.answered == self.service.asked
            && self.after_gateway_killed.http_reachable == self.after_gateway_killed.http_pairs
            && self.left_behind.is_empty()
    }
}

/// Tells it. `keep` is called while all stands, with what a person may do then.
///
/// # Errors
///
/// Whatever stops the story.
pub fn tell(settings: &Settings, voice: &Voice, keep: Option<Keep<'_, Told>>) -> Result<Told> {
    let begin = Instant::now();
    let mut stage = Stage::build(&settings.program, voice)?;
    let kubernetes = cluster(&mut stage, voice)?;
    let anti_affinity = apart(&stage, voice)?;
    let spread = spread(&stage, voice)?;

    voice.head("Every pod fetches a page from every other, by pod address, IPv4 and IPv6")?;
    let all = pods::running(&stage, None)?;
    let fetched = pods::fetch_all(&stage, &all)?;
    tell_fetched(&fetched, "pages fetched", voice)?;
    let service = service(&stage, voice)?;
    let after_gateway_killed = kill_gateway(&stage, &all, voice)?;

    let regions = pods::by_region(&all).len();
    let mut told = Told {
        nodes: MACHINES.len(),
        regions,
        anti_affinity,
        spread,
        http_pairs: fetched.wanted,
        http_reachable: fetched.reached,
        service,
        after_gateway_killed,
        left_behind: Vec::new(),
        kubernetes,
        seconds: tenths(begin.elapsed()),
    };
    if let Some(keep) = keep {
        keep(&told, &stage::explanation(&stage))?;
        return Ok(told);
    }
    voice.head("Everything is deleted")?;
    let things = [&format!("deployment/{APART}"), &format!("deployment/{SPREAD}"), "service/story"];
    stage.show(&[&["delete"], &things[..], &[LIMIT]].concat(), voice)?;
    stage.kubectl(&["wait", "--for=delete", "pod", "--selector=part-of=story", LIMIT])?;
    stage.await_empty()?;
    told.left_behind = stage.remove(voice)?;
    told.seconds = tenths(begin.elapsed());
    voice.say(&format!("Done in {:.1} s.", told.seconds))?;
    Ok(told)
}

/// Four nodes in four regions, two of them of other providers, and the mesh on them.
fn cluster(stage: &mut Stage, voice: &Voice) -> Result<Kubernetes> {
    let (own, others): (Vec<_>, Vec<_>) =
        MACHINES.into_iter().partition(|machine| machine.provider == stage::OWN);
    voice.head("The provider's own nodes")?;
    stage.join(&own, voice)?;
    voice.head("One command puts the mesh on them, and the network of their pods")?;
    stage.install(voice)?;
    voice.head("Machines of other providers join, each by one command and a token")?;
    let mut started = Instant::now();
    for machine in others {
        started = stage.join(&[machine], voice)?;
    }
    let join_seconds = stage.in_mesh_after(BEHIND_NAT, started)?;
    stage.rolled_out()?;
    stage.kubectl(&["wait", "node", "--all", "--for=condition=Ready", LIMIT])?;
    stage.introduce(voice)?;
    stage.show(&["get", "nodes", &format!("--label-columns={REGION}")], voice)?;
    stage.describe(join_seconds)
}

/// Pods of which no two may share a region: two, and then one more than there are regions.
fn apart(stage: &Stage, voice: &Voice) -> Result<AntiAffinity> {
    voice.head("Two replicas, no two in one region (required anti-affinity)")?;
    let term =
        json!({ "labelSelector": { "matchLabels": { "app": APART } }, "topologyKey": REGION });
    let placed = json!({ "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
    } } });
    stage.apply(&pods::deployment(APART, 2, &placed), voice)?;
    stage.kubectl(&["rollout", "status", "deployment", APART, LIMIT])?;
    let two = pods::running(stage, Some(APART))?;
    pods::tell(stage, &two, voice)?;

    voice.head("Five replicas for four regions")?;
    stage.show(&["scale", "deployment", APART, "--replicas=5"], voice)?;
    let ready = "--for=jsonpath={.status.readyReplicas}=4";
    stage.kubectl(&["wait", "deployment", APART, ready, LIMIT])?;
    let pods = pods::running(stage, Some(APART))?;
    pods::tell(stage, &pods, voice)?;
    let waiting = waiting(stage)?;
    let reason = waiting.first().context("no pod waits for a region")?.clone();
    voice.say(&format!(" {} pod is Pending: {reason}", waiting.len()))?;
    Ok(AntiAffinity {
        of_two: pods::by_region(&two).len(),
        running: pods::by_region(&pods).len(),
        pending: waiting.len(),
        reason,
    })
}

/// What the scheduler says of each pod for which it finds no node.
fn waiting(stage: &Stage) -> Result<Vec<String>> {
    let pending = "--field-selector=status.phase=Pending";
    let selector = format!("--selector=app={APART}");
    let unscheduled = "--for=condition=PodScheduled=False";
    stage.kubectl(&["wait", "pod", &selector, pending, unscheduled, LIMIT])?;
    let list = stage.read(&["get", "pods", &selector, pending])?;
    let reason = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut conditions = conditions.filter(|condition| condition["type"] == "PodScheduled");
        let condition = conditions.next().context("a pod of which the scheduler says nothing")?;
        text(&condition["message"]).map(str::to_owned)
    };
    list["items"].as_array().into_iter().flatten().map(reason).collect()
}

/// Ten pods, spread as evenly as ten go over four.
fn spread(stage: &Stage, voice: &Voice) -> Result<Vec<usize>> {
    voice.head("Ten replicas, spread over the regions (max skew 1)")?;
    let placed = json!({ "topologySpreadConstraints": [{
        "maxSkew": 1,
        "topologyKey": REGION,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": SPREAD } },
    }] });
    stage.apply(&pods::deployment(SPREAD, 10, &placed), voice)?;
    stage.kubectl(&["rollout", "status", "deployment", SPREAD, LIMIT])?;
    let pods = pods::running(stage, Some(SPREAD))?;
    pods::tell(stage, &pods, voice)?;
    let counts = pods::by_region(&pods);
    let shown: Vec<String> = counts.iter().map(usize::to_string).collect();
    voice.say(&format!(" by region: {}", shown.join(", ")))?;
    Ok(counts)
}

/// The cluster addresses of a Service of all pods, asked by a pod of each region.
fn service(stage: &Stage, voice: &Voice) -> Result<Service> {
    voice
        .head("A pod of each region asks for the Service of all pods, by its cluster addresses")?;
    stage.apply(&pods::service(), voice)?;
    let service = stage.read(&["get", "service", "story"])?;
    let addresses = stage::texts(&service["spec"]["clusterIPs"]);
    voice.say(&format!(" {}", addresses.join(" ")))?;
    let addresses =
        addresses.iter().map(|address| Ok(address.parse()?)).collect::<Result<Vec<_>>>()?;
    let from = pods::running(stage, Some(APART))?;
    let from: Vec<&Pod> = from.iter().collect();
    let fetched = pods::fetch_from(stage, &from, &addresses, ASKS)?;
    tell_fetched(&fetched, "asks answered", voice)?;
    let pods = fetched.answered.len();
    voice.say(&format!(" by {pods} different pods"))?;
    Ok(Service { asked: fetched.wanted, answered: fetched.reached, pods })
}

/// Kills a region's gateway: on its node every process of the agent, at once and without a word.
fn kill_gateway(stage: &Stage, all: &[Pod], voice: &Voice) -> Result<Recovery> {
    voice.head(&format!(
        "The gateway of {KILLED}'s region is killed, and everybody fetches again"
    ))?;
    let killed = stage.kill_agent(KILLED)?;
    let begin = Instant::now();
    voice.say(&format!(" killed on {KILLED}: {killed}"))?;
    let fetched = pods::fetch_all(stage, all)?;
    let seconds = tenths(begin.elapsed());
    tell_fetched(&fetched, &format!("pages fetched, {seconds:.1} s after its death"), voice)?;
    stage.rolled_out()?;
    Ok(Recovery {
        gateway: KILLED.to_owned(),
        seconds,
        http_pairs: fetched.wanted,
        http_reachable: fetched.reached,
    })
}

fn tell_fetched(fetched: &Fetched, what: &str, voice: &Voice) -> Result<()> {
    let Fetched { wanted, reached, missed, .. } = fetched;
    voice.verdict(missed.is_empty(), &format!("{reached} of {wanted} {what}"))?;
    for missed in missed.iter().take(12) {
        voice.say(&format!("   not fetched: {missed}"))?;
    }
    Ok(())
}
