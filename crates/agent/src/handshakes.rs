//! When another process's or the kernel's device shook hands last, if this machine's clock was set since.
//!
//! Such a device keeps that time by the clock on the wall (`walltime_last_handshake` in the kernel's
//! `drivers/net/wireguard/peer.h`). Once the clock is set, as it is minutes after the start of a machine that has none of
//! its own, every handshake before looks days old, or yet to come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wireloom_model::PublicKey;
use wireloom_tunnel::uapi::DeviceStatus;

use crate::view::wall_now;

/// By how much the clocks may differ before one of them was set: what is read between the two takes no longer.
const SET: Duration = Duration::from_secs(2);

/// How old each peer's last handshake was when it was told of first. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<BTreeMap<PublicKey, First>>>);

#[derive(Debug, Clone, Copy)]
struct First {
    /// The handshake's time, as the device has it.
    told: Duration,
    /// How old it was.
    age: Duration,
    /// By the clock that nobody sets.
    at: Duration,
}

impl Handshakes {
    /// Puts right by the clock of now what a device says.
    pub(crate) fn put_right(&self, status: &mut DeviceStatus) {
        let now = clock_gettime(ClockId::Boottime);
        // It counts from the start of the machine (clock_gettime(2)).
        self.put_right_at(status, wall_now(), Duration::from_secs(now.tv_sec.unsigned_abs()));
    }

    /// The same at `wall`, the time since the Unix epoch, which is `now` since the start of the machine.
    fn put_right_at(&self, status: &mut DeviceStatus, wall: Duration, now: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *all);
        for peer in &mut status.peers {
            let Some(told) = peer.last_handshake else { continue };
            let by_wall = wall.saturating_sub(told);
            let known = before.get(&peer.key).filter(|first| first.told == told);
            let first = known.copied().unwrap_or(First { told, age: by_wall, at: now });
            all.insert(peer.key, first);
            let age = first.age + now.saturating_sub(first.at);
            if age.abs_diff(by_wall) > SET || told > wall + SET {
                peer.last_handshake = Some(wall.saturating_sub(age));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wireloom_tunnel::uapi::PeerStatus;

    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([7; 32]);
    const DAY: u64 = 86_400;

    /// What is said of a handshake at `told`, at second `now` of the machine, when the clock shows `wall`.
    fn right(handshakes: &Handshakes, told: u64, wall: u64, now: u64) -> u64 {
        let [told, wall, now] = [told, wall, now].map(Duration::from_secs);
        let peer = PeerStatus { last_handshake: Some(told), ..PeerStatus::new(KEY) };
        let mut status = DeviceStatus { peers: vec![peer], ..DeviceStatus::default() };
        handshakes.put_right_at(&mut status, wall, now);
        wall.saturating_sub(status.peers[0].last_handshake.unwrap()).as_secs()
    }

    #[test]
    fn a_handshake_ages_by_the_time_that_has_passed_wherever_the_clock_is_set_to() {
        let start = 20_000 * DAY;
        for (of, set) in [("ahead", start + DAY), ("back", start - DAY)] {
            let handshakes = Handshakes::default();
            assert_eq!(right(&handshakes, start, start + 5, 5), 5);
            assert_eq!(right(&handshakes, start, start + 10, 10), 10);
            assert_eq!(right(&handshakes, start, set + 20, 20), 20, "{of}");
            assert_eq!(right(&handshakes, start, set + 300, 300), 300, "{of}");
            // The next one is told by the new clock.
            assert_eq!(right(&handshakes, set + 301, set + 302, 302), 1, "{of}");
            assert_eq!(right(&handshakes, set + 301, set + 332, 332), 31, "{of}");
        }
    }

    #[test]
    fn one_that_is_yet_to_come_when_it_is_first_told_ages_from_then_on() {
        let handshakes = Handshakes::default();
        assert_eq!(right(&handshakes, 2 * DAY, DAY, 100), 0);
        assert_eq!(right(&handshakes, 2 * DAY, DAY + 200, 300), 200);
    }

    #[test]
    fn what_was_right_stays_to_the_nanosecond_and_who_is_gone_is_forgotten() {
        let handshakes = Handshakes::default();
        let told = Some(Duration::new(100, 7));
        let peer = PeerStatus { last_handshake: told, ..PeerStatus::new(KEY) };
        let mut status = DeviceStatus { peers: vec![peer], ..DeviceStatus::default() };
        for second in [101, 102, 190] {
            let [wall, now] = [second, second - 50].map(Duration::from_secs);
            handshakes.put_right_at(&mut status, wall, now);
            assert_eq!(status.peers[0].last_handshake, told);
        }
        status.peers.clear();
        handshakes.put_right_at(&mut status, Duration::from_secs(191), Duration::from_secs(141));
        assert!(handshakes.0.lock().unwrap().is_empty());
    }
}
