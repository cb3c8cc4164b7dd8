use std::time::Duration;

use wireloom_model::PrivateKey;

use super::*;

const MESSAGE: [u8; 148] = [7; 148];

struct Door {
    gate: Gate,
    macs: Macs,
    now: Moment,
}

impl Door {
    fn new() -> Self {
        Self {
            gate: Gate::new(ChaCha8Rng::seed_from_u64(1)),
            macs: Macs::new(&PrivateKey::from_random([1; 32]).public_key()),
            now: Moment::new(Duration::from_secs(100)),
        }
    }

    fn knock(&mut self, source: &str) -> Admission {
        self.gate.admit(self.now, source.parse().unwrap(), &MESSAGE, 1, &self.macs)
    }

    /// Knocks with the second MAC that proves the source.
    fn knock_with_cookie(&mut self, source: &str) -> Admission {
        let source = source.parse().unwrap();
        let mut message = MESSAGE;
        crate::cookie::prove(&mut message, &self.gate.secret.cookie(self.now, source));
        self.gate.admit(self.now, source, &message, 1, &self.macs)
    }

    fn passes(&mut self, source: &str, times: usize) -> usize {
        (0..times).filter(|_| self.knock(source) == Admission::Pass).count()
    }
}

#[test]
fn a_source_has_a_budget_that_refills() {
    let mut door = Door::new();
    assert_eq!(door.passes("192.0.2.1:1", 100), 40);
    assert!(matches!(door.knock("192.0.2.1:1"), Admission::Cookie(_)));
    // Another port of the same address is the same source, another address is not.
    assert!(matches!(door.knock("192.0.2.1:2"), Admission::Cookie(_)));
    assert_eq!(door.knock("192.0.2.2:1"), Admission::Pass);
    door.now = door.now + Duration::from_secs(1);
    assert_eq!(door.passes("192.0.2.1:1", 100), 20);
    door.now = door.now + Duration::from_secs(60);
    assert_eq!(door.passes("192.0.2.1:1", 100), 40);
}

#[test]
fn a_network_of_64_bits_is_one_source() {
    let mut door = Door::new();
    assert_eq!(door.passes("[2001:db8::1]:1", 40), 40);
    assert!(matches!(door.knock("[2001:db8::ffff:2]:9"), Admission::Cookie(_)));
    assert_eq!(door.knock("[2001:db8:0:1::1]:1"), Admission::Pass);
    // An IPv4 address that a dual-stack socket reports is still that address.
    assert_eq!(door.passes("192.0.2.1:1", 40), 40);
    assert!(matches!(door.knock("[::ffff:192.0.2.1]:1"), Admission::Cookie(_)));
}

#[test]
fn a_cookie_opens_a_larger_budget_and_not_an_endless_one() {
    let mut door = Door::new();
    door.passes("192.0.2.1:1", 100);
    let admitted = |door: &mut Door| {
        (0..300).filter(|_| door.knock_with_cookie("192.0.2.1:1") == Admission::Pass).count()
    };
    assert_eq!(admitted(&mut door), 100);
    assert_eq!(door.knock_with_cookie("192.0.2.1:1"), Admission::Drop);
}

#[test]
fn a_cookie_is_good_for_one_source_and_two_minutes() {
    let mut door = Door::new();
    door.now = Moment::new(Duration::from_secs(120));
    let source = "192.0.2.1:1".parse().unwrap();
    let cookie = door.gate.secret.cookie(door.now, source);
    assert_eq!(cookie, door.gate.secret.cookie(door.now + Duration::from_secs(119), source));
    assert_ne!(cookie, door.gate.secret.cookie(door.now + Duration::from_secs(120), source));
    for other in ["192.0.2.1:2", "192.0.2.2:1", "[2001:db8::1]:1"] {
        assert_ne!(cookie, door.gate.secret.cookie(door.now, other.parse().unwrap()));
    }
}

#[test]
fn under_a_load_of_many_sources_everybody_is_asked_and_those_who_answer_pass() {
    let mut door = Door::new();
    let mut asked = 0;
    for host in 0..4_000u32 {
        let source = format!("{}:1", std::net::Ipv4Addr::from(0x0a00_0000 + host));
        asked += usize::from(matches!(door.knock(&source), Admission::Cookie(_)));
    }
    assert!((3_400..=3_600).contains(&asked), "{asked}");
    assert!(matches!(door.knock("192.0.2.1:1"), Admission::Cookie(_)));
    assert_eq!(door.knock_with_cookie("192.0.2.1:1"), Admission::Pass);
    // Even those are too many at some point.
    let proven = (0..4_000u32).filter(|host| {
        let source = format!("{}:1", std::net::Ipv4Addr::from(0x0b00_0000 + host));
        door.knock_with_cookie(&source) == Admission::Pass
    });
    assert!((400..=600).contains(&proven.count()));
    door.now = door.now + Duration::from_secs(2);
    assert_eq!(door.knock("192.0.2.1:1"), Admission::Pass);
}
