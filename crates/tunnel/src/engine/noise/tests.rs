use super::super::tests::{NOW, wall};
use super::*;

fn engine(wall: Wall) -> Engine {
    let own = Identity::new(&PrivateKey::from_random([1; 32]));
    let peer = PrivateKey::from_random([2; 32]).public_key();
    Engine::new(&own, &peer, None, 9, Limits::WIREGUARD, wall)
}

#[test]
fn timestamps_rise_while_the_wall_clock_stands_still_or_is_set_back() {
    fn backwards(now: Moment) -> Duration {
        Duration::from_secs(1_000_000).saturating_sub(now.since_boot())
    }
    for wall in [(|_| Duration::ZERO) as Wall, backwards, wall] {
        let mut engine = engine(wall);
        let mut last = None;
        for second in 0..5 {
            let now = NOW + Duration::from_secs(second);
            assert_eq!(engine.initiate(now, &mut [0; 148]), Some(148));
            assert!(engine.sent > last);
            last = engine.sent;
        }
        let mut next = self::engine(wall);
        next.succeed(&engine);
        next.initiate(NOW, &mut [0; 148]).unwrap();
        assert!(next.sent > last);
    }
}

#[test]
fn nothing_is_begun_with_a_key_that_is_none() {
    let own = Identity::new(&PrivateKey::from_random([1; 32]));
    let peer = PublicKey::from_bytes([0; 32]);
    let mut engine = Engine::new(&own, &peer, None, 9, Limits::WIREGUARD, wall);
    assert_eq!(engine.initiate(NOW, &mut [0; 148]), None);
}

#[test]
fn a_cookie_is_shown_for_two_minutes() {
    let mut engine = engine(wall);
    engine.cookie = Some(([3; 16], NOW));
    let mut shows = |seconds| {
        let mut message = [0; 148];
        engine.initiate(NOW + Duration::from_secs(seconds), &mut message).unwrap();
        message[132..] != [0; 16]
    };
    assert!(shows(0) && shows(119) && !shows(120) && !shows(121));
}

#[test]
fn an_old_handshake_is_forgotten_with_the_old_sessions() {
    let mut engine = engine(wall);
    engine.initiate(NOW, &mut [0; 148]).unwrap();
    engine.forget(NOW + (REKEY_ATTEMPT_TIME - Duration::from_secs(1)));
    assert!(engine.pending[0].is_some());
    engine.forget(NOW + REKEY_ATTEMPT_TIME);
    assert!(engine.pending[0].is_none());
}
