//! What a host's network is like, to tell whether a program left something behind.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Error;
use crate::host::Host;

/// Links, addresses, routes, policy rules, and settings of all links and of eth0.
const LISTS: [&str; 7] = [
    "ip -o -d link",
    "ip -o address",
    "ip -o route show table all",
    "ip -o -6 route show table all",
    "ip -o rule",
    "ip -o -6 rule",
    "sysctl -ar ^net[.]ipv[46][.]conf[.](all|eth0)[.]|^net.ipv4.ip_forward",
];

/// Everything about a host's network that a program could leave behind, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkState(BTreeSet<String>);

impl NetworkState {
    /// The state as it is now.
    ///
    /// # Errors
    ///
    /// `ip` or `sysctl` is missing, or fails.
    pub fn of(host: &Host) -> Result<Self, Error> {
        let mut lines = BTreeSet::new();
        for list in LISTS {
            let mut words = list.split(' ');
            let program = words.next().unwrap_or_default();
            let shown = host.spawn(program, words)?.success(Duration::from_secs(60))?.stdout;
            lines.extend(shown.lines().map(str::to_owned));
        }
        Ok(Self(lines))
    }

    /// The same without lines that contain one of these.
    #[must_use]
    pub fn without(mut self, words: &[&str]) -> Self {
        self.0.retain(|line| !words.iter().any(|word| line.contains(word)));
        self
    }

    /// The lines that only one of the two has, each with who has it.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let lost = before.0.difference(&self.0).map(|line| format!("lost: {line}"));
        let new = self.0.difference(&before.0).map(|line| format!("new: {line}"));
        lost.chain(new).collect()
    }
}
