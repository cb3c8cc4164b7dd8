use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wireloom_kernel::{Conflict, Feature, ForwardDrop, HostLink, PortOwner, Way};
use wireloom_model::kernel::{Mark, Rule};
use wireloom_model::{InterfaceName, Problem, PublicKey, Snapshot};
use wireloom_topology::kilo::Seen;

use super::machine::USO;
use super::*;
use crate::agent::Identity;
use crate::cleanup::Sockets;
use crate::doctor::facts::{EndpointFacts, FamilyFacts, Network, NetworkKind, Subject, Underlay};
use crate::doctor::lists::Lists;
use crate::place::Place;
use crate::planner::Planner;
use crate::status::{PeerReport, ProblemReport, Status, Work};

const KEYS: [&str; 2] = [
    "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
];

const NOW: u64 = 1_800_000_000;

fn place_in(snapshot: &Snapshot, key: PublicKey) -> Result<Place, Problem> {
    Place::of(&Planner::default(), &Seen::default(), snapshot, &Identity::Key, key)
}

/// A machine on which nothing is wrong: a gateway of a mesh of two, before its agent starts.
fn healthy() -> Facts {
    let text = format!(
        "[mesh]\noverlay = [\"10.4.0.0/24\", \"fd04::/64\"]\n\
         [[node]]\nname = \"a\"\npublic-key = \"{}\"\nendpoint = \"192.0.2.1:51820\"\n\
         [[node]]\nname = \"b\"\npublic-key = \"{}\"\nendpoint = \"192.0.2.2:51820\"\n",
        KEYS[0], KEYS[1]
    );
    let snapshot = wireloom_file::parse(&text, Path::new("mesh.toml")).unwrap();
    let key: PublicKey = KEYS[0].parse().unwrap();
    let place = place_in(&snapshot, key).unwrap();
    let eth0: InterfaceName = "eth0".parse().unwrap();
    let good = FamilyFacts { forwards: Some(true), is_disabled: false };
    Facts {
        place: Some(Ok(place)),
        subject: Subject {
            mesh: Ok(snapshot),
            source: Source::File,
            planner: Planner::default(),
            networks: Vec::new(),
            registry: Vec::new(),
            identity: Identity::Key,
            key: Key::Good(key),
            interface: "wl0".parse().unwrap(),
            mark: 0x20,
            sockets: Sockets { control: PathBuf::new(), uapi: PathBuf::new() },
            udp_buffer: 1000,
            made: NOW - 1,
            written_here: Vec::new(),
            lists: PathBuf::new(),
            programs: PathBuf::new(),
        },
        is_root: true,
        incapable: Vec::new(),
        agent: Agent::Absent,
        families: BTreeMap::from([(Family::V4, good), (Family::V6, good)]),
        underlay: BTreeMap::from([(eth0, Underlay::default())]),
        addressed_links: 1,
        forward_drops: Vec::new(),
        left_by_us: Vec::new(),
        left_by_kilo: Vec::new(),
        kilo: None,
        conflicts: Vec::new(),
        lists: Lists::default(),
        marked: Vec::new(),
        lacking: Vec::new(),
        no_tun: None,
        kernel: Some(USO),
        port_owner: None,
        endpoints: vec![endpoint("eth0", 1500)],
        unresolved: BTreeMap::new(),
        tunnel_mtu: Some(1420),
        now: NOW,
        last_written: Some((PathBuf::from("mesh.toml"), NOW)),
        udp_buffer: Some(1000),
    }
}

fn endpoint(link: &str, mtu: u32) -> EndpointFacts {
    let link = HostLink {
        index: 2,
        name: link.parse().unwrap(),
        mtu,
        up: true,
        carrier: true,
        kind: None,
    };
    EndpointFacts {
        peer: "b".to_owned(),
        address: "192.0.2.2:51820".parse().unwrap(),
        way: Some(Way { link, mtu }),
    }
}

fn running(change: impl FnOnce(&mut Status)) -> Agent {
    let mut status = Status {
        node: None,
        public_key: KEYS[0].parse().unwrap(),
        interface: "wl0".parse().unwrap(),
        listen_port: Some(51820),
        mtu: Some(1420),
        pod_mtu: None,
        location: None,
        gateway: true,
        home: None,
        overlay_addresses: Vec::new(),
        stale: None,
        nodes: Vec::new(),
        peers: Vec::new(),
        path: Default::default(),
        work: Work::default(),
        problems: Vec::new(),
    };
    change(&mut status);
    Agent::Running(Box::new(status))
}

fn peer(state: PeerState, persistent_keepalive: u16, tx_bytes: u64) -> PeerReport {
    PeerReport {
        name: "b".to_owned(),
        kind: None,
        public_key: KEYS[1].parse().unwrap(),
        endpoint: Some("192.0.2.2:51820".parse().unwrap()),
        path: None,
        state,
        handshake_age: Some(600),
        rx_bytes: 0,
        tx_bytes,
        persistent_keepalive,
        mtu: None,
        allowed_ips: Vec::new(),
    }
}

fn network(kind: NetworkKind, prefix: &str) -> Network {
    Network { kind, whose: "node n".to_owned(), prefix: prefix.parse().unwrap() }
}

fn conflict() -> Conflict {
    Conflict {
        range: "10.4.0.0/24".parse().unwrap(),
        destination: "10.4.0.0/25".parse().unwrap(),
        link: Some("eth0".parse().unwrap()),
        table: 254,
    }
}

fn underlay(facts: &mut Facts) -> &mut Underlay {
    facts.underlay.values_mut().next().unwrap()
}

fn family(facts: &mut Facts, family: Family) -> &mut FamilyFacts {
    facts.families.get_mut(&family).unwrap()
}

#[test]
fn where_nothing_is_wrong_nothing_is_said() {
    assert_eq!(findings(&healthy()), []);
}

/// Each row breaks one thing, which must lead to one finding that names what is wrong and what to do.
#[test]
fn each_fault_is_found_and_said_once() {
    type Break = fn(&mut Facts);
    let rows: &[(Break, Severity, Check, &str, &str)] = &[
        (
            |f| f.subject.mesh = Err("mesh.toml line 3: no TOML".to_owned()),
            Error,
            Check::Mesh,
            "line 3",
            "wireloom check",
        ),
        (
            |f| f.subject.key = Key::Missing(PathBuf::from("/x/key")),
            Note,
            Check::Key,
            "/x/key",
            "wireloom keygen > /x/key",
        ),
        (
            |f| f.subject.key = Key::Unusable("mode 0644".to_owned()),
            Error,
            Check::Key,
            "mode 0644",
            "keygen",
        ),
        (
            |f| f.agent = Agent::Silent("no answer".to_owned()),
            Error,
            Check::Agent,
            "no answer",
            "wireloom down wl0",
        ),
        (
            |f| f.agent = running(|status| status.stale = Some("gone".to_owned())),
            Warning,
            Check::Agent,
            "out of date: gone",
            "mesh file",
        ),
        (
            |f| f.agent = running(|status| status.peers = vec![peer(PeerState::Unreached, 0, 148)]),
            Warning,
            Check::Peers,
            "b at 192.0.2.2:51820 never answered",
            "UDP",
        ),
        (
            |f| {
                let endpoint = Some("10.30.0.11:51820".parse().unwrap());
                let far = PeerReport { endpoint, ..peer(PeerState::Unreached, 25, 148) };
                f.agent = running(|status| status.peers = vec![far.clone()]);
            },
            Warning,
            Check::Peers,
            "b at 10.30.0.11:51820 never answered",
            "the public one that leads to b, with port 51820, as its endpoint in the mesh file",
        ),
        (
            |f| f.agent = running(|status| status.peers = vec![peer(PeerState::Idle, 25, 148)]),
            Warning,
            Check::Peers,
            "600 s ago, though it is asked every 25 s",
            "UDP",
        ),
        (
            |f| f.left_by_us = vec!["the route to 10.7.0.0/24".to_owned()],
            Warning,
            Check::Leftovers,
            "10.7.0.0/24",
            "wireloom cleanup",
        ),
        (
            |f| f.left_by_kilo = (0..6).map(|n| format!("rule {n}")).collect(),
            Warning,
            Check::Kilo,
            "rule 0, rule 1, rule 2, rule 3 and 2 more",
            "wireloom cleanup --kilo",
        ),
        (
            |f| f.kilo = Some(77),
            Warning,
            Check::Kilo,
            "process 77",
            "kubectl -n kube-system delete daemonset kilo",
        ),
        (
            |f| family(f, Family::V4).forwards = Some(false),
            Note,
            Check::Forwarding,
            "IPv4 forwarding is off",
            "the agent switches it on",
        ),
        (
            |f| {
                family(f, Family::V6).forwards = Some(false);
                f.agent = running(|_| {});
            },
            Error,
            Check::Forwarding,
            "IPv6 forwarding is off",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
        (
            |f| {
                let [table, chain] = ["filter", "FORWARD"].map(str::to_owned);
                f.forward_drops.push(ForwardDrop { family: "ip", table, chain });
            },
            Warning,
            Check::Forwarding,
            "ip filter FORWARD",
            "`forward-accept = true`",
        ),
        (
            |f| {
                underlay(f).rp_filter = 1;
                f.addressed_links = 2;
            },
            Warning,
            Check::RpFilter,
            "eth0",
            "net.ipv4.conf.eth0.rp_filter=2",
        ),
        (
            |f| *underlay(f) = Underlay { rp_filter: 0, accept_ra: 1, default_by_ra: true },
            Warning,
            Check::AcceptRa,
            "accept_ra is 1",
            "sysctl -w net.ipv6.conf.eth0.accept_ra=2",
        ),
        (
            |f| family(f, Family::V6).is_disabled = true,
            Warning,
            Check::Ipv6,
            "switched off",
            "net.ipv6.conf.all.disable_ipv6=0",
        ),
        (
            |f| family(f, Family::V6).forwards = None,
            Warning,
            Check::Ipv6,
            "no IPv6",
            "ipv6.disable=1",
        ),
        (
            |f| f.conflicts = vec![conflict()],
            Error,
            Check::Ranges,
            "10.4.0.0/24 overlaps this host's route to 10.4.0.0/25 on eth0",
            "ip route show 10.4.0.0/25",
        ),
        (
            |f| f.lacking = vec![Feature::Vxlan],
            Note,
            Check::Kernel,
            "no VXLAN links",
            "load the module vxlan",
        ),
        (|f| f.kernel = Some((6, 1)), Note, Check::Kernel, "Linux 6.1", "6.2"),
        (
            |f| f.no_tun = Some("No such file".to_owned()),
            Error,
            Check::Tun,
            "/dev/net/tun can't be opened: No such file",
            "modprobe tun",
        ),
        (
            |f| {
                let program = "named".to_owned();
                f.port_owner = Some(PortOwner::Process { pid: 12, program });
            },
            Error,
            Check::Port,
            "UDP port 51820 is held by named (process 12)",
            "another port",
        ),
        (
            |f| {
                f.unresolved = BTreeMap::from([("b.invalid".to_owned(), "no such name".to_owned())])
            },
            Warning,
            Check::Endpoints,
            "b.invalid",
            "getent ahosts b.invalid",
        ),
        (
            |f| f.endpoints[0].way = None,
            Warning,
            Check::Endpoints,
            "no route to 192.0.2.2:51820",
            "ip route get 192.0.2.2",
        ),
        (
            |f| f.endpoints = vec![endpoint("wl0", 1500)],
            Error,
            Check::Endpoints,
            "reached by wl0 itself",
            "outside the ranges",
        ),
        (
            |f| f.endpoints.push(endpoint("eth0", 1400)),
            Warning,
            Check::Mtu,
            "the tunnel's MTU is 1420, which makes packets of 1480 bytes, and the path to b (192.0.2.2:51820) takes 1400",
            "mtu = 1340",
        ),
        (
            |f| {
                f.marked.push(Rule {
                    mark: Some(Mark { value: 0x20, mask: 0xff }),
                    ..Rule::all(Family::V4, 9, 7)
                })
            },
            Warning,
            Check::Fwmark,
            "9: from all IPv4 fwmark 0x20/0xff lookup 7",
            "--fwmark",
        ),
        (
            |f| {
                f.endpoints[0].address = "10.4.0.9:51820".parse().unwrap();
                underlay(f).rp_filter = 1;
            },
            Warning,
            Check::RpFilter,
            "eth0 drops packets whose answer would leave by another link",
            "net.ipv4.conf.eth0.rp_filter=2",
        ),
        (
            |f| f.now = f.subject.made - 3 * 86_400,
            Error,
            Check::Clock,
            "3 days before",
            "timedatectl",
        ),
        (
            |f| f.last_written = Some((PathBuf::from("key"), NOW + 61)),
            Warning,
            Check::Clock,
            "key was written 61 s after now",
            "timedatectl",
        ),
        (
            |f| f.udp_buffer = Some(999),
            Warning,
            Check::Buffers,
            "999 bytes and not the 1000",
            "net.core.rmem_max=1000",
        ),
        (
            |f| {
                let kinds =
                    [(NetworkKind::Services, "10.4.0.128/25"), (NetworkKind::Pods, "10.42.0.0/24")];
                f.subject.networks = kinds.map(|(kind, prefix)| network(kind, prefix)).to_vec();
            },
            Error,
            Check::Ranges,
            "the overlay's range 10.4.0.0/24 overlaps the Services 10.4.0.128/25",
            "--subnet",
        ),
        (
            |f| f.subject.networks = vec![network(NetworkKind::Nodes, "fd04::1/128")],
            Error,
            Check::Ranges,
            "fd04::/64 overlaps node n's address fd04::1",
            "--subnet",
        ),
        (
            |f| {
                let kinds =
                    [(NetworkKind::Nodes, "10.42.0.7/32"), (NetworkKind::Pods, "10.42.0.0/24")];
                f.subject.networks = kinds.map(|(kind, prefix)| network(kind, prefix)).to_vec();
            },
            Error,
            Check::Ranges,
            "node n's pods 10.42.0.0/24 overlaps node n's address 10.42.0.7",
            "--cluster-cidr",
        ),
        (
            |f| {
                f.subject.source = Source::Cluster;
                f.port_owner = Some(PortOwner::Hidden);
            },
            Error,
            Check::Port,
            "UDP port 51820 is held by the kernel",
            "--port",
        ),
        (
            |f| f.incapable = vec!["NET_ADMIN"],
            Error,
            Check::Privilege,
            "lacks the capability NET_ADMIN",
            "capabilities.add: [NET_ADMIN]",
        ),
        (
            |f| f.incapable = vec!["NET_RAW"],
            Warning,
            Check::Privilege,
            "lacks the capability NET_RAW",
            "capabilities.add: [NET_RAW]",
        ),
        (|f| f.is_root = false, Note, Check::Privilege, "root", "sudo wireloom doctor"),
    ];
    for (fault, severity, check, what, remedy) in rows {
        let mut facts = healthy();
        fault(&mut facts);
        let found = findings(&facts);
        let [found] = found.as_slice() else { panic!("{check:?} {what}: {found:#?}") };
        assert_eq!((found.severity, found.check), (*severity, *check), "{found:#?}");
        assert!(found.what.contains(what), "{found:#?}");
        assert!(found.remedy.contains(remedy), "{found:#?}");
        assert!(!found.why.is_empty(), "{found:#?}");
    }
}

/// What looks like a fault and is none where it stands.
#[test]
fn no_false_alarm() {
    type Change = fn(&mut Facts);
    let rows: &[(&str, Change)] = &[
        ("strict, yet one link only", |f| underlay(f).rp_filter = 1),
        ("loose", |f| {
            underlay(f).rp_filter = 2;
            f.addressed_links = 2;
        }),
        ("advertisements are believed while forwarding", |f| {
            *underlay(f) = Underlay { rp_filter: 0, accept_ra: 2, default_by_ra: true };
        }),
        ("no default route by them", |f| underlay(f).accept_ra = 1),
        ("the agent itself has the port", |f| {
            f.agent = running(|_| {});
            f.port_owner = Some(PortOwner::Hidden);
        }),
        ("a registry that is reached without the mesh", |f| {
            f.subject.registry = vec!["192.0.2.9".parse().unwrap()];
        }),
        ("networks beside each other", |f| {
            f.subject.networks = vec![
                network(NetworkKind::Services, "10.43.0.0/16"),
                network(NetworkKind::Pods, "10.42.0.0/24"),
                network(NetworkKind::Nodes, "10.42.1.1/32"),
            ];
        }),
        ("idle without keepalives", |f| {
            f.agent = running(|status| status.peers = vec![peer(PeerState::Idle, 0, 148)]);
        }),
        ("nothing was ever sent to it", |f| {
            f.agent = running(|status| status.peers = vec![peer(PeerState::Unreached, 0, 0)]);
        }),
        ("a path that just fits", |f| f.endpoints = vec![endpoint("eth0", 1480)]),
        ("files as old as a minute ahead", |f| {
            f.last_written = Some((PathBuf::from("key"), NOW + 60));
        }),
    ];
    for (name, change) in rows {
        let mut facts = healthy();
        change(&mut facts);
        assert_eq!(findings(&facts), [], "{name}");
    }
}

#[test]
fn a_registry_behind_the_mesh_is_told_of() {
    let mut facts = healthy();
    // The overlay address of the other node.
    let plan = &facts.place().unwrap().plan;
    let (behind, _) =
        plan.routes.iter().find(|(_, hop)| hop.by == wireloom_topology::Way::Tunnel).unwrap();
    facts.subject.registry = vec![behind.address()];
    let found = findings(&facts);
    assert!(found.len() == 1 && found[0].check == Check::Api, "{found:#?}");
    assert!(found[0].remedy.contains("--master"), "{found:#?}");
}

/// Kilo's port and routes are its own, and it is told of once.
#[test]
fn what_is_kilos_is_told_of_as_such() {
    let mut facts = healthy();
    facts.kilo = Some(77);
    facts.port_owner = Some(PortOwner::Hidden);
    facts.conflicts = vec![Conflict { link: Some("kilo0".parse().unwrap()), ..conflict() }];
    let checks: Vec<Check> = findings(&facts).iter().map(|finding| finding.check).collect();
    assert_eq!(checks, [Check::Kilo]);
}

#[test]
fn a_machine_outside_the_mesh_is_told_how_to_get_in() {
    let mut facts = healthy();
    let stranger = "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=".parse().unwrap();
    let snapshot = facts.subject.mesh.as_ref().unwrap();
    facts.place = place_in(snapshot, stranger).err().map(Err);
    let found = findings(&facts);
    assert!(found.len() == 1 && found[0].what.contains("gN65BkIK"), "{found:#?}");
}

/// What the running agent says of the mesh and of ranges is not said twice; the worst comes first.
#[test]
fn the_agents_own_words_are_not_repeated() {
    let mut facts = healthy();
    facts.conflicts = vec![conflict()];
    facts.left_by_kilo = vec!["the link kilo0".to_owned()];
    let problem = ProblemReport {
        severity: "error".to_owned(),
        subject: "mesh".to_owned(),
        kind: "overlay-range".to_owned(),
        message: format!("{}; use another overlay range", conflict()),
    };
    facts.agent = running(|status| status.problems = vec![problem]);
    let told: Vec<(Severity, Check)> =
        findings(&facts).iter().map(|finding| (finding.severity, finding.check)).collect();
    assert_eq!(told, [(Error, Check::Agent), (Warning, Check::Kilo)]);
}
