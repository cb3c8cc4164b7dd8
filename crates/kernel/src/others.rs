//! What others made: routes and rules that are not ours, and how to take away what somebody left for good.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteProtocol, RouteType};
use netlink_packet_route::rule::RuleAttribute;
use rustix::io::Errno;
use serde::Serialize;
use wireloom_model::InterfaceName;
use wireloom_model::kernel::{MAIN_TABLE, RouteKey, Rule};

use crate::error::{HostError, Refusal};
use crate::host::Host;
use crate::links::named;
use crate::message;
use crate::netlink::Request;

/// A unicast route of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OthersRoute {
    /// What tells it apart.
    pub key: RouteKey,
    /// The next hop's address.
    pub gateway: Option<IpAddr>,
    /// The link that it leads out of. `None` for one with several next hops.
    pub link: Option<InterfaceName>,
    /// Who made it (`rtm_protocol`, named in `/etc/iproute2/rt_protos`).
    pub protocol: u8,
}

/// Something of somebody else that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A link, and everything on it with it. One that a kernel module brings along, as `tunl0`, stays.
    Link(InterfaceName),
    /// A route.
    Route(OthersRoute),
    /// A rule.
    Rule(Rule),
}

/// Why something of somebody else is still there.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove {removal}: {refusal}")]
pub struct RemovalError {
    /// What was to go.
    pub removal: Removal,
    /// What the kernel said.
    pub refusal: Refusal,
}

impl Host {
    /// The unicast routes of all tables that are not ours, in order.
    pub async fn others_routes(&self) -> Result<Vec<OthersRoute>, HostError> {
        let links = self.links().await?;
        let heard = self.heard_routes(None).await?.into_iter();
        let mut routes: Vec<OthersRoute> = heard
            .filter(|heard| heard.kind == RouteType::Unicast && !heard.is_ours())
            .map(|heard| OthersRoute {
                key: heard.key,
                gateway: heard.gateway,
                link: named(heard.link, &links),
                protocol: heard.protocol,
            })
            .collect();
        routes.sort();
        Ok(routes)
    }

    /// The rules that look up a table and are not ours, in order.
    pub async fn others_rules(&self) -> Result<Vec<Rule>, HostError> {
        let heard = self.heard_rules().await?.into_iter();
        let mut rules: Vec<Rule> =
            heard.filter(|heard| !heard.is_ours).map(|heard| heard.rule).collect();
        rules.sort();
        Ok(rules)
    }

    /// Takes these away in order and goes on after one that fails. What is gone already is no failure. Returns the
    /// failures.
    pub async fn remove(&self, removals: &[Removal]) -> Result<Vec<RemovalError>, HostError> {
        let links = self.links().await?;
        let index = |name: &InterfaceName| links.iter().find(|l| l.name == *name).map(|l| l.index);
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for removal in removals {
            let request = match removal {
                Removal::Link(name) => index(name).map(message::delete_link),
                Removal::Route(route) => {
                    let link = route.link.as_ref();
                    // A link that is gone took its routes with it.
                    let is_gone = link.is_some_and(|link| index(link).is_none());
                    (!is_gone).then(|| delete_route(route, link.and_then(index)))
                }
                Removal::Rule(rule) => Some(delete_rule(rule)),
            };
            if let Some(request) = request {
                asked.push(removal);
                requests.push(request);
            }
        }
        let outcomes = self.netlink().carry_out("removals", requests).await?;
        let is_gone = |refusal: &Refusal| {
            [Errno::NOENT, Errno::SRCH, Errno::NODEV].into_iter().any(|errno| refusal.is(errno))
        };
        let failed = asked.into_iter().zip(outcomes).filter_map(|(removal, outcome)| {
            let refusal = outcome.err().filter(|refusal| !is_gone(refusal))?;
            Some(RemovalError { removal: removal.clone(), refusal })
        });
        Ok(failed.collect())
    }
}

/// Deletes the route of just this maker, next hop and link.
fn delete_route(route: &OthersRoute, link: Option<u32>) -> Request {
    let (mut message, flags) = message::delete_route(&route.key);
    if let RouteNetlinkMessage::DelRoute(message) = &mut message {
        message.header.protocol = RouteProtocol::from(route.protocol);
        message.attributes.extend(route.gateway.map(|a| RouteAttribute::Gateway(a.into())));
        message.attributes.extend(link.map(RouteAttribute::Oif));
    }
    (message, flags)
}

/// Deletes the rule whoever made it.
fn delete_rule(rule: &Rule) -> Request {
    let (mut message, flags) = message::delete_rule(rule);
    if let RouteNetlinkMessage::DelRule(message) = &mut message {
        message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
    }
    (message, flags)
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "the link {name}"),
            Self::Route(route) => write!(f, "{route}"),
            Self::Rule(rule) => write!(f, "the rule {rule}"),
        }
    }
}

/// In the words of `ip route`.
impl fmt::Display for OthersRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the route to {}", self.key.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = &self.link {
            write!(f, " dev {link}")?;
        }
        match self.key.table {
            MAIN_TABLE => Ok(()),
            table => write!(f, " table {table}"),
        }
    }
}
