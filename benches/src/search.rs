//! The search for the highest rate that loses next to nothing.

/// The part that may be lost: 0.5 %.
const TOLERATED: f64 = 0.005;

/// How far the next try goes while only one side is known.
const STRIDE: f64 = 1.5;

/// The search ends when what passed and what failed are as close as this.
const CLOSE: f64 = 1.03;

/// A sender that sends less than this part of what was asked is at its own limit.
const OBEDIENT: f64 = 0.9;

/// A search bounded in tries. Rates are in any one unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    next: f64,
    tries: u32,
    /// The highest rate asked for that passed.
    passed: Option<f64>,
    /// The lowest that failed.
    failed: Option<f64>,
    best: Option<f64>,
}

/// What one try showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Try {
    /// The rate that was sent.
    pub sent: f64,
    /// The rate that arrived.
    pub received: f64,
    /// The part that was lost, from 0 to 1.
    pub loss: f64,
}

impl Search {
    /// A search that begins at `guess`.
    pub const fn new(guess: f64, tries: u32) -> Self {
        Self { next: guess, tries, passed: None, failed: None, best: None }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        let close = self.passed.zip(self.failed).is_some_and(|(low, high)| high / low < CLOSE);
        (self.tries > 0 && !close).then_some(self.next)
    }

    /// Takes what the rate of [`next`](Self::next) showed.
    pub fn note(&mut self, shown: Try) {
        let asked = self.next;
        self.tries = self.tries.saturating_sub(1);
        if shown.loss <= TOLERATED {
            self.passed = Some(asked);
            self.best = Some(self.best.map_or(shown.received, |best| best.max(shown.received)));
            if shown.sent < asked * OBEDIENT {
                self.tries = 0;
            }
        } else {
            self.failed = Some(asked);
        }
        self.next = match (self.passed, self.failed) {
            (Some(low), Some(high)) => (low * high).sqrt(),
            (Some(low), None) => low * STRIDE,
            (None, _) => asked / STRIDE,
        };
    }

    /// The highest rate that arrived with the loss that is tolerated. `None` if every try lost more.
    pub const fn best(&self) -> Option<f64> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries so much and loses the rest, from a sender that can send so much.
    fn search(guess: f64, tries: u32, path: f64, sender: f64) -> (Option<f64>, u32) {
        let mut search = Search::new(guess, tries);
        let mut used = 0;
        while let Some(rate) = search.next() {
            used += 1;
            let sent = rate.min(sender);
            let received = sent.min(path);
            search.note(Try { sent, received, loss: 1.0 - received / sent });
        }
        (search.best(), used)
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for guess in [20.0, 70.0, 99.0, 101.0, 300.0] {
            let (best, _) = search(guess, 12, 100.0, 1e6);
            assert!((96.0..=100.5).contains(&best.unwrap()), "{best:?} from {guess}");
        }
    }

    #[test]
    fn it_is_bounded_in_tries() {
        let (best, used) = search(60.0, 4, 100.0, 1e6);
        assert_eq!(used, 4);
        assert_eq!(best, Some(90.0), "60 and 90 pass, 135 and 110 do not");
        assert_eq!(search(900.0, 3, 1.0, 1e6), (None, 3));
    }

    #[test]
    fn the_senders_own_limit_ends_it() {
        assert_eq!(search(100.0, 9, 1e6, 120.0), (Some(120.0), 2));
    }

    #[test]
    fn half_a_percent_may_be_lost_and_no_more() {
        let mut search = Search::new(100.0, 2);
        search.note(Try { sent: 100.0, received: 99.4, loss: 0.006 });
        assert_eq!(search.best(), None);
        search.note(Try { sent: 66.0, received: 65.7, loss: 0.005 });
        assert_eq!(search.best(), Some(65.7));
    }
}
