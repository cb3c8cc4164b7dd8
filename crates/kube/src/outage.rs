//! Whether the API can be read and written. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A way in which the API is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Heartbeat,
    Leases,
    Nodes,
    Peers,
}

/// What fails at the moment.
#[derive(Debug, Default)]
pub(crate) struct Outage(BTreeMap<Use, (Instant, String)>);

/// How long a watch that failed may be silent before it is taken to work again: it says nothing while nothing changes,
/// and tries again within this time, a connection that hangs included.
const SILENCE: Duration = Duration::from_secs(40);

impl Outage {
    pub(crate) fn failed(&mut self, what: Use, reason: String, now: Instant) {
        self.0.insert(what, (now, reason));
    }

    pub(crate) fn works(&mut self, what: Use) {
        self.0.remove(&what);
    }

    /// The heartbeat arrived: so the API is there, and watches that have not failed lately work too.
    pub(crate) fn beat(&mut self, now: Instant) {
        self.works(Use::Heartbeat);
        self.0.retain(|_, (at, _)| now.saturating_duration_since(*at) < SILENCE);
    }

    /// Why what is known may be out of date.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.values().next().map(|(_, reason)| reason.as_str())
    }

    /// Whether Nodes can't be watched, and so not the signs of life that Kilo's agents write there.
    pub(crate) fn is_blind(&self) -> bool {
        self.0.contains_key(&Use::Nodes)
    }

    /// Whether signs of life can't be heard.
    pub(crate) fn is_deaf(&self) -> bool {
        self.0.contains_key(&Use::Heartbeat) || self.0.contains_key(&Use::Leases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_watch_works_again_once_the_api_does() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        assert_eq!(outage.reason(), None);
        outage.failed(Use::Nodes, "refused".to_owned(), start);
        outage.failed(Use::Heartbeat, "no answer".to_owned(), at(5));
        assert!(outage.is_deaf());
        outage.beat(at(30));
        assert_eq!((outage.reason(), outage.is_deaf()), (Some("refused"), false));
        assert!(outage.is_blind(), "Leases alone are heard");
        outage.beat(at(39));
        assert_eq!(outage.reason(), Some("refused"));
        outage.beat(at(50));
        assert_eq!((outage.reason(), outage.is_blind()), (None, false));
    }

    #[test]
    fn a_watch_that_speaks_works() {
        let mut outage = Outage::default();
        outage.failed(Use::Leases, "gone".to_owned(), Instant::now());
        assert!(outage.is_deaf());
        outage.works(Use::Leases);
        assert_eq!(outage.reason(), None);
    }
}
