//! A network namespace for a test.

use std::process::Command;
use std::thread;

/// Runs the test on a thread in an empty network namespace of its own, which goes with its threads and sockets.
///
/// # Panics
///
/// If the namespace cannot be made (see [`need!`](crate::need)), and with the test's own panic.
#[expect(clippy::expect_used, reason = "a test's helper: its failure is the test's failure")]
pub fn in_new_network<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let run = || {
        #[expect(deprecated, reason = "a network namespace shares no memory or descriptors")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
            .expect("root may make a network namespace");
        test()
    };
    thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `ip` with these arguments, separated by spaces, in the namespace of the calling thread, and returns what it
/// prints.
///
/// # Panics
///
/// If it fails.
#[expect(clippy::expect_used, reason = "a test's helper: its failure is the test's failure")]
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
