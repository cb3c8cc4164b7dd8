//! Policy rules.

use std::fmt;

use serde::Serialize;

use crate::cidr::{Cidr, Family};
use crate::name::InterfaceName;

/// A policy rule: which packets look up which table (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rule {
    /// The family whose packets it is for.
    pub family: Family,
    /// Its place among the rules; the lowest is tried first. `main` is looked up at 32766.
    pub priority: u32,
    /// Packets from here alone.
    pub from: Option<Cidr>,
    /// Packets to here alone.
    pub to: Option<Cidr>,
    /// Packets that came in by this link alone. It may be a link that is not there yet.
    pub input: Option<InterfaceName>,
    /// Packets with this mark alone.
    pub mark: Option<Mark>,
    /// The table to look up.
    pub table: u32,
    /// A route of the table to a prefix of this length, or a shorter one, counts for none (`suppress_prefixlength`).
    pub suppress: Option<u8>,
}

/// Bits of a packet's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mark {
    /// What they must be.
    pub value: u32,
    /// Which bits count.
    pub mask: u32,
}

impl Rule {
    /// A rule for all packets of a family, to be narrowed by setting its fields.
    pub const fn all(family: Family, priority: u32, table: u32) -> Self {
        Self {
            family,
            priority,
            from: None,
            to: None,
            input: None,
            mark: None,
            table,
            suppress: None,
        }
    }
}

/// In the words of `ip rule`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, priority, from, to, input, mark, table, suppress } = self;
        write!(f, "{priority}:")?;
        match (from, family) {
            (Some(from), _) => write!(f, " from {from}")?,
            (None, Family::V4) => write!(f, " from all IPv4")?,
            (None, Family::V6) => write!(f, " from all IPv6")?,
        }
        if let Some(to) = to {
            write!(f, " to {to}")?;
        }
        if let Some(Mark { value, mask }) = mark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        if let Some(input) = input {
            write!(f, " iif {input}")?;
        }
        write!(f, " lookup {table}")?;
        match suppress {
            Some(length) => write!(f, " suppress_prefixlength {length}"),
            None => Ok(()),
        }
    }
}
