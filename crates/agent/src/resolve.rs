//! Endpoint names to addresses, with the last answer kept: a name that stops resolving takes no peer down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use futures_util::future::join_all;
use wireloom_model::{DnsName, Endpoint, Host};

/// How often names are asked again. `getaddrinfo` tells no TTL, so the period is ours.
pub(crate) const PERIOD: Duration = Duration::from_secs(20);

/// How long one look-up may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// What names resolved to last.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    answers: BTreeMap<DnsName, Vec<IpAddr>>,
    failures: BTreeMap<DnsName, String>,
}

impl Resolver {
    /// Asks for all names that these endpoints use, together, and forgets all others. Returns whether any answer
    /// differs from the last.
    pub(crate) async fn refresh(&mut self, endpoints: impl Iterator<Item = &Endpoint>) -> bool {
        let names: BTreeSet<DnsName> = endpoints
            .filter_map(|endpoint| match &endpoint.host {
                Host::Name(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let before = self.answers.clone();
        self.answers.retain(|name, _| names.contains(name));
        self.failures.clear();
        let answers = join_all(names.into_iter().map(|name| async {
            let answer = lookup(&name).await;
            (name, answer)
        }));
        for (name, answer) in answers.await {
            match answer {
                Ok(addresses) => {
                    self.answers.insert(name, addresses);
                }
                Err(reason) => {
                    self.failures.insert(name, reason);
                }
            }
        }
        self.answers != before
    }

    /// The socket address of an endpoint. `None` for a name without any answer yet. Of several addresses the one in
    /// use stays as long as it is among them.
    pub(crate) fn address(
        &self,
        endpoint: &Endpoint,
        in_use: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let port = endpoint.port.get();
        match &endpoint.host {
            Host::Address(address) => Some(SocketAddr::new(*address, port)),
            Host::Scoped(address, link) => {
                let scope =
                    link.as_str().parse().ok().or_else(|| interface_index(link.as_str()))?;
                Some(SocketAddr::V6(SocketAddrV6::new(*address, port, 0, scope)))
            }
            Host::Name(name) => {
                let addresses = self.answers.get(name)?;
                let kept = in_use
                    .map(|address| address.ip())
                    .filter(|address| addresses.contains(address));
                kept.or_else(|| addresses.first().copied())
                    .map(|address| SocketAddr::new(address, port))
            }
        }
    }

    /// An address of each name, of IPv4 if there is one.
    pub(crate) fn names(&self) -> BTreeMap<DnsName, IpAddr> {
        let first = |(name, addresses): (&DnsName, &Vec<IpAddr>)| {
            let v4 = addresses.iter().find(|address| address.is_ipv4());
            Some((name.clone(), *v4.or_else(|| addresses.first())?))
        };
        self.answers.iter().filter_map(first).collect()
    }

    /// The names that could not be resolved the last time, and why.
    pub(crate) const fn failures(&self) -> &BTreeMap<DnsName, String> {
        &self.failures
    }
}

async fn lookup(name: &DnsName) -> Result<Vec<IpAddr>, String> {
    let asked = tokio::net::lookup_host((name.as_str(), 0));
    let mut addresses: Vec<IpAddr> = match tokio::time::timeout(LOOKUP, asked).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {} s", LOOKUP.as_secs())),
    };
    addresses.dedup();
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

/// The index of a link by its name, in the namespace of the calling thread.
fn interface_index(link: &str) -> Option<u32> {
    let socket = std::net::UdpSocket::bind(("::", 0)).ok()?;
    rustix::net::netdevice::name_to_index(socket, link).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn addresses_need_no_lookup() {
        let resolver = Resolver::default();
        let address = resolver.address(&endpoint("[2001:db8::1]:51820"), None).unwrap();
        assert_eq!(address.to_string(), "[2001:db8::1]:51820");
        let scoped = resolver.address(&endpoint("[fe80::1%7]:51820"), None).unwrap();
        assert_eq!(scoped.to_string(), "[fe80::1%7]:51820");
    }

    #[tokio::test]
    async fn an_unresolvable_name_is_said_and_the_last_answer_stays() {
        let mut resolver = Resolver::default();
        let gone = endpoint("gone.invalid:51820");
        let Host::Name(name) = gone.host.clone() else { unreachable!() };
        resolver.answers.insert(name.clone(), vec!["192.0.2.1".parse().unwrap()]);
        assert!(!resolver.refresh([&gone].into_iter()).await);
        assert!(resolver.failures().contains_key(&name));
        assert_eq!(resolver.address(&gone, None).unwrap().to_string(), "192.0.2.1:51820");
        assert!(resolver.refresh(std::iter::empty()).await, "a name out of use is forgotten");
        assert_eq!(resolver.address(&gone, None), None);
    }

    #[tokio::test]
    async fn the_address_in_use_stays_while_the_name_still_has_it() {
        let mut resolver = Resolver::default();
        let two = endpoint("two.example:51820");
        let Host::Name(name) = two.host.clone() else { unreachable!() };
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        resolver.answers.insert(name, addresses.to_vec());
        let in_use = Some("192.0.2.2:51820".parse().unwrap());
        assert_eq!(resolver.address(&two, in_use), in_use);
        assert_eq!(resolver.address(&two, None).unwrap().to_string(), "192.0.2.1:51820");
        let moved = Some("192.0.2.9:51820".parse().unwrap());
        assert_eq!(resolver.address(&two, moved).unwrap().to_string(), "192.0.2.1:51820");
    }
}
