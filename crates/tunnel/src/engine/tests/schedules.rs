//! Two ends of our own engine under schedules that nobody would think of: what never may happen does not.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What happens next. Ends and messages are chosen modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Initiate(bool),
    Seal(bool, u8),
    /// Takes numbers for messages that are sealed later, as a thread does that is interrupted.
    Hold(bool, u8),
    /// Seals what was held.
    Use(usize),
    /// Delivers a message under way, which is then gone.
    Deliver(usize),
    /// Delivers it and leaves it under way.
    Repeat(usize),
    Lose(usize),
    Pass(u16),
}

struct End {
    identity: Identity,
    engine: Engine,
    /// The indexes of sessions that this end has answered for, each with the initiator's.
    answered: BTreeMap<u32, u32>,
    /// The initiators' indexes of those that were confirmed.
    confirmed: BTreeSet<u32>,
    initiated: BTreeSet<u32>,
    /// Receiver's index and number of every data message sealed: nonces, as no index comes twice in a schedule.
    sealed: BTreeSet<(u32, u64)>,
    opened: BTreeSet<u32>,
}

struct Both {
    now: Moment,
    ends: [End; 2],
    /// Messages under way, each with the end that receives it.
    wire: Vec<(usize, Vec<u8>)>,
    /// Numbers that were taken and not used yet, each with the end that took them.
    held: Vec<(usize, Lane)>,
    packets: u32,
}

const LIMITS: Limits = Limits { rekey_after: 20, reject_after: 40 };

impl Both {
    fn new() -> Self {
        let keys = keys();
        let end = |place: usize| {
            let identity = Identity::new(EngineKind::Noise, &keys[place]);
            let peer = keys[1 - place].public_key();
            let index = u32::try_from(place).unwrap() + 7;
            let engine = Engine::new(&identity, &peer, None, index, LIMITS, wall);
            End {
                identity,
                engine,
                answered: BTreeMap::new(),
                confirmed: BTreeSet::new(),
                initiated: BTreeSet::new(),
                sealed: BTreeSet::new(),
                opened: BTreeSet::new(),
            }
        };
        Self { now: NOW, ends: [end(0), end(1)], wire: Vec::new(), held: Vec::new(), packets: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Initiate(end) => self.initiate(end.into()),
            Step::Seal(end, count) => {
                if let Some(lane) = self.ends[usize::from(end)].engine.lane(self.now, count.into())
                {
                    self.seal(end.into(), lane);
                }
            }
            Step::Hold(end, count) => {
                let end = usize::from(end);
                let lane = self.ends[end].engine.lane(self.now, count.into());
                self.held.extend(lane.map(|lane| (end, lane)));
            }
            Step::Use(_) if self.held.is_empty() => {}
            Step::Use(which) => {
                let (end, lane) = self.held.swap_remove(which % self.held.len());
                self.seal(end, lane);
            }
            Step::Pass(millis) => self.now = self.now + Duration::from_millis(millis.into()),
            Step::Deliver(_) | Step::Repeat(_) | Step::Lose(_) if self.wire.is_empty() => {}
            Step::Deliver(which) => {
                let (to, message) = self.wire.remove(which % self.wire.len());
                self.deliver(to, &message);
            }
            Step::Repeat(which) => {
                let (to, message) = self.wire[which % self.wire.len()].clone();
                self.deliver(to, &message);
            }
            Step::Lose(which) => {
                self.wire.remove(which % self.wire.len());
            }
        }
    }

    fn initiate(&mut self, from: usize) {
        let mut buffer = [0; HANDSHAKE_ROOM];
        let end = &mut self.ends[from];
        let length = end.engine.initiate(self.now, &mut buffer).unwrap();
        let Some(Message::Initiation { sender }) = Message::parse(&buffer[..length]) else {
            panic!("no initiation")
        };
        assert!(end.initiated.insert(sender), "an index came twice");
        self.wire.push((1 - from, buffer[..length].to_vec()));
    }

    /// Seals packets, as many as there are numbers.
    fn seal(&mut self, from: usize, mut lane: Lane) {
        let mut buffer = [0; 64];
        loop {
            buffer[16..36].copy_from_slice(&PACKET);
            buffer[20..24].copy_from_slice(&(self.packets + 1).to_be_bytes());
            let Some(length) = lane.seal(PACKET.len(), &mut buffer) else { return };
            self.packets += 1;
            self.sealed(from, &buffer[..length]);
            self.wire.push((1 - from, buffer[..length].to_vec()));
        }
    }

    fn sealed(&mut self, from: usize, message: &[u8]) {
        let end = &mut self.ends[from];
        let Some(Message::Data { receiver, counter }) = Message::parse(message) else {
            panic!("no data message")
        };
        assert!(end.sealed.insert((receiver, counter)), "a number was used twice");
        assert!(counter < LIMITS.reject_after, "sealed beyond the limit");
        let is_ours = !end.answered.values().any(|initiator| *initiator == receiver);
        assert!(is_ours || end.confirmed.contains(&receiver), "sent on what was not confirmed");
    }

    fn deliver(&mut self, to: usize, message: &[u8]) {
        let mut buffer = [0; HANDSHAKE_ROOM];
        let now = self.now;
        let end = &mut self.ends[to];
        match Message::parse(message).unwrap() {
            Message::Initiation { sender: initiator } => {
                let introduction = end.identity.initiator(message).unwrap();
                let Ok(length) = end.engine.answer(now, introduction, message, &mut buffer) else {
                    return;
                };
                let Some(Message::Response { sender, receiver }) =
                    Message::parse(&buffer[..length])
                else {
                    panic!("no response")
                };
                assert_eq!(receiver, initiator);
                assert_eq!(end.answered.insert(sender, initiator), None, "answered twice");
                self.wire.push((1 - to, buffer[..length].to_vec()));
            }
            Message::Response { receiver, .. } => {
                if let Ok(length) = end.engine.complete(now, receiver, message, &mut buffer) {
                    self.sealed(to, &buffer[..length]);
                    self.wire.push((1 - to, buffer[..length].to_vec()));
                }
            }
            Message::Data { receiver, counter } => {
                let room = &mut buffer[..message.len() - 16];
                if let Ok(opened) = end.engine.open(now, receiver, counter, message, room) {
                    if let Some(initiator) = end.answered.get(&receiver) {
                        assert_eq!(opened.confirms, end.confirmed.insert(*initiator));
                    }
                    if let Some((length, _)) = opened.packet {
                        assert_eq!(length, PACKET.len());
                        let packet = u32::from_be_bytes(room[4..8].try_into().unwrap());
                        assert!(end.opened.insert(packet), "packet {packet} came twice");
                    }
                }
            }
            Message::CookieReply { .. } => panic!("nobody is under load"),
        }
    }

    /// However things stand, a handshake without losses makes a session both ways.
    fn recover(&mut self, from: usize) {
        self.wire.clear();
        self.now = self.now + Duration::from_secs(1);
        self.initiate(from);
        for _ in 0..3 {
            let under_way = std::mem::take(&mut self.wire);
            under_way.iter().for_each(|(to, message)| self.deliver(*to, message));
        }
        for end in [from, 1 - from] {
            let lane = self.ends[end].engine.lane(self.now, 1).unwrap();
            self.seal(end, lane);
            let (to, message) = self.wire.pop().unwrap();
            self.deliver(to, &message);
            assert!(self.ends[to].opened.contains(&self.packets), "the last packet is lost");
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<bool>().prop_map(Step::Initiate),
        4 => (any::<bool>(), 1u8..5).prop_map(|(end, count)| Step::Seal(end, count)),
        2 => (any::<bool>(), 1u8..5).prop_map(|(end, count)| Step::Hold(end, count)),
        2 => any::<usize>().prop_map(Step::Use),
        8 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Repeat),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => (0u16..60_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_schedule_breaks_the_rules(
        steps in proptest::collection::vec(step(), 0..120),
        last in any::<bool>(),
    ) {
        let mut both = Both::new();
        for step in &steps {
            both.step(step);
        }
        both.recover(last.into());
    }
}
