//! The loop of a node: registry, topology, data plane, kernel.
//!
//! Owns [`run`], which keeps one node in the mesh: a snapshot comes from the registry, the topology makes a plan of
//! it, and the [`device`] and the kernel are changed as far as they [differ](configure). People and programs ask
//! it over a [control socket](control), or for [health and metrics](http) over HTTP. The last mesh is kept on disk by a
//! [`Remembering`](remember::Remembering) registry. An agent that ends may [hand over](handover) to the next. What a dead one left goes by [`cleanup`], and the
//! [`doctor`] looks for what stands in its way.
//!
//! Floor 3: the data plane is behind [`device::TunnelDevice`], so it may run in this process, in another, or be
//! somebody else's.

mod agent;
mod beyond;
pub mod cleanup;
pub mod configure;
pub mod control;
pub mod device;
mod dial;
pub mod doctor;
mod echo;
mod forwarder;
pub mod graph;
pub mod handover;
mod handshakes;
mod heard;
pub mod http;
mod memory;
pub mod metrics;
mod network;
mod paths;
mod place;
mod planner;
pub mod pods;
mod prober;
mod quiet;
mod reconcile;
pub mod remember;
mod resolve;
pub mod showconf;
pub mod status;
pub mod view;
mod vitals;
mod wrapping;

pub use agent::{AgentError, Config, Identity, run};
pub use planner::Planner;
