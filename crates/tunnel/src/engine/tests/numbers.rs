//! The numbers of messages: given out once, taken once.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::counter::{Counter, Number, Numbers};
use super::super::window::{WINDOW, Window};

fn values(numbers: Numbers) -> Vec<u64> {
    numbers.map(|number: Number| number.value()).collect()
}

#[test]
fn numbers_end_at_the_limit() {
    let counter = Counter::new();
    assert_eq!(values(counter.reserve(3, 10)), [0, 1, 2]);
    assert_eq!(values(counter.reserve(0, 10)), [0_u64; 0]);
    assert_eq!(values(counter.reserve(100, 10)), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(values(counter.reserve(u64::MAX, 10)), [0_u64; 0]);
    assert_eq!(counter.used(), 10);
    let rest = counter.reserve(u64::MAX, u64::MAX);
    assert_eq!(rest.left(), u64::MAX - 10);
    assert_eq!(values(counter.reserve(1, u64::MAX)), [0_u64; 0]);
}

/// What the window does, without its memory bound.
#[derive(Default)]
struct Naive(BTreeSet<u64>);

impl Naive {
    fn take(&mut self, number: u64) -> bool {
        let newest = self.0.last().copied();
        newest.is_none_or(|newest| number.saturating_add(WINDOW) > newest) && self.0.insert(number)
    }
}

fn jump() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => -70i64..70,
        3 => -9_000i64..9_000,
        1 => -100_000i64..100_000,
    ]
}

proptest! {
    #[test]
    fn it_takes_what_a_set_takes(
        start in prop_oneof![Just(0u64), 0..20_000u64, Just(u64::MAX - (1 << 20))],
        jumps in proptest::collection::vec(jump(), 0..400),
    ) {
        let mut window = Window::new();
        let mut naive = Naive::default();
        let mut number = start;
        for jump in jumps {
            prop_assert_eq!(window.is_new(number), window.clone().take(number));
            prop_assert_eq!(window.take(number), naive.take(number), "at {}", number);
            prop_assert_eq!(Some(window.next()), naive.0.last().map(|newest| newest + 1));
            number = number.saturating_add_signed(jump).min(u64::MAX - 1);
        }
    }
}

#[test]
fn the_window_spans_8192_messages() {
    for newest in [8_191, 8_192, 8_193, 100_000] {
        let mut window = Window::new();
        assert!(window.take(newest));
        assert!(window.take(newest - (WINDOW - 1)), "the last one at {newest}");
        assert!(newest < WINDOW || !window.take(newest - WINDOW), "one too old at {newest}");
    }
}
