//! What stands in the way of the mesh on a machine, and what to do about it.
//!
//! [`facts::gather`] looks once and changes nothing; [`findings`] is a pure function of what it saw. The agent need not
//! run: most of what it would stumble over is seen before.

use std::fmt;

use serde::Serialize;

mod checks;
pub mod facts;
mod lists;

pub use checks::findings;

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is. The worst come first.
    pub severity: Severity,
    /// What was looked at, a stable name for programs.
    pub check: Check,
    /// What was found, with its values.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do about it: a command, where one is enough.
    #[serde(rename = "do")]
    pub remedy: String,
}

/// A finding, of its parts.
pub fn finding(
    severity: Severity,
    check: Check,
    what: impl Into<String>,
    why: &'static str,
    remedy: impl Into<String>,
) -> Finding {
    Finding { severity, check, what: what.into(), why, remedy: remedy.into() }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something works, yet not as it should, or not for long.
    Warning,
    /// Nothing is wrong; it may be good to know.
    Note,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// Router advertisements on a link that is needed to reach others.
    AcceptRa,
    /// The agent of this machine.
    Agent,
    /// The API server of the cluster.
    Api,
    /// The UDP buffers that the tunnel asks for.
    Buffers,
    /// The wall clock.
    Clock,
    /// Where the container runtime is told of pods' network.
    Cni,
    /// Endpoints of peers: their names and the way to them.
    Endpoints,
    /// Whether this machine passes on packets of others.
    Forwarding,
    /// The mark of the tunnel's own packets.
    Fwmark,
    /// IPv6 as a whole.
    Ipv6,
    /// What the kernel can do.
    Kernel,
    /// The private key.
    Key,
    /// What Kilo left.
    Kilo,
    /// What an agent of ours left.
    Leftovers,
    /// The mesh and this machine's place in it.
    Mesh,
    /// Packet sizes.
    Mtu,
    /// Peers of the running agent.
    Peers,
    /// What the container runtime is told of pods' network.
    PodNetwork,
    /// The UDP port of the tunnel.
    Port,
    /// What this process may look at.
    Privilege,
    /// Ranges of the mesh, of the cluster, and routes of this machine.
    Ranges,
    /// What the agent may do at the API server.
    Rights,
    /// The filter of packets by their way back.
    RpFilter,
    /// The device that tunnels are made of.
    Tun,
    /// The labels that say where nodes are.
    Zones,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}
