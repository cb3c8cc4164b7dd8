//! The host seen through netlink: what of ours is there, and the changes to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;
use wireloom_model::kernel::{
    Address, KernelState, Link, LinkKind, ROUTE_PROTOCOL, Route, RouteKey,
};
use wireloom_model::{Family, InterfaceName};

use crate::diff::Change;
use crate::error::{ChangeError, HostError, Refusal};
use crate::links::{HostLink, named};
use crate::message::{self, HeardRoute};
use crate::netlink::{Netlink, Request};
use crate::sysctl;

/// A network namespace's kernel state.
///
/// It belongs to the namespace of the thread that called [`Host::new`], wherever it is used later.
#[derive(Debug, Clone)]
pub struct Host {
    netlink: Arc<Netlink>,
}

/// What came of [`Host::apply`].
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// How many changes were written to the kernel.
    pub written: usize,
    /// The changes that failed, each with its reason. The others were made nevertheless.
    pub failed: Vec<ChangeError>,
    /// Routes that were left out because their link is down. They are due when it comes up.
    pub skipped: Vec<Change>,
}

impl Host {
    /// Opens the calling thread's network namespace. The connection runs on the tokio runtime in whose context this is
    /// called, which must have IO and time enabled.
    pub fn new() -> Result<Self, HostError> {
        Ok(Self { netlink: Arc::new(Netlink::open()?) })
    }

    /// What of ours is there: those of the links `ours` that exist with their addresses, and every route of our
    /// [protocol](ROUTE_PROTOCOL) in any table. IPv6 link-local addresses are the kernel's and left out.
    ///
    /// Lists that the kernel says have changed while it told them are read anew. It does not always say so, so
    /// something may be missing here that is there. That does no harm: what is missing is made again by a request that
    /// keeps what is there, and only what was seen is ever deleted.
    pub async fn observe(&self, ours: &[InterfaceName]) -> Result<KernelState, HostError> {
        let links = self.links().await?;
        let name_of = |index| named(Some(index), &links);
        let addresses = self
            .heard_addresses()
            .await?
            .into_iter()
            .filter(|heard| !heard.is_link_local_v6())
            .filter_map(|heard| {
                Some(Address { link: name_of(heard.link)?, address: heard.address })
            })
            .filter(|address| ours.contains(&address.link))
            .collect();
        let routes = self
            .heard_routes(Some(ROUTE_PROTOCOL))
            .await?
            .into_iter()
            .map(|HeardRoute { key, gateway, link, source, .. }| {
                (key, Route { gateway, link: link.and_then(name_of), source })
            })
            .collect();
        let links = links
            .into_iter()
            .filter(|link| ours.contains(&link.name))
            .map(|HostLink { name, mtu, up, .. }| (name, Link { mtu, up, kind: LinkKind::Held }))
            .collect();
        Ok(KernelState { links, addresses, routes, ..KernelState::default() })
    }

    /// Makes the changes in order and goes on after one that fails.
    ///
    /// What is there already or gone already is no failure. A route that is not ours is never displaced. An error is
    /// returned only if the kernel cannot be talked to. A link that loses an IPv4 address gets the setting
    /// `promote_secondaries`, which is looked up in the calling thread's network namespace.
    pub async fn apply(&self, changes: &[Change]) -> Result<ApplyReport, HostError> {
        let mut report = ApplyReport::default();
        if changes.is_empty() {
            return Ok(report);
        }
        let mut links: BTreeMap<InterfaceName, HostLink> =
            self.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for change in changes {
            match prepare(change, &mut links) {
                Step::Fail(error) => report.failed.push(error),
                Step::Nothing => {}
                Step::Send(request) => {
                    asked.push(change);
                    requests.push(request);
                }
                Step::Skip => report.skipped.push(change.clone()),
            }
        }
        let mut taken = Vec::new();
        let outcomes = self.netlink.carry_out("changes", requests).await?;
        for (change, outcome) in asked.into_iter().zip(outcomes) {
            match (change, outcome) {
                (_, Ok(())) => report.written += 1,
                (Change::AddRoute(key, route), Err(refusal)) if refusal.is(Errno::EXIST) => {
                    taken.push((key, route));
                }
                (change, Err(refusal)) if is_done_already(change, &refusal) => {}
                (change, Err(refusal)) => {
                    report.failed.push(ChangeError::Refused { change: change.clone(), refusal });
                }
            }
        }
        if !taken.is_empty() {
            self.settle(&taken, &links, &mut report).await?;
        }
        Ok(report)
    }

    /// Deals with new routes whose place is taken: a route of ours that came since the state was observed is replaced,
    /// anybody else's is named.
    async fn settle(
        &self,
        taken: &[(&RouteKey, &Route)],
        links: &BTreeMap<InterfaceName, HostLink>,
        report: &mut ApplyReport,
    ) -> Result<(), HostError> {
        let routes = self.heard_routes(None).await?;
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (key, route) in taken {
            let change = Change::AddRoute((*key).clone(), (*route).clone());
            let mut holders = routes.iter().filter(|heard| heard.key == **key).peekable();
            if holders.peek().is_none() {
                report.failed.push(ChangeError::Unclear { change });
            } else if let Some(heard) = holders.find(|heard| !heard.is_ours()) {
                let link = links.values().find(|link| Some(link.index) == heard.link);
                let link = link.map(|link| link.name.clone());
                report.failed.push(ChangeError::Foreign { change, protocol: heard.protocol, link });
            } else {
                let link = route.link.as_ref().and_then(|name| links.get(name));
                asked.push(change);
                requests.push(message::replace_route(key, route, link.map(|link| link.index)));
            }
        }
        let outcomes = self.netlink.carry_out("changes", requests).await?;
        for (change, outcome) in asked.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => report.written += 1,
                Err(refusal) => report.failed.push(ChangeError::Refused { change, refusal }),
            }
        }
        Ok(())
    }

    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }
}

/// What a change asks of the kernel.
enum Step {
    Fail(ChangeError),
    /// What was to go went with its link.
    Nothing,
    Send(Request),
    Skip,
}

/// `links` says what is there, and follows the changes of links.
fn prepare(change: &Change, links: &mut BTreeMap<InterfaceName, HostLink>) -> Step {
    let no_link = |link: &InterfaceName| {
        Step::Fail(ChangeError::NoLink { change: change.clone(), link: link.clone() })
    };
    match change {
        Change::AddAddress(Address { link, address }) => match links.get(link) {
            None => no_link(link),
            Some(link) => Step::Send(message::add_address(link.index, *address)),
        },
        Change::AddRoute(key, route) | Change::ReplaceRoute(key, route) => {
            let link = match route.link.as_ref().map(|name| (name, links.get(name))) {
                None => None,
                Some((name, None)) => return no_link(name),
                Some((_, Some(link))) if !link.up => return Step::Skip,
                Some((_, Some(link))) => Some(link.index),
            };
            let request = match change {
                Change::AddRoute(..) => message::add_route,
                _ => message::replace_route,
            };
            Step::Send(request(key, route, link))
        }
        Change::DeleteAddress(Address { link, address }) => match links.get(link) {
            None => Step::Nothing,
            Some(link) => {
                if address.family() == Family::V4 {
                    sysctl::keep_secondary_addresses(&link.name);
                }
                Step::Send(message::delete_address(link.index, *address))
            }
        },
        Change::DeleteRoute(key) => Step::Send(message::delete_route(key)),
        Change::SetLink(name, setting) => match links.get_mut(name) {
            None => no_link(name),
            Some(link) => {
                link.up = setting.up;
                Step::Send(message::set_link(link.index, setting))
            }
        },
    }
}

/// Whether the refusal says that there was nothing left to do.
fn is_done_already(change: &Change, refusal: &Refusal) -> bool {
    match change {
        Change::AddAddress(_) => refusal.is(Errno::EXIST),
        Change::DeleteAddress(_) => refusal.is(Errno::ADDRNOTAVAIL) || refusal.is(Errno::NODEV),
        Change::DeleteRoute(_) => refusal.is(Errno::SRCH) || refusal.is(Errno::NOENT),
        Change::AddRoute(..) | Change::ReplaceRoute(..) | Change::SetLink(..) => false,
    }
}
