//! The nftables table as what it is for rather than as rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::cidr::{Cidr, Family};
use crate::name::InterfaceName;

/// The one nftables table of ours, `inet wireloom`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Nft {
    /// The prefixes in each set. One that another of the set covers counts for nothing.
    pub sets: BTreeMap<NftSet, BTreeSet<Cidr>>,
    /// Whether packets from [`Pods`](NftSet::Pods) and [`Peers`](NftSet::Peers), and those to
    /// [`Site`](NftSet::Site), leave with an address of this host as source, unless they go to
    /// [`Mesh`](NftSet::Mesh), [`Services`](NftSet::Services) or `Peers`.
    pub masquerade: bool,
    /// Links of ours: TCP connections through them agree on segments that fit (RFC 4459, section 3.2), both ways.
    pub clamp: BTreeSet<InterfaceName>,
    /// What is taken from [`Location`](NftSet::Location) alone: links that unwrap do not ask who wrapped.
    pub guard: BTreeSet<Outer>,
    /// The bits that mark packets passed on from [`Passed`](NftSet::Passed) to `Passed`; 0 is none. Where a chain of
    /// somebody else drops what is passed on, a rule of ours in it accepts those.
    pub accept: u32,
}

/// Packets that have others in them, as they come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outer {
    /// IPv4 in IPv4 to this address (RFC 2003).
    Ipip(Ipv4Addr),
    /// UDP of this family to this port (RFC 7348).
    Vxlan(Family, u16),
}

/// What a set of prefixes stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NftSet {
    /// The internal addresses of the location's other nodes.
    Location,
    /// All that the mesh leads to.
    Mesh,
    /// Both ends of what others' chains are to accept.
    Passed,
    /// The addresses of peers outside the mesh.
    Peers,
    /// This node's pods.
    Pods,
    /// The cluster's services.
    Services,
    /// Extra prefixes that this node's location reaches, whose hosts know no way back to the mesh.
    Site,
}

impl NftSet {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Location,
        Self::Mesh,
        Self::Passed,
        Self::Peers,
        Self::Pods,
        Self::Services,
        Self::Site,
    ];

    /// Its name in the table, without the family.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::Mesh => "mesh",
            Self::Passed => "passed",
            Self::Peers => "peers",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Site => "site",
        }
    }
}
