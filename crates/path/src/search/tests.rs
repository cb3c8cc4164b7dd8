use proptest::prelude::*;

use super::*;

const RANGE: Range = Range { least: 576, most: 1440 };

/// A path, as long as it takes to try a search on it.
struct World {
    search: Search,
    now: Duration,
    sent: usize,
}

impl World {
    fn new(range: Range) -> Self {
        Self { search: Search::new(range), now: Duration::from_secs(1000), sent: 0 }
    }

    /// Carries echoes for this long, with packets that flow all the time. Those that `arrives` holds of are answered
    /// after the round trip.
    fn run(&mut self, length: Duration, trip: Duration, mut arrives: impl FnMut(Echo) -> bool) {
        const TICK: Duration = Duration::from_millis(20);
        let end = self.now + length;
        let mut answers: Vec<(Duration, u16)> = Vec::new();
        while self.now < end {
            self.search.look(self.now);
            for echo in self.search.poll(self.now) {
                self.sent += 1;
                if arrives(echo) {
                    answers.push((self.now + trip, echo.number));
                }
            }
            answers.retain(|(at, number)| {
                let is_there = *at <= self.now;
                if is_there {
                    self.search.answer(self.now, *number);
                }
                !is_there
            });
            self.now += TICK;
        }
    }
}

const SOON: Duration = Duration::from_secs(8);
const TRIP: Duration = Duration::from_millis(80);

#[test]
fn a_wide_path_costs_two_echoes_a_look() {
    let mut world = World::new(RANGE);
    world.run(Duration::from_secs(30), TRIP, |_| true);
    assert_eq!(world.search.narrowed(), None);
    assert!(world.sent <= 2 * 10, "{}", world.sent);
}

#[test]
fn without_packets_there_are_no_echoes() {
    let mut search = Search::new(RANGE);
    assert_eq!((search.poll(Duration::from_secs(9)), search.due()), (vec![], None));
}

#[test]
fn where_nobody_answers_nothing_is_learnt() {
    let mut world = World::new(RANGE);
    world.run(SOON, TRIP, |_| false);
    assert_eq!(world.search.narrowed(), None);
    // What was found stands when answers cease.
    world.run(SOON, TRIP, |echo| echo.size <= 1300);
    assert_eq!(world.search.narrowed(), Some(1296));
    world.run(SOON, TRIP, |_| false);
    assert_eq!(world.search.narrowed(), Some(1296));
}

#[test]
fn a_path_that_widens_is_found_wide_in_time_or_when_it_is_another() {
    let mut world = World::new(RANGE);
    world.run(SOON, TRIP, |echo| echo.size <= 1000);
    assert_eq!(world.search.narrowed(), Some(992));
    world.run(Duration::from_secs(500), TRIP, |_| true);
    assert_eq!(world.search.narrowed(), Some(992));
    world.run(Duration::from_secs(110), TRIP, |_| true);
    assert_eq!(world.search.narrowed(), None);

    world.run(SOON, TRIP, |echo| echo.size <= 1000);
    world.search.restart(world.now);
    world.run(SOON, TRIP, |_| true);
    assert_eq!(world.search.narrowed(), None);
}

#[test]
fn one_lost_echo_of_each_size_narrows_nothing() {
    let mut seen = Vec::new();
    let mut world = World::new(RANGE);
    world.run(Duration::from_secs(60), TRIP, |echo| {
        let is_second = seen.contains(&echo.number);
        seen.push(echo.number);
        is_second
    });
    assert_eq!(world.search.narrowed(), None);
}

proptest! {
    #[test]
    fn whatever_a_path_carries_is_found_soon(
        limit in 576u16..9000,
        most in 1280u16..9000,
        trip in 1u64..350,
    ) {
        let mut world = World::new(Range { least: 576, most });
        // A path that was wide becomes narrow.
        world.run(Duration::from_secs(5), TRIP, |_| true);
        world.run(SOON, Duration::from_millis(trip), |echo| echo.size <= limit);
        let found = world.search.narrowed().unwrap_or(most);
        prop_assert!(found <= limit, "{} found", found);
        prop_assert!(limit.min(most) - found < BLOCK, "{} found", found);
    }

    #[test]
    fn answers_to_anything_harm_nothing(numbers in proptest::collection::vec(any::<u16>(), 0..50)) {
        let mut search = Search::new(RANGE);
        let mut now = Duration::from_secs(1);
        for number in numbers {
            search.look(now);
            search.poll(now);
            search.answer(now, number);
            now += Duration::from_millis(300);
            let fits = search.narrowed().unwrap_or(RANGE.most);
            prop_assert!((RANGE.least..=RANGE.most).contains(&fits));
        }
    }
}
