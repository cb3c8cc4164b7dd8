//! Scenarios that need more than one crate, and the rules of the house.
//!
//! Owns nothing but its files under `tests/`, each named after what it proves, and the rig that they share: two hosts
//! on one wire, tunnel [devices](device) on them, a [`mesh`] of them, what is [foreign] there, [clusters](cluster) in labs,
//! whoever [administers](admin) one, and [pods](pod) on it. Imports any crate it likes: nobody imports this one.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test's helper: its failure is the test's failure"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wireloom_lab::{Child, Host};
use wireloom_testkit::{promised, wireloom_binary};

pub mod admin;
pub mod cluster;
pub mod device;
pub mod foreign;
pub mod mesh;
pub mod pod;
pub mod vm;

/// How long anything may take that is expected to happen soon.
pub const SOON: Duration = Duration::from_secs(15);

/// Two hosts on one wire: a has 192.0.2.1 and 2001:db8::1, b has 192.0.2.2 and 2001:db8::2.
pub struct Pair {
    /// The host that most tests work on.
    pub a: Host,
    /// The host at the other end.
    pub b: Host,
}

/// Joins two hosts by a wire, up at both ends.
pub fn cable(a: &Host, link_of_a: &str, b: &Host, link_of_b: &str) {
    let net = b.namespace(wireloom_lab::host::Namespace::Network);
    let net = net.display();
    ok(a, &format!("ip link add {link_of_a} type veth peer name {link_of_b} netns {net}"));
    ok(a, &format!("ip link set {link_of_a} up"));
    ok(b, &format!("ip link set {link_of_b} up"));
}

impl Pair {
    /// Starts both.
    pub fn start() -> Self {
        let (a, b) = (Host::start("a").unwrap(), Host::start("b").unwrap());
        for host in [&a, &b] {
            // Nobody else can have an address of ours, so there is no use in waiting for the search for duplicates.
            host.write("/proc/sys/net/ipv6/conf/default/dad_transmits", "0").unwrap();
        }
        cable(&a, "eth0", &b, "eth0");
        for (host, last) in [(&a, 1), (&b, 2)] {
            ok(host, "ip link set lo up");
            ok(host, &format!("ip address add 192.0.2.{last}/24 dev eth0"));
            ok(host, &format!("ip address add 2001:db8::{last}/64 dev eth0 nodad"));
        }
        let pair = Self { a, b };
        pair.wait();
        pair
    }

    /// Waits until both may use their addresses.
    pub fn wait(&self) {
        for host in [&self.a, &self.b] {
            eventually("the link-local address is proven", || {
                !ok(host, "ip address show dev eth0").contains("tentative")
            });
        }
    }
}

/// Runs a command line, split at blanks, and returns what it printed.
///
/// # Panics
///
/// If it fails, with what it wrote.
pub fn ok(host: &Host, line: &str) -> String {
    let output = run(host, line);
    assert!(output.status.success(), "{}: {line}: {}{}", host.name(), output.stdout, output.stderr);
    output.stdout
}

/// Runs a command line, split at blanks, to its end. `wireloom` is the program under test.
///
/// # Panics
///
/// If it can't be started or does not end.
pub fn run(host: &Host, line: &str) -> wireloom_lab::Output {
    let mut words = line.split_ascii_whitespace();
    let program = words.next().expect("a command line has a program");
    if program == "wireloom" {
        return host.exec(wireloom_binary(), words, Duration::from_secs(60)).unwrap();
    }
    host.exec(program, words, Duration::from_secs(60)).unwrap()
}

/// Starts `wireloom` with these arguments, in front.
pub fn wireloom(host: &Host, line: &str) -> Child {
    host.spawn(wireloom_binary(), line.split_ascii_whitespace()).unwrap()
}

/// Waits until something holds.
///
/// # Panics
///
/// If it does not within [`SOON`].
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(SOON, what, holds);
}

/// Waits until something holds that is [`promised`] within a time.
///
/// # Panics
///
/// If it does not within that.
pub fn within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        let late = begin.elapsed() > time && begin.elapsed() > promised(time);
        assert!(!late, "not within {:?}, for {time:?} are promised: {what}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks an address for an echo until it answers.
///
/// # Panics
///
/// If it does not within [`SOON`].
pub fn ping(from: &Host, to: &str) {
    let end = Instant::now() + promised(SOON);
    let answer = wireloom_lab::measure::ping(from, address(to), end).unwrap();
    assert!(answer.is_some(), "{} gets no echo from {to}", from.name());
}

/// Asks an address for an echo once, and says whether it answered within a second.
pub fn answers(from: &Host, to: &str) -> bool {
    wireloom_lab::measure::ping(from, address(to), Instant::now()).unwrap().is_some()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A key pair for WireGuard, made by the program under test.
pub struct Keys {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

impl Keys {
    /// Makes a new pair.
    pub fn new() -> Self {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let private = Command::new(wireloom_binary()).arg("keygen").output().unwrap().stdout;
        let mut pubkey = Command::new(wireloom_binary())
            .arg("pubkey")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        pubkey.stdin.take().expect("stdin is piped").write_all(&private).unwrap();
        let public = pubkey.wait_with_output().unwrap().stdout;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        Self { private: text(private), public: text(public) }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything about a host's network that a program could leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkState(wireloom_lab::NetworkState);

impl NetworkState {
    /// The state as it is now.
    pub fn of(host: &Host) -> Self {
        Self(wireloom_lab::NetworkState::of(host).unwrap())
    }

    /// The same without lines that contain one of these.
    #[must_use]
    pub fn without(self, words: &[&str]) -> Self {
        Self(self.0.without(words))
    }

    /// Fails with the lines that only one of the two has.
    ///
    /// # Panics
    ///
    /// If there is such a line.
    pub fn assert_same(&self, before: &Self) {
        let changes = self.0.changes_since(&before.0);
        assert!(changes.is_empty(), "{changes:#?}");
    }
}

/// How many echoes came by what ping(8) printed, and the numbers of those that did not though later ones did.
pub fn echoes(said: &str) -> (usize, Vec<u32>) {
    let answers = said.lines().filter(|line| line.contains("bytes from"));
    let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
    let came: BTreeSet<u32> = answers.filter_map(number).collect();
    let last = came.last().copied().unwrap_or_default();
    (came.len(), (1..=last).filter(|number| !came.contains(number)).collect())
}
