//! What the API refuses to write of this node, and how long it is left alone with that. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wireloom_model::annotations::key;

use crate::watch::Patience;

/// How long to wait at least, in the end: rights come back by people, and every node of the cluster asks.
const MOST: Duration = Duration::from_secs(300);

/// The annotations that were refused last.
#[derive(Debug)]
pub(crate) struct Refused {
    patience: Patience,
    last: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    /// Of which Node.
    uid: String,
    shall: BTreeMap<String, String>,
    until: Instant,
}

impl Default for Refused {
    fn default() -> Self {
        Self { patience: Patience::up_to(MOST), last: None }
    }
}

impl Refused {
    /// The API refuses to have this Node say that. Returns when to try again: later each time, unless it was to say
    /// something else before.
    pub(crate) fn put(
        &mut self,
        uid: &str,
        shall: BTreeMap<String, String>,
        now: Instant,
    ) -> Instant {
        if self.last.as_ref().is_none_or(|last| !last.is_of(uid, &shall)) {
            *self = Self::default();
        }
        let until = now + self.patience.delay(now);
        self.last = Some(Refusal { uid: uid.to_owned(), shall, until });
        until
    }

    /// Until when it is of no use to have this Node say that.
    pub(crate) fn until(
        &self,
        uid: &str,
        shall: &BTreeMap<String, String>,
        now: Instant,
    ) -> Option<Instant> {
        let last = self.last.as_ref().filter(|last| last.is_of(uid, shall))?;
        (now < last.until).then_some(last.until)
    }
}

impl Refusal {
    /// Whether it is of the same Node and the same annotations. A sign of life is another one each time, and fares no
    /// better for it.
    fn is_of(&self, uid: &str, shall: &BTreeMap<String, String>) -> bool {
        let lasting = |all: &BTreeMap<String, String>| {
            let mut all = all.clone();
            all.remove(key::LAST_SEEN);
            all
        };
        self.uid == uid && lasting(&self.shall) == lasting(shall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(held: &str, seen: &str) -> BTreeMap<String, String> {
        [(key::HELD, held), (key::LAST_SEEN, seen)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn what_is_refused_is_tried_less_and_less_often() {
        let start = Instant::now();
        let mut refused = Refused::default();
        assert_eq!(refused.until("1", &says("{}", "1"), start), None);
        let (mut now, mut tries) = (start, 0);
        while now < start + Duration::from_secs(3600) {
            // Kilo's sign of life changes all the time.
            let shall = says("{}", &tries.to_string());
            let until = refused.put("1", shall.clone(), now);
            assert_eq!(refused.until("1", &shall, now), Some(until));
            assert_eq!(refused.until("1", &shall, until), None);
            (now, tries) = (until, tries + 1);
        }
        assert!(tries < 25, "{tries} tries in an hour");
        let last = refused.put("1", says("{}", "1"), now) - now;
        assert!(last >= MOST && last <= MOST * 2, "{last:?}");
    }

    #[test]
    fn something_else_is_tried_at_once_and_begins_anew() {
        let now = Instant::now();
        let mut refused = Refused::default();
        for _ in 0..10 {
            refused.put("1", says("{}", "1"), now);
        }
        let other = says("{\"gateway\":true}", "1");
        assert_eq!(refused.until("1", &other, now), None);
        assert_eq!(refused.until("2", &says("{}", "1"), now), None, "a Node that was made anew");
        assert!(refused.put("1", other, now) < now + Duration::from_secs(1));
    }
}
