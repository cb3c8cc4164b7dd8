//! Ten minutes on a network that loses, delays, reorders and repeats, with keys that wear out after a few hundred messages.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What the network does to a datagram, each in so many of 256 cases.
#[derive(Debug, Clone, Copy)]
struct Weather {
    loss: u8,
    repetition: u8,
    /// The longest delay, in milliseconds: later datagrams overtake those that wait.
    delay: u16,
    /// An old datagram of anybody's comes again.
    replay: u8,
}

const LIMITS: Limits = Limits { rekey_after: 300, reject_after: 600 };
const TICK: Duration = Duration::from_millis(50);
const SPAN: Duration = Duration::from_secs(600);

/// The world behind the weather: datagrams that are due, and all that ever were.
struct Storm {
    world: World,
    weather: Weather,
    random: ChaCha8Rng,
    under_way: Vec<(Moment, Datagram)>,
    seen: Vec<Datagram>,
    /// Receiver's address, index and number of every data message that was sent.
    nonces: BTreeSet<(SocketAddr, u32, u64)>,
}

impl Storm {
    fn new(weather: Weather, seed: u8) -> Self {
        let random = ChaCha8Rng::from_seed([seed; 32]);
        let world = World::with_limits(2, LIMITS);
        let (under_way, seen) = (Vec::new(), Vec::new());
        Self { world, weather, random, under_way, seen, nonces: BTreeSet::new() }
    }

    fn happens(&mut self, share: u8) -> bool {
        self.random.next_u32() as u8 <= share && share > 0
    }

    fn delay(&mut self) -> Duration {
        let most = u32::from(self.weather.delay) + 1;
        Duration::from_millis(u64::from(self.random.next_u32() % most))
    }

    /// Takes what is on the wire, and lets the weather do its worst.
    fn post(&mut self) {
        for datagram in self.world.intercept() {
            if kind(&datagram) == 4 {
                let long = |at: usize| *datagram.bytes[at..].first_chunk().unwrap();
                let index = u32::from_le_bytes(*datagram.bytes[4..].first_chunk().unwrap());
                let number = u64::from_le_bytes(long(8));
                assert!(number < LIMITS.reject_after, "sealed beyond the limit");
                assert!(self.nonces.insert((datagram.to, index, number)), "a number twice");
            }
            self.seen.push(datagram.clone());
            if self.happens(self.weather.repetition) {
                let at = self.world.now + self.delay();
                self.under_way.push((at, datagram.clone()));
            }
            if !self.happens(self.weather.loss) {
                let at = self.world.now + self.delay();
                self.under_way.push((at, datagram));
            }
        }
        if self.happens(self.weather.replay) && !self.seen.is_empty() {
            let old = self.random.next_u32() as usize % self.seen.len();
            self.under_way.push((self.world.now, self.seen[old].clone()));
        }
    }

    /// Does what is due by now, in its order.
    fn settle(&mut self) {
        loop {
            self.post();
            let now = self.world.now;
            let due = self.under_way.iter().enumerate().filter(|(_, (at, _))| *at <= now);
            let first = due.min_by_key(|(_, (at, _))| *at).map(|(place, _)| place);
            if let Some(place) = first {
                let (_, datagram) = self.under_way.remove(place);
                self.world.deliver(&datagram);
            } else if let Some((_, host)) = self.world.next_timer().filter(|(at, _)| *at <= now) {
                let mut outbox = Outbox::default();
                self.world.hosts[host].device.handle_timeout(now, &mut outbox);
                self.world.post(host, &outbox);
            } else {
                return;
            }
        }
    }
}

fn endures(weather: Weather, seed: u8) {
    let mut storm = Storm::new(weather, seed);
    let (mut sent, mut arrived) = ([0_u32; 2], [BTreeSet::new(), BTreeSet::new()]);
    let mut heard = [START; 2];
    while storm.world.now < START + SPAN {
        for (from, source, destination) in
            [(0, "10.0.0.1", "10.0.1.1"), (1, "10.0.1.1", "10.0.0.1")]
        {
            let mut packet = packet(source, destination, 40);
            packet[28..32].copy_from_slice(&sent[from].to_be_bytes());
            sent[from] += 1;
            storm.world.seal(from, &[packet]);
        }
        storm.settle();
        for to in 0..2 {
            for packet in storm.world.take_delivered(to) {
                assert_eq!(packet.len(), 68);
                let number = u32::from_be_bytes(*packet[28..].first_chunk().unwrap());
                assert!(number < sent[1 - to], "nobody has sent it");
                assert!(arrived[to].insert(number), "{number} came twice");
                heard[to] = storm.world.now;
            }
            let gap = storm.world.now.since(heard[to]);
            assert!(gap < seconds(20), "{to} hears nothing for {gap:?}");
        }
        storm.world.now = storm.world.now + TICK;
    }
    for (arrived, sent) in arrived.iter().zip([sent[1], sent[0]]) {
        let share = arrived.len() as f64 / f64::from(sent);
        let lost = f64::from(weather.loss) / 256.0;
        assert!(share > 0.9 * (1.0 - lost), "{share} of all, with {lost} lost on the way");
    }
    // 12,000 messages each way, and keys for 300: one handshake in 15 s at best, and some that were lost.
    let initiations = storm.world.initiations;
    assert!((20..200).contains(&initiations), "{initiations} handshakes begun");
    // And then the sun comes out.
    storm.weather = Weather { loss: 0, repetition: 0, delay: 0, replay: 0 };
    storm.world.now = storm.world.now + seconds(1);
    storm.settle();
    let _ = (storm.world.take_delivered(0), storm.world.take_delivered(1));
    storm.world.seal(0, &[packet("10.0.0.1", "10.0.1.1", 10)]);
    storm.settle();
    assert_eq!(storm.world.take_delivered(1).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn packets_cross_any_weather_once(
        loss in 0_u8..60,
        repetition in 0_u8..60,
        delay in 0_u16..400,
        replay in 0_u8..60,
        seed: u8,
    ) {
        endures(Weather { loss, repetition, delay, replay }, seed);
    }
}
