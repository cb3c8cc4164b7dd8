//! Annotations to what they say.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::{
    Asked, Forced, ForcedAddresses, Granularity, KILO_PREFIX, NodeAnnotations, OWN_PREFIX, Told,
    key,
};
use crate::algorithm::Algorithm;
use crate::cidr::{Cidr, CidrError, Family, InterfaceAddress};
use crate::endpoint::Endpoint;
use crate::key::PublicKey;
use crate::name::NodeName;
use crate::node::Held;
use crate::problem::{Problem, ProblemKind, Subject};
use crate::snapshot::Mesh;

impl NodeAnnotations {
    /// Reads the annotations of a Node. What is wrong with one is a problem that names it, and it counts as not there:
    /// for most that is Kilo's own rule, for the rest a stricter one.
    pub fn read(node: &NodeName, annotations: &BTreeMap<String, String>) -> (Self, Vec<Problem>) {
        let mut reader = Reader { node, annotations, problems: Vec::new() };
        let read = Self { asked: reader.asked(), told: reader.told() };
        reader.report_strangers();
        (read, reader.problems)
    }
}

struct Reader<'a> {
    node: &'a NodeName,
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn asked(&mut self) -> Asked {
        Asked {
            endpoint: self.parsed(key::FORCE_ENDPOINT, forced_endpoint),
            internal_addresses: self.forced_internal_addresses(),
            leader: self.leader(),
            location: self.parsed(key::LOCATION, str::parse),
            persistent_keepalive: self.parsed(key::PERSISTENT_KEEPALIVE, keepalive).flatten(),
            allowed_location_ips: self.allowed_location_ips(),
            overlay_addresses: self.overlay_addresses(),
            gateway_weight: self.parsed(key::GATEWAY_WEIGHT, |text| {
                text.parse::<u16>().map_err(|_| "write a number from 0 to 65535; 100 is usual")
            }),
        }
    }

    fn told(&mut self) -> Told {
        Told {
            endpoints: self.first_of_all(key::ENDPOINT, key::ENDPOINTS, str::parse::<Endpoint>),
            internal_addresses: self.first_of_all(key::INTERNAL_IP, key::INTERNAL_IPS, with_length),
            key: self.parsed(key::KEY, str::parse),
            last_seen: self.parsed(key::LAST_SEEN, |text| {
                text.parse::<u64>().map_err(|_| "an agent writes Unix seconds there")
            }),
            wireguard_ip: self.unless_empty(key::WIREGUARD_IP, with_length),
            discovered_endpoints: self.discovered_endpoints(),
            granularity: self.parsed(key::GRANULARITY, str::parse::<Granularity>),
            cni_address: self.unless_empty(key::CNI_COMPATIBILITY_IP, with_length),
            algorithm: self.algorithm(),
            held: self.parsed(key::HELD, |text| serde_json::from_str::<Held>(text)),
            mesh: self.parsed(key::MESH, |text| serde_json::from_str::<Mesh>(text)),
        }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.annotations.get(key).map(String::as_str)
    }

    fn error(&mut self, key: &str, value: &str, reason: impl Display) {
        self.problems.push(Problem::error(
            Subject::Node(self.node.clone()),
            ProblemKind::Invalid,
            format!("annotation {key}: {value:?} is skipped: {reason}"),
        ));
    }

    fn warning(&mut self, key: &str, value: &str, reason: impl Display) {
        self.problems.push(Problem::warning(
            Subject::Node(self.node.clone()),
            ProblemKind::Invalid,
            format!("annotation {key}: {value:?}: {reason}"),
        ));
    }

    /// What an annotation says, if it is there and can be read.
    fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key)?;
        parse(text).map_err(|error| self.error(key, text, error)).ok()
    }

    /// The same for one that is empty where there is nothing to say.
    fn unless_empty<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.text(key).filter(|text| !text.is_empty())?;
        self.parsed(key, parse)
    }

    /// The items of a list with commas between. Each bad one is skipped alone.
    fn list<T, E: Display>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        let mut read = Vec::new();
        for item in self
            .text(key)
            .into_iter()
            .filter(|text| !text.is_empty())
            .flat_map(|text| text.split(','))
        {
            match parse(item) {
                Ok(value) => read.push(value),
                Err(error) => self.error(key, item, error),
            }
        }
        read
    }

    /// Kilo's annotation with one value, and ours with all of them. Kilo's is the first, whatever ours says.
    fn first_of_all<T: PartialEq, E: Display>(
        &mut self,
        one: &str,
        all: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let first = self.unless_empty(one, &parse);
        // An empty one says that there is none, and so does its being gone: whoever wrote the list writes both.
        if first.is_none() {
            return Vec::new();
        }
        let mut values: Vec<T> = first.into_iter().collect();
        for value in self.list(all, parse) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    fn forced_internal_addresses(&mut self) -> Option<Forced<ForcedAddresses>> {
        let kilos = self.parsed(key::FORCE_INTERNAL_IP, |text| match text {
            "" | "-" => Ok(Forced::Nothing),
            text => with_length(text).map(|address| Forced::Is(ForcedAddresses::First(address))),
        });
        match self.text(key::FORCE_INTERNAL_IPS) {
            None => kilos,
            Some("-") => Some(Forced::Nothing),
            Some(_) => {
                let addresses = self.list(key::FORCE_INTERNAL_IPS, with_length);
                // Nothing but bad ones is a mistake, and no wish to have none.
                if addresses.is_empty() {
                    kilos
                } else {
                    Some(Forced::Is(ForcedAddresses::All(addresses)))
                }
            }
        }
    }

    fn leader(&mut self) -> bool {
        let text = self.text(key::LEADER);
        if let Some(value @ ("false" | "False" | "no" | "0" | "off")) = text {
            self.warning(
                key::LEADER,
                value,
                "it makes a gateway all the same, since its value is not read; remove the annotation",
            );
        }
        text.is_some()
    }

    fn allowed_location_ips(&mut self) -> Vec<Cidr> {
        let mut prefixes = Vec::new();
        let items = self.text(key::ALLOWED_LOCATION_IPS).filter(|text| !text.is_empty());
        for item in items.into_iter().flat_map(|text| text.split(',')) {
            match item.parse::<Cidr>() {
                Ok(prefix) => prefixes.push(prefix),
                Err(CidrError::HostBits { network, .. }) => {
                    self.warning(
                        key::ALLOWED_LOCATION_IPS,
                        item,
                        format!("it has bits set behind its prefix length, and {network} is used; write that"),
                    );
                    prefixes.push(network);
                }
                Err(_) if item.trim() != item => self.error(
                    key::ALLOWED_LOCATION_IPS,
                    item,
                    "write prefixes with commas between and no blanks",
                ),
                Err(error) => self.error(key::ALLOWED_LOCATION_IPS, item, error),
            }
        }
        prefixes
    }

    fn overlay_addresses(&mut self) -> Vec<IpAddr> {
        let addresses = self.list(key::FORCE_OVERLAY_IPS, |text| {
            text.parse::<IpAddr>()
                .map_err(|_| "write addresses with commas between, such as 10.4.0.7,fd00::7")
        });
        let mut kept: Vec<IpAddr> = Vec::new();
        for address in addresses {
            if kept.iter().any(|other| Family::of(*other) == Family::of(address)) {
                let reason = "a node has one overlay address of each family; leave one";
                self.error(key::FORCE_OVERLAY_IPS, &address.to_string(), reason);
            } else {
                kept.push(address);
            }
        }
        kept
    }

    fn algorithm(&mut self) -> Option<Algorithm> {
        let text = self.text(key::ALGORITHM)?;
        // A newer agent may know what we don't; whoever knows one way knows those before it.
        Some(text.parse().unwrap_or_else(|_| {
            self.warning(
                key::ALGORITHM,
                text,
                "this agent does not know it, and is older than that one",
            );
            Algorithm::default()
        }))
    }

    fn discovered_endpoints(&mut self) -> BTreeMap<PublicKey, SocketAddr> {
        let key = key::DISCOVERED_ENDPOINTS;
        let read = self.unless_empty(key, |text| {
            serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text)
        });
        let mut endpoints = BTreeMap::new();
        for (name, value) in read.unwrap_or_default() {
            match (name.parse::<PublicKey>(), discovered(&value)) {
                (Ok(name), Some(endpoint)) => {
                    endpoints.insert(name, endpoint);
                }
                (Err(error), _) => self.error(key, &name, error),
                (_, None) => {
                    let reason = "an agent writes IP, Port and Zone there";
                    self.error(key, &value.to_string(), reason);
                }
            }
        }
        endpoints
    }

    /// Names that begin as ours or Kilo's do and mean nothing are most likely misspelt.
    fn report_strangers(&mut self) {
        for (name, value) in self.annotations {
            let is_ours = name.starts_with(KILO_PREFIX) || name.starts_with(OWN_PREFIX);
            if is_ours && !key::ALL.contains(&name.as_str()) {
                self.warning(
                    name,
                    value,
                    "there is no such annotation; correct its name or remove it",
                );
            }
        }
    }
}

fn forced_endpoint(text: &str) -> Result<Forced<Endpoint>, <Endpoint as FromStr>::Err> {
    if text == "-" { Ok(Forced::Nothing) } else { text.parse().map(Forced::Is) }
}

/// An address with a prefix length, which Kilo never does without.
fn with_length(text: &str) -> Result<InterfaceAddress, String> {
    let address: InterfaceAddress = text.parse().map_err(|error: CidrError| error.to_string())?;
    if text.contains('/') {
        Ok(address)
    } else {
        Err("write the prefix length of its network behind it, as in 10.0.0.5/24".to_owned())
    }
}

/// Seconds as Kilo reads them, `strconv.Atoi`, and within what WireGuard knows; 0 is off.
fn keepalive(text: &str) -> Result<Option<NonZeroU16>, &'static str> {
    let seconds: Option<u16> = text.parse::<i64>().ok().and_then(|seconds| seconds.try_into().ok());
    seconds
        .map(NonZeroU16::new)
        .ok_or("write seconds from 0 to 65535 without a unit; 25 is usual, 0 is off")
}

/// Go's `net.UDPAddr` as JSON. The zone of a link-local address means something only where it was heard.
fn discovered(value: &serde_json::Value) -> Option<SocketAddr> {
    let address: IpAddr = value.get("IP")?.as_str()?.parse().ok()?;
    let port = u16::try_from(value.get("Port")?.as_u64()?).ok().filter(|port| *port != 0)?;
    let zone = value.get("Zone").and_then(serde_json::Value::as_str).unwrap_or_default();
    Some(match (address, zone.parse()) {
        (IpAddr::V6(address), Ok(scope)) => SocketAddrV6::new(address, port, 0, scope).into(),
        _ => SocketAddr::new(address, port),
    })
}
