//! A network that drops what wraps is found and named, with what to do, and so is its end.

use wireloom_lab::{Child, Host};
use wireloom_testkit::need;
use wireloom_tests::foreign::nft;
use wireloom_tests::mesh::{Mesh, one_location, status};
use wireloom_tests::{answers, eventually, ok, run};

/// Takes VXLAN away as it comes in, before anything sees it.
const DROP: &str = "table inet fabric {
     chain in { type filter hook prerouting priority -300; udp dport 51107 counter drop; }
 }";

fn says(host: &Host) -> bool {
    let problems = status(host)["problems"].to_string();
    problems.contains("VXLAN (UDP port 51107)")
        && problems.contains("encapsulate-by = \\\"wireguard\\\"")
}

fn log(child: &Child) -> String {
    child.written().map(|(_, log)| log).unwrap_or_default()
}

#[test]
fn a_network_that_drops_vxlan_is_named_in_status_doctor_and_log() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "nft");
    need!(program "ping");
    let mesh = Mesh::new();
    mesh.write(&one_location(&mesh, "encapsulation = \"always\"", "24", ""));
    let (a, b) = (&mesh.pair.a, &mesh.pair.b);
    // From the start.
    nft(b, DROP);
    let agent = mesh.up("a");
    let _other = mesh.up("b");
    eventually("status names it", || says(a));
    let found = run(a, &format!("wireloom doctor {}", mesh.args("a")));
    assert!(found.stdout.contains("VXLAN (UDP port 51107)"), "{}{}", found.stdout, found.stderr);
    assert!(log(&agent).contains("VXLAN (UDP port 51107)"));

    // It ends, and nobody needs to say so.
    ok(b, "nft delete table inet fabric");
    eventually("it is no longer named", || !says(a));
    assert!(answers(a, "10.4.0.2"));
    assert!(log(&agent).contains("no longer: "));

    // It begins while all is well: packets that get no answer are what tells.
    nft(b, DROP);
    eventually("it is named again", || {
        answers(a, "10.4.0.2");
        says(a)
    });
}
