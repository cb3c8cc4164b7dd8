use std::time::Duration;

use super::*;

const NOW: Moment = Moment::new(Duration::from_secs(3));
const LIMIT: u64 = 10_000;
const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

/// The two ends of a session.
fn pair() -> [Session; 2] {
    let keys = |sealing: u8, opening: u8| Keys {
        sealing: [sealing; 32].into(),
        opening: [opening; 32].into(),
    };
    [
        Session::new([1, 2], true, NOW, LIMIT, &keys(7, 8)),
        Session::new([2, 1], false, NOW, LIMIT, &keys(8, 7)),
    ]
}

/// Seals on the session under a number not used before.
fn seal(session: &Session, number: u64, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; packet.len() + DATA_OVERHEAD];
    buffer[16..16 + packet.len()].copy_from_slice(packet);
    let skipped = number - session.sealed();
    let number = session.reserve(skipped + 1).unwrap().last().unwrap();
    assert_eq!(session.seal(number, packet.len(), &mut buffer), buffer.len());
    buffer
}

fn open(session: &Session, number: u64, message: &[u8]) -> Result<Opened, DropReason> {
    let mut buffer = vec![0; message.len() - 16];
    session.receiver().open(number, message, &mut buffer).map_err(|refused| refused.reason)
}

#[test]
fn what_one_end_seals_the_other_opens_once() {
    let [one, other] = pair();
    assert!(one.is_confirmed() && !other.is_confirmed());
    let late = seal(&one, 4, &[]);
    for (number, confirms) in [(5, true), (6, false)] {
        let message = seal(&one, number, &PACKET);
        assert_eq!(message[..8], [4, 0, 0, 0, 2, 0, 0, 0]);
        let source = "10.0.0.1".parse().unwrap();
        let opened = Opened { packet: Some((20, source)), confirms, is_newest: true };
        assert_eq!(open(&other, number, &message), Ok(opened));
        assert_eq!(open(&other, number, &message), Err(DropReason::Replay));
        // The end that sealed it does not take it back.
        assert_eq!(open(&one, number, &message), Err(DropReason::BadTag));
    }
    let late = open(&other, 4, &late).unwrap();
    assert_eq!(late, Opened { packet: None, confirms: false, is_newest: false });
    assert!(other.is_confirmed());
}

#[test]
fn a_message_that_does_not_authenticate_leaves_the_window_alone() {
    let [one, other] = pair();
    let message = seal(&one, 9_000, &PACKET);
    assert_eq!(open(&other, 9_001, &message), Err(DropReason::BadTag));
    for place in 16..message.len() {
        let mut spoilt = message.clone();
        spoilt[place] ^= 0x80;
        assert_eq!(open(&other, 9_000, &spoilt), Err(DropReason::BadTag));
    }
    assert!(!other.is_confirmed());
    assert!(open(&other, 9_000, &message).is_ok());
}

#[test]
fn numbers_are_taken_whole_or_not_at_all_and_end_at_the_limit() {
    let [one, other] = pair();
    let last = seal(&one, LIMIT - 2, &PACKET);
    assert!(one.reserve(2).is_none());
    assert_eq!(one.sealed(), LIMIT - 1);
    assert!(open(&other, LIMIT - 2, &last).is_ok());
    let last = seal(&one, LIMIT - 1, &PACKET);
    assert!(one.reserve(1).is_none());
    assert_eq!(one.sealed(), LIMIT);
    assert!(open(&other, LIMIT - 1, &last).is_ok());
    // The sender does not know the limit.
    assert_eq!(open(&other, LIMIT, &last), Err(DropReason::Expired));
}
