//! Whether a gateway passes packets on, judged by a node behind it. Pure.
//!
//! One echo goes to a gateway of another location now and then. When none comes back, all that ever answered are asked, and
//! the own location too. A gateway through which nobody beyond answers while somebody of the location does is
//! there, and passes nothing on. Who never answered is no witness: his packet filter may drop echoes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use wireloom_model::NodeName;

/// How often somebody is asked while all is well, and while it is known that it is not.
const CALM: Duration = Duration::from_secs(5);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// How long nobody of several locations may answer.
const SHORT: Duration = Duration::from_secs(8);

/// How long the only one may not: one that has died is known to be dead by then, and asked no longer.
const LONG: Duration = Duration::from_secs(90);

/// How long another gateway may take to have its routes.
const GRACE: Duration = Duration::from_secs(10);

/// How long a gateway is blamed that is no longer this node's, so that nothing can be known of it: at first, and at most.
/// Each time that it is found so again it is twice as long.
const HOLD: Duration = Duration::from_secs(600);
const HOLD_MOST: Duration = Duration::from_secs(4 * 3600);

/// Whom a node asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Round {
    /// The gateway on the way to all beyond.
    pub(super) gateway: NodeName,
    /// It and others of the location.
    pub(super) near: BTreeSet<IpAddr>,
    /// Gateways of other locations, one of each.
    pub(super) far: BTreeSet<IpAddr>,
}

/// What is known of gateways. Times are counted from any one moment.
#[derive(Debug, Default)]
pub(super) struct Watch {
    round: Option<Round>,
    /// Everybody of beyond who ever answered.
    witnesses: BTreeSet<IpAddr>,
    /// Who was asked last while all was well.
    last: Option<IpAddr>,
    due: Duration,
    /// Since a witness was asked, until one answers.
    silence: Option<Silence>,
    /// Who is found to pass nothing on, and until when that counts; until further notice for the gateway of now.
    blame: BTreeMap<NodeName, Option<Duration>>,
    /// How long each is blamed that ever was.
    holds: BTreeMap<NodeName, Duration>,
}

#[derive(Debug)]
struct Silence {
    since: Duration,
    /// Whether anybody of the location answered meanwhile.
    is_heard_here: bool,
}

impl Watch {
    /// Takes over whom to ask.
    pub(super) fn follow(&mut self, now: Duration, round: Option<Round>) {
        let gateway = |round: &Option<Round>| round.as_ref().map(|round| round.gateway.clone());
        if gateway(&self.round) != gateway(&round) {
            self.silence = None;
            // As long as there are no witnesses there is nothing to find out too soon.
            self.due = if self.witnesses.is_empty() { now } else { now + GRACE };
            for (gateway, until) in &mut self.blame {
                let hold = self.holds.get(gateway).copied().unwrap_or(HOLD);
                until.get_or_insert(now + hold);
            }
        }
        self.round = round;
    }

    /// When to [`poll`](Self::poll) next.
    pub(super) fn due(&self) -> Option<Duration> {
        let expiry = self.blame.values().copied().flatten();
        self.round.as_ref().map(|_| self.due).into_iter().chain(expiry).min()
    }

    /// Whom to send an echo.
    pub(super) fn poll(&mut self, now: Duration) -> BTreeSet<IpAddr> {
        self.blame.retain(|_, until| until.is_none_or(|until| now < until));
        let Some(round) = self.round.clone().filter(|_| self.due <= now) else {
            return BTreeSet::new();
        };
        let witnesses: BTreeSet<IpAddr> =
            round.far.intersection(&self.witnesses).copied().collect();
        if self.silence.is_none() || witnesses.is_empty() {
            let unknown = round.far.difference(&witnesses).copied();
            return self.ask_one(now, &witnesses).into_iter().chain(unknown).collect();
        }
        let patience = if witnesses.len() > 1 { SHORT } else { LONG };
        let is_long = |silence: &Silence| {
            silence.is_heard_here && now.saturating_sub(silence.since) >= patience
        };
        if self.silence.as_ref().is_some_and(is_long) {
            self.blame(&round.gateway);
        }
        self.due = now + if self.fails().is_some() { CALM } else { ANSWER };
        witnesses.into_iter().chain(round.near).collect()
    }

    /// The next in turn of those that answer.
    fn ask_one(&mut self, now: Duration, witnesses: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let after = |last| witnesses.iter().find(|witness| **witness > last);
        let next = self.last.and_then(after).or_else(|| witnesses.first()).copied();
        self.last = next.or(self.last);
        self.silence = next.map(|_| Silence { since: now, is_heard_here: false });
        self.due = now + if next.is_some() { ANSWER } else { CALM };
        next
    }

    fn blame(&mut self, gateway: &NodeName) {
        if self.blame.insert(gateway.clone(), None) != Some(None) {
            let twice = |hold: &Duration| (2 * *hold).min(HOLD_MOST);
            let hold = self.holds.get(gateway).map_or(HOLD, twice);
            self.holds.insert(gateway.clone(), hold);
        }
    }

    /// Somebody answered.
    pub(super) fn heard(&mut self, now: Duration, from: IpAddr) {
        let Some(round) = &self.round else { return };
        if round.far.contains(&from) {
            self.witnesses.insert(from);
            self.blame.remove(&round.gateway);
            if self.silence.take().is_some() {
                self.due = now + CALM;
            }
        } else if let Some(silence) = self.silence.as_mut().filter(|_| round.near.contains(&from)) {
            silence.is_heard_here = true;
        }
    }

    /// Those that pass nothing on, and those that did not when they were this node's gateway.
    pub(super) fn blamed(&self) -> BTreeSet<NodeName> {
        self.blame.keys().cloned().collect()
    }

    /// The gateway of now, if it passes nothing on.
    pub(super) fn fails(&self) -> Option<&NodeName> {
        let gateway = &self.round.as_ref()?.gateway;
        (self.blame.get(gateway) == Some(&None)).then_some(gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: [&str; 2] = ["10.4.0.1", "10.4.0.2"];

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn round(gateway: &str, far: &[&str]) -> Option<Round> {
        let (near, far) = (addresses(&NEAR), addresses(far));
        Some(Round { gateway: gateway.parse().unwrap(), near, far })
    }

    /// A node and those who answer it.
    struct World {
        watch: Watch,
        now: u64,
        asked: usize,
    }

    impl World {
        fn new(gateway: &str, far: &[&str]) -> Self {
            let mut world = Self { watch: Watch::default(), now: 0, asked: 0 };
            world.follow(gateway, far);
            world
        }

        fn follow(&mut self, gateway: &str, far: &[&str]) {
            self.watch.follow(Duration::from_secs(self.now), round(gateway, far));
        }

        /// Asks for as many seconds, and returns after how many there was another verdict.
        fn run(&mut self, seconds: u64, answering: &[&str]) -> Option<u64> {
            let answering = addresses(answering);
            let before = self.watch.blamed();
            let mut changed = None;
            for second in 0..seconds {
                self.now += 1;
                let now = Duration::from_secs(self.now);
                for end in self.watch.poll(now) {
                    self.asked += 1;
                    if answering.contains(&end) {
                        self.watch.heard(now, end);
                    }
                }
                if changed.is_none() && self.watch.blamed() != before {
                    changed = Some(second);
                }
            }
            changed
        }

        fn blamed(&self) -> Vec<String> {
            self.watch.blamed().iter().map(ToString::to_string).collect()
        }
    }

    const FAR: [&str; 2] = ["10.4.1.1", "10.4.2.1"];
    const ALL: [&str; 4] = ["10.4.0.1", "10.4.0.2", "10.4.1.1", "10.4.2.1"];

    #[test]
    fn who_is_there_and_passes_nothing_on_is_blamed_until_it_does() {
        let mut world = World::new("g1", &FAR);
        assert_eq!(world.run(600, &ALL), None);
        assert!(world.asked <= 125, "{} echoes in ten minutes", world.asked);
        let found = world.run(60, &NEAR).unwrap();
        assert!((8..=15).contains(&found), "{found}");
        assert_eq!(world.watch.fails(), Some(&"g1".parse().unwrap()));
        assert!(world.run(60, &ALL).unwrap() <= 5);
        assert_eq!(world.watch.fails(), None);
    }

    #[test]
    fn one_of_several_who_answers_is_enough() {
        let mut world = World::new("g1", &FAR);
        world.run(100, &ALL);
        assert_eq!(world.run(600, &["10.4.0.1", "10.4.2.1"]), None);
    }

    #[test]
    fn nobody_is_blamed_by_who_is_cut_off_or_never_heard_anybody() {
        let mut world = World::new("g1", &FAR);
        assert_eq!(world.run(600, &NEAR), None, "echoes may be dropped everywhere");
        world.run(100, &ALL);
        assert_eq!(world.run(600, &[]), None, "the own link may be down");
        // A gateway whose own link is down is told from that by others of the location.
        assert!(world.run(60, &NEAR[1..]).is_some());
    }

    #[test]
    fn the_only_one_beyond_may_have_died_which_others_find_first() {
        let mut world = World::new("g1", &FAR[..1]);
        world.run(100, &ALL);
        assert!((90..=100).contains(&world.run(200, &NEAR).unwrap()));
        let mut world = World::new("g1", &FAR[..1]);
        world.run(100, &ALL);
        assert_eq!(world.run(70, &NEAR), None);
        world.watch.follow(Duration::from_secs(world.now), None);
        assert_eq!(world.run(600, &NEAR), None);
    }

    #[test]
    fn a_gateway_that_was_left_is_blamed_for_a_while_and_longer_each_time() {
        let mut world = World::new("g1", &FAR);
        world.run(100, &ALL);
        world.run(60, &NEAR);
        for hold in [600, 1200, 2400] {
            world.follow("g2", &FAR);
            assert_eq!(world.run(hold - 5, &ALL), None);
            assert_eq!(world.blamed(), ["g1"]);
            assert!(world.run(10, &ALL).is_some());
            assert!(world.blamed().is_empty());
            // It is declared, and so it is the gateway again.
            world.follow("g1", &FAR);
            assert!(world.run(60, &NEAR).is_some());
        }
    }
}
