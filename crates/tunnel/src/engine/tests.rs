//! Both engines against a bare `Tunn`, which keeps its own timers and sessions.

use std::net::SocketAddr;
use std::sync::Arc;

use ::boringtun::noise::rate_limiter::RateLimiter;
use ::boringtun::noise::{Tunn, TunnResult};
use ::boringtun::x25519;

use super::*;
use crate::cookie::{Macs, Secret, proves};
use crate::message::Message;

mod numbers;
mod schedules;

pub(super) const NOW: Moment = Moment::new(Duration::from_secs(7));
pub(super) const PACKET: [u8; 20] =
    [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
const THEIR_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

/// An engine and a `Tunn` that know each other.
pub(super) struct Ends {
    pub(super) ours: Engine,
    pub(super) theirs: Tunn,
    identity: Identity,
}

fn keys() -> [PrivateKey; 2] {
    [1, 2].map(|byte| PrivateKey::from_random([byte; 32]))
}

pub(super) fn wall(now: Moment) -> Duration {
    Duration::from_secs(1_700_000_000) + now.since_boot()
}

/// Ends of which the other one asks for cookies above a number of handshakes.
fn ends_with(kind: EngineKind, preshared_key: Option<[u8; 32]>, their_limit: u64) -> Ends {
    let [ours, theirs] = keys();
    let identity = Identity::new(kind, &ours);
    let key = preshared_key.map(PresharedKey::from_bytes);
    let their_key = x25519::PublicKey::from(*theirs.public_key().as_bytes());
    let limiter = Arc::new(RateLimiter::new(&their_key, their_limit));
    let peer = theirs.public_key();
    Ends {
        ours: Engine::new(&identity, &peer, key.as_ref(), 0xabcdef, Limits::WIREGUARD, wall),
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

pub(super) fn ends(kind: EngineKind, preshared_key: Option<[u8; 32]>) -> Ends {
    ends_with(kind, preshared_key, u64::MAX)
}

impl Ends {
    pub(super) fn we_seal(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        buffer[16..36].copy_from_slice(&PACKET);
        let length = self.ours.seal(NOW, PACKET.len(), &mut buffer)?;
        Some(buffer[..length].to_vec())
    }

    pub(super) fn we_open(&mut self, message: &[u8]) -> Result<Opened, Refused> {
        let Some(Message::Data { receiver, counter }) = Message::parse(message) else {
            panic!("no data message");
        };
        let mut buffer = vec![0; message.len() - 16];
        let opened = self.ours.open(NOW, receiver, counter, message, &mut buffer)?;
        if let Some((length, source)) = opened.packet {
            assert_eq!(buffer[..length], PACKET);
            assert_eq!(source, "10.0.0.1".parse::<IpAddr>().unwrap());
        }
        Ok(opened)
    }

    pub(super) fn we_initiate(&mut self) -> Vec<u8> {
        let mut buffer = [0; HANDSHAKE_ROOM];
        let length = self.ours.initiate(NOW, &mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    pub(super) fn we_answer(&mut self, initiation: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut buffer = [0; HANDSHAKE_ROOM];
        let introduction = self.identity.initiator(initiation).unwrap();
        assert_eq!(introduction.key, keys()[1].public_key());
        let length = self.ours.answer(NOW, introduction, initiation, &mut buffer)?;
        Ok(buffer[..length].to_vec())
    }

    /// Takes a response and returns the keepalive that follows it.
    fn we_complete(&mut self, response: &[u8]) -> Result<Vec<u8>, DropReason> {
        let receiver = u32::from_le_bytes(response[8..12].try_into().unwrap());
        assert_eq!(receiver >> 8, self.ours.index());
        let mut buffer = [0; HANDSHAKE_ROOM];
        let length = self.ours.complete(NOW, receiver, response, &mut buffer)?;
        Ok(buffer[..length].to_vec())
    }

    pub(super) fn they_take(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        match self.theirs.decapsulate(Some(THEIR_ADDRESS), message, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => Some(answer.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => {
                assert_eq!(packet, PACKET);
                None
            }
            TunnResult::Done => None,
            other => panic!("they refuse: {other:?}"),
        }
    }

    pub(super) fn they_seal(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2_048];
        match self.theirs.encapsulate(&PACKET, &mut buffer) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("they seal nothing: {other:?}"),
        }
    }

    pub(super) fn they_initiate(&mut self) -> Vec<u8> {
        let mut buffer = [0; HANDSHAKE_ROOM];
        match self.theirs.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("they don't begin: {other:?}"),
        }
    }

    pub(super) fn we_begin(&mut self) {
        let initiation = self.we_initiate();
        let response = self.they_take(&initiation).unwrap();
        let keepalive = self.we_complete(&response).unwrap();
        assert_eq!(self.they_take(&keepalive), None);
    }

    fn they_begin(&mut self) {
        let initiation = self.they_initiate();
        let response = self.we_answer(&initiation).unwrap();
        assert!(self.ours.confirmation_due(NOW).is_some());
        let keepalive = self.they_take(&response).unwrap();
        let opened = self.we_open(&keepalive).unwrap();
        assert_eq!(opened, Opened { packet: None, confirms: true, is_newest: true });
        assert_eq!(self.ours.confirmation_due(NOW), None);
    }

    fn both_talk(&mut self) {
        for _ in 0..3 {
            let message = self.we_seal().unwrap();
            assert_eq!(self.they_take(&message), None);
            let message = self.they_seal();
            let opened = self.we_open(&message).unwrap();
            assert!(opened.packet.is_some() && !opened.confirms);
        }
    }
}

#[test]
fn a_bare_tunn_understands_us_as_initiator_and_responder_through_many_keys() {
    for kind in EngineKind::ALL {
        for preshared_key in [None, Some([9; 32])] {
            for order in [[true, true], [true, false], [false, true], [false, false]] {
                let mut ends = ends(kind, preshared_key);
                assert_eq!(ends.we_seal(), None);
                for _ in 0..15 {
                    for we_begin in order {
                        if we_begin {
                            ends.we_begin()
                        } else {
                            ends.they_begin()
                        }
                        ends.both_talk();
                    }
                }
            }
        }
    }
}

#[test]
fn more_handshakes_than_there_are_indexes() {
    let mut ends = ends(EngineKind::Noise, None);
    for _ in 0..300 {
        ends.we_begin();
    }
    ends.both_talk();
}

#[test]
fn another_preshared_key_makes_no_session() {
    for kind in EngineKind::ALL {
        let mut ours = ends(kind, Some([1; 32]));
        let mut theirs = ends(kind, Some([2; 32]));
        let initiation = ours.we_initiate();
        let response = theirs.they_take(&initiation).unwrap();
        assert_eq!(ours.we_complete(&response), Err(DropReason::BadHandshake));
        assert_eq!(ours.ours.sending(NOW), None);
        // A wrong answer does not spoil the handshake for the right one.
        let response = ours.they_take(&initiation).unwrap();
        assert!(ours.we_complete(&response).is_ok());
    }
}

#[test]
fn a_session_that_was_not_confirmed_is_not_sent_on() {
    for kind in EngineKind::ALL {
        let mut ends = ends(kind, None);
        let initiation = ends.they_initiate();
        ends.we_answer(&initiation).unwrap();
        assert_eq!(ends.we_seal(), None);
        assert_eq!(ends.ours.sending(NOW), None);
    }
}

#[test]
fn what_was_sent_on_the_last_keys_is_opened_after_the_new_ones_stand() {
    for kind in EngineKind::ALL {
        let mut ends = ends(kind, None);
        ends.we_begin();
        let [late, later] = [ends.they_seal(), ends.they_seal()];
        ends.we_begin();
        assert!(ends.we_open(&late).is_ok());
        ends.both_talk();
        assert!(ends.we_open(&later).is_ok());
        assert_eq!(ends.we_open(&later).unwrap_err().reason, DropReason::Replay);
    }
}

#[test]
fn an_initiation_is_answered_once_and_none_that_is_older() {
    for kind in EngineKind::ALL {
        let mut ends = ends(kind, None);
        let [first, second] = [ends.they_initiate(), ends.they_initiate()];
        assert!(ends.we_answer(&second).is_ok());
        for old in [first, second] {
            assert_eq!(ends.we_answer(&old), Err(DropReason::Replay));
        }
    }
}

#[test]
fn a_response_is_taken_once() {
    for kind in EngineKind::ALL {
        let mut ends = ends(kind, None);
        let initiation = ends.we_initiate();
        let response = ends.they_take(&initiation).unwrap();
        ends.we_complete(&response).unwrap();
        assert!(ends.we_complete(&response).is_err());
        assert!(ends.we_seal().is_some());
    }
}

#[test]
fn under_load_a_cookie_is_asked_for_and_shown() {
    for kind in EngineKind::ALL {
        let mut ends = ends_with(kind, None, 0);
        let initiation = ends.we_initiate();
        let reply = ends.they_take(&initiation).unwrap();
        assert!(matches!(Message::parse(&reply), Some(Message::CookieReply { .. })));
        let mut spoilt = reply.clone();
        spoilt[40] ^= 1;
        assert!(ends.ours.take_cookie(NOW, &spoilt).is_err());
        assert_eq!(ends.ours.take_cookie(NOW, &reply), Ok(()));
        let initiation = ends.we_initiate();
        let response = ends.they_take(&initiation).unwrap();
        let keepalive = ends.we_complete(&response).unwrap();
        assert_eq!(ends.they_take(&keepalive), None);
        ends.both_talk();
        // Our responses show it as well.
        let initiation = ends.they_initiate();
        let response = ends.we_answer(&initiation).unwrap();
        assert_ne!(response[76..], [0; 16]);
    }
}

#[test]
fn our_cookies_are_understood() {
    let mut ends = ends(EngineKind::Noise, None);
    let source = SocketAddr::new(THEIR_ADDRESS, 51820);
    let cookie = Secret::new([7; 32]).cookie(NOW, source);
    let initiation = ends.they_initiate();
    assert!(!proves(&initiation, &cookie));
    let Some(Message::Initiation { sender }) = Message::parse(&initiation) else {
        panic!("no initiation");
    };
    let macs = Macs::new(&keys()[0].public_key());
    assert!(macs.is_for_us(&initiation));
    let reply = macs.reply(&initiation, sender, &cookie, [5; 24]).unwrap();
    assert_eq!(ends.they_take(&reply), None);
    assert!(proves(&ends.they_initiate(), &cookie));
}

#[test]
fn age_ends_a_session_on_our_clock() {
    for kind in EngineKind::ALL {
        let mut ends = ends(kind, None);
        ends.we_begin();
        let end = NOW + crate::timers::REJECT_AFTER_TIME;
        let last = NOW + (crate::timers::REJECT_AFTER_TIME - Duration::from_nanos(1));
        let late = ends.they_seal();
        let Some(Message::Data { receiver, counter }) = Message::parse(&late) else { panic!() };
        assert!(ends.ours.sending(last).is_some() && ends.ours.is_alive(last));
        assert_eq!(ends.ours.sending(end), None);
        assert!(!ends.ours.is_alive(end));
        let mut buffer = [0; 36];
        assert_eq!(ends.ours.seal(end, 4, &mut buffer), None);
        let opened = ends.ours.open(end, receiver, counter, &late, &mut buffer);
        assert_eq!(opened.unwrap_err().reason, DropReason::Expired);
        ends.ours.forget(end);
        let opened = ends.ours.open(end, receiver, counter, &late, &mut buffer);
        assert_eq!(opened.unwrap_err().reason, DropReason::UnknownSession);
    }
}

#[test]
fn what_authenticates_but_is_no_packet_is_from_the_peer_all_the_same() {
    for kind in EngineKind::ALL {
        let mut ends = ends(kind, None);
        ends.we_begin();
        for inner in [vec![0x45; 30], vec![0x10; 20], [&[0x45, 0, 0, 3][..], &[0; 16]].concat()] {
            let mut buffer = [0; 2_048];
            let TunnResult::WriteToNetwork(message) = ends.theirs.encapsulate(&inner, &mut buffer)
            else {
                panic!("no message");
            };
            let message = message.to_vec();
            let refused = ends.we_open(&message).unwrap_err();
            assert_eq!(refused.reason, DropReason::BadPacket);
            assert!(refused.opened.is_some());
            assert_eq!(ends.we_open(&message).unwrap_err().reason, DropReason::Replay);
        }
    }
}

#[test]
fn an_engine_is_chosen_by_its_name() {
    for kind in EngineKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let unknown = "Noise".parse::<EngineKind>().unwrap_err();
    assert_eq!(unknown.to_string(), r#"there is no engine "Noise": use boringtun or noise"#);
}
