//! What is written again and again because somebody else undoes it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often something is written again within [`SPAN`] before it is left alone for [`REST`].
pub(crate) const MOST: usize = 5;

const SPAN: Duration = Duration::from_secs(60);

const REST: Duration = Duration::from_secs(5 * 60);

/// How hard it is fought for what stands in a file that others write too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contest {
    /// When it was written again, within [`SPAN`], the oldest first.
    written: VecDeque<Instant>,
    rests_until: Option<Instant>,
}

impl Contest {
    /// Whether it is to be written again now.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|until| now >= until)
    }

    /// Takes notice that it is written again.
    pub(crate) fn write(&mut self, now: Instant) {
        self.written.retain(|at| now.saturating_duration_since(*at) < SPAN);
        self.written.push_back(now);
        if self.written.len() >= MOST {
            self.rests_until = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_undoes_something_at_once_and_always_is_left_alone_for_a_while() {
        let start = Instant::now();
        let mut contest = Contest::default();
        for second in 0..5 {
            assert!(contest.is_on(start + Duration::from_secs(second)));
            contest.write(start + Duration::from_secs(second));
        }
        assert!(!contest.is_on(start + Duration::from_secs(5)));
        assert!(!contest.is_on(start + REST));
        assert!(contest.is_on(start + Duration::from_secs(4) + REST));
    }

    #[test]
    fn who_writes_now_and_then_is_followed_for_ever() {
        let start = Instant::now();
        let mut contest = Contest::default();
        for time in (0..100).map(|count| start + count * SPAN / 4) {
            assert!(contest.is_on(time));
            contest.write(time);
        }
    }
}
