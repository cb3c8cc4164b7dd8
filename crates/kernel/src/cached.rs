//! The observed state, kept up to date by our own writes and by what the kernel tells of others'.

use futures_util::FutureExt;
use wireloom_model::InterfaceName;
use wireloom_model::kernel::KernelState;

use crate::apply::ApplyReport;
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
    watch: Watch,
    /// `None` if it is to be observed.
    state: Option<KernelState>,
    /// Whether the table is to be observed, even if the rest is known.
    is_nft_stale: bool,
}

impl Cached {
    /// Begins to watch the host. `ours` are the links that others make for us, as for [`Host::observe`].
    pub async fn new(host: &Host, ours: Vec<InterfaceName>) -> Result<Self, HostError> {
        let watch = host.watch().await?;
        Ok(Self { host: host.clone(), ours, watch, state: None, is_nft_stale: false })
    }

    /// Brings the host to the desired state by as few writes as it takes.
    pub async fn bring(&mut self, desired: &KernelState) -> Result<ApplyReport, HostError> {
        // Sockets are looked at when a task gives way.
        tokio::task::yield_now().await;
        while let Some(Some(event)) = self.watch.next().now_or_never() {
            self.note(&event);
        }
        // While this waits, a caller who gives up leaves nothing that is taken for known.
        let mut state = match self.state.take() {
            Some(state) => state,
            None => {
                self.is_nft_stale = false;
                self.host.observe(&self.ours).await?
            }
        };
        if std::mem::take(&mut self.is_nft_stale) {
            state.nft = self.host.observe_nft()?;
        }
        let changes = diff(desired, &state);
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

    /// Waits until somebody else changes something on the host, which may be a reason to bring it back. `None` means
    /// that the watch has failed, and that a new one is needed. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<Event> {
        let event = self.watch.next().await?;
        self.note(&event);
        Some(event)
    }

    /// Has everything observed anew the next time.
    pub fn forget(&mut self) {
        self.state = None;
    }

    /// The links that others make for us.
    pub fn ours(&self) -> &[InterfaceName] {
        &self.ours
    }

    fn note(&mut self, event: &Event) {
        let Some(state) = &mut self.state else { return };
        let is_ours =
            |link: &InterfaceName| state.links.contains_key(link) || self.ours.contains(link);
        // The kernel chose the link of a route that names none.
        let bears_routes = |link: &InterfaceName| {
            state.routes.values().any(|route| route.link.as_ref().is_none_or(|held| held == link))
        };
        let is_known = match event {
            Event::AddressChanged { link, address, present } => {
                let is_source =
                    || state.routes.values().any(|route| route.source == Some(address.address()));
                !is_ours(link) && (*present || !(bears_routes(link) || is_source()))
            }
            Event::LinkChanged { link } => {
                !is_ours(&link.name) && (link.up || !bears_routes(&link.name))
            }
            Event::LinkGone { link } => !is_ours(link) && !bears_routes(link),
            Event::NftChanged => {
                self.is_nft_stale = true;
                true
            }
            Event::Overrun => false,
            Event::RouteLost { key } => {
                state.routes.remove(key);
                true
            }
            Event::RuleLost { rule } => {
                state.rules.remove(rule);
                true
            }
        };
        if !is_known {
            self.state = None;
        }
    }
}

/// How many failed changes are told apart from the others one by one.
const FEW: usize = 64;
