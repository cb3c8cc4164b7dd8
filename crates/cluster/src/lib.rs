//! Kubernetes on one machine, for tests and the demo.
//!
//! Owns the [`ApiServer`], which is a real kube-apiserver with etcd behind it. Its programs are what
//! `cargo xtask cluster build` makes; a test says `need!(cluster)` before it asks for them. All files lie in the memory
//! of a mount namespace, so that nothing stays, however the process that holds it ends.
//!
//! Floor 5: what ships never imports this.

mod api_server;
mod certificates;
mod error;
mod etcd;

pub use api_server::ApiServer;
pub use error::Error;
