use super::*;

const NOW: Moment = Moment::new(Duration::from_secs(50));

fn after(seconds: u64) -> Moment {
    NOW + Duration::from_secs(seconds)
}

/// What is due up to then, each with the second it was due at.
fn due(timers: &mut Timers, end: u64) -> Vec<(u64, Due)> {
    let mut taken = Vec::new();
    while let Some(at) = timers.next().filter(|at| *at <= after(end)) {
        while let Some(due) = timers.take_due(at) {
            taken.push((at.since(NOW).as_secs(), due));
        }
    }
    taken
}

#[test]
fn nothing_is_due_while_nothing_happens() {
    assert_eq!(Timers::default().next(), None);
}

#[test]
fn data_that_came_in_is_answered_once() {
    let mut timers = Timers::default();
    timers.data_received(NOW);
    timers.data_received(after(1));
    assert_eq!(due(&mut timers, 100), [(10, Due::Keepalive)]);
    timers.data_received(NOW);
    timers.sent(after(9));
    assert_eq!(due(&mut timers, 100), []);
}

#[test]
fn silence_after_the_first_unanswered_data_counts() {
    let mut timers = Timers::default();
    timers.data_sent(NOW, Duration::ZERO);
    timers.data_sent(after(10), Duration::ZERO);
    assert_eq!(due(&mut timers, 15), [(15, Due::Handshake)]);
    timers.data_sent(NOW, Duration::ZERO);
    timers.received(after(1));
    assert_eq!(due(&mut timers, 100), []);
}

#[test]
fn an_attempt_is_repeated_until_it_is_given_up() {
    let mut timers = Timers::default();
    timers.initiated(NOW, Duration::ZERO);
    assert!(
        timers.is_shaking_hands()
            && !timers.may_initiate(after(4))
            && timers.may_initiate(after(5))
    );
    assert_eq!(due(&mut timers, 6), [(5, Due::Retry)]);
    timers.initiated(after(6), Duration::from_millis(300));
    assert_eq!(due(&mut timers, 11), []);
    assert_eq!(due(&mut timers, 12), [(11, Due::Retry)]);
    // A packet that waits keeps the attempt alive.
    timers.packet_waits(after(60));
    let later = due(&mut timers, 200);
    assert_eq!(later.last(), Some(&(150, Due::GiveUp)));
    assert!(!timers.is_shaking_hands());
    assert_eq!(due(&mut timers, 1_000), [(690, Due::Forget)]);
}

#[test]
fn a_complete_handshake_leaves_only_the_time_to_forget() {
    let mut timers = Timers::default();
    timers.initiated(NOW, Duration::ZERO);
    timers.session_began(after(1));
    timers.handshake_complete();
    assert_eq!(due(&mut timers, 1_000), [(541, Due::Forget)]);
    assert_eq!(timers.next(), None);
}

#[test]
fn traffic_moves_the_persistent_keepalive() {
    let mut timers = Timers::default();
    timers.set_interval(NOW, 25);
    assert_eq!(timers.take_due(NOW), Some(Due::PersistentKeepalive));
    timers.received(after(10));
    assert_eq!(
        due(&mut timers, 70),
        [(35, Due::PersistentKeepalive), (60, Due::PersistentKeepalive)]
    );
    timers.initiated(after(61), Duration::ZERO);
    timers.handshake_complete();
    assert_eq!(timers.next(), Some(after(86)));
    timers.set_interval(after(70), 5);
    assert_eq!(timers.next(), Some(after(75)));
    timers.set_interval(after(70), 0);
    assert_eq!(timers.next(), None);
}

#[test]
fn nothing_is_answered_once_the_peer_is_given_up() {
    let mut timers = Timers::default();
    timers.initiated(NOW, Duration::ZERO);
    timers.data_received(after(89));
    while timers.take_due(after(90)) != Some(Due::GiveUp) {}
    assert_eq!(due(&mut timers, 200), []);
}
