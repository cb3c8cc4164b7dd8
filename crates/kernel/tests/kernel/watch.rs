//! What others do to our things is seen and repaired, in namespaces of the tests' own.

use wireloom_kernel::{Event, Watch};
use wireloom_model::kernel::KernelState;
use wireloom_testkit::need;

use crate::support::*;

/// Waits for an event of this kind; the test's deadline ends the wait.
async fn until(watch: &mut Watch, mut is_it: impl FnMut(&Event) -> bool) {
    loop {
        let Some(event) = watch.next().await else { panic!("the watch has ended") };
        if is_it(&event) {
            return;
        }
    }
}

#[test]
fn a_flushed_route_is_seen_and_repaired() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &mesh()).await;
        let mut watch = host.watch().await.unwrap();
        for (family, destination) in [("-4", "10.5.0.0/16"), ("-6", "fd05::/32")] {
            ip(&format!("{family} route flush {destination}"));
            let lost = Event::RouteLost { key: key(destination) };
            until(&mut watch, |event| *event == lost).await;
            bring(&host, &mesh()).await;
            assert_has(&host, &mesh()).await;
        }
    });
}

#[test]
fn a_displaced_route_is_seen() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &mesh()).await;
        let mut watch = host.watch().await.unwrap();
        for (family, destination, gateway) in
            [("-4", "10.5.0.0/16", "192.0.2.7"), ("-6", "fd05::/32", "2001:db8::7")]
        {
            ip(&format!("{family} route replace {destination} via {gateway}"));
            let lost = Event::RouteLost { key: key(destination) };
            until(&mut watch, |event| *event == lost).await;
        }
    });
}

#[test]
fn links_and_addresses_are_followed() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        bring(&host, &mesh()).await;
        let mut watch = host.watch().await.unwrap();
        ip("address delete 10.4.0.1/32 dev wl0");
        let gone = address("10.4.0.1/32");
        let gone = Event::AddressChanged { link: gone.link, address: gone.address, present: false };
        until(&mut watch, |event| *event == gone).await;
        ip("link set wl0 down");
        until(
            &mut watch,
            |event| matches!(event, Event::LinkChanged { link } if link.name == wl0() && !link.up),
        )
        .await;
        bring(&host, &mesh()).await;
        assert_has(&host, &mesh()).await;
        ip("link delete wl0");
        until(&mut watch, |event| *event == Event::LinkGone { link: wl0() }).await;
        our_link();
        until(
            &mut watch,
            |event| matches!(event, Event::LinkChanged { link } if link.name == wl0() && link.up),
        )
        .await;
        bring(&host, &mesh()).await;
        assert_has(&host, &mesh()).await;
    });
}

#[test]
fn more_events_than_the_buffer_holds_are_an_overrun_and_the_watch_goes_on() {
    need!(root);
    need!(program "ip");
    on_a_host(|host| async move {
        let mut watch = host.watch().await.unwrap();
        for _ in 0..4 {
            bring(&host, &many_routes(2000)).await;
            bring(&host, &KernelState::default()).await;
        }
        until(&mut watch, |event| *event == Event::Overrun).await;
        ip("link delete wl0");
        until(&mut watch, |event| *event == Event::LinkGone { link: wl0() }).await;
    });
}
