//! The observed state, kept up to date by our own writes and by what the kernel tells of others'.

use futures_util::FutureExt;
use wireloom_model::InterfaceName;
use wireloom_model::kernel::KernelState;

use crate::apply::ApplyReport;
use crate::change::Change;
use crate::diff::diff;
use crate::error::HostError;
use crate::host::Host;
use crate::watch::{Event, Watch};

/// A host whose state is known from one desired state to the next, so that a small change costs a small effort.
///
/// Everything is observed anew when events were lost, when a link or an address went that takes routes with it unsaid,
/// and when asked to [`forget`](Self::forget). Neighbours, forwarding and settings that others change tell nobody:
/// whoever uses this forgets from time to time.
pub struct Cached {
    host: Host,
    ours: Vec<InterfaceName>,
    /// `None` if it has failed and is to be begun anew.
    watch: Option<Watch>,
    /// `None` if it is to be observed.
    state: Option<KernelState>,
    /// Whether the table is to be observed, even if the rest is known.
    is_nft_stale: bool,
    /// Whether others are known to have changed something of ours since the host was brought to a state.
    is_due: bool,
    observations: u64,
}

impl Cached {
    /// Begins to watch the host. `ours` are the links that others make for us, as for [`Host::observe`].
    pub async fn new(host: &Host, ours: Vec<InterfaceName>) -> Result<Self, HostError> {
        Ok(Self {
            host: host.clone(),
            ours,
            watch: Some(host.watch().await?),
            state: None,
            is_nft_stale: false,
            is_due: true,
            observations: 0,
        })
    }

    /// Brings the host to the desired state by as few writes as it takes.
    pub async fn bring(&mut self, desired: &KernelState) -> Result<ApplyReport, HostError> {
        self.catch_up().await?;
        self.is_due = false;
        // While this waits, a caller who gives up leaves nothing that is taken for known.
        let mut state = match self.state.take() {
            Some(state) => state,
            None => {
                self.is_nft_stale = false;
                self.observations += 1;
                self.host.observe(&self.ours).await?
            }
        };
        if std::mem::take(&mut self.is_nft_stale) {
            state.nft = self.host.observe_nft()?;
        }
        let mut changes = diff(desired, &state);
        let bits = desired.nft.as_ref().map_or(0, |nft| nft.accept);
        if self.host.is_accept_due(bits)? {
            changes.push(Change::AcceptPassed(bits));
        }
        let report = self.host.apply(&changes).await?;
        let not_made = report.failed.iter().map(|error| error.change()).chain(&report.skipped);
        let not_made: Vec<_> = not_made.collect();
        if not_made.len() <= FEW {
            for change in changes.iter().filter(|change| !not_made.contains(change)) {
                change.apply_to(&mut state);
            }
            self.state = Some(state);
        }
        Ok(report)
    }

    /// Hears what was told since, and begins to watch anew if that has failed.
    async fn catch_up(&mut self) -> Result<(), HostError> {
        // Sockets are looked at when a task gives way.
        tokio::task::yield_now().await;
        while let Some(watch) = &mut self.watch {
            match watch.next().now_or_never() {
                None => return Ok(()),
                Some(told) => self.hear(told.as_ref()),
            }
        }
        self.watch = Some(self.host.watch().await?);
        Ok(())
    }

    /// Waits until somebody else changes something on the host, which may be a reason to bring it back. `None`, once,
    /// means that the watch has failed: what others do is not told until the host is brought to a state again. Dropping
    /// the future loses nothing.
    pub async fn changed(&mut self) -> Option<Event> {
        loop {
            let Some(watch) = &mut self.watch else { return std::future::pending().await };
            let event = watch.next().await;
            self.hear(event.as_ref());
            // What we did ourselves is news for the state alone.
            if !matches!(event, Some(Event::RouteSet { .. })) {
                return event;
            }
        }
    }

    /// Has everything observed anew the next time.
    pub fn forget(&mut self) {
        self.state = None;
    }

    /// Whether others changed something, as far as it was told, that bringing the host to the same state again would
    /// find or repair.
    pub const fn is_due(&self) -> bool {
        self.is_due
    }

    /// How often everything was observed.
    pub const fn observations(&self) -> u64 {
        self.observations
    }

    /// The links that others make for us.
    pub fn ours(&self) -> &[InterfaceName] {
        &self.ours
    }

    fn hear(&mut self, event: Option<&Event>) {
        if !event.is_some_and(|event| self.note(event)) {
            self.state = None;
            self.is_due = true;
        }
        if event.is_none() {
            self.watch = None;
        }
    }

    /// Follows what was told, and returns whether the state is known after it.
    fn note(&mut self, event: &Event) -> bool {
        let Some(state) = &mut self.state else { return false };
        let is_ours =
            |link: &InterfaceName| state.links.contains_key(link) || self.ours.contains(link);
        // Where a route names no link, the kernel tells which one it took.
        let bears_routes = |link: &InterfaceName| {
            state.routes.values().any(|route| route.link.as_ref().is_none_or(|held| held == link))
        };
        match event {
            Event::AddressChanged { link, address, present } => {
                let is_source =
                    || state.routes.values().any(|route| route.source == Some(address.address()));
                !is_ours(link) && (*present || !(bears_routes(link) || is_source()))
            }
            Event::ForwardChanged => {
                self.is_due = true;
                true
            }
            Event::LinkChanged { link } => {
                !is_ours(&link.name) && (link.up || !bears_routes(&link.name))
            }
            Event::LinkGone { link } => !is_ours(link) && !bears_routes(link),
            Event::NftChanged => {
                (self.is_nft_stale, self.is_due) = (true, true);
                true
            }
            Event::OthersRoute { .. } => true,
            Event::Overrun => false,
            Event::RouteLost { key } => {
                self.is_due |= state.routes.remove(key).is_some();
                true
            }
            Event::RouteSet { key, link } => {
                if let Some(route) = state.routes.get_mut(key) {
                    route.link.get_or_insert_with(|| link.clone());
                }
                true
            }
            Event::RuleLost { rule } => {
                self.is_due |= state.rules.remove(rule);
                true
            }
        }
    }
}

/// How many failed changes are told apart from the others one by one.
const FEW: usize = 64;
