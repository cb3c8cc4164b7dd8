//! What is wrong with one thing of the mesh while the rest goes on.

use std::fmt;

use serde::Serialize;

use crate::name::{NodeName, PeerName};

/// Something that was skipped or can't work, and why. Shown in logs, in `wireloom status` and by `wireloom check`.
///
/// Ordered, so that every node lists the same problems in the same order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// Its kind, for programs.
    pub kind: ProblemKind,
    /// One sentence for people: the thing, the value, and what to do.
    pub message: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something asked for is not done.
    Error,
    /// All is done, yet probably not as meant.
    Warning,
}

/// What a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An entry of the registry that could not be read, by the registry's own way to name it, such as `line 12`.
    Entry(String),
    /// The mesh as a whole.
    Mesh,
    /// A node.
    Node(NodeName),
    /// A peer.
    Peer(PeerName),
}

/// The kinds of problems, stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// A machine's clock is wrong.
    Clock,
    /// The tunnel device can't be had or refused a change.
    Device,
    /// Agents plan by different settings.
    Disagreement,
    /// Something takes packets away: between two nodes, or in a gateway.
    Dropped,
    /// Two nodes or peers claim one address.
    DuplicateAddress,
    /// Two nodes or peers have one key.
    DuplicateKey,
    /// Two nodes or two peers have one name.
    DuplicateName,
    /// Two claim one prefix, or prefixes that overlap.
    DuplicatePrefix,
    /// An endpoint lies in a range that the mesh itself carries, so its packets would be routed into the tunnel.
    EndpointInsideMesh,
    /// A secret stands where others than its owner can read it.
    ExposedSecret,
    /// An entry can't be read.
    Invalid,
    /// A location has nobody that carries its traffic.
    NoGateway,
    /// Neither of two ends can dial the other.
    NoPath,
    /// A prefix has no next hop of its family.
    NoNextHop,
    /// The overlay range has no address left.
    OverlayExhausted,
    /// An address is not in the overlay's range, or a range overlaps another network.
    OverlayRange,
    /// The path to a peer takes smaller packets than the tunnel.
    PathMtu,
    /// What the container runtime is told of pods' network is not as it should be.
    PodNetwork,
    /// A name could not be resolved.
    Unresolved,
    /// The kernel refused a change.
    Kernel,
}

impl Problem {
    /// Something asked for that is not done.
    pub const fn error(subject: Subject, kind: ProblemKind, message: String) -> Self {
        Self { severity: Severity::Error, subject, kind, message }
    }

    /// Something done that is probably not as meant.
    pub const fn warning(subject: Subject, kind: ProblemKind, message: String) -> Self {
        Self { severity: Severity::Warning, subject, kind, message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(entry) => f.write_str(entry),
            Self::Mesh => f.write_str("mesh"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Peer(name) => write!(f, "peer {name}"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
