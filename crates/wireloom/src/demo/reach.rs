//! Who is asked to reach whom: every ordered pair of nodes, in both families and both layers.

use std::net::IpAddr;

use wireloom_agent::status::Status;
use wireloom_lab::Lab;
use wireloom_lab::demo::{Layer, Pair};
use wireloom_lab::plan::HostPlan;
use wireloom_model::Family;

/// All pairs of the lab's hosts, which are these nodes.
pub(super) fn pairs(lab: &Lab, nodes: &[Status]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for layer in [Layer::Node, Layer::Pod] {
        for family in Family::BOTH {
            for from in lab.plan().hosts() {
                let others = lab.plan().hosts().filter(|to| to.name != from.name);
                pairs.extend(others.map(|to| pair(nodes, layer, family, from, to)));
            }
        }
    }
    pairs
}

fn pair(nodes: &[Status], layer: Layer, family: Family, from: &HostPlan, to: &HostPlan) -> Pair {
    let (asks, address) = match layer {
        Layer::Node => (Some(&from.name), overlay_address(nodes, &to.name, family)),
        Layer::Pod => (from.pod.as_ref().map(|pod| &pod.name), pod_address(to, family)),
    };
    let asks = asks.unwrap_or(&from.name).clone();
    Pair { from: from.name.clone(), to: to.name.clone(), family, layer, asks, address }
}

fn pod_address(host: &HostPlan, family: Family) -> Option<IpAddr> {
    let addresses = host.pod.as_ref()?.address.map(|address| address.address());
    addresses.into_iter().find(|address| Family::of(*address) == family)
}

/// The overlay address of a node, as it says itself.
pub(super) fn overlay_address(nodes: &[Status], name: &str, family: Family) -> Option<IpAddr> {
    let node = nodes.iter().find(|node| node.node.as_ref().is_some_and(|n| n.as_str() == name))?;
    node.overlay_addresses.iter().copied().find(|address| Family::of(*address) == family)
}
