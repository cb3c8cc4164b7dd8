//! An agent that is stopped while another one stands by: addresses, routes and connections last.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use wireloom_lab::{Child, Flow, Host, Region, measure};
use wireloom_testkit::{need, promised, wireloom_binary};
use wireloom_tests::cluster;
use wireloom_tests::{NetworkState, eventually, ok, ping, run, within};

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent with the rights of a pod.
fn agent(host: &Host) -> Child {
    agent_of(host, &cluster::agent(host.name()))
}

/// The same with this command line.
fn agent_of(host: &Host, line: &str) -> Child {
    let wireloom = wireloom_binary().display().to_string();
    let rights = ["--bounding-set=-all,+net_admin,+net_raw", &wireloom];
    host.spawn("setpriv", rights.into_iter().chain(line.split_ascii_whitespace())).unwrap()
}

#[test]
fn an_agent_takes_over_from_one_that_is_stopped_and_connections_last() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    for program in ["iperf3", "setpriv", "ss", "sysctl"] {
        need!(program program);
    }
    let regions = vec![
        Region::new("ams", &["ams-1"]),
        Region::new("waw", &["waw-1"]),
        Region::new("ire", &["ire-1"]).behind_nat(),
    ];
    let (lab, api) = cluster::api_server(regions, false);
    let hosts = ["ams-1", "waw-1", "ire-1"].map(|name| lab.host(name).unwrap());
    let before = hosts.map(NetworkState::of);
    for host in hosts {
        cluster::declare(&api, &lab, host.name(), host.name());
        cluster::admit(host, &api);
    }
    let mut agents = hosts.map(agent);
    let overlay = hosts.map(|host| {
        let mut address = Value::Null;
        within(PATIENCE, "the node is in the mesh", || {
            address = cluster::status(host)["overlay_addresses"][0].clone();
            address.is_string()
        });
        address.as_str().unwrap().to_owned()
    });
    // The one behind NAT dials in.
    ping(hosts[2], &overlay[0]);
    ping(hosts[1], &overlay[0]);

    // Both ways: what is sent by the node whose agent is replaced, and what it is sent.
    for (from, to) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
        let flow = Flow::start(hosts[from], hosts[to], overlay[to].parse().unwrap()).unwrap();
        for (host, old) in hosts.iter().zip(&mut agents) {
            let device = ok(host, "ip -o link show wl0");
            let new = agent(host);
            eventually("the new one stands by", || new.written().unwrap().1.contains("stands by"));
            let old = std::mem::replace(old, new).stop(PATIENCE).unwrap();
            assert!(old.status.success(), "{}", old.stderr);
            assert!(old.stderr.contains("handed over"), "{}", old.stderr);
            within(PATIENCE, "the new one answers", || {
                run(host, "wireloom status").status.success()
            });
            assert_eq!(ok(host, "ip -o link show wl0"), device);
        }
        let stood = flow.stop().unwrap();
        println!("two handovers held a flow up for {stood:?} at most");
        assert!(stood < promised(Duration::from_secs(2)), "nothing arrived for {stood:?}");
    }

    for agent in agents {
        agent.stop(PATIENCE).unwrap();
    }
    for (host, before) in hosts.iter().zip(&before) {
        NetworkState::of(host).assert_same(before);
    }
}

/// The port is held by somebody else at first. What the old agent said of peers is kept for as long: they would send by
/// their old sessions until these are given up, a quarter of a minute later.
#[test]
fn peers_hear_from_who_took_over_also_if_its_port_is_free_only_later() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    need!(program "setpriv");
    let regions = vec![Region::new("ams", &["ams-1"]), Region::new("waw", &["waw-1"])];
    let (lab, api) = cluster::api_server(regions, false);
    let hosts = ["ams-1", "waw-1"].map(|name| lab.host(name).unwrap());
    for host in hosts {
        cluster::declare(&api, &lab, host.name(), host.name());
        cluster::admit(host, &api);
    }
    // Those who share the work share the port, with who else asks for it.
    let line = |host: &Host| format!("{} --queues=2", cluster::agent(host.name()));
    let [_ams, old] = hosts.map(|host| agent_of(host, &line(host)));
    let [_, overlay] = hosts.map(|host| {
        let mut address = Value::Null;
        within(PATIENCE, "the node is in the mesh", || {
            address = cluster::status(host)["overlay_addresses"][0].clone();
            address.is_string()
        });
        address.as_str().unwrap().to_owned()
    });
    let [ams, waw] = hosts;
    ping(ams, &overlay);

    let new = agent_of(waw, &line(waw));
    eventually("the new one stands by", || new.written().unwrap().1.contains("stands by"));
    let port = cluster::status(waw)["listen_port"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    let holder = waw.run(move || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        Ok::<_, std::io::Error>(socket)
    });
    let holder = holder.unwrap().unwrap();
    let old = old.stop(PATIENCE).unwrap();
    assert!(old.stderr.contains("handed over"), "{}", old.stderr);
    eventually("the port is missed", || new.written().unwrap().1.contains("is in use"));
    drop(holder);

    let began = Instant::now();
    let answer = measure::ping(ams, overlay.parse().unwrap(), began + PATIENCE).unwrap();
    assert!(answer.is_some(), "{}", new.written().unwrap().1);
    let stood = began.elapsed();
    println!("reached {stood:?} after the port was free");
    assert!(stood < promised(Duration::from_secs(5)), "reached only after {stood:?}");
}

#[test]
fn who_stood_by_and_is_gone_takes_nothing_over() {
    need!(root);
    need!(cluster);
    need!(device "/dev/net/tun");
    need!(program "setpriv");
    let (lab, api) = cluster::api_server(vec![Region::new("ams", &["ams-1"])], true);
    let host = lab.host("ams-1").unwrap();
    let before = NetworkState::of(host);
    cluster::declare(&api, &lab, host.name(), host.name());
    cluster::admit(host, &api);
    let told = "/run/test/net.d/10-wireloom.conflist";
    let cni = format!("--cni-path={told} --cni-bin=/run/test/bin");
    let line = cluster::agent(host.name()).replace("--cni=false", &cni);
    ok(host, "mkdir -p /run/test/net.d /run/test/bin");
    let old = agent_of(host, &line);
    let is_told = || run(host, &format!("test -e {told}")).status.success();
    within(PATIENCE, "the container runtime is told of pods' network", is_told);
    let new = agent_of(host, &line);
    eventually("the new one stands by", || new.written().unwrap().1.contains("stands by"));
    drop(new);

    let old = old.stop(PATIENCE).unwrap();
    assert!(old.status.success() && !old.stderr.contains("handed over"), "{}", old.stderr);
    assert!(!is_told(), "nobody gives pods their network, and yet the runtime is told so");
    NetworkState::of(host).assert_same(&before);
}
