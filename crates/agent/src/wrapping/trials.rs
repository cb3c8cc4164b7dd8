//! Whether what nodes of a location wrap for each other arrives there. Pure.
//!
//! Two echoes go to an internal address of each other node: one bare, between internal addresses, and one from an address
//! of the mesh, which is wrapped there and back. Who answers the first and never the second is behind something that drops
//! what wraps. Nothing is asked while packets arrive, or nobody sends any.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often one must answer bare and not wrapped: its agent may be about to start.
const ENOUGH: u32 = 4;

/// How often it is asked again where something is dropped, and where nobody answers at all.
const AGAIN: Duration = Duration::from_secs(5);
const RARELY: Duration = Duration::from_secs(60);

/// How an echo goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Between internal addresses.
    Bare,
    /// From an address of the mesh.
    Wrapped,
}

/// The trials of all ends. Times are counted from any one moment.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    ends: BTreeMap<IpAddr, Trial>,
    /// The number of the last echoes.
    number: u16,
}

#[derive(Debug, Default)]
struct Trial {
    /// When the answers are looked at and the next echoes go. `None` while there is no reason to ask.
    due: Option<Duration>,
    /// The number of the echoes that are out, and whether the bare one has come back.
    asked: Option<(u16, bool)>,
    /// How often only the bare one came back since a wrapped one did.
    dropped: u32,
    /// How often neither did.
    silent: u32,
}

impl Trials {
    /// Takes over whom packets are wrapped for. New ones are asked at once.
    pub(crate) fn follow(&mut self, now: Duration, ends: &BTreeSet<IpAddr>) {
        self.ends.retain(|end, _| ends.contains(end));
        for end in ends {
            self.ends.entry(*end).or_insert_with(|| Trial { due: Some(now), ..Trial::default() });
        }
    }

    /// Packets are sent and none come back: all are asked.
    pub(crate) fn doubt(&mut self, now: Duration) {
        for trial in self.ends.values_mut().filter(|trial| trial.due.is_none()) {
            trial.due = Some(now);
        }
    }

    /// When to [`poll`](Self::poll) next.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.ends.values().filter_map(|trial| trial.due).min()
    }

    /// Whom to send both echoes with which number.
    pub(crate) fn poll(&mut self, now: Duration) -> Vec<(IpAddr, u16)> {
        let mut echoes = Vec::new();
        for (end, trial) in &mut self.ends {
            if trial.due.is_none_or(|due| due > now) {
                continue;
            }
            match trial.asked.take() {
                Some((_, true)) => trial.dropped += 1,
                Some((_, false)) => trial.silent += 1,
                None => {}
            }
            let rest = match (trial.dropped >= ENOUGH, trial.silent >= ENOUGH) {
                (true, _) => AGAIN,
                (false, true) => RARELY,
                (false, false) => PATIENCE,
            };
            self.number = self.number.wrapping_add(1);
            trial.asked = Some((self.number, false));
            trial.due = Some(now + rest);
            echoes.push((*end, self.number));
        }
        echoes
    }

    /// An echo has come back.
    pub(crate) fn answer(&mut self, from: IpAddr, number: u16, echo: Echo) {
        let Some(trial) = self.ends.get_mut(&from) else { return };
        match (echo, &mut trial.asked) {
            (Echo::Wrapped, _) => *trial = Trial::default(),
            (Echo::Bare, Some((asked, heard))) if *asked == number => *heard = true,
            _ => {}
        }
    }

    /// Those who answer, yet not to what is wrapped.
    pub(crate) fn dropped(&self) -> BTreeSet<IpAddr> {
        let dropped = self.ends.iter().filter(|(_, trial)| trial.dropped >= ENOUGH);
        dropped.map(|(end, _)| *end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// Asks for a while, with these echoes answered, and returns at which second something was found dropped.
    fn run(trials: &mut Trials, from: u64, answered: &[Echo]) -> Option<u64> {
        for second in from..from + 600 {
            for (end, number) in trials.poll(Duration::from_secs(second)) {
                answered.iter().for_each(|echo| trials.answer(end, number, *echo));
            }
            if !trials.dropped().is_empty() {
                return Some(second);
            }
        }
        None
    }

    fn trials() -> Trials {
        let mut trials = Trials::default();
        trials.follow(Duration::ZERO, &BTreeSet::from([END]));
        trials
    }

    #[test]
    fn only_who_answers_bare_and_never_wrapped_is_behind_something_that_drops() {
        assert_eq!(run(&mut trials(), 0, &[Echo::Bare]), Some(u64::from(ENOUGH)));
        assert_eq!(run(&mut trials(), 0, &[Echo::Bare, Echo::Wrapped]), None);
        assert_eq!(run(&mut trials(), 0, &[Echo::Wrapped]), None);
        assert_eq!(run(&mut trials(), 0, &[]), None);
    }

    #[test]
    fn where_all_is_well_nothing_is_asked_until_there_is_doubt() {
        let mut trials = trials();
        run(&mut trials, 0, &[Echo::Wrapped]);
        assert_eq!(trials.due(), None);
        trials.follow(Duration::from_secs(700), &BTreeSet::from([END]));
        assert_eq!(trials.due(), None);
        trials.doubt(Duration::from_secs(700));
        assert_eq!(run(&mut trials, 700, &[Echo::Bare]), Some(700 + u64::from(ENOUGH)));
        // It is asked on, and one answer is enough.
        run(&mut trials, 705, &[Echo::Wrapped]);
        let (end, number) = trials.poll(Duration::from_secs(800))[0];
        trials.answer(end, number, Echo::Wrapped);
        assert_eq!((trials.dropped(), trials.due()), (BTreeSet::new(), None));
    }

    #[test]
    fn a_late_answer_to_a_bare_echo_counts_for_no_other() {
        let mut trials = trials();
        for second in 0..20 {
            for (end, number) in trials.poll(Duration::from_secs(second)) {
                trials.answer(end, number.wrapping_sub(1), Echo::Bare);
            }
        }
        assert_eq!(trials.dropped(), BTreeSet::new());
    }

    #[test]
    fn who_is_silent_is_asked_rarely_and_who_is_gone_not_at_all() {
        let mut trials = trials();
        let asked: usize =
            (0..600).map(|second| trials.poll(Duration::from_secs(second)).len()).sum();
        assert!((10..=20).contains(&asked), "{asked}");
        trials.follow(Duration::from_secs(600), &BTreeSet::new());
        assert_eq!((trials.due(), trials.dropped()), (None, BTreeSet::new()));
    }
}
