//! The host's links, addresses, routes, rules and nftables table: observed, compared with what is desired, and changed.
//!
//! Owns the way from a [`KernelState`](wireloom_model::kernel::KernelState) that a plan asks for to the kernel that has
//! it: [`diff`] compares it with what [`Host::observe`] saw and yields [`Change`]s in a safe order, [`Host::apply`]
//! makes them, and [`Host::watch`] tells when somebody else undoes them. [`Cached`] joins the four and keeps the state,
//! so that one changed node of thousands is a handful of writes and nothing more. Everything is keyed by name, so a link
//! made anew gets its addresses and routes back.
//!
//! What we make is known by its mark: routes and rules by our protocol number, links by our group, the nftables table by
//! its name; the rest sits on a link of ours. Nothing else is ever changed unasked, and
//! `diff(&KernelState::default(), &observed)` takes all of it away. What somebody else left for good goes by
//! [`Host::remove`].
//!
//! Beside that: [what the host has](HostLink) of its own, [what its kernel lacks](Feature), [who holds a
//! port](port_owner), [forwarding](Forwarding), and the [kernel's own WireGuard](WireguardDevice).
//!
//! Floor 2: imports floors 0 and 1 only, knows nothing of the mesh, and never reaches a registry.

mod apply;
mod cached;
mod change;
mod diff;
mod error;
mod exchange;
mod feature;
mod host;
mod links;
mod message;
mod netlink;
mod nft;
mod others;
mod port;
mod routes;
mod step;
mod sysctl;
mod watch;
mod wireguard;

pub use apply::ApplyReport;
pub use cached::Cached;
pub use change::Change;
pub use diff::diff;
pub use error::{ChangeError, HostError, Refusal};
pub use feature::Feature;
pub use host::Host;
pub use links::{Conflict, HostLink, Way};
pub use nft::ForwardDrop;
pub use others::{OthersRoute, Removal, RemovalError};
pub use port::{PortOwner, port_owner};
pub use sysctl::{Forwarding, SysctlError, is_forwarding};
pub use watch::{Event, Watch};
pub use wireguard::{WireguardDevice, WireguardError};
