//! A node that comes, changes and goes, whatever it makes in the kernel: what others have there stays to the byte, and of
//! its own nothing.

use wireloom_testkit::need;
use wireloom_tests::foreign::{Snapshot, make_foreign};
use wireloom_tests::mesh::{Mesh, one_location, status};
use wireloom_tests::{NetworkState, SOON, eventually};

/// When is wrapped, in what, and a text that the kernel's state has in it only then.
const WAYS: [(&str, &str, &str); 5] = [
    ("never", "vxlan", "\"wl0\""),
    ("always", "vxlan", "\"wl0-v6\""),
    ("crosssubnet", "vxlan", "\"wl0-v4\""),
    ("always", "wireguard", "51107"),
    ("crosssubnet", "wireguard", "51107"),
];

#[test]
fn what_others_have_survives_every_encapsulation_and_role() {
    need!(root);
    need!(device "/dev/net/tun");
    need!(program "nft");
    need!(program "bridge");
    let mesh = Mesh::new();
    let host = &mesh.pair.a;
    make_foreign(host);
    // Bridges have timers that run.
    let settings = || NetworkState::of(host).without(&["_timer"]);
    let (before, settings_before) = (Snapshot::of(host), settings());
    for role in ["gateways = \"all\"", "gateways = 1"] {
        for (at, (when, by, mark)) in WAYS.into_iter().enumerate() {
            let case = format!("{role}, {when} by {by}");
            let text = |when: &str, by: &str, more: &str| {
                let lines = format!(
                    "{role}\nencapsulation = \"{when}\"\nencapsulate-by = \"{by}\"\nmasquerade = true"
                );
                one_location(&mesh, &lines, "32", &format!("gateway = true\n{more}"))
            };
            mesh.write(&text(when, by, ""));
            let a = mesh.up("a");
            eventually("the node has its place", || {
                Snapshot::of(host).mentions(mark)
                    && status(host)["problems"] == serde_json::json!([])
            });
            assert_eq!(status(host)["gateway"], role.ends_with("\"all\""), "{case}");
            Snapshot::of(host).assert_holds(&before);

            // To the next way, with more behind the other node.
            let (when, by, _) = WAYS[(at + 1) % WAYS.len()];
            mesh.write(&text(when, by, "prefixes = [\"10.73.0.0/24\", \"fd73::/64\"]"));
            eventually("the change is made", || {
                let now = Snapshot::of(host);
                now.mentions("10.73.0.0/24") && now.mentions("fd73::/64")
            });
            Snapshot::of(host).assert_holds(&before);

            assert!(a.stop(SOON).unwrap().status.success(), "{case}");
            Snapshot::of(host).assert_same(&before);
            settings().assert_same(&settings_before);
        }
    }
}
