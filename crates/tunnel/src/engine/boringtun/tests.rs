use super::super::tests::{Ends, NOW, ends};
use super::super::{Engine as Either, EngineKind};
use super::*;

fn engine(ends: &Ends) -> &Engine {
    let Either::Boringtun(engine) = &ends.ours else { panic!("another engine") };
    engine
}

#[test]
fn the_session_sent_on_outlives_unconfirmed_ones_until_they_take_its_place() {
    let mut ends = ends(EngineKind::Boringtun, None);
    ends.we_begin();
    for round in 0..RING {
        assert!(ends.ours.sending(NOW).is_some(), "gone in round {round}");
        let initiation = ends.they_initiate();
        ends.we_answer(&initiation).unwrap();
    }
    // Eight responses were lost in a row; `Tunn` has overwritten the session, and the record knows.
    assert_eq!(ends.ours.sending(NOW), None);
    assert_eq!(ends.we_seal(), None);
}

#[test]
fn the_record_counts_as_the_messages_do() {
    let mut ends = ends(EngineKind::Boringtun, None);
    ends.we_begin();
    for count in 1..5u64 {
        let message = ends.we_seal().unwrap();
        assert_eq!(message[8..16], count.to_le_bytes());
    }
    let engine = engine(&ends);
    let session = engine.sessions[engine.current.unwrap()].unwrap();
    assert_eq!(session.sealed, 5);
}
