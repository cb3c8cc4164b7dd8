//! The regions, the cluster in them, and the mesh on it: what both demonstrations stand on.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;
use wireloom_cluster::Cluster;
use wireloom_image::recipe;
use wireloom_lab::demo::voice::table;
use wireloom_lab::demo::{Voice, tenths};
use wireloom_lab::measure::ping;
use wireloom_lab::{Child, Host, Lab, Latency, Layout, NetworkState, Output, Region};

/// The label by which nodes and pods are placed.
pub(crate) const REGION: &str = "topology.kubernetes.io/region";

/// A machine that becomes a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) region: &'static str,
    /// Whose it is.
    pub(crate) provider: &'static str,
}

/// The provider that runs the control plane.
pub(crate) const OWN: &str = "the cluster's";

/// Two of the provider's own, one at another, and one behind NAT: a region each.
pub(crate) const MACHINES: [Machine; 4] = [
    Machine { name: "ams-1", region: "nl-ams", provider: OWN },
    Machine { name: "waw-1", region: "pl-waw", provider: OWN },
    Machine { name: "lon-1", region: "uk-lon", provider: "another" },
    Machine { name: "dub-1", region: "eu-west-1", provider: "another, behind NAT" },
];

/// The one that nobody can dial.
pub(crate) const BEHIND_NAT: &str = "dub-1";

/// Where the control plane runs: beside the first of them, as a node only where that is said.
pub(crate) const CONTROL: Machine = Machine { name: "control", region: "nl-ams", provider: OWN };

/// A machine that is no node.
pub(crate) const OFFICE: &str = "office";

/// What starts a kubelet, as it is shown.
const KUBELET: &str = "kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap.kubeconfig --node-labels=topology.kubernetes.io/region=...";

/// What `kubectl apply -k` is given, as a person in a checkout says it.
const DEPLOY: &str = "deploy/overlays/kubeadm";

/// The name that `deploy/` gives the image.
const IMAGE: &str = "localhost/wireloom:dev";

/// The pods of the agents.
const AGENTS: [&str; 2] = ["--namespace=kube-system", "--selector=app.kubernetes.io/name=wireloom"];

/// How long any step may take on a machine with much to do.
const STEP: Duration = Duration::from_secs(180);

/// The same for kubectl.
pub(crate) const LIMIT: &str = "--timeout=180s";

/// A cluster in its regions.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// The program under demonstration.
    program: PathBuf,
    /// Its nodes, in the order in which they came, with what their networks were like before the mesh.
    found: Vec<(Machine, NetworkState)>,
}

/// What the cluster said of itself, for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Kubernetes {
    /// The version of its API server.
    pub server: String,
    /// How many pods of the DaemonSet were ready.
    pub daemonset_ready: u64,
    /// How long the last node took to be in the mesh, in seconds from the start of its kubelet.
    pub join_seconds: f64,
}

/// A node of the mesh, as it says itself.
pub(crate) struct InMesh {
    pub(crate) name: &'static str,
    pub(crate) region: &'static str,
    pub(crate) overlay: Vec<IpAddr>,
}

impl Stage {
    /// Builds the regions and starts the control plane.
    pub(crate) fn build(program: &Path, voice: &Voice) -> Result<Self> {
        let begin = Instant::now();
        let latency = Duration::from_millis;
        let regions = vec![
            Region::new("nl-ams", &[CONTROL.name, "ams-1"]).latency(latency(2)),
            Region::new("pl-waw", &["waw-1"]).latency(latency(20)),
            Region::new("uk-lon", &["lon-1"]).latency(latency(4)),
            Region::new("eu-west-1", &["dub-1"]).latency(latency(15)).behind_nat(),
            Region::new("elsewhere", &[OFFICE]).latency(latency(8)),
        ];
        let lab = Lab::build(&Layout { regions, pods: false })?;
        let latency = lab.latency().clone();
        let mut cluster = Cluster::start(lab, CONTROL.name)?;
        cluster.provide(&recipe::wireloom(IMAGE, "demo", program, None)?)?;
        cluster.api().apply(&cluster.api().way_of_kubeadm().to_string())?;
        let stage = Self { cluster, program: program.to_owned(), found: Vec::new() };
        let seconds = begin.elapsed().as_secs_f64();
        voice.head(&format!(
            "Kubernetes {}, its control plane up after {seconds:.1} s",
            stage.version()?
        ))?;
        if let Latency::Unavailable { reason } = latency {
            voice.say(&format!(" latency: not available, {reason}"))?;
        }
        Ok(stage)
    }

    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        Ok(self.cluster.lab().host(name)?)
    }

    /// The public IPv4 address of a host that has one.
    pub(crate) fn public_address(&self, host: &str) -> Result<IpAddr> {
        let mut hosts = self.cluster.lab().plan().hosts();
        let public = hosts.find(|plan| plan.name == host).and_then(|plan| plan.public);
        let [v4, _] = public.with_context(|| format!("{host} has no public address"))?;
        Ok(v4.address())
    }

    /// The API server's version.
    pub(crate) fn version(&self) -> Result<String> {
        let version = self.read(&["version"])?;
        text(&version["serverVersion"]["gitVersion"]).map(str::to_owned)
    }

    /// Lets machines join by the token, tells how, and returns when the kubelet of the last one was started: exactly if it
    /// is the only one, else that or a little later.
    pub(crate) fn join(&mut self, machines: &[Machine], voice: &Voice) -> Result<Instant> {
        let names: Vec<&str> = machines.iter().map(|machine| machine.name).collect();
        voice.say(&format!(" $ {KUBELET} # on {}", names.join(", ")))?;
        let spans = self.cluster.join(&names)?;
        let started = Instant::now() - spans.last().copied().unwrap_or_default();
        self.welcome(machines, &spans, voice)?;
        Ok(started)
    }

    /// The same for one machine that nobody reaches by an address of its own: its kubelet calls one its own that it will have
    /// in the mesh.
    pub(crate) fn join_at(
        &mut self,
        machine: Machine,
        address: IpAddr,
        voice: &Voice,
    ) -> Result<Instant> {
        voice.say(&format!(" $ {KUBELET} --node-ip={address} # on {}", machine.name))?;
        let span = self.cluster.join_at(machine.name, &[address])?;
        let started = Instant::now() - span;
        let asked = format!("wireloom.dev/force-overlay-ips={address}");
        self.show(&["annotate", "node", machine.name, &asked], voice)?;
        self.welcome(&[machine], &[span], voice)?;
        Ok(started)
    }

    /// Tells who has joined, and remembers what their networks are like.
    fn welcome(&mut self, machines: &[Machine], spans: &[Duration], voice: &Voice) -> Result<()> {
        let mut joined = table(&["NODE", "REGION", "PROVIDER", "PODS", "KNOWN AFTER"]);
        for (machine, span) in machines.iter().zip(spans) {
            let node = self.read(&["get", "node", machine.name])?;
            let label = text(&node["metadata"]["labels"][REGION])?;
            joined.add_row([
                machine.name.to_owned(),
                label.to_owned(),
                machine.provider.to_owned(),
                texts(&node["spec"]["podCIDRs"]).join(" "),
                format!("{:.1} s", span.as_secs_f64()),
            ]);
            self.found.push((*machine, NetworkState::of(self.host(machine.name)?)?));
        }
        Ok(voice.table(&joined)?)
    }

    /// The nodes, in the order in which they came.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.found.iter().map(|(machine, _)| machine)
    }

    /// Puts the mesh on the nodes, by what a person would type, and waits until all of them have it.
    pub(crate) fn install(&self, voice: &Voice) -> Result<()> {
        let (command, directory) = (["apply", "-k"], deploy());
        self.aloud(&command, DEPLOY, &directory, voice)?;
        self.rolled_out()
    }

    /// Waits until no pod hangs on any node's bridge: one is gone from the API before it is from its node.
    pub(crate) fn await_empty(&self) -> Result<()> {
        for machine in self.nodes() {
            let deadline = Instant::now() + STEP;
            let host = self.host(machine.name)?;
            let links = || {
                let links = host.spawn("ip", ["-o", "link", "show", "type", "veth"])?;
                Ok::<_, anyhow::Error>(links.success(STEP)?.stdout)
            };
            while links()?.contains(" master ") {
                if Instant::now() > deadline {
                    bail!("pods do not leave {}: {}", machine.name, links()?);
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }

    /// Takes the mesh off the nodes and returns what is not as it was found.
    pub(crate) fn remove(&self, voice: &Voice) -> Result<Vec<String>> {
        let (command, directory) = (["delete", LIMIT, "-k"], deploy());
        self.aloud(&command, DEPLOY, &directory, voice)?;
        self.kubectl(&["wait", "--for=delete", "pod", AGENTS[0], AGENTS[1], LIMIT])?;
        let mut left = Vec::new();
        for (Machine { name, .. }, before) in &self.found {
            let host = self.host(name)?;
            let deadline = Instant::now() + Duration::from_secs(15);
            // What a killed process had may take a moment to go.
            let changes = loop {
                let changes = NetworkState::of(host)?.changes_since(before);
                if changes.is_empty() || Instant::now() > deadline {
                    break changes;
                }
                thread::sleep(Duration::from_millis(200));
            };
            left.extend(changes.into_iter().map(|change| format!("{name}: {change}")));
        }
        let verdict = match &left[..] {
            [] => {
                "every node's links, addresses, routes, rules and settings are as they were found"
                    .to_owned()
            }
            left => format!("not as it was found:\n   {}", left.join("\n   ")),
        };
        voice.verdict(left.is_empty(), &verdict)?;
        Ok(left)
    }

    /// Says what each node says of itself, once all know all.
    pub(crate) fn introduce(&self, voice: &Voice) -> Result<Vec<InMesh>> {
        let mut nodes = Vec::new();
        let mut roles = table(&["NODE", "LOCATION", "ROLE", "OVERLAY"]);
        for machine in self.nodes() {
            let status = self.complete_status(machine.name)?;
            let overlay = texts(&status["overlay_addresses"]);
            let role = if status["gateway"] == true { "gateway" } else { "node" };
            roles.add_row([machine.name, text(&status["location"])?, role, &overlay.join(" ")]);
            for problem in status["problems"].as_array().into_iter().flatten() {
                let (subject, message) = (&problem["subject"], &problem["message"]);
                voice.say(&format!(" {} says: {subject}: {message}", machine.name))?;
            }
            nodes.push(InMesh {
                name: machine.name,
                region: machine.region,
                overlay: overlay
                    .iter()
                    .map(|address| Ok(address.parse()?))
                    .collect::<Result<_>>()?,
            });
        }
        voice.table(&roles)?;
        Ok(nodes)
    }

    /// Seconds from the start of a late node's kubelet until it reaches all others through the mesh.
    pub(crate) fn in_mesh_after(&self, late: &str, started: Instant) -> Result<f64> {
        let status = self.complete_status(late)?;
        let host = self.host(late)?;
        let nodes = status["nodes"].as_array().into_iter().flatten();
        for node in nodes.filter(|node| node["name"] != late) {
            let (name, address) = (&node["name"], text(&node["overlay_addresses"][0])?);
            if ping(host, address.parse()?, Instant::now() + STEP)?.is_none() {
                bail!("{late} does not reach {name} ({address})");
            }
        }
        Ok(tenths(started.elapsed()))
    }

    /// Waits until every node's agent is the one that its DaemonSet asks for, and ready.
    pub(crate) fn rolled_out(&self) -> Result<()> {
        self.kubectl(&["rollout", "status", "daemonset/wireloom", AGENTS[0], LIMIT])?;
        Ok(())
    }

    /// The pod of a node's agent.
    pub(crate) fn agent(&self, node: &str) -> Result<String> {
        let on = format!("--field-selector=spec.nodeName={node}");
        let pods = self.read(&["get", "pods", AGENTS[0], AGENTS[1], &on])?;
        text(&pods["items"][0]["metadata"]["name"]).map(str::to_owned)
    }

    /// What the cluster says of itself, once the agent of the late node counts as ready too.
    pub(crate) fn describe(&self, join_seconds: f64) -> Result<Kubernetes> {
        self.rolled_out()?;
        let set = self.read(&["get", "daemonset/wireloom", AGENTS[0]])?;
        let ready = set["status"]["numberReady"].as_u64();
        Ok(Kubernetes {
            server: self.version()?,
            daemonset_ready: ready.context("the DaemonSet counts no pods that are ready")?,
            join_seconds,
        })
    }

    /// Kills every process of ours on a node, and returns their numbers there.
    pub(crate) fn kill_agent(&self, node: &str) -> Result<String> {
        let kill = "for process in /proc/[0-9]*; do
                [ \"$(cat $process/comm 2> /dev/null)\" = wireloom ] || continue
                kill -KILL ${process#/proc/} && echo process ${process#/proc/}
            done";
        let programs = self.cluster.nodes().get(node).context("no such node")?;
        let done = programs.exec(self.host(node)?, "sh", &["-c", kill], STEP)?;
        let killed: Vec<&str> = done.stdout.lines().collect();
        if killed.is_empty() {
            bail!("nothing of ours runs on {node}: {}", done.stderr);
        }
        Ok(killed.join(", "))
    }

    /// The status of a node, once it knows all nodes.
    fn complete_status(&self, node: &str) -> Result<Value> {
        let deadline = Instant::now() + STEP;
        loop {
            let status = self.wireloom(node, &["status", "--output", "json"])?;
            if let Ok(status) = serde_json::from_str::<Value>(&status.stdout)
                && status["nodes"].as_array().is_some_and(|nodes| nodes.len() == self.found.len())
                && status["overlay_addresses"][0].is_string()
            {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{node} did not learn of all others: {}{}", status.stdout, status.stderr);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs the program on a host.
    pub(crate) fn wireloom(&self, host: &str, arguments: &[&str]) -> Result<Output> {
        Ok(self.host(host)?.exec(&self.program, arguments, STEP)?)
    }

    /// Runs a script on a host, in which `wireloom` is the program, and returns what it printed.
    pub(crate) fn shell(&self, host: &str, script: &str) -> Result<String> {
        let script = format!("wireloom() {{ {} \"$@\"; }}\n{script}", self.program.display());
        Ok(self.host(host)?.spawn("sh", ["-c", &script])?.success(STEP)?.stdout)
    }

    /// Starts a tunnel device on a host, which ends with what is returned.
    pub(crate) fn tunnel(&self, host: &str, device: &str) -> Result<Child> {
        Ok(self.host(host)?.spawn(&self.program, ["tunnel", "--foreground", device])?)
    }

    /// Runs kubectl where the control plane is.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let kubectl = self.cluster.api().spawn_kubectl(arguments)?;
        let done = kubectl.success(STEP + Duration::from_secs(20));
        Ok(done.with_context(|| self.warnings())?.stdout)
    }

    /// What the cluster's parts complained of last.
    fn warnings(&self) -> String {
        let events = ["get", "events", "--all-namespaces", "--field-selector=type=Warning"];
        let events = self.cluster.api().kubectl(events).unwrap_or_default();
        let lines: Vec<&str> = events.lines().collect();
        format!(
            "the cluster's last warnings:\n{}",
            lines[lines.len().saturating_sub(12)..].join("\n")
        )
    }

    /// Asks kubectl for JSON.
    pub(crate) fn read(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--output=json"]].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }

    /// Runs kubectl and shows the command and what it said.
    pub(crate) fn show(&self, arguments: &[&str], voice: &Voice) -> Result<()> {
        let shown: Vec<&str> =
            arguments.iter().copied().filter(|argument| *argument != LIMIT).collect();
        voice.say(&format!(" $ kubectl {}", shown.join(" ")))?;
        say_indented(&self.kubectl(arguments)?, voice)
    }

    /// The same for a command with a path at its end, which is shown as a person in a checkout says it.
    fn aloud(&self, command: &[&str], shown: &str, path: &str, voice: &Voice) -> Result<()> {
        let words: Vec<&str> =
            command.iter().copied().filter(|argument| *argument != LIMIT).collect();
        voice.say(&format!(" $ kubectl {} {shown}", words.join(" ")))?;
        say_indented(&self.kubectl(&[command, &[path]].concat())?, voice)
    }

    /// Applies manifests and says of them what kubectl says.
    pub(crate) fn apply(&self, manifests: &Value, voice: &Voice) -> Result<()> {
        say_indented(&self.cluster.api().apply(&manifests.to_string())?, voice)
    }
}

/// How a person enters what is kept.
pub(crate) fn explanation(stage: &Stage) -> String {
    use wireloom_lab::host::Namespace::{Mount, Network};
    let mut text =
        "\nThe cluster stays up until this is interrupted. From another terminal:".to_owned();
    let api = stage.cluster.api();
    let kubectl = api.kubectl_line();
    let enter = |host: &Host| {
        let [network, mount] = [Network, Mount].map(|kind| host.namespace(kind));
        format!("nsenter --net={} --mount={}", network.display(), mount.display())
    };
    // Writing to a String cannot fail.
    let _ = write!(text, "\n  {} {kubectl} get nodes", enter(api.host()));
    if let Ok(host) = stage.host(MACHINES[0].name) {
        let _ = write!(text, "\n  {} {} status", enter(host), stage.program.display());
    }
    text
}

fn say_indented(said: &str, voice: &Voice) -> Result<()> {
    for line in said.lines() {
        voice.say(&format!("   {line}"))?;
    }
    Ok(())
}

/// Where `deploy/` is in the checkout that this was built from.
fn deploy() -> String {
    format!("{}/../../{DEPLOY}", env!("CARGO_MANIFEST_DIR"))
}

/// What is a text in JSON.
pub(crate) fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} where a text should be"))
}

/// The texts in a list of JSON.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
