//! Kubernetes on one machine, for tests and the demo.
//!
//! Owns the [`ApiServer`], which is a real kube-apiserver with etcd behind it, and the [`Cluster`] of [nodes](Node) that
//! run pods on the hosts of a lab. Their programs are what `cargo xtask cluster build` makes; a test says
//! `need!(cluster)` before it asks for them. All files lie in the memory of mount namespaces and all processes end with
//! the one that holds them, so that nothing stays, however that ends.
//!
//! Floor 5: what ships never imports this.

mod api_server;
mod certificates;
mod cluster;
mod error;
mod etcd;
mod groups;
mod node;

pub use api_server::ApiServer;
pub use cluster::Cluster;
pub use error::Error;
pub use groups::clear_up;
pub use node::{Node, TOOLS};
