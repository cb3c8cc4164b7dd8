//! A `Peer` object to a peer of the mesh, by the rules that Kilo's agents and webhook have.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU16;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use wireloom_model::{
    Cidr, CidrError, Endpoint, EndpointError, Host, Peer, PeerName, PresharedKey, Problem,
    ProblemKind, PublicKey, Subject,
};

use super::{DnsOrIp, PeerEndpoint, PeerSpec};
use crate::since;

/// Reads an object of the cluster, whatever it holds. `None` only if there is a problem that says why: no bad object
/// stops the others.
///
/// What Kilo accepts is accepted: several addresses' host bits, a key with line feeds around it, a name that beats the
/// address. A key that is all zero and an empty list of allowed IPs make no peer.
pub fn translate(object: &DynamicObject) -> (Option<Peer>, Vec<Problem>) {
    let text = object.name_any();
    let name: PeerName = match text.parse() {
        Ok(name) => name,
        Err(error) => {
            let entry = Subject::Entry(format!("Peer {text:?}"));
            return (None, vec![Problem::error(entry, ProblemKind::Invalid, error.to_string())]);
        }
    };
    let mut reader = Reader { name, problems: Vec::new() };
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let peer = match serde_json::from_value::<PeerSpec>(spec) {
        Ok(spec) => reader.peer(&spec, since(&object.metadata)),
        Err(error) => {
            reader.error("spec", &format_args!("it is no Peer ({error}); correct or delete it"));
            None
        }
    };
    (peer, reader.problems)
}

struct Reader {
    name: PeerName,
    problems: Vec<Problem>,
}

impl Reader {
    fn peer(&mut self, spec: &PeerSpec, since: u64) -> Option<Peer> {
        let key = self.key(&spec.public_key);
        let allowed_ips = self.allowed_ips(&spec.allowed_ips);
        let endpoint = spec.endpoint.as_ref().map(|endpoint| self.endpoint(endpoint));
        let persistent_keepalive = self.keepalive(spec.persistent_keepalive.unwrap_or_default());
        let preshared_key = self.preshared_key(spec.preshared_key.as_deref().unwrap_or_default());
        Some(Peer {
            name: self.name.clone(),
            key: key?,
            preshared_key,
            allowed_ips: allowed_ips?,
            endpoint: match endpoint {
                Some(endpoint) => Some(endpoint?),
                None => None,
            },
            persistent_keepalive: persistent_keepalive?,
            since,
        })
    }

    fn say(&mut self, problem: fn(Subject, ProblemKind, String) -> Problem, message: String) {
        let subject = Subject::Peer(self.name.clone());
        self.problems.push(problem(subject, ProblemKind::Invalid, message));
    }

    fn error(&mut self, field: &str, reason: &dyn Display) {
        self.say(Problem::error, format!("{field}: {reason}; the Peer is skipped"));
    }

    fn warning(&mut self, field: &str, reason: &dyn Display) {
        self.say(Problem::warning, format!("{field}: {reason}"));
    }

    fn key(&mut self, text: &str) -> Option<PublicKey> {
        let field = "publicKey";
        // Go's decoder, which Kilo uses, passes over line ends and does not look at the bits that no byte holds.
        let loose = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
        );
        let line: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let bytes = loose.decode(line).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        match bytes {
            Some(bytes) if bytes == [0; 32] => {
                self.error(field, &"the key is all zero; write the one that wg pubkey prints");
                None
            }
            Some(bytes) => Some(PublicKey::from_bytes(bytes)),
            None => {
                let reason =
                    format!("{text:?} is no key: write base64 of 32 bytes, as wg pubkey prints it");
                self.error(field, &reason);
                None
            }
        }
    }

    /// All of them, or none if one is bad: half of what was meant would be another peer.
    fn allowed_ips(&mut self, texts: &[String]) -> Option<Vec<Cidr>> {
        let field = "allowedIPs";
        let mut prefixes = Vec::new();
        let mut all_good = true;
        for text in texts {
            match text.parse() {
                Ok(prefix) => prefixes.push(prefix),
                Err(CidrError::HostBits { network, .. }) => {
                    let reason = format!(
                        "{text:?} has bits set behind its prefix length, and {network} is used; write that"
                    );
                    self.warning(field, &reason);
                    prefixes.push(network);
                }
                Err(error) => {
                    self.error(field, &error);
                    all_good = false;
                }
            }
        }
        if texts.is_empty() {
            self.error(field, &"it is empty; write the prefixes that are reached through the peer");
        }
        (all_good && !prefixes.is_empty()).then_some(prefixes)
    }

    fn endpoint(&mut self, endpoint: &PeerEndpoint) -> Option<Endpoint> {
        let PeerEndpoint { dns_or_ip: DnsOrIp { dns, ip }, port } = endpoint;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let port = u16::try_from(*port).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            let reason = format!("{} is no port; write one from 1 to 65535", endpoint.port);
            self.error("endpoint.port", &reason);
        }
        let address = given(ip).map(|text| {
            text.parse::<IpAddr>().map_err(|_| {
                self.error("endpoint.dnsOrIP.ip", &format!("{text:?} is no IP address"));
            })
        });
        let name = given(dns)
            .map(|text| text.parse().map_err(|error| self.error("endpoint.dnsOrIP.dns", &error)));
        let host = match (name, address) {
            (Some(Ok(name)), Some(Ok(address))) => {
                let reason = format!("{name} is used, and ip {address} is not; remove one of them");
                self.warning("endpoint.dnsOrIP.dns", &reason);
                Host::Name(name)
            }
            (Some(name), None) => Host::Name(name.ok()?),
            (None, Some(address)) => Host::Address(address.ok()?),
            (None, None) => {
                self.error(
                    "endpoint.dnsOrIP",
                    &"it is empty; write dns or ip, or leave endpoint out",
                );
                return None;
            }
            (Some(_), Some(_)) => return None,
        };
        let endpoint = Endpoint { host, port: port? };
        // The text has rules of its own: an address that is no host's, a link-local one without its link.
        let checked: Result<Endpoint, EndpointError> = endpoint.to_string().parse();
        checked.map_err(|error| self.error("endpoint.dnsOrIP.ip", &error)).ok()
    }

    /// `None` for one that makes the Peer bad.
    fn keepalive(&mut self, seconds: i64) -> Option<Option<NonZeroU16>> {
        let field = "persistentKeepalive";
        match u16::try_from(seconds) {
            Ok(seconds) => Some(NonZeroU16::new(seconds)),
            Err(_) if seconds < 0 => {
                self.error(field, &format!("{seconds} is negative; write seconds, 0 for off"));
                None
            }
            Err(_) => {
                let reason = format!("{seconds} s is more than WireGuard's 65535; it is off");
                self.warning(field, &reason);
                Some(None)
            }
        }
    }

    /// The Peer goes on without a bad one, as it does with Kilo, and not without a word.
    fn preshared_key(&mut self, text: &str) -> Option<PresharedKey> {
        if text.is_empty() {
            return None;
        }
        let key = text.trim().parse();
        let refused = |error| {
            let message = format!("presharedKey: {error}; the tunnel does without one until then");
            self.say(Problem::error, message);
        };
        key.map_err(refused).ok()
    }
}
