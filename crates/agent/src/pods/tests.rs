use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use wireloom_model::{NodeName, PrivateKey};
use wireloom_testkit::{in_new_network, ip, need};
use wireloom_topology::kilo::Seen;

use crate::agent::Identity;
use crate::place::Place;
use crate::planner::Planner;

use super::*;

/// As flannel's manifest has it: not as we would write it.
const FLANNEL: &str = r#"{ "name": "cbr0", "cniVersion": "0.3.1",
  "plugins": [ {"type":"flannel"}, {"type": "portmap"} ] }"#;

const THEIRS: &str = "net.d/20-flannel.conflist";
const OURS: &str = "net.d/10-wireloom.conflist";
const PROGRAM: &str = "bin/wireloom";
const GUIDANCE: &str = "state/cni.json";

/// A machine with a runtime, as far as that is a folder.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("net.d")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn directories(&self) -> Directories {
        Directories { run: self.path("run"), state: self.path("state") }
    }

    /// The part of an agent that starts now.
    fn pods(&self, list: List, agent: &str) -> Pods {
        let network = PodNetwork {
            list,
            file: self.path(OURS),
            programs: self.path("bin"),
            directories: self.directories(),
        };
        let key = PrivateKey::from_random([1; 32]).public_key();
        Pods::new(network, self.path(agent), key, Arc::new(Notify::new()))
    }

    /// An agent starts and makes its first pass. Returns what it finds wrong, but for the plugins of others, which are
    /// not there.
    fn start(&self, list: List) -> (Pods, Vec<Problem>) {
        let mut pods = self.pods(list, "run/wl0.sock");
        let problems = self.tell(&mut pods);
        (pods, problems)
    }

    fn tell(&self, pods: &mut Pods) -> Vec<Problem> {
        let guidance = Guidance {
            agent: pods.agent.clone(),
            key: pods.key,
            mtu: 1370,
            pods: BTreeSet::from(["10.42.1.0/24".parse().unwrap()]),
            near: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
        };
        let mut problems = pods.tell(&guidance);
        problems.retain(|problem| !problem.message.contains("containernetworking-plugins"));
        problems
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes down a pod that the plugin was called for.
    fn attach(&self, container: &str, address: &str, off_mesh: bool, host_end: Option<u32>) {
        let attachment = Attachment {
            network: "net".to_owned(),
            container: container.to_owned(),
            interface: "eth0".to_owned(),
            host_end,
            addresses: BTreeSet::from([address.parse().unwrap()]),
            limited: std::collections::BTreeMap::new(),
            off_mesh,
        };
        Attachments::of(&self.path("run")).put(&attachment).unwrap();
    }
}

#[test]
fn what_an_agent_said_in_another_mode_is_taken_back() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let machine = Machine::new();
        machine.put(THEIRS, FLANNEL);
        assert_eq!(machine.start(List::Ours).1, []);
        assert!(machine.has(OURS) && machine.has(PROGRAM) && machine.has(GUIDANCE));
        assert!(ip("-o link").contains(BRIDGE));
        // Ours is no other's to be chained to, though its name comes first.
        for _ in 0..2 {
            assert_eq!(machine.start(List::Anothers).1, []);
            assert!(!machine.has(OURS));
            assert!(machine.text(THEIRS).contains(PLUGIN));
            assert!(!ip("-o link").contains(BRIDGE));
        }
        assert_eq!(machine.start(List::Ours).1, []);
        assert_eq!(machine.text(THEIRS), FLANNEL);
        assert!(machine.has(OURS));
        // As an earlier --cni-path had it.
        fs::rename(machine.path(OURS), machine.path("net.d/05-mesh.conflist")).unwrap();
        assert_eq!(machine.start(List::Ours).1, []);
        assert!(machine.has(OURS) && !machine.has("net.d/05-mesh.conflist"));
        assert_eq!(machine.start(List::Nobodys).1, []);
        assert_eq!(machine.text(THEIRS), FLANNEL);
        assert!(!machine.has(OURS) && !machine.has(PROGRAM) && !machine.has(GUIDANCE));
        assert!(!ip("-o link").contains(BRIDGE));
    });
}

#[test]
fn a_list_that_somebody_put_ours_into_is_served_and_stays() {
    let machine = Machine::new();
    let (mut agent, problems) = machine.start(List::Nobodys);
    assert_eq!((problems, machine.has(PROGRAM), machine.has(GUIDANCE)), (vec![], false, false));
    let mut list: Value = serde_json::from_str(FLANNEL).unwrap();
    list["plugins"].as_array_mut().unwrap().push(json!({ "type": "wireloom" }));
    machine.put(THEIRS, &list.to_string());
    for _ in 0..2 {
        assert_eq!(machine.tell(&mut agent), []);
        assert!(machine.has(PROGRAM) && machine.has(GUIDANCE));
    }
    // Without them no pod would start.
    let left = agent.leave();
    assert!(left[0].message.contains("20-flannel.conflist names it"), "{left:?}");
    assert!(machine.has(PROGRAM) && machine.has(GUIDANCE));
    assert_eq!(machine.text(THEIRS), list.to_string());
    machine.put(THEIRS, FLANNEL);
    assert_eq!(agent.leave(), []);
    assert!(!machine.has(PROGRAM) && !machine.has(GUIDANCE));
}

#[test]
fn what_another_agent_of_the_machine_says_is_its_own() {
    need!(root);
    in_new_network(|| {
        let machine = Machine::new();
        assert_eq!(machine.start(List::Ours).1, []);
        fs::create_dir_all(machine.path("run")).unwrap();
        let alive = UnixListener::bind(machine.path("run/wl0.sock")).unwrap();
        let mut other = machine.pods(List::Nobodys, "run/wl1.sock");
        assert_eq!(machine.tell(&mut other), []);
        assert_eq!(other.leave(), []);
        assert!(machine.has(OURS) && machine.has(PROGRAM) && machine.has(GUIDANCE));
        drop(alive);
        let key = std::mem::replace(&mut other.key, PrivateKey::from_random([2; 32]).public_key());
        assert_eq!(machine.tell(&mut other), []);
        assert!(machine.has(OURS) && machine.has(PROGRAM), "another machine's agent left it");
        other.key = key;
        assert_eq!(machine.tell(&mut other), []);
        assert!(!machine.has(OURS) && !machine.has(PROGRAM) && !machine.has(GUIDANCE));
    });
}

#[test]
fn what_was_said_is_taken_back_without_its_guidance_too() {
    need!(root);
    in_new_network(|| {
        let machine = Machine::new();
        machine.put(THEIRS, FLANNEL);
        for (list, name) in [(List::Anothers, THEIRS), (List::Ours, OURS)] {
            machine.start(list);
            assert!(machine.text(name).contains(PLUGIN));
            fs::remove_file(machine.path(GUIDANCE)).unwrap();
            assert_eq!(machine.start(List::Nobodys).1, []);
            assert_eq!(machine.text(THEIRS), FLANNEL);
            assert!(!machine.has(OURS) && !machine.has(PROGRAM));
        }
    });
}

#[test]
fn a_list_names_no_program_that_is_not_there() {
    let machine = Machine::new();
    machine.put(THEIRS, FLANNEL);
    machine.put("bin", "no directory");
    let (_, problems) = machine.start(List::Anothers);
    assert!(problems[0].message.contains("can't be put"), "{problems:?}");
    assert_eq!(machine.text(THEIRS), FLANNEL);
}

#[test]
fn pods_go_out_by_the_gateway_that_they_began_with() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let machine = Machine::new();
        let (mut agent, _) = machine.start(List::Ours);
        let mut look = || {
            ip(&format!("address replace 10.42.9.1/24 dev {BRIDGE}"));
            agent.look(&plan(), &mut KernelState::default());
            machine.tell(&mut agent);
            ip(&format!("-o address show dev {BRIDGE}"))
        };
        // Of a prefix that is the node's no longer.
        machine.attach("c1", "10.42.9.5", false, None);
        assert!(look().contains("10.42.9.1/24"));
        Attachments::of(&machine.path("run")).remove("c1", "eth0").unwrap();
        assert!(!look().contains("10.42.9.1/24"));
    });
}

#[test]
fn a_program_that_somebody_takes_away_comes_back() {
    let machine = Machine::new();
    machine.put(THEIRS, FLANNEL);
    let (mut agent, _) = machine.start(List::Anothers);
    fs::remove_file(machine.path(PROGRAM)).unwrap();
    machine.tell(&mut agent);
    assert!(machine.has(PROGRAM));
}

#[test]
fn the_program_stays_for_the_pods_that_it_was_called_for() {
    need!(root);
    need!(program "ip");
    in_new_network(|| {
        let machine = Machine::new();
        machine.put(THEIRS, FLANNEL);
        let (mut agent, _) = machine.start(List::Anothers);
        ip("link add pod0 index 77 type veth peer name eth0");
        machine.attach("c1", "10.42.1.5", false, Some(77));
        let left = agent.leave();
        assert_eq!(machine.text(THEIRS), FLANNEL);
        assert!(machine.has(PROGRAM));
        assert!(left[0].message.contains("called for 1 of the pods"), "{left:?}");
        ip("link delete pod0");
        assert_eq!(agent.leave(), []);
        assert!(!machine.has(PROGRAM) && !machine.has(GUIDANCE));
    });
}

#[test]
fn the_program_stays_where_ours_can_not_be_taken_out_of_a_list() {
    let machine = Machine::new();
    machine.put(THEIRS, FLANNEL);
    let (mut agent, _) = machine.start(List::Anothers);
    let kept = machine.path("net.d/.20-flannel.conflist.before-wireloom");
    fs::remove_file(&kept).unwrap();
    fs::create_dir(&kept).unwrap();
    let left = agent.leave();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(machine.text(THEIRS).contains(PLUGIN));
    assert!(machine.has(PROGRAM) && machine.has(GUIDANCE));
}

#[test]
fn pods_stay_off_the_mesh_while_what_was_written_down_of_them_can_not_be_read() {
    let machine = Machine::new();
    let mut agent = machine.pods(List::Anothers, "run/wl0.sock");
    let plan = plan();
    let mut off = || {
        let mut state = KernelState::default();
        let problems = agent.look(&plan, &mut state);
        let from: Vec<String> =
            state.rules.iter().filter_map(|rule| Some(rule.from?.to_string())).collect();
        (from, problems.len(), agent.addresses().len())
    };
    machine.attach("loner", "10.42.1.5", true, None);
    machine.attach("cloud", "192.0.2.7", false, None);
    assert_eq!(off(), (vec!["10.42.1.5/32".to_owned()], 0, 1));
    // One of them, and what comes meanwhile counts.
    let record = machine.path("run/pods/loner.eth0.json");
    let said = fs::read(&record).unwrap();
    fs::write(&record, "{").unwrap();
    machine.attach("another", "10.42.1.6", true, None);
    let both = vec!["10.42.1.5/32".to_owned(), "10.42.1.6/32".to_owned()];
    assert_eq!(off(), (both.clone(), 1, 1));
    fs::write(&record, said).unwrap();
    // All of them.
    let directory = machine.path("run/pods");
    fs::rename(&directory, machine.path("run/aside")).unwrap();
    fs::write(&directory, "").unwrap();
    assert_eq!(off(), (both, 1, 1));
    fs::remove_file(&directory).unwrap();
    assert_eq!(off(), (vec![], 0, 0));
}

/// The plan of a node with another in another location.
fn plan() -> Plan {
    let keys = [1, 2].map(|byte| PrivateKey::from_random([byte; 32]).public_key());
    let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\"]\n".to_owned();
    for (number, key) in (1..).zip(keys) {
        text += &format!(
            "[[node]]\nname = \"n{number}\"\npublic-key = \"{key}\"\nendpoint = \"192.0.2.{number}\"\n\
             prefixes = [\"10.42.{number}.0/24\"]\n"
        );
    }
    let mesh = wireloom_file::parse(&text, Path::new("mesh.toml")).unwrap();
    let name: NodeName = "n1".parse().unwrap();
    let identity = Identity::Name(name);
    Place::of(&Planner::default(), &Seen::default(), &mesh, &identity, keys[0]).unwrap().plan
}
