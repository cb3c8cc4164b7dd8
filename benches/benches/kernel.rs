//! How long a host takes to get the kernel state of a mesh of 10,000 nodes, to find that nothing changed, and to follow
//! one node that did: 40,000 routes, and as many prefixes in the nftables sets. Takes root; works in a network namespace
//! of its own.
//!
//! `cargo bench -p wireloom-benches --bench kernel`

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench prints, and fails by panic")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use comfy_table::Table;
use wireloom_kernel::{ApplyReport, Cached, Host, diff};
use wireloom_model::kernel::{KernelState, Link, Nft, NftSet, Route, RouteKey};
use wireloom_model::{Cidr, InterfaceName};
use wireloom_testkit::{in_new_network, ip};

const NODES: u32 = 10_000;
const ROUNDS: usize = 9;

fn link() -> InterfaceName {
    "wl0".parse().expect("a short name")
}

/// A node's pods and its address, in both families.
fn prefixes(node: u32) -> [Cidr; 4] {
    let cidr = |address: IpAddr, length| Cidr::truncated(address, length).expect("a length");
    [
        cidr(IpAddr::V4((0x6440_0000 + (node << 6)).into()), 26),
        cidr(IpAddr::V4((0x0a00_0001 + node).into()), 32),
        cidr([0xfd42, 0, 0, u16::try_from(node).expect("few nodes"), 0, 0, 0, 0].into(), 64),
        cidr([0xfd10, 0, 0, 0, 0, 0, 0, u16::try_from(node).expect("few nodes") + 1].into(), 128),
    ]
}

fn mesh(nodes: impl Iterator<Item = u32>) -> KernelState {
    let prefixes: Vec<Cidr> = nodes.flat_map(prefixes).collect();
    let route = Route { link: Some(link()), ..Route::default() };
    KernelState {
        links: [(link(), Link::held(1420))].into(),
        routes: prefixes.iter().map(|to| (RouteKey::main(*to), route.clone())).collect(),
        nft: Some(Nft {
            sets: [(NftSet::Mesh, prefixes.into_iter().collect())].into(),
            masquerade: true,
            clamp: [link()].into(),
            ..Nft::default()
        }),
        ..KernelState::default()
    }
}

/// What was measured of one thing, in the order of the rounds.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn row(mut self, what: &str, limit: &str, writes: usize) -> Vec<String> {
        self.0.sort();
        let median = self.0[self.0.len() / 2];
        let shown = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        let last = self.0[self.0.len() - 1];
        vec![what.into(), shown(median), shown(last), limit.into(), writes.to_string()]
    }
}

fn whole(report: ApplyReport) -> usize {
    assert!(report.failed.is_empty() && report.skipped.is_empty(), "{report:?}");
    report.written
}

async fn measure() -> Table {
    let all = mesh(0..NODES);
    let but_one = mesh(1..NODES);
    let [mut first, mut observed, mut unchanged, mut cached_time, mut one_node] =
        [(); 5].map(|()| Times::default());
    let [mut first_writes, mut writes, mut cached_writes, mut one_writes] = [0; 4];
    for _ in 0..3 {
        let host = Host::new().expect("a host");
        let begin = Instant::now();
        let changes = diff(&all, &host.observe(&[link()]).await.expect("observed"));
        first_writes = whole(host.apply(&changes).await.expect("applied"));
        first.0.push(begin.elapsed());
        // By a host that knows nothing yet, as after a restart, then by one that does.
        let host = Host::new().expect("a host");
        for round in 0..4 {
            let times = if round == 0 { &mut observed } else { &mut unchanged };
            let begin = Instant::now();
            let changes = diff(&all, &host.observe(&[link()]).await.expect("observed"));
            writes += whole(host.apply(&changes).await.expect("applied"));
            times.0.push(begin.elapsed());
        }
        let mut cached = Cached::new(&host, vec![link()]).await.expect("watched");
        whole(cached.bring(&all).await.expect("applied"));
        for round in 0..ROUNDS {
            let begin = Instant::now();
            cached_writes += whole(cached.bring(&all).await.expect("applied"));
            cached_time.0.push(begin.elapsed());
            let desired = if round % 2 == 0 { &but_one } else { &all };
            let begin = Instant::now();
            one_writes = whole(cached.bring(desired).await.expect("applied"));
            one_node.0.push(begin.elapsed());
            whole(cached.bring(&all).await.expect("applied"));
        }
        let state = host.observe(&[link()]).await.expect("observed");
        whole(host.apply(&diff(&KernelState::default(), &state)).await.expect("applied"));
    }
    let (mut nft_first, mut nft_again) = (Times::default(), Times::default());
    let table_of = |nodes| KernelState { nft: mesh(nodes).nft, ..KernelState::default() };
    let [few, none] = [table_of(0..2_500), KernelState::default()];
    for round in 0..2 * ROUNDS {
        let host = Host::new().expect("a host");
        for (desired, times) in
            [(&few, &mut nft_first), (&few, &mut nft_again), (&none, &mut Times::default())]
        {
            let begin = Instant::now();
            let changes = diff(desired, &host.observe(&[]).await.expect("observed"));
            whole(host.apply(&changes).await.expect("applied"));
            times.0.push(begin.elapsed());
        }
        assert!(nft_again.0.len() == round + 1);
    }
    let mut table = Table::new();
    table.set_header(["10,000 nodes", "median ms", "worst ms", "limit ms", "writes"]);
    table.add_row(first.row("first apply", "5000", first_writes));
    table.add_row(observed.row("unchanged, after a restart", "100", writes));
    table.add_row(unchanged.row("unchanged, observed again", "100", writes));
    table.add_row(cached_time.row("unchanged, cached", "100", cached_writes));
    table.add_row(one_node.row("one node changed, cached", "5", one_writes));
    table.add_row(nft_first.row("10,000 prefixes, the table alone", "1000", 1));
    table.add_row(nft_again.row("10,000 prefixes, unchanged", "50", 0));
    table
}

fn main() {
    let table = in_new_network(|| {
        ip("link add wl0 type veth peer name far");
        ip("link set far up");
        ip("link set wl0 up mtu 1420");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(measure())
    });
    println!("{table}");
}
