//! Pods, and the pages that they fetch from each other.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use wireloom_lab::demo::voice::{Voice, table};

use crate::stage::{MACHINES, Stage, text};

/// The label of all pods of the story.
const LABEL: &str = "part-of=story";

/// How long a pod tries to fetch all its pages, in seconds. A node behind NAT learns after REKEY_AFTER_TIME, which is
/// 120 s, that a node that can't dial it has lost their session (WireGuard paper, section 6.1).
const PATIENCE: u64 = 150;

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

/// A Deployment of pods that say their name over HTTP.
pub(crate) fn deployment(name: &str, replicas: u32, placed: &Value) -> Value {
    let serve =
        "mkdir /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www";
    let mut pod = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "page",
            "image": wireloom_cluster::TOOLS,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", serve],
            "ports": [{ "containerPort": 80 }],
            "readinessProbe": { "httpGet": { "port": 80 }, "periodSeconds": 1 },
        }],
    });
    for (key, value) in placed.as_object().into_iter().flatten() {
        pod[key] = value.clone();
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name, "part-of": "story" } },
                "spec": pod,
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
pub(crate) fn tell(pods: &[Pod], voice: &Voice) -> Result<()> {
    let mut places = table(&["POD", "NODE", "REGION", "ADDRESSES"]);
    for machine in &MACHINES {
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
    thread::scope(|scope| {
        let one = &one;
        let work = wishes.iter().map(|(pod, pages)| scope.spawn(move || one(pod, pages)));
        let work: Vec<_> = work.collect();
        let mut all = Fetched::default();
        for end in work {
            let fetched =
                end.join().map_err(|_| anyhow!("a thread that fetches has panicked"))??;
            all.wanted += fetched.wanted;
            all.reached += fetched.reached;
            all.missed.extend(fetched.missed);
            all.answered.extend(fetched.answered);
        }
        Ok(all)
    })
}

/// A shell's part: a line for each page, empty if it could not be fetched in time.
fn script(pages: &[Page<'_>]) -> String {
    let mut script = format!(
        "end=$(($(date +%s) + {PATIENCE}))
        fetch() {{
            until page=$(timeout 2 wget -q -O - \"$1\" 2> /dev/null) || [ $(date +%s) -ge $end ]; do
                sleep 0.2
            done
            echo \"$page\"
        }}\n"
    );
    for (address, _) in pages {
        // Writing to a String cannot fail.
        let _ = match address {
            IpAddr::V4(address) => writeln!(script, "fetch http://{address}/"),
            IpAddr::V6(address) => writeln!(script, "fetch http://[{address}]/"),
        };
    }
    script
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
