//! What can go wrong with the host, by name.

use std::fmt;
use std::io;

use rustix::io::Errno;
use wireloom_model::InterfaceName;
use wireloom_model::kernel::Address;

use crate::change::Change;
use crate::feature::Feature;
use crate::sysctl::SysctlError;

/// Why the host could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The netlink connection has ended; a new [`Host`](crate::Host) is needed.
    #[error("the netlink connection to the kernel has ended; open a new one")]
    Closed,
    /// The list changed each time while it was read (`NLM_F_DUMP_INTR`), so that no whole one is known.
    #[error("the {what} changed {attempts} times in a row while they were listed; try again later")]
    Interrupted {
        /// What was listed.
        what: &'static str,
        /// How often the list was begun.
        attempts: u32,
    },
    /// There is no tokio runtime in whose context the connection could run.
    #[error("netlink needs a tokio runtime with IO and time enabled, and there is none here")]
    NoRuntime,
    /// The kernel refused to answer.
    #[error("the kernel does not tell the {what}: {refusal}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// No netlink socket could be opened.
    #[error("no netlink socket to the kernel: {0}")]
    Socket(io::Error),
    /// No answer came in time.
    #[error("the kernel did not answer within {seconds} s when asked for the {what}")]
    Unanswered {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
}

/// Why one change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// A route of somebody else has the same destination, table and metric.
    #[error(
        "cannot {change}: a route of routing protocol {protocol} holds that place{} and is not ours; \
         remove it, or use another range",
        on_link(.link)
    )]
    Foreign {
        /// What was asked.
        change: Change,
        /// The other route's protocol number (`rtm_protocol`, named in `/etc/iproute2/rt_protos`).
        protocol: u8,
        /// The link that the other route leads out of, if it is one.
        link: Option<InterfaceName>,
    },
    /// A link of somebody else has the name.
    #[error(
        "cannot {change}: there is a link of that name{} that is not ours; remove or rename it",
        of_kind(.kind)
    )]
    ForeignLink {
        /// What was asked.
        change: Change,
        /// What the kernel calls the other link's kind, if it has one.
        kind: Option<String>,
    },
    /// The kernel lacks what it takes.
    #[error("cannot {change}: this kernel has no {feature}; {}", .feature.remedy())]
    NoFeature {
        /// What was asked.
        change: Change,
        /// What is missing.
        feature: Feature,
    },
    /// The link is not there.
    #[error("cannot {change}: there is no link {link}; it has to be made first")]
    NoLink {
        /// What was asked.
        change: Change,
        /// The link's name.
        link: InterfaceName,
    },
    /// The kernel refused it.
    #[error("cannot {change}: {refusal}{}", hint(.change, .refusal))]
    Refused {
        /// What was asked.
        change: Change,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// A setting could not be written.
    #[error("cannot {change}: {error}")]
    Setting {
        /// What was asked.
        change: Change,
        /// Why not.
        error: SysctlError,
    },
    /// Its place is taken, but the list of routes does not show by whom: the kernel leaves some out while others change.
    #[error(
        "cannot {change} yet: its place is taken, and the kernel does not tell by whom; try again"
    )]
    Unclear {
        /// What was asked.
        change: Change,
    },
}

impl ChangeError {
    /// The change that was not made.
    pub const fn change(&self) -> &Change {
        match self {
            Self::Foreign { change, .. }
            | Self::ForeignLink { change, .. }
            | Self::NoFeature { change, .. }
            | Self::NoLink { change, .. }
            | Self::Refused { change, .. }
            | Self::Setting { change, .. }
            | Self::Unclear { change } => change,
        }
    }
}

/// What the kernel says when it refuses a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive (`errno(3)`).
    pub errno: i32,
    /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`, `linux/netlink.h`), where it gives one.
    pub detail: Option<String>,
}

impl Refusal {
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ", {detail:?}"))
    }
}

fn on_link(link: &Option<InterfaceName>) -> String {
    link.as_ref().map_or_else(String::new, |link| format!(" on {link}"))
}

fn of_kind(kind: &Option<String>) -> String {
    kind.as_ref().map_or_else(String::new, |kind| format!(" (of kind {kind})"))
}

/// What to do about it, for the refusals that people meet.
fn hint(change: &Change, refusal: &Refusal) -> String {
    let route = matches!(change, Change::AddRoute(..) | Change::ReplaceRoute(..));
    match (Errno::from_raw_os_error(refusal.errno), change) {
        (Errno::PERM, _) => "; it takes root or the capability CAP_NET_ADMIN".into(),
        (Errno::ACCESS, Change::AddAddress(Address { link, .. })) => {
            format!("; is IPv6 switched off there (sysctl net.ipv6.conf.{link}.disable_ipv6)?")
        }
        (Errno::NETUNREACH | Errno::HOSTUNREACH, _) if route => {
            "; the gateway must lie in the network of a link that is up".into()
        }
        (Errno::NETDOWN, _) if route => "; the link must be up first".into(),
        (Errno::INVAL, _) if route => "; the gateway must be reached straight out of a link, \
            and the source must be an address of this host"
            .into(),
        (Errno::NOENT | Errno::OPNOTSUPP, Change::SetNft(_)) => {
            "; the kernel may lack NAT for nftables (CONFIG_NFT_NAT and CONFIG_NFT_MASQ)".into()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use wireloom_model::kernel::{Route, RouteKey};

    use super::*;

    #[test]
    fn a_refusal_says_what_was_asked_what_came_and_what_to_do() {
        let route = Route { gateway: Some("10.0.0.1".parse().unwrap()), ..Route::default() };
        let key = RouteKey::main("10.4.0.0/16".parse().unwrap());
        let refusal = Refusal { errno: 101, detail: Some("Nexthop has invalid gateway".into()) };
        let error = ChangeError::Refused { change: Change::AddRoute(key, route), refusal };
        let text = error.to_string();
        for part in
            ["10.4.0.0/16 via 10.0.0.1", "unreachable", "invalid gateway", "link that is up"]
        {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}
