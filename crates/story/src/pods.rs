//! Pods, the pages that they fetch from each other, and their pings.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use wireloom_lab::demo::voice::{Voice, table};
use wireloom_lab::demo::{Layer, Pair, Trial};
use wireloom_lab::measure;
use wireloom_model::Family;

use crate::stage::{MACHINES, Stage, text};

/// The label of all pods of the story.
const LABEL: &str = "part-of=story";

/// How long a pod tries to fetch all its pages, in seconds. A node behind NAT finds within a minute that a node that can't
/// dial it has lost their session.
const PATIENCE: u64 = 100;

/// A pod that runs.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The name by which containerd knows its container.
    container: String,
}

/// What pods fetched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetched {
    /// How many pages were to be fetched.
    pub(crate) wanted: usize,
    /// How many were.
    pub(crate) reached: usize,
    /// Those that were not.
    pub(crate) missed: Vec<String>,
    /// Who answered.
    pub(crate) answered: BTreeSet<String>,
}

/// A Deployment of pods that say their name over HTTP, which are placed as told.
pub(crate) fn deployment(name: &str, replicas: u32, placed: &Value) -> Value {
    let mut deployment = workload("Deployment", name);
    deployment["spec"]["replicas"] = replicas.into();
    for (key, value) in placed.as_object().into_iter().flatten() {
        deployment["spec"]["template"]["spec"][key] = value.clone();
    }
    deployment
}

/// The same pods, one on each node.
pub(crate) fn daemon_set(name: &str) -> Value {
    workload("DaemonSet", name)
}

fn workload(kind: &str, name: &str) -> Value {
    let serve =
        "mkdir /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www";
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name, "part-of": "story" } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "page",
                        "image": wireloom_cluster::TOOLS,
                        "imagePullPolicy": "Never",
                        "command": ["sh", "-c", serve],
                        "ports": [{ "containerPort": 80 }],
                        "readinessProbe": { "httpGet": { "port": 80 }, "periodSeconds": 1 },
                    }],
                },
            },
        },
    })
}

/// The Service of all pods of the story, with an address of each family.
pub(crate) fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "story", "namespace": "default" },
        "spec": {
            "selector": { "part-of": "story" },
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "port": 80 }],
        },
    })
}

/// The pods of an app, or of all, that run.
pub(crate) fn running(stage: &Stage, app: Option<&str>) -> Result<Vec<Pod>> {
    let selector = app.map_or_else(|| LABEL.to_owned(), |app| format!("app={app}"));
    let list = stage.read(&[
        "get",
        "pods",
        &format!("--selector={selector}"),
        "--field-selector=status.phase=Running",
    ])?;
    list["items"].as_array().context("kubectl lists no pods")?.iter().map(pod).collect()
}

fn pod(pod: &Value) -> Result<Pod> {
    let status = &pod["status"];
    let addresses = status["podIPs"].as_array().into_iter().flatten();
    let container = text(&status["containerStatuses"][0]["containerID"])?;
    Ok(Pod {
        name: text(&pod["metadata"]["name"])?.to_owned(),
        node: text(&pod["spec"]["nodeName"])?.to_owned(),
        addresses: addresses.map(|a| Ok(text(&a["ip"])?.parse()?)).collect::<Result<_>>()?,
        container: container.trim_start_matches("containerd://").to_owned(),
    })
}

/// How many of the pods are in each region that has one, the most first.
pub(crate) fn by_region(pods: &[Pod]) -> Vec<usize> {
    let count = |name: &str| pods.iter().filter(|pod| pod.node == name).count();
    let counts = MACHINES.iter().map(|machine| count(machine.name));
    let mut counts: Vec<usize> = counts.filter(|count| *count > 0).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

/// Shows where pods are.
pub(crate) fn tell(stage: &Stage, pods: &[Pod], voice: &Voice) -> Result<()> {
    let mut places = table(&["POD", "NODE", "REGION", "ADDRESSES"]);
    for machine in stage.nodes() {
        for pod in pods.iter().filter(|pod| pod.node == machine.name) {
            let addresses: Vec<String> = pod.addresses.iter().map(IpAddr::to_string).collect();
            places.add_row([&pod.name, &pod.node, machine.region, &addresses.join(" ")]);
        }
    }
    Ok(voice.table(&places)?)
}

/// Has every pod fetch the page of every other, by each of its addresses.
pub(crate) fn fetch_all(stage: &Stage, pods: &[Pod]) -> Result<Fetched> {
    let wishes = pods.iter().map(|pod| {
        let others = pods.iter().filter(|other| other.name != pod.name);
        let pages = others.flat_map(|other| {
            other.addresses.iter().map(|address| (*address, Some(other.name.as_str())))
        });
        (pod, pages.collect())
    });
    fetch(stage, wishes.collect())
}

/// Has each of these pods fetch a page from each of these addresses, several times, whoever of `pods` answers.
pub(crate) fn fetch_from(
    stage: &Stage,
    from: &[&Pod],
    addresses: &[IpAddr],
    times: usize,
) -> Result<Fetched> {
    let pages = || {
        let all = addresses.iter().map(|address| (*address, None));
        std::iter::repeat_with(|| all.clone()).take(times).flatten().collect()
    };
    fetch(stage, from.iter().map(|pod| (*pod, pages())).collect())
}

/// Has every pod ping every other, by each of its addresses.
pub(crate) fn ping_all(stage: &Stage, pods: &[Pod]) -> Result<Vec<Trial>> {
    let from = |pod: &Pod| {
        let others = pods.iter().filter(|other| other.name != pod.name);
        let pairs = others.flat_map(|to| {
            to.addresses.iter().map(|address| Pair {
                from: pod.node.clone(),
                to: to.node.clone(),
                family: Family::of(*address),
                layer: Layer::Pod,
                asks: pod.name.clone(),
                address: Some(*address),
            })
        });
        let pairs: Vec<Pair> = pairs.collect();
        let addresses = pairs.iter().filter_map(|pair| pair.address);
        let said = exec(stage, pod, &pings(addresses))?;
        let trips = said.lines().map(measure::round_trip).collect::<Vec<_>>();
        if trips.len() != pairs.len() {
            bail!("{} tells of {} pings of {}: {said}", pod.name, trips.len(), pairs.len());
        }
        let trials = pairs.into_iter().zip(trips);
        Ok(trials.map(|(pair, round_trip)| Trial { pair, round_trip }).collect::<Vec<_>>())
    };
    each(pods, from).map(|trials| trials.into_iter().flatten().collect())
}

/// A shell's part: for each address ping's line of the echo, or an empty one if none came in time.
fn pings(addresses: impl Iterator<Item = IpAddr>) -> String {
    let mut script = beginning("ping -c 1 -W 1 \"$1\" | grep time=");
    for address in addresses {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "try {address}");
    }
    script
}

/// A page by the address that it is at and the name that must be on it.
type Page<'a> = (IpAddr, Option<&'a str>);

fn fetch(stage: &Stage, wishes: Vec<(&Pod, Vec<Page<'_>>)>) -> Result<Fetched> {
    let one = |pod: &Pod, pages: &[Page<'_>]| {
        let mut fetched = Fetched::default();
        let said = exec(stage, pod, &script(pages))?;
        let said: Vec<&str> = said.lines().collect();
        if said.len() != pages.len() {
            bail!("{} fetched {} pages of {}", pod.name, said.len(), pages.len());
        }
        for ((address, name), said) in pages.iter().zip(said) {
            fetched.wanted += 1;
            if said.is_empty() || name.is_some_and(|name| name != said) {
                fetched.missed.push(format!("{} from {address}: {said:?}", pod.name));
            } else {
                fetched.reached += 1;
                fetched.answered.insert(said.to_owned());
            }
        }
        Ok(fetched)
    };
    let mut all = Fetched::default();
    for fetched in each(&wishes, |(pod, pages)| one(pod, pages))? {
        all.wanted += fetched.wanted;
        all.reached += fetched.reached;
        all.missed.extend(fetched.missed);
        all.answered.extend(fetched.answered);
    }
    Ok(all)
}

/// Does something for each of these, all at the same time.
fn each<T: Sync, R: Send>(these: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = these.iter().map(|this| scope.spawn(move || work(this))).collect();
        let gone = || anyhow!("a thread that asks a pod has panicked");
        running.into_iter().map(|end| end.join().map_err(|_| gone())?).collect()
    })
}

/// A shell's part: a line for each page, empty if it could not be fetched in time.
fn script(pages: &[Page<'_>]) -> String {
    let mut script = beginning("timeout 2 wget -q -O - \"$1\"");
    for (address, _) in pages {
        // Writing to a String cannot fail.
        let _ = match address {
            IpAddr::V4(address) => writeln!(script, "try http://{address}/"),
            IpAddr::V6(address) => writeln!(script, "try http://[{address}]/"),
        };
    }
    script
}

/// What a shell goes by: `try` does something with its argument until that succeeds or the time is over, and prints what
/// was said in the end.
fn beginning(action: &str) -> String {
    format!(
        "end=$(($(date +%s) + {PATIENCE}))
        try() {{
            until said=$({action} 2> /dev/null) || [ $(date +%s) -ge $end ]; do sleep 0.2; done
            echo \"$said\"
        }}\n"
    )
}

/// Runs a script in a pod. Not by kubectl: where the control plane does not reach a node, the node's own containerd does.
fn exec(stage: &Stage, pod: &Pod, script: &str) -> Result<String> {
    let node = stage.cluster.nodes().get(&pod.node).context("a pod on a node that never joined")?;
    let id = format!("fetch-{}", pod.name);
    let arguments = ["--namespace=k8s.io", "tasks", "exec", "--exec-id", &id, &pod.container];
    let arguments = [&arguments[..], &["sh", "-c", script]].concat();
    let limit = Duration::from_secs(PATIENCE + 60);
    let done = node.exec(stage.host(&pod.node)?, "ctr", &arguments, limit)?;
    if !done.status.success() {
        bail!("{}: {}{}", pod.name, done.stdout, done.stderr);
    }
    Ok(done.stdout)
}
