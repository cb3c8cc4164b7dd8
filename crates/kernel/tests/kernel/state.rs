//! Desired state meets a real kernel, in namespaces of the tests' own.

use std::net::UdpSocket;
use std::task::Poll;
use std::time::Instant;

use wireloom_kernel::{Cached, Change, ChangeError, Host, HostError, diff};
use wireloom_model::kernel::{KernelState, Link};
use wireloom_testkit::need;

use crate::support::*;

#[test]
fn what_is_applied_is_observed_and_a_second_time_writes_nothing() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("link set wl0 down mtu 1500");
        let host = Host::new().unwrap();
        let (changes, report) = bring(&host, &mesh()).await;
        assert_eq!(report.written, changes.len());
        let observed = assert_has(&host, &mesh()).await;
        assert_eq!(observed.links, mesh().links);
        let (changes, report) = bring(&host, &mesh()).await;
        assert_eq!((changes.len(), report.written), (0, 0));
    });
}

#[test]
fn what_is_there_from_an_earlier_run_is_no_error() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let (changes, _) = bring(&host, &mesh()).await;
        let again = host.apply(&changes).await.unwrap();
        assert!(again.failed.is_empty(), "{:?}", again.failed);
        let deletions = diff(&KernelState::default(), &host.observe(&[wl0()]).await.unwrap());
        for written in [deletions.len(), 0] {
            let report = host.apply(&deletions).await.unwrap();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
            assert_eq!(report.written, written);
        }
    });
}

#[test]
fn foreign_things_survive_and_a_clean_exit_leaves_nothing() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        // Not one of IPv4 out of `wl0`: those go with a link's last IPv4 address, whoever made them.
        ip("route add 203.0.113.0/24 dev eth0");
        ip("route add 10.5.0.0/16 via 192.0.2.7 metric 7");
        ip("route add 10.5.0.0/16 dev eth0 table 1000");
        ip("-6 route add fd05::/32 via 2001:db8::7 metric 7");
        ip("-6 route add fd99::/32 dev wl0 proto bird");
        let before = snapshot();
        let host = Host::new().unwrap();
        bring(&host, &mesh()).await;
        let routes_beside = snapshot();
        for route in before.iter().filter(|entry| entry.get("dst").is_some()) {
            assert!(routes_beside.contains(route), "{route} is gone");
        }
        assert_ne!(routes_beside, before);
        bring(&host, &KernelState::default()).await;
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_foreign_route_in_our_place_is_named_and_stays() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("route add 10.5.0.0/16 via 192.0.2.7 proto bird");
        ip("-6 route add fd05::/32 via 2001:db8::7 proto bird");
        let host = Host::new().unwrap();
        let report =
            host.apply(&diff(&mesh(), &host.observe(&[wl0()]).await.unwrap())).await.unwrap();
        assert_eq!(report.failed.len(), 2, "{:?}", report.failed);
        for error in &report.failed {
            assert!(matches!(error, ChangeError::Foreign { protocol: 12, .. }), "{error}");
            assert!(error.to_string().contains("eth0"), "{error}");
        }
        assert!(ip("route show 10.5.0.0/16 proto bird").contains("192.0.2.7"));
        assert!(ip("-6 route show fd05::/32 proto bird").contains("2001:db8::7"));
        assert_eq!(diff(&mesh(), &host.observe(&[wl0()]).await.unwrap()).len(), 2);
    });
}

#[test]
fn a_link_made_anew_gets_everything_back() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &mesh()).await;
        let index = host.link(&wl0()).await.unwrap().unwrap().index;
        ip("link delete wl0");
        assert_eq!(host.link(&wl0()).await.unwrap(), None);
        our_link();
        assert_ne!(host.link(&wl0()).await.unwrap().unwrap().index, index);
        bring(&host, &mesh()).await;
        assert_has(&host, &mesh()).await;
    });
}

#[test]
fn an_ipv6_address_is_usable_at_once() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &mesh()).await;
        UdpSocket::bind("[fd04::1]:0").unwrap();
    });
}

#[test]
fn a_route_outlives_the_change_of_its_source_within_a_network() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let with = |host: &str| {
            let mut state = KernelState::default();
            state.addresses.insert(address(&format!("10.4.0.{host}/16")));
            let route = out_of_wl0(Some(&format!("10.4.0.{host}")));
            state.routes.insert(key("10.5.0.0/16"), route);
            state
        };
        let host = Host::new().unwrap();
        bring(&host, &with("1")).await;
        bring(&host, &with("2")).await;
        assert_has(&host, &with("2")).await;
    });
}

#[test]
fn a_route_keeps_its_source_when_the_address_changes_its_length() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let with = |length: u8| {
            let mut state = KernelState::default();
            state.addresses.insert(address(&format!("fd04::1/{length}")));
            state.addresses.insert(address(&format!("10.4.0.1/{}", length / 4)));
            state.routes.insert(key("fd05::/32"), out_of_wl0(Some("fd04::1")));
            state.routes.insert(key("10.5.0.0/16"), out_of_wl0(Some("10.4.0.1")));
            state
        };
        let host = Host::new().unwrap();
        for length in [128, 64, 128] {
            bring(&host, &with(length)).await;
            assert_has(&host, &with(length)).await;
        }
    });
}

#[test]
fn what_fails_is_named_and_the_rest_is_made() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("link set eth0 down");
        std::fs::write("/proc/sys/net/ipv6/conf/wl0/disable_ipv6", "1").unwrap();
        let eth0 = "eth0".parse().unwrap();
        let on_eth0 = wireloom_model::kernel::Route { link: Some(eth0), ..by("192.0.2.9") };
        let missing: wireloom_model::InterfaceName = "wl9".parse().unwrap();
        let changes = [
            Change::SetLink(missing.clone(), Link::held(1420)),
            Change::AddRoute(key("10.6.0.0/16"), by("203.0.113.9")),
            Change::AddRoute(key("10.7.0.0/16"), on_eth0),
            Change::AddAddress(address("fd04::1/128")),
            Change::AddAddress(address("10.4.0.1/32")),
        ];
        let host = Host::new().unwrap();
        let report = host.apply(&changes).await.unwrap();
        assert_eq!(report.written, 1);
        assert_eq!(report.skipped, [changes[2].clone()]);
        let [ChangeError::NoLink { link, .. }, refused @ ..] = report.failed.as_slice() else {
            panic!("{:?}", report.failed);
        };
        assert_eq!(*link, missing);
        let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
        let [route, address] = texts.as_slice() else { panic!("{texts:?}") };
        for part in ["10.6.0.0/16 via 203.0.113.9", "unreachable", "link that is up"] {
            assert!(route.contains(part), "{route:?} lacks {part:?}");
        }
        for part in ["put fd04::1/128 on wl0", "ermission denied", "conf.wl0.disable_ipv6"] {
            assert!(address.contains(part), "{address:?} lacks {part:?}");
        }
    });
}

#[test]
fn a_thousand_routes_are_a_moments_work() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let begin = Instant::now();
        let (_, report) = bring(&host, &many_routes(1000)).await;
        println!("1,000 routes in {:?}", begin.elapsed());
        assert_eq!(report.written, 1000);
        assert_has(&host, &many_routes(1000)).await;
        bring(&host, &KernelState::default()).await;
        assert_has(&host, &KernelState::default()).await;
    });
}

/// The kernel leaves things out of a list while others change, and does not always say so.
#[test]
fn what_a_list_leaves_out_is_neither_lost_nor_taken_for_foreign() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let addresses = (0..500).map(|n| address(&format!("fd04::{n:x}/128")));
        let routes = (0..2000).map(|n| (key(&format!("fd05:{n:x}::/48")), out_of_wl0(None)));
        let stable = KernelState {
            addresses: addresses.collect(),
            routes: routes.collect(),
            ..KernelState::default()
        };
        let host = Host::new().unwrap();
        bring(&host, &stable).await;
        for (kind, prefix, suffix) in [
            ("address", "2001:db8:1::1", "/128 dev eth0"),
            ("route", "fd05:8000", "::/48 dev eth0 proto bird"),
        ] {
            let mut churn = Churn::begin(kind, prefix, suffix);
            while churn.goes_on() {
                let observed = match host.observe(&[wl0()]).await {
                    Err(HostError::Interrupted { .. }) => continue,
                    observed => observed.unwrap(),
                };
                let report = host.apply(&diff(&stable, &observed)).await.unwrap();
                for error in &report.failed {
                    assert!(matches!(error, ChangeError::Unclear { .. }), "{error}");
                }
            }
            assert_has(&host, &stable).await;
        }
    });
}

#[test]
fn who_gives_up_waiting_leaves_nothing_half_done_to_the_next() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &many_routes(2000)).await;
        let impatient = host.clone();
        // As a task: the runtime polls the sockets before the test's own future, but not between two tasks, so the
        // next request can come before the answer to the last.
        let impatience = tokio::spawn(async move {
            let ours = [wl0()];
            for turns in (0..500).step_by(3) {
                tokio::select! {
                    biased;
                    observed = impatient.observe(&ours) => drop(observed.unwrap()),
                    () = other_tasks_turn(turns) => {}
                }
            }
        });
        impatience.await.unwrap();
        assert_has(&host, &many_routes(2000)).await;
    });
}

/// Lets every other task that is ready run, this many times.
async fn other_tasks_turn(mut times: u32) {
    std::future::poll_fn(|context| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    assert!(matches!(Host::new(), Err(HostError::NoRuntime)));
}

#[test]
fn a_host_can_be_used_from_any_task() {
    fn is_send<T: Send>(_: T) {}
    let _ = |host: Host| {
        is_send(host.observe(&[]));
        is_send(host.apply(&[]));
        is_send(host.watch());
        is_send(host.route_conflicts(&[], &[]));
        let watched = host.clone();
        is_send(async move { watched.watch().await.unwrap().next().await });
        is_send(async move {
            let mut cached = Cached::new(&host, vec![]).await.unwrap();
            cached.bring(&KernelState::default()).await.unwrap();
            cached.changed().await
        });
    };
}
