//! Machines in four regions that a cluster makes one mesh: `wireloom agent` on each, a real API server on one more, and
//! real packets of both families.
//!
//! Each scenario has a cluster of its own, so that they run side by side, more of them than there are processors: most of
//! their time they wait, such as for a node to be missed, which takes a minute.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests fail as the test does"
)]

mod addresses;
mod clocks;
mod doctor;
mod gateways;
mod kilo;
mod many;
mod names;
mod nodes;
mod outage;
mod peers;
mod process;
mod rig;

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use wireloom_lab::Region;

/// How many scenarios run at once for each processor, unless `--test-threads` says how many do.
const FOR_EACH_PROCESSOR: usize = 2;

/// Scenarios as trials of their names.
macro_rules! trials {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($name)), $module::$name)),*]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(FOR_EACH_PROCESSOR * processors);
    // The longest first, so that nothing waits for them in the end.
    let mut trials = trials![
        clocks::a_node_whose_clock_is_a_day_ahead_is_a_node_like_any_other,
        gateways::a_gateway_that_lives_and_does_not_forward_is_replaced,
        gateways::a_gateway_is_drained_without_a_lost_connection_and_one_that_dies_is_replaced,
        kilo::nodes_plan_as_kilo_does_until_its_last_agent_goes_and_keep_their_connections_then,
        many::of_two_hundred_nodes_five_are_real_and_ask_little_of_the_cluster_and_of_their_machines,
        addresses::of_two_nodes_with_one_private_address_in_different_regions_both_are_reached,
        addresses::two_nodes_behind_one_public_address_are_two_peers,
        addresses::a_node_that_gets_other_addresses_says_so_and_is_reached_there,
        doctor::a_healthy_node_is_told_so_before_during_and_after_and_its_mesh_comes_from_where_it_is_known,
        doctor::what_an_agent_may_not_is_found_with_the_rule_that_is_missing,
        doctor::what_stands_in_the_way_of_a_node_is_found_by_name_before_its_first_start,
        names::a_node_is_found_by_its_name_where_it_has_moved_to,
        nodes::a_node_comes_moves_goes_and_comes_back_and_nobody_else_notices,
        nodes::a_node_with_a_new_key_or_a_new_name_is_the_same_machine,
        outage::what_happened_while_a_watch_was_cut_is_found_though_etcd_has_forgotten_it,
        peers::a_peer_comes_changes_and_goes_and_a_wrong_one_hurts_nobody,
        process::an_agent_is_killed_and_started_again_under_load_and_no_connection_is_lost,
    ];
    // Waits for a quarter of an hour; `cargo xtask test` runs it beside the others.
    let ignored = trials![
        outage::nothing_is_lost_while_the_api_server_is_away_for_ten_minutes_not_even_a_node_that_is_rebooted,
    ];
    trials.extend(ignored.into_iter().map(|trial| trial.with_ignored_flag(true)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// One that says how long it took, on a thread of its name.
fn trial(name: &'static str, scenario: fn()) -> Trial {
    Trial::test(name, move || {
        let begin = Instant::now();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(scenario)?;
        // The panic has told why already.
        thread.join().map_err(|_| Failed::without_message())?;
        println!("{name}: {:.0} s", begin.elapsed().as_secs_f64());
        Ok(())
    })
}

/// The regions of the demo: Amsterdam, Warsaw, London at another provider, and Ireland behind NAT.
fn regions() -> Vec<Region> {
    vec![
        Region::new("nl-ams", &["ams-1", "ams-2"]),
        Region::new("pl-waw", &["waw-1"]),
        Region::new("uk-lon", &["lon-1"]),
        Region::new("ire", &["ire-1"]).behind_nat(),
    ]
}

/// What every scenario needs of its machine.
macro_rules! need_all {
    () => {
        wireloom_testkit::need!(root);
        wireloom_testkit::need!(device "/dev/net/tun");
        wireloom_testkit::need!(cluster);
        wireloom_testkit::need!(program "ip");
        wireloom_testkit::need!(program "nft");
        wireloom_testkit::need!(program "ping");
    };
}
use need_all;
