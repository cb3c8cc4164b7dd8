//! Policy rules and settings of links, in namespaces of the tests' own.

use wireloom_kernel::{Change, Event, Host, diff};
use wireloom_model::Family;
use wireloom_model::kernel::{KernelState, Link, LinkSetting, Mark, Route, RouteKey, Rule};
use wireloom_testkit::need;

use crate::support::*;

/// Rules with every condition, in both families.
fn rules() -> KernelState {
    let v4 = Rule::all(Family::V4, 500, 1107);
    let v6 = Rule::all(Family::V6, 500, 70_000);
    let mark = Some(Mark { value: 0x10, mask: 0xf0 });
    let rules = [
        v4.clone(),
        Rule { from: Some("10.42.0.0/24".parse().unwrap()), ..v4.clone() },
        Rule { to: Some("10.0.0.2/32".parse().unwrap()), input: Some(wl0()), ..v4.clone() },
        Rule { mark, priority: 400, suppress: Some(0), ..v4 },
        Rule { from: Some("fd42::/64".parse().unwrap()), mark, ..v6.clone() },
        Rule { input: Some("wl9".parse().unwrap()), ..v6.clone() },
        v6,
    ];
    KernelState { rules: rules.into(), ..KernelState::default() }
}

#[test]
fn rules_are_made_kept_and_taken_away_beside_those_of_others() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("rule add from 10.42.0.0/24 lookup 1107 priority 501");
        ip("-6 rule add iif eth0 lookup 5 priority 500");
        ip("rule add to 198.51.100.0/24 blackhole priority 499");
        let before = snapshot();
        let host = Host::new().unwrap();
        let (changes, report) = bring(&host, &rules()).await;
        assert_eq!((changes.len(), report.written), (7, 7));
        let observed = host.observe(&[]).await.unwrap();
        assert_eq!(observed.rules, rules().rules);
        assert_eq!(diff(&rules(), &observed), vec![]);
        let during = snapshot();
        assert!(before.iter().all(|entry| during.contains(entry)));
        bring(&host, &KernelState::default()).await;
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_rule_of_others_just_like_ours_is_told_apart() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        ip("rule add from 10.42.0.0/24 lookup 1107 priority 500 protocol bird");
        let before = snapshot();
        let host = Host::new().unwrap();
        let (changes, _) = bring(&host, &rules()).await;
        assert_eq!(host.observe(&[]).await.unwrap().rules, rules().rules);
        // One of ours that came since the state was observed is what was asked for.
        let report = host.apply(&changes).await.unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(report.written, 0);
        bring(&host, &KernelState::default()).await;
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn rules_that_another_tool_eats_are_seen_and_repaired() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let mut watch = host.watch().await.unwrap();
        bring(&host, &rules()).await;
        for family in ["-4", "-6"] {
            ip(&format!("{family} rule flush"));
            let rule = loop {
                match watch.next().await {
                    Some(Event::RuleLost { rule }) => break rule,
                    Some(_) => {}
                    None => panic!("the watch has ended"),
                }
            };
            assert!(rules().rules.contains(&rule), "{rule}");
            bring(&host, &rules()).await;
            assert_eq!(host.observe(&[]).await.unwrap().rules, rules().rules);
        }
    });
}

#[test]
fn settings_of_our_links_are_kept_and_others_are_left() {
    need!(root);
    need!(program "ip");
    in_namespace(|| async {
        two_links();
        let read = |file: &str| std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap();
        let eth0 = ["ipv4/conf/eth0/rp_filter", "ipv6/conf/eth0/accept_ra"].map(read);
        let values = [
            (LinkSetting::AcceptRa, 0),
            (LinkSetting::DisablePolicy, 1),
            (LinkSetting::DisableXfrm, 1),
            (LinkSetting::RpFilter, 2),
        ];
        let wanted = KernelState {
            links: [(wl0(), Link::held(1420))].into(),
            settings: values.map(|(setting, value)| ((wl0(), setting), value)).into(),
            ..KernelState::default()
        };
        let host = Host::new().unwrap();
        bring(&host, &wanted).await;
        assert_eq!(host.observe(&[wl0()]).await.unwrap().settings, wanted.settings);
        assert_eq!(read("ipv6/conf/wl0/disable_policy"), "1\n");
        std::fs::write("/proc/sys/net/ipv6/conf/wl0/disable_policy", "0").unwrap();
        let (changes, _) = bring(&host, &wanted).await;
        assert_eq!(changes, [Change::SetSetting(wl0(), LinkSetting::DisablePolicy, 1)]);
        assert_eq!(["ipv4/conf/eth0/rp_filter", "ipv6/conf/eth0/accept_ra"].map(read), eth0);
        // A link that is not there has no settings, and one that went while we looked is no failure.
        let gone = Change::SetSetting("wl9".parse().unwrap(), LinkSetting::RpFilter, 2);
        let report = host.apply(std::slice::from_ref(&gone)).await.unwrap();
        assert!(report.failed.is_empty());
        assert_eq!(report.skipped, [gone]);
    });
}

#[test]
fn a_route_that_leads_nowhere_is_made_once_and_goes_again() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let mut state = mesh();
        for to in ["10.66.0.0/24", "fd66::/64"] {
            let key = RouteKey { table: 1066, ..RouteKey::main(to.parse().unwrap()) };
            state.routes.insert(key, Route::default());
        }
        bring(&host, &state).await;
        for family in ["-4", "-6"] {
            let shown = ip(&format!("{family} route show table 1066"));
            assert!(shown.starts_with("unreachable"), "{shown}");
        }
        let (changes, report) = bring(&host, &state).await;
        assert_eq!((changes.len(), report.written), (0, 0), "{changes:?}");
        bring(&host, &mesh()).await;
        assert_has(&host, &mesh()).await;
    });
}
