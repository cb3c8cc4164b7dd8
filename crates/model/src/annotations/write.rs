//! What an agent tells, to annotations.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;

use serde_json::json;

use super::{Told, key};

impl Told {
    /// The annotations that say this: all that an agent writes to its own Node. Whoever writes them owns them, so what
    /// is left out here is to go.
    pub fn write(&self) -> BTreeMap<String, String> {
        let Self {
            endpoints,
            internal_addresses,
            key,
            last_seen,
            wireguard_ip,
            discovered_endpoints,
            granularity,
            cni_address,
            algorithm,
            held,
            mesh,
        } = self;
        let or_empty = |first: Option<String>| Some(first.unwrap_or_default());
        let values = [
            (key::ENDPOINT, endpoints.first().map(ToString::to_string)),
            (key::ENDPOINTS, all_but_one(endpoints)),
            (key::INTERNAL_IP, or_empty(internal_addresses.first().map(ToString::to_string))),
            (key::INTERNAL_IPS, all_but_one(internal_addresses)),
            (key::KEY, key.as_ref().map(ToString::to_string)),
            (key::LAST_SEEN, last_seen.as_ref().map(ToString::to_string)),
            (key::WIREGUARD_IP, or_empty(wireguard_ip.as_ref().map(ToString::to_string))),
            (key::DISCOVERED_ENDPOINTS, Some(discovered(discovered_endpoints))),
            (key::GRANULARITY, granularity.as_ref().map(ToString::to_string)),
            (key::CNI_COMPATIBILITY_IP, cni_address.as_ref().map(ToString::to_string)),
            (key::ALGORITHM, algorithm.as_ref().map(ToString::to_string)),
            // Maps with text for keys and no floats: always JSON.
            (key::HELD, held.as_ref().and_then(|held| serde_json::to_string(held).ok())),
            (key::MESH, mesh.as_ref().and_then(|mesh| serde_json::to_string(mesh).ok())),
        ];
        let said = values.into_iter();
        said.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// A list with more to say than its first item says alone.
fn all_but_one(items: &[impl Display]) -> Option<String> {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    (texts.len() > 1).then(|| texts.join(","))
}

/// As Go writes a map of `net.UDPAddr`.
fn discovered(endpoints: &BTreeMap<crate::PublicKey, SocketAddr>) -> String {
    let zone = |endpoint: &SocketAddr| match endpoint {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => v6.scope_id().to_string(),
        _ => String::new(),
    };
    let entry = |(key, endpoint): (&crate::PublicKey, &SocketAddr)| {
        let value = json!({ "IP": endpoint.ip(), "Port": endpoint.port(), "Zone": zone(endpoint) });
        (key.to_string(), value)
    };
    serde_json::Value::from_iter(endpoints.iter().map(entry)).to_string()
}
