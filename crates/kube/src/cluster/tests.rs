use std::num::{NonZeroU16, NonZeroU32};

use serde_json::{Value, json};
use wireloom_model::{Encapsulation, Filter, GatewayCount, Overlay, PrivateKey};

use super::*;

const SPAN: Duration = Duration::from_secs(60);

pub(crate) fn mesh() -> Mesh {
    Mesh {
        overlay: Overlay::new(["10.4.0.0/16".parse().unwrap()]).unwrap(),
        gateways: GatewayCount::AtMost(NonZeroU32::new(2).unwrap()),
        port: NonZeroU16::new(51820).unwrap(),
        mtu: None,
        carry_internal_addresses: true,
        encapsulation: Encapsulation::default(),
        filter: Filter::default(),
    }
}

fn cluster() -> Cluster {
    Cluster::new("own".parse().unwrap(), mesh(), "topology.kubernetes.io/region".to_owned(), SPAN)
}

fn key(byte: u8) -> String {
    PrivateKey::from_random([byte; 32]).public_key().to_string()
}

fn node(name: &str, byte: u8, more: &[(&str, &str)]) -> NodeObject {
    let mut annotations = json!({ "kilo.squat.ai/key": key(byte) });
    for (key, value) in more {
        annotations[*key] = json!(value);
    }
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "resourceVersion": "1",
            "labels": { "topology.kubernetes.io/region": "nl" },
            "annotations": annotations,
        },
    }))
    .unwrap()
}

fn peer(name: &str, spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": name },
        "spec": spec,
    }))
    .unwrap()
}

fn lease(name: &str, version: u64) -> PartialObjectMeta<Lease> {
    serde_json::from_value(json!({
        "metadata": { "name": name, "resourceVersion": version.to_string() },
    }))
    .unwrap()
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.nodes.iter().map(|node| node.name.as_str()).collect()
}

#[test]
fn one_bad_object_never_stops_the_rest() {
    let now = Instant::now();
    let mut cluster = cluster();
    cluster.replace_nodes(
        vec![
            node("own", 1, &[]),
            node("b", 2, &[("kilo.squat.ai/persistent-keepalive", "25s")]),
            node("no-key", 3, &[("kilo.squat.ai/key", "foo")]),
        ],
        now,
    );
    cluster.replace_peers(&[
        peer("bad", json!({ "publicKey": 7 })),
        peer("good", json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) })),
    ]);
    let snapshot = cluster.snapshot(now);
    assert_eq!(names(&snapshot), ["b", "own"]);
    assert_eq!(snapshot.peers.len(), 1);
    let subjects: Vec<String> =
        snapshot.problems.iter().map(|problem| problem.subject.to_string()).collect();
    assert_eq!(subjects, ["node b", "node no-key", "peer bad"]);
}

#[test]
fn a_new_list_finds_what_was_missed() {
    let now = Instant::now();
    let mut cluster = cluster();
    assert!(cluster.replace_nodes(vec![node("own", 1, &[]), node("b", 2, &[])], now));
    assert!(!cluster.replace_nodes(vec![node("b", 2, &[]), node("own", 1, &[])], now));
    assert!(cluster.replace_nodes(vec![node("own", 1, &[]), node("c", 3, &[])], now));
    assert_eq!(names(&cluster.snapshot(now)), ["c", "own"]);
    let spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) });
    assert!(cluster.replace_peers(&[peer("a", spec.clone())]));
    assert!(!cluster.replace_peers(&[peer("a", spec.clone())]));
    assert!(cluster.replace_peers(&[peer("b", spec)]));
    assert_eq!(cluster.snapshot(now).peers[0].name.as_str(), "b");
}

#[test]
fn changes_that_mean_nothing_are_no_changes() {
    let now = Instant::now();
    let mut cluster = cluster();
    cluster.put_node(node("own", 1, &[]), now);
    let mut beat = node("own", 1, &[("kilo.squat.ai/last-seen", "1")]);
    beat.metadata.resource_version = Some("2".to_owned());
    assert!(!cluster.put_node(beat, now), "a sign of life is no other mesh");
    assert!(cluster.put_node(node("own", 2, &[]), now), "another key is");
}

#[test]
fn a_node_that_is_fixed_is_in_at_once() {
    let now = Instant::now();
    let mut cluster = cluster();
    cluster.put_node(node("b", 2, &[("kilo.squat.ai/key", "foo")]), now);
    assert_eq!(names(&cluster.snapshot(now)), Vec::<&str>::new());
    assert!(cluster.put_node(node("b", 2, &[]), now));
    assert_eq!(names(&cluster.snapshot(now)), ["b"]);
    cluster.put_peer(&peer("p", json!({ "allowedIPs": [], "publicKey": key(9) })));
    assert_eq!(cluster.snapshot(now).peers, []);
    let good = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) });
    assert!(cluster.put_peer(&peer("p", good)));
    assert_eq!(cluster.snapshot(now).peers.len(), 1);
}

/// Whether b is healthy.
fn b_lives(cluster: &Cluster, now: Instant) -> bool {
    let snapshot = cluster.snapshot(now);
    snapshot.nodes.iter().find(|node| node.name.as_str() == "b").unwrap().healthy
}

#[test]
fn a_node_lives_by_its_heartbeats() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cluster = cluster();
    cluster.put_node(node("b", 2, &[]), start);
    assert!(!b_lives(&cluster, at(0)), "Kilo's agents want a sign, and so for theirs do we");
    let ours = [("wireloom.dev/algorithm", "wireloom")];
    cluster.replace_nodes(vec![node("own", 1, &[]), node("b", 2, &ours)], start);
    assert!(b_lives(&cluster, at(0)), "of ours, no sign at all is no sign of death");
    cluster.replace_leases(&[lease("own", 1), lease("b", 2)], start);
    for second in (20..=80).step_by(20) {
        cluster.put_lease(&lease("own", 1000 + second), at(second));
    }
    assert!(b_lives(&cluster, at(59)));
    assert_eq!(cluster.next_loss(), Some(at(60)));
    assert!(!b_lives(&cluster, at(61)));
    assert!(cluster.put_lease(&lease("b", 3), at(62)), "its return is news");
    assert!(b_lives(&cluster, at(62)));
    assert!(!cluster.put_lease(&lease("b", 4), at(63)), "that it goes on living is none");
}

/// Other news may come at the very moment, and a mesh made a moment before it.
#[test]
fn a_death_is_due_until_it_is_noticed() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cluster = cluster();
    cluster.replace_nodes(vec![node("own", 1, &[]), node("b", 2, &[])], start);
    cluster.replace_leases(&[lease("own", 1), lease("b", 2)], start);
    cluster.put_lease(&lease("own", 1001), at(59));
    assert!(b_lives(&cluster, at(59)));
    cluster.put_node(node("b", 2, &[]), at(61));
    assert_eq!(cluster.next_loss(), Some(at(60)), "it is past");
    cluster.notice(at(61));
    assert_eq!(cluster.next_loss(), Some(at(119)));
}

/// Kilo's agents give signs of life on their Nodes, ours by Leases too.
#[test]
fn who_is_seen_on_its_node_alone_does_not_die_while_nodes_cannot_be_watched() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cluster = cluster();
    let seen = |name, byte, time: &str| node(name, byte, &[("kilo.squat.ai/last-seen", time)]);
    let nodes = vec![node("own", 1, &[]), seen("b", 2, "7"), seen("ours", 3, "7")];
    cluster.replace_nodes(nodes, start);
    cluster.replace_leases(&[lease("own", 1), lease("ours", 2)], start);
    let healthy = |cluster: &Cluster, now| -> Vec<bool> {
        cluster.snapshot(now).nodes.iter().map(|node| node.healthy).collect()
    };
    cluster.set_blind(true, at(10));
    for second in (20..=600).step_by(20) {
        cluster.put_lease(&lease("own", 1000 + second), at(second));
    }
    assert_eq!(healthy(&cluster, at(600)), [true, false, true], "b, ours, own");
    assert!(cluster.has_kilo(at(600)), "nor is Kilo gone");
    cluster.set_blind(false, at(600));
    cluster.put_lease(&lease("own", 2000), at(650));
    assert_eq!(healthy(&cluster, at(601)), [true, false, true], "b gets its whole span");
    assert_eq!(cluster.next_loss(), Some(at(60)), "it is past");
    cluster.notice(at(601));
    assert_eq!(cluster.next_loss(), Some(at(660)));
    assert_eq!(healthy(&cluster, at(660)), [false, false, true]);

    // Who was dead before stays so.
    cluster.set_blind(true, at(670));
    cluster.set_blind(false, at(680));
    assert!(!b_lives(&cluster, at(680)));
}

#[test]
fn the_last_peers_stay_until_peers_are_listed() {
    let now = Instant::now();
    let mut cluster = cluster();
    let spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) });
    cluster.replace_peers(&[peer("a", spec.clone())]);
    let last = cluster.snapshot(now);
    let mut cluster = self::cluster();
    cluster.remember(&last);
    assert_eq!(cluster.snapshot(now).peers, last.peers);
    cluster.deny("Peers can't be read", Some("no right".to_owned()));
    assert_eq!(cluster.snapshot(now).peers, last.peers);
    assert!(cluster.replace_peers(&[peer("b", spec)]));
    let names = |cluster: &Cluster| -> Vec<String> {
        cluster.snapshot(now).peers.iter().map(|peer| peer.name.to_string()).collect()
    };
    assert_eq!(names(&cluster), ["b"]);
    cluster.replace_peers(&[]);
    assert_eq!(names(&cluster), Vec::<String>::new());

    let mut cluster = self::cluster();
    cluster.remember(&last);
    assert!(cluster.replace_peers(&[]), "that there are none is news");
    assert_eq!(names(&cluster), Vec::<String>::new());
}

#[test]
fn an_outage_kills_nobody() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cluster = cluster();
    cluster.replace_nodes(vec![node("own", 1, &[]), node("b", 2, &[])], start);
    cluster.replace_leases(&[lease("own", 1), lease("b", 2)], start);
    cluster.put_node(node("b", 2, &[("kilo.squat.ai/last-seen", "1")]), start);
    cluster.set_deaf(true, at(10));
    assert!(b_lives(&cluster, at(86_400)));
    assert!(!cluster.has_kilo(at(59)) && !cluster.has_kilo(at(86_400)), "b has a heartbeat");
    cluster.remove_lease("b");
    assert!(cluster.has_kilo(at(86_400)), "nor is Kilo gone");
    assert_eq!(cluster.next_loss(), None);
    cluster.set_deaf(false, at(86_400));
    cluster.put_lease(&lease("own", 2), at(86_401));
    assert!(b_lives(&cluster, at(86_459)), "it gets its whole span");
    assert!(!b_lives(&cluster, at(86_460)));
}

#[test]
fn a_watch_that_hangs_kills_nobody() {
    let start = Instant::now();
    let mut cluster = cluster();
    cluster.replace_nodes(vec![node("own", 1, &[]), node("b", 2, &[])], start);
    cluster.replace_leases(&[lease("own", 1), lease("b", 2)], start);
    assert!(b_lives(&cluster, start + 2 * SPAN), "not even our own sign came through");
}

#[test]
fn what_makes_nobody_heard_raises_nobody_from_the_dead() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cluster = cluster();
    cluster.replace_nodes(vec![node("own", 1, &[]), node("b", 2, &[])], start);
    cluster.replace_leases(&[lease("own", 1), lease("b", 2)], start);
    cluster.put_lease(&lease("own", 3), at(61));
    assert!(!b_lives(&cluster, at(61)));
    // A watch that hangs.
    assert!(!b_lives(&cluster, at(130)));
    assert!(cluster.put_lease(&lease("own", 4), at(131)), "others may be heard again");
    assert!(!cluster.put_lease(&lease("own", 5), at(132)));
    // The API is away, and back.
    cluster.set_deaf(true, at(140));
    cluster.set_deaf(false, at(740));
    cluster.put_lease(&lease("own", 6), at(741));
    assert!(!b_lives(&cluster, at(741)));
    cluster.put_lease(&lease("b", 3), at(742));
    assert!(b_lives(&cluster, at(742)));
}

/// A Lease that the API server took at this time.
fn taken(name: &str, version: u64, time: &str) -> PartialObjectMeta<Lease> {
    let mut lease = lease(name, version);
    lease.metadata.managed_fields =
        serde_json::from_value(json!([{ "manager": "wireloom", "time": time }])).unwrap();
    lease
}

/// What an agent finds that starts at noon: b's last sign is ten minutes old, own and c are alive.
fn at_noon(now: Instant) -> Cluster {
    let mut cluster = cluster();
    let nodes = [("own", 1), ("b", 2), ("c", 3)].map(|(name, byte)| node(name, byte, &[]));
    cluster.replace_nodes(nodes.to_vec(), now);
    let leases = [
        taken("own", 1, "2026-11-25T11:40:00Z"),
        taken("b", 2, "2026-11-25T11:50:00Z"),
        taken("c", 3, "2026-11-25T12:00:00Z"),
    ];
    cluster.replace_leases(&leases, now);
    cluster
}

#[test]
fn who_starts_takes_nobody_for_alive_who_is_overdue() {
    let now = Instant::now();
    let mut cluster = at_noon(now);
    cluster.judge();
    let healthy = |cluster: &Cluster| -> Vec<bool> {
        cluster.snapshot(now).nodes.iter().map(|node| node.healthy).collect()
    };
    assert_eq!(healthy(&cluster), [false, true, true], "b, c, own");
    assert!(cluster.put_lease(&taken("b", 4, "2026-11-25T12:00:01Z"), now), "it is back");
    assert_eq!(healthy(&cluster), [true, true, true]);
    // What is listed again later is judged by what was heard.
    cluster.replace_leases(&[lease("own", 1), taken("b", 4, "2026-11-25T12:00:01Z")], now);
    cluster.judge();
    assert!(b_lives(&cluster, now));

    // It was heard between the list and the judgement.
    let mut cluster = at_noon(now);
    cluster.put_lease(&taken("b", 4, "2026-11-25T12:00:01Z"), now);
    cluster.judge();
    assert!(b_lives(&cluster, now));
}

/// At noon the API is back after ten minutes, and c's agent is the first to write to it.
#[test]
fn after_an_outage_who_starts_goes_by_what_it_remembers() {
    let now = Instant::now();
    let last = |cluster: &mut Cluster, b: bool| {
        let mut last = cluster.snapshot(now);
        last.nodes.iter_mut().for_each(|node| node.healthy = b || node.name.as_str() != "b");
        cluster.remember(&last);
        cluster.judge();
    };
    let mut cluster = at_noon(now);
    last(&mut cluster, true);
    assert!(b_lives(&cluster, now), "it was alive before, and is listened for");
    cluster.put_lease(&lease("own", 4), now + SPAN);
    assert!(!b_lives(&cluster, now + SPAN), "for a minute");
    let mut cluster = at_noon(now);
    last(&mut cluster, false);
    assert!(!b_lives(&cluster, now), "it was dead before");
}

#[test]
fn the_last_of_kilos_that_is_dead_makes_no_agent_plan_for_kilo_that_starts() {
    let now = Instant::now();
    let mut cluster = at_noon(now);
    let mut object = node("kilos", 4, &[("kilo.squat.ai/last-seen", "1")]);
    let fields = json!({ "f:metadata": { "f:annotations": { "f:kilo.squat.ai/last-seen": {} } } });
    let entry = json!([{ "manager": "kg", "time": "2026-11-25T11:50:00Z", "fieldsV1": fields }]);
    object.metadata.managed_fields = serde_json::from_value(entry).unwrap();
    cluster.put_node(object, now);
    assert!(cluster.has_kilo(now), "as long as nobody knows");
    cluster.judge();
    assert!(!cluster.has_kilo(now));
}

#[test]
fn kilo_is_there_while_its_agents_are() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cluster = cluster();
    let seen = |name, byte, time: &str| node(name, byte, &[("kilo.squat.ai/last-seen", time)]);
    cluster.replace_nodes(vec![seen("own", 1, "7"), node("b", 2, &[])], start);
    assert!(!cluster.has_kilo(at(0)), "not our own");
    cluster.put_node(seen("b", 2, "7"), at(0));
    assert!(cluster.has_kilo(at(59)) && b_lives(&cluster, at(59)));
    assert!(!cluster.has_kilo(at(60)), "an old stamp is no agent");
    assert!(cluster.put_node(seen("b", 2, "6"), at(70)), "its return is news");
    assert!(!cluster.put_node(seen("b", 2, "5"), at(70)), "that it goes on living is none");
    assert!(cluster.has_kilo(at(71)), "whatever its clock says");
    cluster.put_lease(&lease("b", 2), at(72));
    assert!(!cluster.has_kilo(at(72)), "one of ours that passes for one");
}

#[test]
fn two_with_one_key_are_told_apart_by_age_and_left_to_the_topology() {
    let now = Instant::now();
    let mut cluster = cluster();
    let mut old = node("b", 7, &[]);
    old.metadata.creation_timestamp =
        serde_json::from_value(json!("2026-11-25T09:00:00Z")).unwrap();
    let mut new = node("a", 7, &[]);
    new.metadata.creation_timestamp =
        serde_json::from_value(json!("2026-11-25T09:00:01Z")).unwrap();
    cluster.replace_nodes(vec![new, old], now);
    let snapshot = cluster.snapshot(now);
    assert_eq!(snapshot.nodes[0].key, snapshot.nodes[1].key);
    assert!(snapshot.nodes[1].since < snapshot.nodes[0].since);
}

#[test]
fn what_cannot_be_read_is_said() {
    let now = Instant::now();
    let mut cluster = cluster();
    assert!(cluster.deny("Peers can't be read", Some("no such resource".to_owned())));
    assert!(!cluster.deny("Peers can't be read", Some("no such resource".to_owned())));
    let said: Vec<String> =
        cluster.snapshot(now).problems.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("Peers can't be read") && said[1].contains("--hostname"), "{said:?}");
    assert!(cluster.deny("Peers can't be read", None));
}

#[test]
fn agents_that_plan_by_other_settings_are_named() {
    let now = Instant::now();
    let mut cluster = cluster();
    let said = |mesh: &Mesh| serde_json::to_string(mesh).unwrap();
    let other = Mesh {
        gateways: GatewayCount::All,
        overlay: Overlay::new(["10.9.0.0/16".parse().unwrap()]).unwrap(),
        mtu: NonZeroU16::new(1400),
        ..mesh()
    };
    cluster.put_node(node("own", 1, &[("wireloom.dev/mesh", &said(&other))]), now);
    cluster.put_node(node("same", 2, &[("wireloom.dev/mesh", &said(&mesh()))]), now);
    assert_eq!(cluster.snapshot(now).problems, [], "a restart with other settings is under way");
    let before = node("b", 3, &[]);
    cluster.put_node(before, now);
    assert!(cluster.put_node(node("b", 3, &[("wireloom.dev/mesh", &said(&other))]), now));
    let problems = cluster.snapshot(now).problems;
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    let text = problem.to_string();
    for said in
        ["node b", "--subnet 10.9.0.0/16 instead of 10.4.0.0/16", "--gateways all instead of 2"]
    {
        assert!(text.contains(said), "{text}");
    }
    assert!(!text.contains("1400"), "{text}");
}

#[test]
fn what_all_see_is_told_by_the_first_that_is_alive() {
    let start = Instant::now();
    let mut cluster = cluster();
    let ours = [("wireloom.dev/algorithm", "wireloom")];
    cluster.put_node(node("a-kilo", 1, &[("kilo.squat.ai/last-seen", "1")]), start);
    cluster.put_node(node("own", 2, &ours), start);
    cluster.put_node(node("other", 3, &ours), start);
    let spec = json!({ "allowedIPs": [], "publicKey": key(9) });
    cluster.put_peer(&peer("empty", spec.clone()));
    assert!(!cluster.put_peer(&peer("empty", spec)), "the same again is no news");
    for name in ["own", "other"] {
        cluster.put_lease(&lease(name, 1), start);
    }
    let told = |cluster: &Cluster, now| {
        let all = cluster.to_tell(&[], now);
        all.iter().map(|(about, _)| about.name.clone().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(told(&cluster, start), Vec::<String>::new(), "other comes before own");
    let later = start + SPAN;
    cluster.put_lease(&lease("own", 2), later);
    assert_eq!(told(&cluster, later), ["empty"]);

    // Of its own Node it always speaks itself.
    cluster.put_lease(&lease("other", 2), later);
    cluster
        .put_node(node("own", 2, &[ours[0], ("kilo.squat.ai/persistent-keepalive", "x")]), later);
    assert_eq!(told(&cluster, later), ["own"]);
}

#[test]
fn what_planning_finds_is_told_beside_what_reading_did() {
    let now = Instant::now();
    let mut cluster = cluster();
    let ours = [("wireloom.dev/algorithm", "wireloom")];
    let mistaken = [ours[0], ("kilo.squat.ai/persistent-keepalive", "x")];
    cluster.put_node(node("own", 1, &mistaken), now);
    cluster.put_node(node("z", 2, &ours), now);
    cluster.put_peer(&peer("twin", json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": key(9) })));
    let [own, other, first] = ["own", "z", "a"].map(|name| Subject::Node(name.parse().unwrap()));
    let twin = Subject::Peer("twin".parse().unwrap());
    let gone = Subject::Peer("gone".parse().unwrap());
    let same_key =
        |of: &Subject| Problem::error(of.clone(), ProblemKind::DuplicateKey, "same key".to_owned());
    let mut planned = cluster.snapshot(now).problems;
    assert_eq!(planned.len(), 1, "the mistake");
    planned.push(Problem::warning(own.clone(), ProblemKind::DuplicatePrefix, "prefix".to_owned()));
    planned.extend([&other, &twin, &gone, &Subject::Mesh].map(same_key));
    let told = |cluster: &Cluster, planned: &[Problem]| {
        let all = cluster.to_tell(planned, now);
        let text = |(about, problem): &(ObjectReference, &Problem)| {
            (about.kind.clone().unwrap(), about.name.clone().unwrap(), problem.kind)
        };
        all.iter().map(text).collect::<Vec<_>>()
    };
    let of = |kind: &str, name: &str, problem| (kind.to_owned(), name.to_owned(), problem);
    let all = [
        of("Node", "own", ProblemKind::Invalid),
        of("Node", "own", ProblemKind::DuplicatePrefix),
        of("Peer", "twin", ProblemKind::DuplicateKey),
    ];
    assert_eq!(told(&cluster, &planned), all);

    // One that comes first speaks for all, unless it is kept out itself.
    cluster.put_node(node("a", 3, &ours), now);
    assert_eq!(told(&cluster, &planned), all[..2]);
    planned.push(same_key(&first));
    assert_eq!(told(&cluster, &planned), all);
    let kept_out = [&own, &first, &twin].map(same_key);
    assert_eq!(told(&cluster, &kept_out).len(), 2, "of itself alone");
}
