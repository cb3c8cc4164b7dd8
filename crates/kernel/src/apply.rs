//! Changes made to the host.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use wireloom_model::kernel::{Address, Route, RouteKey};
use wireloom_model::{Family, InterfaceName};

use crate::change::Change;
use crate::error::{ChangeError, HostError, Refusal};
use crate::feature::Feature;
use crate::host::Host;
use crate::links::HostLink;
use crate::message;
use crate::netlink::Request;
use crate::{step, sysctl};

/// What came of [`Host::apply`].
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// How many changes were written to the kernel.
    pub written: usize,
    /// The changes that failed, each with its reason. The others were made nevertheless.
    pub failed: Vec<ChangeError>,
    /// Routes that were left out because their link is down, settings that the link does not have, and all that is for a link
    /// of ours in whose place there is somebody else's. They are due when that changes.
    pub skipped: Vec<Change>,
}

impl Host {
    /// Makes the changes in order and goes on after one that fails.
    ///
    /// What is there already or gone already is no failure. A link, route or rule that is not ours is never displaced.
    /// An error is returned only if the kernel cannot be talked to. Settings are those of the calling thread's network
    /// namespace; a link that loses an IPv4 address gets the setting `promote_secondaries` as well.
    pub async fn apply(&self, changes: &[Change]) -> Result<ApplyReport, HostError> {
        if changes.is_empty() {
            return Ok(ApplyReport::default());
        }
        let mut run = Run {
            host: self,
            links: self.links_by_name().await?,
            foreign: BTreeSet::new(),
            asked: Vec::new(),
            requests: Vec::new(),
            report: ApplyReport::default(),
        };
        for change in changes {
            run.take(change).await?;
            if step::is_counting() {
                run.flush().await?;
                step::made();
            }
        }
        run.flush().await?;
        Ok(run.report)
    }

    async fn links_by_name(&self) -> Result<BTreeMap<InterfaceName, HostLink>, HostError> {
        let links = self.links().await?;
        Ok(links.into_iter().map(|link| (link.name.clone(), link)).collect())
    }
}

/// Changes on their way: requests gather until something else must come after them.
struct Run<'a> {
    host: &'a Host,
    /// What links are there, once the requests are through.
    links: BTreeMap<InterfaceName, HostLink>,
    /// The links that were to be ours and are somebody else's.
    foreign: BTreeSet<InterfaceName>,
    asked: Vec<&'a Change>,
    requests: Vec<Request>,
    report: ApplyReport,
}

impl<'a> Run<'a> {
    async fn take(&mut self, change: &'a Change) -> Result<(), HostError> {
        if change.link().is_some_and(|link| self.foreign.contains(link)) {
            self.report.skipped.push(change.clone());
            return Ok(());
        }
        match change {
            Change::AcceptPassed(_)
            | Change::ChangeNftSets { .. }
            | Change::DeleteNft
            | Change::SetNft(_) => {
                self.flush().await?;
                self.change_nft(change)?;
            }
            Change::SetSetting(link, setting, value) => {
                self.flush().await?;
                match sysctl::set_link_setting(link, *setting, *value) {
                    Ok(true) => self.report.written += 1,
                    Ok(false) => self.report.skipped.push(change.clone()),
                    Err(error) => {
                        let change = change.clone();
                        self.report.failed.push(ChangeError::Setting { change, error });
                    }
                }
            }
            Change::AddLink(..) | Change::DeleteLink(_) => {
                self.prepare(change);
                self.flush().await?;
                self.links = self.host.links_by_name().await?;
            }
            _ => self.prepare(change),
        }
        Ok(())
    }

    fn change_nft(&mut self, change: &Change) -> Result<(), HostError> {
        let change = change.clone();
        let Some(nftables) = self.host.nftables() else {
            let feature = Feature::Nftables;
            self.report.failed.push(ChangeError::NoFeature { change, feature });
            return Ok(());
        };
        match nftables.apply(&change)? {
            Ok(written) => self.report.written += written,
            Err(refusal) if change == Change::DeleteNft && refusal.is(Errno::NOENT) => {}
            Err(refusal) => self.report.failed.push(ChangeError::Refused { change, refusal }),
        }
        Ok(())
    }

    fn prepare(&mut self, change: &'a Change) {
        match prepare(change, &mut self.links) {
            Step::Fail(error) => self.report.failed.push(error),
            Step::Nothing => {}
            Step::Send(request) => {
                self.asked.push(change);
                self.requests.push(request);
            }
            Step::Skip => self.report.skipped.push(change.clone()),
        }
    }

    /// Sends the requests that have gathered.
    async fn flush(&mut self) -> Result<(), HostError> {
        let (asked, requests) =
            (std::mem::take(&mut self.asked), std::mem::take(&mut self.requests));
        if requests.is_empty() {
            return Ok(());
        }
        let mut routes = Vec::new();
        let outcomes = self.host.netlink().carry_out("changes", requests).await?;
        for (change, outcome) in asked.into_iter().zip(outcomes) {
            let refusal = match outcome {
                Ok(()) => {
                    self.report.written += 1;
                    continue;
                }
                Err(refusal) => refusal,
            };
            match change {
                Change::AddRoute(key, route) if refusal.is(Errno::EXIST) => {
                    routes.push((key, route))
                }
                change if is_done_already(change, &refusal) => {}
                change => {
                    let error = self.error(change.clone(), refusal);
                    self.report.failed.push(error);
                }
            }
        }
        if !routes.is_empty() {
            self.settle_routes(&routes).await?;
        }
        Ok(())
    }

    fn error(&mut self, change: Change, refusal: Refusal) -> ChangeError {
        match &change {
            Change::AddLink(name, _) if refusal.is(Errno::EXIST) => {
                self.foreign.insert(name.clone());
                let kind = self.links.get(name).and_then(|link| link.kind.clone());
                ChangeError::ForeignLink { change, kind }
            }
            Change::AddLink(_, link) if refusal.is(Errno::OPNOTSUPP) => {
                match Feature::of(&link.kind) {
                    Some(feature) => ChangeError::NoFeature { change, feature },
                    None => ChangeError::Refused { change, refusal },
                }
            }
            _ => ChangeError::Refused { change, refusal },
        }
    }

    /// Deals with new routes whose place is taken: a route of ours that came since the state was observed is replaced,
    /// anybody else's is named.
    async fn settle_routes(&mut self, taken: &[(&RouteKey, &Route)]) -> Result<(), HostError> {
        let routes = self.host.heard_routes(None).await?;
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (key, route) in taken {
            let change = Change::AddRoute((*key).clone(), (*route).clone());
            let mut holders = routes.iter().filter(|heard| heard.key == **key).peekable();
            if holders.peek().is_none() {
                self.report.failed.push(ChangeError::Unclear { change });
            } else if let Some(heard) = holders.find(|heard| !heard.is_ours()) {
                let link = self.links.values().find(|link| Some(link.index) == heard.link);
                let link = link.map(|link| link.name.clone());
                let protocol = heard.protocol;
                self.report.failed.push(ChangeError::Foreign { change, protocol, link });
            } else {
                let link = route.link.as_ref().and_then(|name| self.links.get(name));
                asked.push(change);
                requests.push(message::replace_route(key, route, link.map(|link| link.index)));
            }
        }
        let outcomes = self.host.netlink().carry_out("changes", requests).await?;
        for (change, outcome) in asked.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.report.written += 1,
                Err(refusal) => self.report.failed.push(ChangeError::Refused { change, refusal }),
            }
        }
        Ok(())
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
    let on = |link: &InterfaceName, request: &dyn Fn(u32) -> Request| match links.get(link) {
        None => no_link(link),
        Some(link) => Step::Send(request(link.index)),
    };
    let off = |link: &InterfaceName, request: &dyn Fn(u32) -> Request| match links.get(link) {
        None => Step::Nothing,
        Some(link) => Step::Send(request(link.index)),
    };
    match change {
        Change::AddAddress(Address { link, address }) => {
            on(link, &|index| message::add_address(index, *address))
        }
        Change::AddLink(name, link) => match message::add_link(name, link) {
            None => no_link(name),
            Some(request) => Step::Send(request),
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
        Change::AddRule(rule) => Step::Send(message::add_rule(rule)),
        Change::DeleteAddress(Address { link, address }) => off(link, &|index| {
            if address.family() == Family::V4 {
                sysctl::keep_secondary_addresses(link);
            }
            message::delete_address(index, *address)
        }),
        Change::DeleteForwarding(link, mac) => {
            off(link, &|index| message::delete_forwarding(index, *mac))
        }
        Change::DeleteLink(name) => off(name, &message::delete_link),
        Change::DeleteNeighbour(link, address) => {
            off(link, &|index| message::delete_neighbour(index, *address))
        }
        Change::DeleteRoute(key) => Step::Send(message::delete_route(key)),
        Change::DeleteRule(rule) => Step::Send(message::delete_rule(rule)),
        Change::SetForwarding(link, mac, host) => {
            on(link, &|index| message::set_forwarding(index, *mac, *host))
        }
        Change::SetLink(name, setting) => match links.get_mut(name) {
            None => no_link(name),
            Some(link) => {
                link.up = setting.up;
                Step::Send(message::set_link(link.index, setting))
            }
        },
        Change::SetNeighbour(link, address, mac) => {
            on(link, &|index| message::set_neighbour(index, *address, *mac))
        }
        // Not for rtnetlink.
        Change::AcceptPassed(_)
        | Change::ChangeNftSets { .. }
        | Change::DeleteNft
        | Change::SetNft(_)
        | Change::SetSetting(..) => Step::Nothing,
    }
}

/// Whether the refusal says that there was nothing left to do.
fn is_done_already(change: &Change, refusal: &Refusal) -> bool {
    let gone = refusal.is(Errno::NOENT) || refusal.is(Errno::NODEV);
    match change {
        // The kernel tells rules of different protocols apart.
        Change::AddAddress(_) | Change::AddRule(_) => refusal.is(Errno::EXIST),
        Change::DeleteAddress(_) => refusal.is(Errno::ADDRNOTAVAIL) || gone,
        Change::DeleteRoute(_) => refusal.is(Errno::SRCH) || gone,
        Change::DeleteForwarding(..)
        | Change::DeleteLink(_)
        | Change::DeleteNeighbour(..)
        | Change::DeleteRule(_) => gone,
        _ => false,
    }
}
