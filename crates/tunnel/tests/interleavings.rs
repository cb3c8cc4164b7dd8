//! The numbers of messages under every interleaving of threads that the memory model allows (loom).
//!
//! The very files of the crate are compiled here, over the checker's atomics instead of the standard library's.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "what the crate uses of these files is more than what is checked"
)]

use loom::sync::{Arc, Mutex};
use loom::thread;

use counter::Counter;
use window::Window;

#[path = "../src/engine/counter.rs"]
mod counter;
#[path = "../src/engine/window.rs"]
mod window;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[test]
fn no_number_is_given_out_twice_or_beyond_the_limit() {
    const LIMIT: u64 = 6;
    loom::model(|| {
        let counter = Arc::new(Counter::new());
        let threads = [3, 2].map(|count| {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.reserve(count, LIMIT))
        });
        let own = [counter.reserve(3, LIMIT)];
        let taken = threads.map(|thread| thread.join().unwrap());
        let numbers = taken.into_iter().chain(own).flatten();
        let mut numbers: Vec<u64> = numbers.map(|number| number.value()).collect();
        numbers.sort_unstable();
        // More were asked for than there are: each was given out, and once.
        assert_eq!(numbers, (0..LIMIT).collect::<Vec<_>>());
        assert_eq!(counter.used(), LIMIT);
    });
}

#[test]
fn of_two_threads_with_the_same_message_one_takes_it() {
    loom::model(|| {
        let window = Arc::new(Mutex::new(Window::new()));
        let threads = [[0, 70], [70, 0]].map(|numbers| {
            let window = Arc::clone(&window);
            thread::spawn(move || numbers.map(|number| window.lock().unwrap().take(number)))
        });
        let taken = threads.map(|thread| thread.join().unwrap());
        assert_eq!(taken.into_iter().flatten().filter(|taken| *taken).count(), 2);
    });
}
