//! The engine against a bare `Tunn`, which keeps its own timers and sessions.

use std::time::Duration;

use super::*;

const NOW: Moment = Moment::new(Duration::from_secs(7));
const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

/// An engine and a `Tunn` that know each other, and a buffer for each.
struct Ends {
    ours: Engine,
    theirs: Tunn,
    identity: Identity,
}

fn ends(preshared_key: Option<[u8; 32]>) -> Ends {
    let ours = PrivateKey::from_random([1; 32]);
    let theirs = PrivateKey::from_random([2; 32]);
    let identity = Identity::new(&ours);
    let key = preshared_key.map(PresharedKey::from_bytes);
    let limits = Limits::WIREGUARD;
    let their_key = x25519::PublicKey::from(*theirs.public_key().as_bytes());
    let limiter = Arc::new(RateLimiter::new(&their_key, u64::MAX));
    Ends {
        ours: Engine::new(&identity, &theirs.public_key(), key.as_ref(), 0xabcdef, limits),
        theirs: Tunn::new(
            x25519::StaticSecret::from(*theirs.as_bytes()),
            x25519::PublicKey::from(*ours.public_key().as_bytes()),
            preshared_key,
            None,
            5,
            Some(limiter),
        ),
        identity,
    }
}

impl Ends {
    fn we_seal(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        let length = self.ours.seal(NOW, &PACKET, &mut buffer)?;
        Some(buffer[..length].to_vec())
    }

    fn we_open(&mut self, message: &[u8]) -> Result<Opened, Refused> {
        let Some(Message::Data { receiver, counter }) = Message::parse(message) else {
            panic!("no data message");
        };
        let mut buffer = [0; 2_048];
        let opened = self.ours.open(NOW, receiver, counter, message, &mut buffer)?;
        if let Some((length, source)) = opened.packet {
            assert_eq!(buffer[..length], PACKET);
            assert_eq!(source, "10.0.0.1".parse::<IpAddr>().unwrap());
        }
        Ok(opened)
    }

    fn they_take(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        match self.theirs.decapsulate(None, message, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => Some(answer.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => {
                assert_eq!(packet, PACKET);
                None
            }
            TunnResult::Done => None,
            other => panic!("they refuse: {other:?}"),
        }
    }

    fn they_seal(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2_048];
        match self.theirs.encapsulate(&PACKET, &mut buffer) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("they seal nothing: {other:?}"),
        }
    }

    fn we_begin(&mut self) {
        let mut buffer = [0; HANDSHAKE_ROOM];
        let length = self.ours.initiate(&mut buffer).unwrap();
        let response = self.they_take(&buffer[..length]).unwrap();
        let receiver = u32::from_le_bytes(response[8..12].try_into().unwrap());
        assert_eq!(receiver >> 8, self.ours.index());
        let length = self.ours.complete(NOW, receiver, &response, &mut buffer).ok().unwrap();
        assert_eq!(self.they_take(&buffer[..length]), None);
    }

    fn they_begin(&mut self) {
        let initiation = self.they_seal();
        let ours = self.identity.initiator(&initiation).unwrap();
        assert_eq!(ours, PrivateKey::from_random([2; 32]).public_key());
        let mut buffer = [0; HANDSHAKE_ROOM];
        let length = self.ours.answer(NOW, &initiation, &mut buffer).unwrap();
        assert!(self.ours.confirmation_due(NOW).is_some());
        let keepalive = self.they_take(&buffer[..length]).unwrap();
        assert!(self.we_open(&keepalive).ok().unwrap().confirms);
        let queued = self.they_take(&[]).unwrap();
        assert!(!self.we_open(&queued).ok().unwrap().confirms);
    }

    fn both_talk(&mut self) {
        for _ in 0..3 {
            let message = self.we_seal().unwrap();
            assert_eq!(self.they_take(&message), None);
            let message = self.they_seal();
            assert!(self.we_open(&message).ok().unwrap().packet.is_some());
        }
    }
}

#[test]
fn a_bare_tunn_understands_us_as_initiator_and_responder() {
    for preshared_key in [None, Some([9; 32])] {
        let mut ends = ends(preshared_key);
        assert_eq!(ends.we_seal(), None);
        ends.we_begin();
        ends.both_talk();
        let mut ends = self::ends(preshared_key);
        ends.they_begin();
        ends.both_talk();
        // More handshakes than the ring has places, begun by us.
        for _ in 0..20 {
            ends.we_begin();
            ends.both_talk();
        }
    }
}

#[test]
fn a_session_that_was_not_confirmed_is_not_sent_on() {
    let mut ends = ends(None);
    let initiation = ends.they_seal();
    let mut buffer = [0; HANDSHAKE_ROOM];
    ends.ours.answer(NOW, &initiation, &mut buffer).unwrap();
    assert_eq!(ends.we_seal(), None);
    assert_eq!(ends.ours.sending(NOW), None);
}

#[test]
fn the_session_sent_on_outlives_unconfirmed_ones_until_they_take_its_place() {
    let mut ends = ends(None);
    ends.we_begin();
    let mut buffer = [0; 2_048];
    for round in 0..RING {
        assert!(ends.ours.sending(NOW).is_some(), "gone in round {round}");
        let TunnResult::WriteToNetwork(initiation) =
            ends.theirs.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("no initiation");
        };
        ends.ours.answer(NOW, initiation, &mut [0; HANDSHAKE_ROOM]).unwrap();
    }
    // Eight responses were lost in a row; `Tunn` has overwritten the session, and the record knows.
    assert_eq!(ends.ours.sending(NOW), None);
    assert_eq!(ends.we_seal(), None);
}

#[test]
fn the_record_counts_as_the_messages_do() {
    let mut ends = ends(None);
    ends.we_begin();
    for count in 1..5u64 {
        let message = ends.we_seal().unwrap();
        assert_eq!(message[8..16], count.to_le_bytes());
    }
    let session = ends.ours.sessions[ends.ours.current.unwrap()].unwrap();
    assert_eq!(session.sealed, 5);
}

#[test]
fn age_ends_a_session_on_our_clock() {
    let mut ends = ends(None);
    ends.we_begin();
    let last = NOW + (REJECT_AFTER_TIME - Duration::from_nanos(1));
    assert!(ends.ours.sending(last).is_some());
    assert_eq!(ends.ours.sending(NOW + REJECT_AFTER_TIME), None);
    assert!(!ends.ours.is_alive(NOW + REJECT_AFTER_TIME));
    ends.ours.forget(NOW + REJECT_AFTER_TIME);
    assert_eq!(ends.ours.sessions, [None; RING]);
}

#[test]
fn what_authenticates_but_is_no_packet_is_from_the_peer_all_the_same() {
    let mut ends = ends(None);
    ends.we_begin();
    for inner in [vec![0x45; 30], vec![0x10; 20], [&[0x45, 0, 0, 3][..], &[0; 16]].concat()] {
        let mut buffer = [0; 2_048];
        let TunnResult::WriteToNetwork(message) = ends.theirs.encapsulate(&inner, &mut buffer)
        else {
            panic!("no message");
        };
        let message = message.to_vec();
        let Err(refused) = ends.we_open(&message) else { panic!("opened {inner:?}") };
        assert_eq!(refused.reason, DropReason::BadPacket);
        assert!(refused.opened.is_some());
        let Err(again) = ends.we_open(&message) else { panic!("opened again") };
        assert_eq!(again.reason, DropReason::Replay);
    }
}
