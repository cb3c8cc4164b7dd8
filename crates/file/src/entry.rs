//! The entries of a mesh file: `[[node]]` and `[[peer]]`.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::Range;
use std::path::PathBuf;

use toml_edit::{Item, TableLike};
use wireloom_model::{
    Endpoint, EndpointError, Family, GatewayPreference, InterfaceAddress, Node, Peer, PresharedKey,
    Subject,
};

use crate::fields::{Fields, kind};
use crate::mesh::Source;
use crate::secret::Secret;

/// One table of an array of tables.
pub(crate) struct Entry<'a> {
    pub(crate) table: &'a dyn TableLike,
    /// The byte where it begins.
    pub(crate) start: usize,
}

impl Entry<'_> {
    /// What a problem of this entry is about: the node or peer that it names, or else the entry by its number.
    pub(crate) fn subject(&self, section: &str, since: u64) -> Subject {
        let name = self.table.get("name").and_then(Item::as_str).unwrap_or_default();
        let named = match section {
            "peer" => name.parse().map(Subject::Peer),
            _ => name.parse().map(Subject::Node),
        };
        named.unwrap_or_else(|_| Subject::Entry(format!("[[{section}]] number {}", since + 1)))
    }
}

/// The tables of an array of tables, in either of the ways in which TOML writes one.
pub(crate) fn entries(item: &Item) -> Result<Vec<Entry<'_>>, String> {
    fn entry<'a>(table: &'a dyn TableLike, span: Option<Range<usize>>) -> Entry<'a> {
        Entry { table, start: span.map_or(0, |span| span.start) }
    }
    let tables = match (item.as_array_of_tables(), item.as_array()) {
        (Some(tables), _) => Some(tables.iter().map(|table| entry(table, table.span())).collect()),
        (None, Some(array)) => array
            .iter()
            .map(|value| value.as_inline_table().map(|table| entry(table, value.span())))
            .collect(),
        (None, None) => None,
    };
    tables.ok_or_else(|| {
        format!("it stands in double brackets, once for each entry, yet here is {}", kind(item))
    })
}

/// Reads a `[[node]]`. `None` only if there is a fault.
pub(crate) fn node(fields: &mut Fields<'_>, port: NonZeroU16, since: u64) -> Option<Node> {
    fields.require(&["name", "public-key"]);
    let name = fields.text("name");
    let location = fields.text("location");
    let key = fields.text("public-key");
    let endpoint = endpoint(fields, port);
    let internal_addresses = internal_addresses(fields);
    if !internal_addresses.is_empty() {
        fields.require(&["location"]);
    }
    let pod_prefixes = fields.list("prefixes").unwrap_or_default();
    let extra_prefixes = fields.list("location-prefixes").unwrap_or_default();
    let overlay_addresses = overlay_addresses(fields);
    let gateway = gateway(fields);
    let persistent_keepalive = keepalive(fields);
    let location = location.or_else(|| "".parse().ok())?;
    Some(Node {
        internal_addresses,
        endpoint,
        pod_prefixes,
        extra_prefixes,
        overlay_addresses,
        gateway,
        persistent_keepalive,
        since,
        ..Node::new(name?, key?, location)
    })
}

/// Reads a `[[peer]]`. `None` only if there is a fault.
pub(crate) fn peer(
    fields: &mut Fields<'_>,
    port: NonZeroU16,
    since: u64,
    source: &Source<'_>,
) -> Option<Peer> {
    fields.require(&["name", "public-key", "allowed-ips"]);
    let name = fields.text("name");
    let key = fields.text("public-key");
    let preshared_key = preshared_key(fields, source);
    let allowed_ips = fields.list("allowed-ips");
    if allowed_ips.as_ref().is_some_and(Vec::is_empty) {
        fields.refuse("allowed-ips", "a peer needs at least one prefix to be reached by");
    }
    let endpoint = endpoint(fields, port);
    let persistent_keepalive = keepalive(fields);
    Some(Peer {
        name: name?,
        key: key?,
        preshared_key,
        allowed_ips: allowed_ips?,
        endpoint,
        persistent_keepalive,
        since,
    })
}

/// An endpoint whose port may be left out.
fn endpoint(fields: &mut Fields<'_>, port: NonZeroU16) -> Option<Endpoint> {
    let text: String = fields.text("endpoint")?;
    let has_port = if text.starts_with('[') { !text.ends_with(']') } else { text.contains(':') };
    let endpoint: Result<_, EndpointError> =
        if has_port { text.parse() } else { format!("{text}:{port}").parse() };
    endpoint.map_err(|error| fields.refuse("endpoint", &error.to_string())).ok()
}

fn internal_addresses(fields: &mut Fields<'_>) -> Vec<InterfaceAddress> {
    const KEY: &str = "internal-addresses";
    let addresses: Vec<InterfaceAddress> = fields.list(KEY).unwrap_or_default();
    for address in addresses.iter().map(InterfaceAddress::address) {
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            fields.refuse(KEY, &format!("{address} is no address that other hosts can reach"));
        }
    }
    addresses
}

fn overlay_addresses(fields: &mut Fields<'_>) -> Vec<IpAddr> {
    const KEY: &str = "overlay-addresses";
    let addresses: Vec<IpAddr> = fields.list(KEY).unwrap_or_default();
    for family in Family::BOTH {
        let count = addresses.iter().filter(|address| Family::of(**address) == family).count();
        if count > 1 {
            fields.refuse(KEY, &format!("a node has one {family} address, not {count}"));
        }
    }
    addresses
}

fn gateway(fields: &mut Fields<'_>) -> GatewayPreference {
    const WEIGHT: &str = "gateway-weight";
    let declared = fields.flag("gateway");
    let weight = fields.number(WEIGHT, 0..=u16::MAX);
    match (declared, weight) {
        (Some(true), Some(0)) => {
            fields.refuse(WEIGHT, "0 means never a gateway, yet gateway is true");
        }
        (Some(false), Some(weight)) if weight > 0 => {
            fields.refuse(WEIGHT, &format!("{weight} asks for a share, yet gateway is false"));
        }
        _ => {}
    }
    let usual = GatewayPreference::default();
    GatewayPreference {
        declared: declared.unwrap_or(usual.declared),
        weight: if declared == Some(false) { 0 } else { weight.unwrap_or(usual.weight) },
    }
}

/// A keepalive in seconds; 0 means none, as for `wg`.
fn keepalive(fields: &mut Fields<'_>) -> Option<NonZeroU16> {
    fields.number("keepalive", 0..=u16::MAX).and_then(NonZeroU16::new)
}

/// A preshared key, from the mesh file or from one of its own.
fn preshared_key(fields: &mut Fields<'_>, source: &Source<'_>) -> Option<PresharedKey> {
    const INLINE: &str = "preshared-key";
    const FILE: &str = "preshared-key-file";
    let inline = fields.text(INLINE);
    let file: Option<PathBuf> = fields.text(FILE);
    let Some(file) = file else {
        if inline.is_some() && source.exposed {
            let path = source.path.display();
            let reason = format!("{INLINE}: others can read {path}; chmod 600 it, or use {FILE}");
            fields.exposed(INLINE, reason);
        }
        return inline;
    };
    if inline.is_some() {
        fields.refuse(FILE, &format!("{INLINE} stands here too; leave one of them out"));
    }
    let path = source.path.parent().map_or_else(|| file.clone(), |beside| beside.join(&file));
    match Secret::read(&path) {
        Ok(secret) => {
            if secret.is_exposed() {
                let path = path.display();
                fields.exposed(FILE, format!("{FILE}: others can read {path}; chmod 600 it"));
            }
            let key = secret.text.parse();
            key.map_err(|e| fields.refuse(FILE, &format!("{}: {e}", path.display()))).ok()
        }
        Err(error) => {
            fields.refuse(FILE, &format!("{} can't be read: {error}", path.display()));
            None
        }
    }
}
