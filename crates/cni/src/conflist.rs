//! The list of plugins that a runtime calls for each pod.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wireloom_model::{Cidr, Family};

use crate::directories::Directories;
use crate::plugin::{ANNOTATIONS, BRIDGE, RUN_DIRECTORY, STATE_DIRECTORY};
use crate::programs::PLUGIN;

/// The version of the specification that the list is written in: the newest that containerd 1.6, cri-o 1.26 and Debian's
/// plugins of 2022 all know.
pub const CNI_VERSION: &str = "0.4.0";

/// What a node asks of its runtime: a bridge whose pods get addresses of the node's own prefixes, and ports of the host
/// mapped to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflist {
    /// What the network is called, in files that plugins keep below `/var/lib/cni`.
    pub name: String,
    /// The [bridge](crate::Bridge) that the pods hang on.
    pub bridge: String,
    /// The node's pod prefixes, of any number and both families. `host-local` gives out no address of one that has fewer
    /// than four, and takes none that lies in another: such prefixes are left out.
    pub prefixes: BTreeSet<Cidr>,
    /// The largest packet in bytes that reaches every other pod of the mesh.
    pub mtu: u32,
    /// The agent's directories. Below that which goes when the machine starts anew, as all of its pods do, `host-local`
    /// writes down which addresses are taken: they are free then even if nobody gave them back.
    pub directories: Directories,
    /// Whether [ours](crate::plugin) comes last, which must then lie among the runtime's [`Programs`](crate::Programs).
    pub is_chained: bool,
}

impl Conflist {
    /// The list as JSON. `None` while the node has no pod prefix, since the runtime would start pods without an address.
    ///
    /// The plugins are those of `containernetworking/plugins`: `bridge` with `host-local`, then `portmap`; then ours.
    pub fn to_json(&self) -> Option<Value> {
        let ranges: Vec<Value> = Family::BOTH
            .into_iter()
            .map(|family| self.ranges(family))
            .filter(|range| !range.is_empty())
            .map(Value::from)
            .collect();
        // A pod has a way out for each family that it has an address of.
        let routes: Vec<Value> = Family::BOTH
            .into_iter()
            .filter(|family| !self.ranges(*family).is_empty())
            .map(|family| json!({"dst": everything(family)}))
            .collect();
        if ranges.is_empty() {
            return None;
        }
        let mut plugins = vec![
            json!({
                "type": "bridge",
                "name": self.name,
                // Its addresses are not for the plugin to give: see `bridge.rs`.
                "bridge": self.bridge,
                // A pod reaches itself through a service of which it is the only end.
                "hairpinMode": true,
                "mtu": self.mtu,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": routes,
                    "dataDir": self.directories.run.join("leases"),
                },
            }),
            json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}),
        ];
        plugins.extend(self.is_chained.then(|| {
            let mut ours = plugin(&self.directories);
            ours[BRIDGE] = self.bridge.clone().into();
            ours
        }));
        Some(json!({"cniVersion": CNI_VERSION, "name": self.name, "plugins": plugins}))
    }

    /// The prefixes that pods get addresses of.
    pub fn subnets(&self) -> impl Iterator<Item = Cidr> {
        let is_in_another = |prefix: &Cidr| {
            self.prefixes.iter().any(|other| other != prefix && other.covers(prefix))
        };
        let is_wide = |prefix: &Cidr| prefix.length() + 2 <= prefix.family().bits();
        self.prefixes
            .iter()
            .copied()
            .filter(move |prefix| is_wide(prefix) && !is_in_another(prefix))
    }

    /// Those of a family as one set of ranges, of which `host-local` gives a pod one address.
    fn ranges(&self, family: Family) -> Vec<Value> {
        let subnets = self.subnets().filter(|prefix| prefix.family() == family);
        subnets.map(|prefix| json!({"subnet": prefix.to_string()})).collect()
    }
}

/// Ours, as it stands in a list.
pub(crate) fn plugin(directories: &Directories) -> Value {
    json!({
        "type": PLUGIN,
        RUN_DIRECTORY: directories.run,
        STATE_DIRECTORY: directories.state,
        // A runtime passes on what a plugin says it understands.
        "capabilities": {ANNOTATIONS: true},
    })
}

const fn everything(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflist(prefixes: &[&str]) -> Conflist {
        Conflist {
            name: "wireloom".to_owned(),
            bridge: "wl-pods0".to_owned(),
            prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1370,
            directories: Directories {
                run: "/run/wireloom".into(),
                state: "/var/lib/wireloom".into(),
            },
            is_chained: true,
        }
    }

    #[test]
    fn pods_get_one_address_of_each_family() {
        let json = conflist(&["10.42.1.0/24", "10.42.7.0/24", "fd42:1::/64", "fd42:7::/64"])
            .to_json()
            .unwrap();
        let bridge = &json["plugins"][0];
        assert_eq!(bridge["mtu"], 1370);
        let expected = json!({
            "type": "host-local",
            "ranges": [
                [{"subnet": "10.42.1.0/24"}, {"subnet": "10.42.7.0/24"}],
                [{"subnet": "fd42:1::/64"}, {"subnet": "fd42:7::/64"}],
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            "dataDir": "/run/wireloom/leases",
        });
        assert_eq!(bridge["ipam"], expected);
        assert_eq!(json["plugins"][2]["bridge"], "wl-pods0");
    }

    #[test]
    fn a_prefix_that_lies_in_another_is_not_given_out_twice() {
        let json = conflist(&["10.42.0.0/16", "10.42.1.0/24", "10.43.0.0/24"]).to_json().unwrap();
        let ranges = &json["plugins"][0]["ipam"]["ranges"];
        assert_eq!(*ranges, json!([[{"subnet": "10.42.0.0/16"}, {"subnet": "10.43.0.0/24"}]]));
    }

    #[test]
    fn a_family_that_is_not_there_is_not_mentioned() {
        let json = conflist(&["fd42:1::/64"]).to_json().unwrap();
        let ipam = &json["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"], json!([[{"subnet": "fd42:1::/64"}]]));
        assert_eq!(ipam["routes"], json!([{"dst": "::/0"}]));
    }

    #[test]
    fn without_a_prefix_there_is_no_list() {
        assert_eq!(conflist(&[]).to_json(), None);
        assert_eq!(conflist(&["10.42.1.7/32", "fd42::6/127"]).to_json(), None);
        assert!(conflist(&["10.42.1.4/30"]).to_json().is_some());
    }
}
