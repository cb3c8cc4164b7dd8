//! Which of a peer's addresses is dialled: the best until packets to it get no answer, then the next. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use wireloom_model::PublicKey;
use wireloom_tunnel::uapi::PeerStatus;

use crate::configure::is_lost;

/// How long an address is tried: two handshakes (`REKEY_TIMEOUT` is 5 s, WireGuard paper, section 6.1).
const PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing is sent to a peer that is tried no longer: three handshakes. Peers are looked at each 10 s.
const IDLE: Duration = Duration::from_secs(15);

/// Now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// On a clock that nobody sets.
    pub(crate) now: Duration,
    /// Since the Unix epoch.
    pub(crate) wall: Duration,
}

/// What is dialled of peers with several addresses.
#[derive(Debug, Default)]
pub(crate) struct Dialler(BTreeMap<PublicKey, Attempt>);

#[derive(Debug)]
struct Attempt {
    address: SocketAddr,
    /// Since when packets go there without an answer.
    since: Duration,
    /// When they were last seen to go.
    active: Duration,
    /// The peer's counters then.
    sent: u64,
    received: u64,
}

impl Dialler {
    /// The address of a peer that is to be dialled at this moment, of these, the best first. One that is tried stays while it
    /// is among them; whoever sends nothing learns nothing.
    pub(crate) fn choose(
        &mut self,
        key: PublicKey,
        addresses: &[SocketAddr],
        status: Option<&PeerStatus>,
        Moment { now, wall }: Moment,
    ) -> Option<SocketAddr> {
        let (&best, others) = addresses.split_first()?;
        if others.is_empty() {
            self.0.remove(&key);
            return Some(best);
        }
        let (sent, received) = status.map_or((0, 0), |peer| (peer.tx_bytes, peer.rx_bytes));
        let attempt = |address| Attempt { address, since: now, active: now, sent, received };
        let current = self.0.entry(key).or_insert_with(|| attempt(best));
        let Some(at) = addresses.iter().position(|address| *address == current.address) else {
            *current = attempt(best);
            return Some(best);
        };
        let is_answered = received != current.received;
        if is_answered || status.is_none_or(|peer| !is_lost(peer, wall)) {
            *current = attempt(current.address);
        } else if sent != current.sent {
            if now.saturating_sub(current.active) > IDLE {
                current.since = now;
            }
            (current.active, current.sent) = (now, sent);
            if now.saturating_sub(current.since) >= PATIENCE {
                *current = attempt(addresses[(at + 1) % addresses.len()]);
            }
        }
        Some(current.address)
    }

    /// Forgets all peers but these.
    pub(crate) fn retain(&mut self, keys: &BTreeSet<PublicKey>) {
        self.0.retain(|key, _| keys.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_secs(1_800_000_000);

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([192, 0, 2, last], 51820))).collect()
    }

    fn key() -> PublicKey {
        PublicKey::from_bytes([7; 32])
    }

    struct Peer(Dialler, PeerStatus);

    impl Peer {
        fn new() -> Self {
            Self(Dialler::default(), PeerStatus::new(key()))
        }

        /// The last octet of what is dialled after as many seconds.
        fn dials(&mut self, addresses: &[SocketAddr], seconds: u64) -> u8 {
            let now = Duration::from_secs(seconds);
            let moment = Moment { now, wall: WALL + now };
            let address = self.0.choose(key(), addresses, Some(&self.1), moment).unwrap();
            address.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap()
        }
    }

    #[test]
    fn who_does_not_answer_is_tried_elsewhere_in_turn() {
        let (all, mut peer) = (addresses(3), Peer::new());
        assert_eq!(peer.dials(&all, 0), 1);
        let mut dialled = Vec::new();
        for second in 1..=40 {
            peer.1.tx_bytes += 148;
            dialled.push(peer.dials(&all, second));
        }
        dialled.dedup();
        assert_eq!(dialled, [1, 2, 3, 1, 2]);
    }

    #[test]
    fn who_is_asked_nothing_is_not_moved() {
        let (all, mut peer) = (addresses(2), Peer::new());
        assert_eq!(peer.dials(&all, 0), 1);
        assert_eq!(peer.dials(&all, 1000), 1);
    }

    #[test]
    fn time_without_packets_is_no_time_without_answers() {
        let (all, mut peer) = (addresses(2), Peer::new());
        assert_eq!(peer.dials(&all, 0), 1);
        // The first packets after a long while have had no time to be answered.
        peer.1.tx_bytes += 148;
        assert_eq!(peer.dials(&all, 1000), 1);
        peer.1.tx_bytes += 148;
        assert_eq!(peer.dials(&all, 1005), 1);
        peer.1.tx_bytes += 148;
        assert_eq!(peer.dials(&all, 1010), 2);
        // A device made anew counts from the beginning.
        peer.1.tx_bytes = 148;
        assert_eq!(peer.dials(&all, 1020), 1);
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing() {
        let (all, mut peer) = (addresses(2), Peer::new());
        assert_eq!(peer.dials(&all, 0), 1);
        peer.1.tx_bytes += 148;
        let moment = Moment { now: Duration::from_secs(1), wall: WALL * 2 };
        let dialled = peer.0.choose(key(), &all, Some(&peer.1), moment);
        assert_eq!(dialled, Some(all[0]));
    }

    #[test]
    fn an_address_that_works_stays_while_it_is_one() {
        let (all, mut peer) = (addresses(2), Peer::new());
        peer.dials(&all, 0);
        peer.1.tx_bytes = 148;
        assert_eq!(peer.dials(&all, 11), 2);
        peer.1.last_handshake = Some(WALL + Duration::from_secs(12));
        for second in 13..100 {
            peer.1.tx_bytes += 100;
            assert_eq!(peer.dials(&all, second), 2);
        }
        // Long without a handshake, it is out of reach; and what it was tried at last comes first then.
        for (second, last) in [(250, 2), (255, 2), (260, 1)] {
            peer.1.tx_bytes += 148;
            assert_eq!(peer.dials(&all, second), last);
        }
        assert_eq!(peer.dials(&addresses(1), 261), 1);
        let moment = Moment { now: Duration::ZERO, wall: WALL };
        assert_eq!(peer.0.choose(key(), &[], None, moment), None);
    }
}
