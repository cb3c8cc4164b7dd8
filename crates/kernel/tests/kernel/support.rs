//! A network namespace for each test, which goes with the test's thread.

use std::collections::BTreeSet;
use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, io::Write, thread};

use serde_json::Value;
use wireloom_kernel::{ApplyReport, Change, Host, diff};
use wireloom_model::kernel::{Address, KernelState, Link, MAIN_TABLE, Route, RouteKey};
use wireloom_model::{Cidr, InterfaceName};

/// Runs the test in a namespace of its own, on a runtime of its own, within two minutes: all
/// namespaces of a machine share the lock under which links and routes change.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = thread::spawn(move || {
        #[expect(deprecated, reason = "a network namespace shares no memory or descriptors")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Addresses that the kernel makes by itself come and go while a test looks.
            fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            tokio::time::timeout(Duration::from_secs(120), test()).await.unwrap();
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs the test on a host with [two links](two_links) in a namespace of its own.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    in_namespace(|| async {
        two_links();
        test(Host::new().unwrap()).await;
    });
}

/// Our link `wl0` and a foreign one, `eth0`, both up, with 192.0.2.1/24 and 2001:db8::1/64 on the foreign one.
pub(crate) fn two_links() {
    ip("link set lo up");
    our_link();
    ip("link add eth0 type veth peer name eth0-far");
    ip("link set eth0-far up");
    ip("link set eth0 up");
    ip("address add 192.0.2.1/24 dev eth0");
    ip("address add 2001:db8::1/64 dev eth0 nodad");
    until_usable("2001:db8::1");
}

/// Waits until the kernel takes packets for an IPv6 address, which it does a moment after it has it.
pub(crate) fn until_usable(address: &str) {
    let begin = Instant::now();
    while ip(&format!("-6 route show table local {address}")).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{address} stays unusable");
        thread::yield_now();
    }
}

/// `wl0`, up, with the MTU that [`mesh`] asks for.
pub(crate) fn our_link() {
    ip("link add wl0 type veth peer name wl0-far");
    ip("link set wl0-far up");
    ip("link set wl0 up mtu 1420");
}

pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub(crate) fn nft(arguments: &str) -> String {
    run("nft", arguments)
}

/// A command in the words of nft(8).
pub(crate) fn nft_command(command: &str) {
    succeed(Command::new("nft").arg(command));
}

pub(crate) fn shell(command: &str) {
    succeed(Command::new("sh").args(["-c", command]));
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A process that adds and deletes things 4,000 times.
pub(crate) struct Churn(Child);

impl Churn {
    /// `ip KIND add PREFIX:N SUFFIX`, and `delete` likewise.
    pub(crate) fn begin(kind: &str, prefix: &str, suffix: &str) -> Self {
        let lines: String = (0..4_000)
            .map(|n| {
                let verb = if n % 2 == 0 { "add" } else { "delete" };
                format!("{kind} {verb} {prefix}:{:x}{suffix}\n", n / 2 % 1000)
            })
            .collect();
        let mut child =
            Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        thread::spawn(move || stdin.write_all(lines.as_bytes()));
        Self(child)
    }

    /// Whether it still runs. Asserts that all went well if not.
    pub(crate) fn goes_on(&mut self) -> bool {
        let status = self.0.try_wait().unwrap();
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
        status.is_none()
    }
}

/// Every route, rule, link, address and lasting neighbour of the namespace, as `ip` tells them.
pub(crate) fn snapshot() -> Vec<Value> {
    [
        "-j route show table all",
        "-6 -j route show table all",
        "-j rule show",
        "-6 -j rule show",
        "-j -d address show",
        "-j neighbour show nud permanent",
    ]
    .into_iter()
    .flat_map(|arguments| match serde_json::from_str(&ip(arguments)).unwrap() {
        Value::Array(list) => list,
        other => panic!("no list: {other}"),
    })
    .collect()
}

/// A second namespace, on a thread of its own that does as it is told.
pub(crate) struct Far {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    pub(crate) thread: i32,
}

impl Far {
    pub(crate) fn begin() -> Self {
        let (work, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            #[expect(deprecated, reason = "a network namespace shares no memory or descriptors")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
            fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            todo.into_iter().for_each(|work| work());
        });
        Self { work, thread: told.recv().unwrap() }
    }

    /// Runs it there and waits for what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.work.send(Box::new(move || drop(tell.send(work())))).unwrap();
        told.recv().unwrap()
    }

    /// Runs it there on a runtime.
    pub(crate) fn run_async<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work())
        })
    }
}

pub(crate) fn wl0() -> InterfaceName {
    "wl0".parse().unwrap()
}

pub(crate) fn key(destination: &str) -> RouteKey {
    RouteKey::main(destination.parse().unwrap())
}

pub(crate) fn prefixes(texts: &[&str]) -> BTreeSet<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A route out of `wl0`.
pub(crate) fn out_of_wl0(source: Option<&str>) -> Route {
    let source = source.map(|text| text.parse().unwrap());
    Route { link: Some(wl0()), source, ..Route::default() }
}

/// A route to a gateway whose link the kernel looks up.
pub(crate) fn by(gateway: &str) -> Route {
    Route { gateway: Some(gateway.parse().unwrap()), ..Route::default() }
}

pub(crate) fn address(text: &str) -> Address {
    Address { link: wl0(), address: text.parse().unwrap() }
}

/// A state with every kind of thing that we make, in both families.
pub(crate) fn mesh() -> KernelState {
    let on_wl0 = |gateway: &str| Route { link: Some(wl0()), ..by(gateway) };
    KernelState {
        links: [(wl0(), Link::held(1420))].into(),
        addresses: [address("10.4.0.1/32"), address("fd04::1/128")].into(),
        routes: [
            (key("10.5.0.0/16"), out_of_wl0(Some("10.4.0.1"))),
            (key("fd05::/32"), out_of_wl0(Some("fd04::1"))),
            (key("10.6.0.0/16"), by("192.0.2.9")),
            (key("fd06::/32"), by("2001:db8::9")),
            (key("10.7.0.0/16"), on_wl0("10.4.0.7")),
            (key("fd07::/32"), on_wl0("fd04::7")),
            (RouteKey { metric: 50, ..key("10.5.0.0/16") }, by("192.0.2.9")),
            (RouteKey { metric: 50, ..key("fd05::/32") }, by("2001:db8::9")),
            (RouteKey { table: 1000, ..key("0.0.0.0/0") }, out_of_wl0(None)),
            (RouteKey { table: 200, ..key("::/0") }, out_of_wl0(None)),
        ]
        .into(),
        ..KernelState::default()
    }
}

/// Brings the host to the state and asserts that nothing failed.
pub(crate) async fn bring(host: &Host, desired: &KernelState) -> (Vec<Change>, ApplyReport) {
    let changes = diff(desired, &host.observe(&[wl0()]).await.unwrap());
    let report = host.apply(&changes).await.unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
    (changes, report)
}

/// Asserts that the host has the state, and returns it as observed.
pub(crate) async fn assert_has(host: &Host, desired: &KernelState) -> KernelState {
    let observed = host.observe(&[wl0()]).await.unwrap();
    assert_eq!(diff(desired, &observed), vec![]);
    assert_eq!(observed.addresses, desired.addresses);
    assert!(observed.routes.keys().eq(desired.routes.keys()));
    observed
}

/// Routes of ours to that many /24 networks.
pub(crate) fn many_routes(count: u16) -> KernelState {
    let routes = (0..count).map(|n| {
        let [high, low] = n.to_be_bytes();
        let destination = format!("10.{}.{low}.0/24", 100 + high).parse().unwrap();
        (RouteKey { table: MAIN_TABLE, destination, metric: 0 }, out_of_wl0(None))
    });
    KernelState { routes: routes.collect(), ..KernelState::default() }
}
