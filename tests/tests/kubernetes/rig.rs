//! A cluster of agents, each on a host of its own, and an API server on one more.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_cluster::ApiServer;
use wireloom_lab::plan::{HostPlan, PodPlan};
use wireloom_lab::{Child, Host, Lab, Region};
use wireloom_model::kernel::ROUTE_PROTOCOL;
use wireloom_tests::{cluster, ok, run, wireloom};

/// How long anything may take that waits for a node to be missed: three heartbeats, and a machine with much to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// Agents and what they follow.
pub(crate) struct Cluster {
    agents: BTreeMap<String, Child>,
    pub(crate) api: ApiServer,
    pub(crate) lab: Lab,
    /// Arguments of every agent that is started.
    pub(crate) arguments: String,
}

impl Cluster {
    /// Starts an API server in a region of its own, beside these, and no agent yet. The resource `Peer` is known.
    pub(crate) fn empty(regions: Vec<Region>) -> Self {
        let (lab, api) = cluster::api_server(regions, true);
        let arguments = "--subnet 10.4.0.0/16,fd04::/64".to_owned();
        Self { agents: BTreeMap::new(), api, lab, arguments }
    }

    /// The same, with these hosts as nodes, all of them in the mesh.
    pub(crate) fn of(regions: Vec<Region>, nodes: &[&str]) -> Self {
        let mut cluster = Self::empty(regions);
        for name in nodes {
            cluster.join(name);
        }
        for name in nodes {
            cluster.knows(name, nodes);
        }
        cluster
    }

    /// Makes a host a node: its object, and its agent.
    pub(crate) fn join(&mut self, name: &str) {
        self.declare(name, name);
        self.start(name);
    }

    /// Makes the Node object of a host, by this name. Nobody says who is behind NAT.
    pub(crate) fn declare(&self, name: &str, host: &str) {
        cluster::declare(&self.api, &self.lab, name, host);
    }

    /// Starts the agent of a host, as the Node of the host's name.
    pub(crate) fn start(&mut self, name: &str) {
        self.start_as(name, name, "");
    }

    /// Starts the agent of a host as the Node of this name, with more arguments.
    pub(crate) fn start_as(&mut self, name: &str, host: &str, more: &str) {
        let line = format!("{} {more}", self.agent_line(name));
        self.prepare(host);
        let agent = wireloom(self.host(host), &line);
        self.adopt(host, agent);
    }

    /// Gives a host what its agent reads.
    pub(crate) fn prepare(&self, host: &str) {
        cluster::admit(self.host(host), &self.api);
    }

    /// The command line of an agent.
    pub(crate) fn agent_line(&self, name: &str) -> String {
        format!("{} {}", cluster::agent(name), self.arguments)
    }

    /// Takes a process as the agent of a host.
    pub(crate) fn adopt(&mut self, host: &str, agent: Child) {
        self.agents.insert(host.to_owned(), agent);
    }

    /// Kills a host's agent, and with it the tunnel device: what goes without a word.
    pub(crate) fn kill(&mut self, host: &str) {
        self.agents.remove(host).expect("it has an agent");
    }

    /// The process of a host's agent.
    pub(crate) fn agent(&self, host: &str) -> &Child {
        &self.agents[host]
    }

    /// What an agent has logged.
    pub(crate) fn log(&self, host: &str) -> String {
        self.agents.get(host).map(|agent| agent.written().unwrap().1).unwrap_or_default()
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    /// The addresses of a host.
    pub(crate) fn plan(&self, name: &str) -> &HostPlan {
        self.lab.plan().hosts().find(|host| host.name == name).unwrap()
    }

    /// The addresses of a host's pod.
    pub(crate) fn pod(&self, name: &str) -> &PodPlan {
        self.plan(name).pod.as_ref().unwrap()
    }

    /// Runs kubectl with a line of arguments, split at blanks.
    pub(crate) fn kubectl(&self, line: &str) -> String {
        self.api.kubectl(line.split_whitespace()).unwrap()
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("{line} --output=json"))).unwrap()
    }

    /// What a node says of itself; nothing as long as it can't be asked.
    pub(crate) fn status(&self, name: &str) -> Value {
        cluster::status(self.host(name))
    }

    /// Waits until something holds of what a node says of itself.
    pub(crate) fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name);
            if holds(&status) {
                return status;
            }
            let is_late = Instant::now() > deadline;
            assert!(!is_late, "{name}: not in time: {what}: {status:#}\n{}", self.log(name));
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until a node's mesh has these nodes and no other.
    pub(crate) fn knows(&self, name: &str, nodes: &[&str]) -> Value {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        self.until(name, &format!("its mesh is {nodes:?}"), |status| names(status) == nodes)
    }

    /// Waits until the pods of two nodes get echoes from each other, by both families and each way.
    pub(crate) fn pods_meet(&self, one: &str, other: &str) {
        self.pods_meet_by(one, other, &[0, 1]);
    }

    /// The same by some families: 0 is IPv4, 1 is IPv6.
    pub(crate) fn pods_meet_by(&self, one: &str, other: &str, families: &[usize]) {
        for (from, to) in [(one, other), (other, one)] {
            for &family in families {
                let address = self.pod(to).address[family];
                self.meet(&self.pod(from).name, from, address.address());
            }
        }
    }

    /// Waits until the pods of all these nodes meet.
    pub(crate) fn all_pods_meet(&self, nodes: &[&str]) {
        for (at, one) in nodes.iter().enumerate() {
            for other in &nodes[at + 1..] {
                self.pods_meet(one, other);
            }
        }
    }

    /// Waits until a host gets an echo from an address. If there is none, `asked` is a node that is asked why.
    pub(crate) fn meet(&self, from: &str, asked: &str, to: IpAddr) {
        let deadline = Instant::now() + PATIENCE;
        let answer = wireloom_lab::measure::ping(self.host(from), to, deadline).unwrap();
        assert!(
            answer.is_some(),
            "{from} gets no echo from {to}: {:#}\n{}",
            self.status(asked),
            self.log(asked)
        );
    }

    /// Opens a connection from a node's pod to another's, by each family.
    pub(crate) fn connect(&self, from: &str, to: &str) -> Vec<Connection> {
        self.connect_by(from, to, &[0, 1])
    }

    /// The same by some families: 0 is IPv4, 1 is IPv6.
    pub(crate) fn connect_by(&self, from: &str, to: &str, families: &[usize]) -> Vec<Connection> {
        let [from, to] = [self.pod(from), self.pod(to)];
        let open = |&family: &usize| {
            let there = to.address[family].address();
            Connection::open(self.host(&from.name), self.host(&to.name), there)
        };
        families.iter().map(open).collect()
    }

    /// Gives a host other public addresses, of the same networks.
    pub(crate) fn readdress(&self, name: &str, new: &[String; 2]) {
        let host = self.host(name);
        let old = self.plan(name).public.unwrap();
        for ((old, new), family) in old.iter().zip(new).zip(["-4", "-6"]) {
            let shown = ok(host, &format!("ip -o address show to {}", old.address()));
            let link = shown.split_whitespace().nth(1).unwrap();
            // The way out goes with the last address of its network.
            let way = ok(host, &format!("ip {family} route show default"));
            ok(host, &format!("ip address del {old} dev {link}"));
            // Usable at once: nobody else has it.
            let nodad = if family == "-6" { "nodad" } else { "" };
            ok(host, &format!("ip address add {new}/{} dev {link} {nodad}", old.length()));
            ok(host, &format!("ip {family} route replace {}", way.lines().next().unwrap()));
        }
    }

    /// Makes a host as it is after its machine was switched off and on: its agent is gone, and all of it that was in the
    /// kernel and in `/run/wireloom`; what is on disk is there.
    pub(crate) fn switch_off(&mut self, name: &str) {
        self.kill(name);
        let host = self.host(name);
        for line in ok(host, "ip -o link show").lines() {
            let link = line.split(": ").nth(1).and_then(|name| name.split('@').next());
            if let Some(link) = link.filter(|link| link.starts_with("wl")) {
                // One may have gone with another.
                run(host, &format!("ip link delete dev {link}"));
            }
        }
        for family in ["-4", "-6"] {
            run(host, &format!("ip {family} rule flush protocol {ROUTE_PROTOCOL}"));
            run(host, &format!("ip {family} route flush table all protocol {ROUTE_PROTOCOL}"));
        }
        ok(host, "nft flush ruleset");
        ok(host, "rm -rf /run/wireloom");
    }
}

/// The names of the nodes that a status lists.
pub(crate) fn names(status: &Value) -> Vec<&str> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| node["name"].as_str()).collect()
}

/// What a status says of a node.
pub(crate) fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.clone().find(|node| node["name"] == name).unwrap_or(&Value::Null)
}

/// Whether a status names a problem whose text holds all of these.
pub(crate) fn complains(status: &Value, words: &[&str]) -> bool {
    let problems = status["problems"].as_array().into_iter().flatten();
    problems.clone().any(|problem| {
        let text = problem.to_string();
        words.iter().all(|word| text.contains(word))
    })
}

/// A TCP connection, held through whatever happens to the mesh.
pub(crate) struct Connection {
    near: TcpStream,
    far: TcpStream,
    words: u64,
}

impl Connection {
    /// Opens one between two hosts, to this address of the second.
    pub(crate) fn open(from: &Host, to: &Host, address: IpAddr) -> Self {
        let listener = to.run(move || TcpListener::bind((address, 0))).unwrap().unwrap();
        let there = listener.local_addr().unwrap();
        let near = from.run(move || TcpStream::connect_timeout(&there, PATIENCE)).unwrap().unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut connection = Self { near, far, words: 0 };
        connection.goes_on();
        connection
    }

    /// Sends a word there, and one back.
    pub(crate) fn goes_on(&mut self) {
        self.words += 1;
        let word = self.words.to_be_bytes();
        let mut heard = [0; 8];
        self.near.write_all(&word).expect("the connection is open");
        self.far.read_exact(&mut heard).expect("the word arrives");
        assert_eq!(heard, word);
        self.far.write_all(&word).expect("the connection is open");
        self.near.read_exact(&mut heard).expect("the answer arrives");
        assert_eq!(heard, word);
    }
}
