//! The words of the mesh.
//!
//! Owns what every other crate talks about: [keys](key), [prefixes](cidr), [endpoints](endpoint),
//! [encapsulations](encapsulation), [names](name), the [algorithms](algorithm) of planning,
//! [nodes and peers](node), the [snapshot] that a registry delivers, and the [kernel state](kernel) that a
//! plan asks for, all as plain data with strict parsing; and how the Nodes of Kubernetes say it in
//! [annotations].
//!
//! Floor 0: imports no other crate of the workspace and does no IO.

pub mod algorithm;
pub mod annotations;
pub mod cidr;
pub mod encapsulation;
pub mod endpoint;
pub mod kernel;
pub mod key;
pub mod name;
pub mod node;
pub mod problem;
pub mod reach;
pub mod snapshot;
mod text;

pub use algorithm::{Algorithm, AlgorithmError};
pub use cidr::{Cidr, CidrError, Family, InterfaceAddress};
pub use encapsulation::{EncapsulateBy, EncapsulateWhen, Encapsulation};
pub use endpoint::{Endpoint, EndpointError, Host};
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use name::{DnsName, InterfaceName, Location, NameError, NodeName, PeerName};
pub use node::{GatewayPreference, Held, Node, Peer};
pub use problem::{Problem, ProblemKind, Severity, Subject};
pub use snapshot::{Filter, GatewayCount, Mesh, Overlay, OverlayError, Snapshot};
