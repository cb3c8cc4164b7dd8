//! A network namespace for a test.

use std::fmt::Debug;
use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The flag of a route to an address of this host (`linux/ipv6_route.h`, `RTF_LOCAL`).
const LOCAL: u32 = 0x8000_0000;

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

/// Waits until packets to this new address reach the calling thread's namespace: the kernel makes the route of an IPv6
/// address after `ip address add` has returned, and tells nobody that could be awaited.
///
/// # Panics
///
/// If that takes longer than five seconds.
#[expect(clippy::expect_used, reason = "a test's helper: its failure is the test's failure")]
pub fn wait_for_address(address: &str) {
    let bits = address.parse::<Ipv6Addr>().expect("an IPv6 address").to_bits();
    let destination = format!("{bits:032x}");
    // Columns as `rt6_info_route` in `net/ipv6/route.c` writes them: the first the destination, the ninth the flags.
    let is_local = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[0] == destination && u32::from_str_radix(words[8], 16).is_ok_and(|f| f & LOCAL != 0)
    };
    until_ok(|| {
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").expect("routes");
        if routes.lines().any(is_local) { Ok(()) } else { Err(routes) }
    });
}

/// Tries until the attempt succeeds and returns its result.
///
/// Good for a name, port or device just let go: a program that another test is starting holds all descriptors of this
/// process between its fork and its exec.
///
/// # Panics
///
/// If no attempt succeeds within five seconds, with the last error.
pub fn until_ok<T, E: Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match attempt() {
            Ok(result) => return result,
            Err(error) => assert!(Instant::now() < deadline, "still fails: {error:?}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
