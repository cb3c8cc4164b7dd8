//! `wireloom doctor`: it finds what is wrong on a machine, says what to do, and what it says helps.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use std::fs;

use serde_json::Value;
use wireloom_lab::Host;
use wireloom_testkit::need;
use wireloom_tests::mesh::{Mesh, OVERLAY};
use wireloom_tests::{eventually, ok, ping, run};

macro_rules! need_all {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ping");
    };
}

/// What the doctor finds beside notes, after checking that the exit code says the same.
fn faults(host: &Host, args: &str) -> Vec<Value> {
    let told = run(host, &format!("wireloom doctor {args} -o json"));
    let findings: Vec<Value> = serde_json::from_str(&told.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", told.stdout, told.stderr));
    for finding in &findings {
        for field in ["severity", "check", "what", "why", "do"] {
            assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{finding}");
        }
    }
    let faults: Vec<Value> =
        findings.into_iter().filter(|finding| finding["severity"] != "note").collect();
    assert_eq!(told.status.success(), faults.is_empty(), "{faults:#?}");
    faults
}

/// The one fault that there must be, and what to do about it.
fn only(host: &Host, args: &str, check: &str, what: &str) -> String {
    let faults = faults(host, args);
    assert!(faults.len() == 1 && faults[0]["check"] == check, "{check}: {faults:#?}");
    assert!(faults[0]["what"].as_str().unwrap().contains(what), "{what}: {faults:#?}");
    faults[0]["do"].as_str().unwrap().to_owned()
}

#[test]
fn a_healthy_machine_is_told_so_before_during_and_after() {
    need_all!();
    let mesh = Mesh::new();
    let (host, args) = (&mesh.pair.a, mesh.args("a"));
    assert_eq!(faults(host, &args), [] as [Value; 0]);
    let a = mesh.up("a");
    let _b = mesh.up("b");
    assert_eq!(faults(host, &args), [] as [Value; 0]);
    ping(host, OVERLAY[1][0]);
    assert_eq!(faults(host, &args), [] as [Value; 0]);
    let text = ok(host, &format!("wireloom doctor {args}"));
    assert!(text.ends_with("nothing is wrong\n"), "{text}");
    assert!(a.stop(wireloom_tests::SOON).unwrap().status.success());
    assert_eq!(faults(host, &args), [] as [Value; 0]);
}

#[test]
fn each_fault_of_a_machine_is_found_and_goes_by_what_is_said() {
    need_all!();
    let mesh = Mesh::new();
    let (host, args) = (&mesh.pair.a, mesh.args("a"));

    ok(host, "ip route add 10.4.0.0/25 via 192.0.2.2");
    assert!(only(host, &args, "ranges", "10.4.0.0/25").contains("ip route show 10.4.0.0/25"));
    ok(host, "ip route delete 10.4.0.0/25");

    let holder = host.run(|| std::net::UdpSocket::bind("0.0.0.0:51820").unwrap()).unwrap();
    only(host, &args, "port", &std::process::id().to_string());
    drop(holder);

    let key = mesh.folder.path().join("a");
    ok(host, &format!("chmod 644 {}", key.display()));
    only(host, &args, "key", "0644");
    ok(host, &format!("chmod 600 {}", key.display()));

    ok(host, "ip link add other0 type bridge");
    ok(host, "ip link set other0 up");
    ok(host, "ip address add 172.31.0.1/24 dev other0");
    host.write("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1").unwrap();
    host.write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    ok(host, &only(host, &args, "rp-filter", "eth0"));

    for name in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        host.write(path, if name == "default" { "1" } else { "0" }).unwrap();
    }
    ok(host, &only(host, &args, "ipv6", "switched off"));

    ok(host, "ip route add 10.66.0.0/24 via 192.0.2.2 proto 107");
    ok(host, &only(host, &args, "leftovers", "10.66.0.0/24"));

    ok(host, "ip tuntap add dev kilo0 mode tun");
    ok(host, &only(host, &args, "kilo", "the link kilo0"));

    mesh.write(&mesh.text("", "").replace("[mesh]\n", "[mesh]\nmtu = 1441\n"));
    let remedy = only(host, &args, "mtu", "1441");
    assert!(remedy.contains("mtu = 1440"), "{remedy}");

    mesh.write("[mesh\n");
    only(host, &args, "mesh", "line 1");
    fs::remove_file(mesh.path()).unwrap();
    only(host, &args, "mesh", "mesh.toml");
    mesh.write(&mesh.text("", ""));
    assert_eq!(faults(host, &args), [] as [Value; 0]);
}

#[test]
fn a_running_agents_trouble_is_told() {
    need_all!();
    let mesh = Mesh::new();
    let (host, args) = (&mesh.pair.a, mesh.args("a"));
    let _a = mesh.up("a");
    assert_eq!(faults(host, &args), [] as [Value; 0]);

    // b is not there: whoever calls it gets no answer.
    assert!(!wireloom_tests::answers(host, OVERLAY[1][0]));
    eventually("the peer is named", || {
        faults(host, &args).iter().any(|fault| fault["check"] == "peers")
    });
    only(host, &args, "peers", "b at 192.0.2.2:51820");
    let _b = mesh.up("b");
    ping(host, OVERLAY[1][0]);

    host.write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let remedy = only(host, &args, "forwarding", "IPv4 forwarding is off");
    ok(host, remedy.split(',').next().unwrap());

    let good = mesh.text("", "");
    mesh.write("[mesh\n");
    eventually("the stale mesh is named", || {
        faults(host, &args).iter().any(|fault| fault["check"] == "agent")
    });
    mesh.write(&good);
    eventually("all is well again", || faults(host, &args).is_empty());
}
