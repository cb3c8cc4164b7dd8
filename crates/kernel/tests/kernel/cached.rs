//! A state that is kept rather than observed, in namespaces of the tests' own.

use wireloom_kernel::{ApplyReport, Cached, Event, Host, diff};
use wireloom_model::Family;
use wireloom_model::kernel::{KernelState, Nft, NftSet, Rule};
use wireloom_testkit::need;

use crate::support::*;

/// A state with everything that events tell of.
fn wanted() -> KernelState {
    KernelState {
        rules: [Rule::all(Family::V4, 500, 7000)].into(),
        nft: Some(Nft {
            sets: [(NftSet::Mesh, prefixes(&["10.4.0.0/16", "fd04::/16"]))].into(),
            masquerade: true,
            clamp: [wl0()].into(),
            ..Nft::default()
        }),
        ..mesh()
    }
}

fn whole(report: ApplyReport) -> usize {
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
    report.written
}

/// Asserts that the host has the state, by eyes of its own.
async fn assert_is(desired: &KernelState) {
    let observed = Host::new().unwrap().observe(&[wl0()]).await.unwrap();
    assert_eq!(diff(desired, &observed), vec![]);
}

#[test]
fn nothing_is_written_twice_and_one_change_is_one_write() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let mut cached = Cached::new(&host, vec![wl0()]).await.unwrap();
        assert!(whole(cached.bring(&wanted()).await.unwrap()) > 10);
        for _ in 0..3 {
            assert_eq!(whole(cached.bring(&wanted()).await.unwrap()), 0);
        }
        let mut changed = wanted();
        changed.routes.insert(key("10.9.0.0/16"), out_of_wl0(None));
        assert_eq!(whole(cached.bring(&changed).await.unwrap()), 1);
        assert_is(&changed).await;
        assert_eq!(whole(cached.bring(&wanted()).await.unwrap()), 1);
        assert_is(&wanted()).await;
    });
}

/// Each harm in the words of a shell, and whether something is to be written because of it.
const HARMS: [(&str, bool); 15] = [
    ("ip route flush 10.5.0.0/16", true),
    ("ip -6 route delete fd06::/32", true),
    ("ip route flush table 1000", true),
    ("ip rule delete priority 500", true),
    ("nft flush chain inet wireloom postrouting", true),
    ("nft delete table inet wireloom", true),
    ("ip address delete 10.4.0.1/32 dev wl0", true),
    ("ip address add 10.4.0.9/32 dev wl0", true),
    ("ip link set wl0 down", true),
    ("ip link set wl0 mtu 1300", true),
    // The kernel drops what led out of it without a word.
    (
        "ip link set eth0 down && ip link set eth0 up && ip -6 address add 2001:db8::1/64 dev eth0 nodad",
        true,
    ),
    ("ip address delete 192.0.2.1/24 dev eth0 && ip address add 192.0.2.1/24 dev eth0", true),
    ("ip link add other type veth && ip link set other up && ip link delete other", false),
    ("ip address add 198.51.100.1/24 dev eth0", false),
    ("nft add table ip theirs && ip route add 203.0.113.0/24 dev eth0", false),
];

#[test]
fn what_others_do_is_told_and_repaired() {
    need!(root);
    need!(program "ip");
    need!(program "nft");
    on_a_host(|host| async move {
        let mut cached = Cached::new(&host, vec![wl0()]).await.unwrap();
        whole(cached.bring(&wanted()).await.unwrap());
        for (harm, does_harm) in HARMS {
            shell(harm);
            if does_harm {
                cached.changed().await.unwrap();
            }
            until_usable("2001:db8::1");
            // The kernel may tell more yet; what it has told is looked at each time.
            let mut written = 0;
            for _ in 0..3 {
                written += whole(cached.bring(&wanted()).await.unwrap());
            }
            assert_eq!(written > 0, does_harm, "{harm}: {written}");
            assert_is(&wanted()).await;
        }
    });
}

#[test]
fn lost_events_and_forgetting_have_everything_observed_anew() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let mut cached = Cached::new(&host, vec![wl0()]).await.unwrap();
        whole(cached.bring(&wanted()).await.unwrap());
        // The kernel tells of an IPv6 address some time after it was put there.
        until_usable("fd04::1");
        whole(cached.bring(&wanted()).await.unwrap());
        // Nobody is told of settings.
        let mut set = wanted();
        set.settings.insert((wl0(), wireloom_model::kernel::LinkSetting::RpFilter), 2);
        assert_eq!(whole(cached.bring(&set).await.unwrap()), 1);
        std::fs::write("/proc/sys/net/ipv4/conf/wl0/rp_filter", "0").unwrap();
        assert_eq!(whole(cached.bring(&set).await.unwrap()), 0);
        cached.forget();
        assert_eq!(whole(cached.bring(&set).await.unwrap()), 1);
        // More than the buffer holds, with the loss of a rule amid it.
        let other = Host::new().unwrap();
        ip("rule delete priority 500");
        for _ in 0..4 {
            let many = diff(&many_routes(2000), &KernelState::default());
            whole(other.apply(&many).await.unwrap());
            let none = diff(&KernelState::default(), &many_routes(2000));
            whole(other.apply(&none).await.unwrap());
        }
        while cached.changed().await != Some(Event::Overrun) {}
        assert_eq!(whole(cached.bring(&set).await.unwrap()), 1);
        assert_is(&set).await;
    });
}
