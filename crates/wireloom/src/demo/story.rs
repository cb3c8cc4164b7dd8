//! What the demo builds: a managed cluster's nodes in Amsterdam and Warsaw, one in London at another provider, and one
//! in Ireland behind a NAT router, as a lab and as a mesh file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use wireloom_lab::plan::{HostPlan, RegionPlan};
use wireloom_lab::{Layout, Plan, Region};
use wireloom_model::{Encapsulation, GatewayCount, PublicKey};

/// The UDP port that every node of the demo listens on.
const PORT: u16 = 51820;

/// How often a node that nobody can dial keeps its tunnels open, in seconds.
const KEEPALIVE: u16 = 25;

/// The four regions, about as far apart as their cities.
pub(super) fn layout() -> Layout {
    let latency = Duration::from_millis;
    let regions = vec![
        Region::new("nl-ams", &["ams-1", "ams-2"]).latency(latency(2)),
        Region::new("pl-waw", &["waw-1", "waw-2"]).latency(latency(20)),
        Region::new("uk-lon", &["lon-1"]).latency(latency(4)),
        Region::new("eu-west-1", &["dub-1"]).latency(latency(15)).behind_nat(),
    ];
    Layout { regions, pods: true }
}

/// The `mesh.toml` of these nodes. A node without a key is left out.
pub(super) fn mesh_file(
    plan: &Plan,
    gateways: GatewayCount,
    Encapsulation { when, by }: Encapsulation,
    keys: &BTreeMap<String, PublicKey>,
) -> String {
    let gateways = quoted_unless_number(gateways);
    let mut text = format!(
        "[mesh]\ngateways = {gateways}\nport = {PORT}\nencapsulation = \"{when}\"\nencapsulate-by = \"{by}\"\n"
    );
    for region in &plan.regions {
        for host in &region.hosts {
            if let Some(key) = keys.get(&host.name) {
                // Writing to a String cannot fail.
                let _ = node(&mut text, region, host, key);
            }
        }
    }
    text
}

fn quoted_unless_number(gateways: GatewayCount) -> String {
    match gateways {
        GatewayCount::All => "\"all\"".to_owned(),
        GatewayCount::AtMost(count) => count.to_string(),
    }
}

fn node(
    text: &mut String,
    region: &RegionPlan,
    host: &HostPlan,
    key: &PublicKey,
) -> std::fmt::Result {
    writeln!(text, "\n[[node]]\nname = \"{}\"\nlocation = \"{}\"", host.name, region.name)?;
    writeln!(text, "public-key = \"{key}\"")?;
    let [v4, v6] = host.private;
    writeln!(text, "internal-addresses = [\"{v4}\", \"{v6}\"]")?;
    if let Some(pod) = &host.pod {
        let [v4, v6] = pod.prefixes;
        writeln!(text, "prefixes = [\"{v4}\", \"{v6}\"]")?;
    }
    match endpoint(region, host) {
        Some(endpoint) => writeln!(text, "endpoint = \"{endpoint}\""),
        None => writeln!(text, "keepalive = {KEEPALIVE}"),
    }
}

/// Where a node is dialled; behind NAT, nowhere. Every second region is dialled by IPv6, so that the tunnels cross the
/// internet in both families.
pub(super) fn endpoint(region: &RegionPlan, host: &HostPlan) -> Option<SocketAddr> {
    let [v4, v6] = host.public?;
    let address = if region.number.is_multiple_of(2) { v6 } else { v4 };
    Some(SocketAddr::new(address.address(), PORT))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wireloom_model::{NodeName, PrivateKey};

    use super::*;

    #[test]
    fn the_story_is_a_mesh_without_problems() {
        let plan = layout().plan().unwrap();
        let keys = (1..).zip(plan.hosts()).map(|(number, host)| {
            (host.name.clone(), PrivateKey::from_random([number; 32]).public_key())
        });
        let keys = keys.collect();
        for gateways in ["1", "2", "all"] {
            let text = mesh_file(&plan, gateways.parse().unwrap(), Encapsulation::default(), &keys);
            let snapshot = wireloom_file::parse(&text, Path::new("mesh.toml")).unwrap();
            assert_eq!(snapshot.problems, [], "{text}");
            assert_eq!(snapshot.nodes.len(), 6, "{text}");
            assert_eq!(snapshot.mesh.gateways.to_string(), gateways);
            for node in &snapshot.nodes {
                let name: &NodeName = &node.name;
                wireloom_topology::plan(&snapshot, name).unwrap();
                let behind_nat = name.as_str() == "dub-1";
                assert_eq!(node.endpoint.is_none(), behind_nat);
                assert_eq!(node.persistent_keepalive.is_some(), behind_nat);
                assert_eq!((node.internal_addresses.len(), node.pod_prefixes.len()), (2, 2));
            }
        }
    }
}
