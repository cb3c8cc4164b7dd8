//! Whole networks on one machine.
//!
//! Owns [hosts](host), which are threads in network and mount namespaces of their own, the [plan] of a lab's
//! addresses, and the [lab] that joins hosts to regions, NAT routers and an internet between them. A lab leaves
//! nothing behind: its namespaces have no names, so they go with the process that holds it, however that ends. And what
//! a [demo] tells of its nodes.
//!
//! Floor 3: never imports kube, and needs no other crate than `wireloom-model`.

pub mod child;
pub mod demo;
mod error;
pub mod flow;
pub mod host;
pub mod lab;
pub mod measure;
pub mod plan;
pub mod program;
mod setup;
pub mod state;

pub use child::{Child, Output};
pub use error::Error;
pub use flow::Flow;
pub use host::Host;
pub use lab::{Lab, Latency};
pub use plan::{Layout, LayoutError, Plan, Region, Uplink};
pub use state::NetworkState;
