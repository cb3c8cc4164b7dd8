//! The gate in front of handshakes: strangers may cost little, and one stranger's flood costs nobody else anything.
//!
//! Each source (an IPv4 address or an IPv6 /64) has a budget, and the device has one. A source that exceeds its own is
//! asked for a cookie; everybody is, only while the device's own budget runs low. A source that shows its cookie has
//! proven that it receives at its address and draws on a larger budget. Budgets refill with time, so a rate below them
//! never meets a cookie (WireGuard paper, section 5.3).

use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use siphasher::sip::SipHasher13;

use crate::cookie::{Macs, Secret, proves};
use crate::message::COOKIE_REPLY_BYTES;
use crate::moment::Moment;

/// Handshakes a second and at once of a source that has shown no cookie. Many peers may share one address.
const STRANGER: Rate = Rate::new(20, 40);
/// The same of a source that has.
const PROVEN: Rate = Rate::new(50, 100);
/// Handshakes a second and at once of the whole device: a quarter of a core, at half a millisecond each.
const DEVICE: Rate = Rate::new(500, 1_000);
/// The sources told apart. Two of them share a budget by chance, and no stranger can choose with whom.
const SOURCES: usize = 4_096;

/// What becomes of a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is worth the effort.
    Pass,
    /// The sender is asked for a cookie, by this reply.
    Cookie([u8; COOKIE_REPLY_BYTES]),
    /// It is not answered.
    Drop,
}

/// A rate as the generic cell rate algorithm counts it, in nanoseconds (ITU-T I.371, annex A).
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// The time that one message uses up.
    each: u64,
    /// How far a budget may be overdrawn.
    burst: u64,
}

/// When a budget is whole again, in nanoseconds since boot.
#[derive(Debug, Clone, Copy, Default)]
struct Budget(u64);

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    stranger: Budget,
    proven: Budget,
}

pub(crate) struct Gate {
    secret: Secret,
    hash_keys: (u64, u64),
    nonces: ChaCha8Rng,
    device: Budget,
    sources: Box<[Source]>,
}

impl Rate {
    const fn new(a_second: u64, at_once: u64) -> Self {
        let each = 1_000_000_000 / a_second;
        Self { each, burst: each * at_once }
    }
}

impl Budget {
    /// How much is used up at this time.
    const fn used(self, now: u64) -> u64 {
        self.0.saturating_sub(now)
    }

    const fn allows(self, now: u64, rate: Rate) -> bool {
        self.used(now) + rate.each <= rate.burst
    }

    fn take(&mut self, now: u64, rate: Rate) {
        self.0 = self.0.max(now).saturating_add(rate.each);
    }
}

impl Gate {
    pub(crate) fn new(mut random: ChaCha8Rng) -> Self {
        let mut secret = [0; 32];
        random.fill_bytes(&mut secret);
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        Self {
            secret: Secret::new(secret),
            hash_keys: (random.next_u64(), random.next_u64()),
            nonces: ChaCha8Rng::from_seed(seed),
            device: Budget::default(),
            sources: vec![Source::default(); SOURCES].into_boxed_slice(),
        }
    }

    /// Decides on a handshake message whose first MAC is right.
    pub(crate) fn admit(
        &mut self,
        now: Moment,
        source: SocketAddr,
        message: &[u8],
        sender: u32,
        macs: &Macs,
    ) -> Admission {
        let time = now.nanos();
        let place = self.place(source.ip());
        // A source's place is a hash modulo the number of sources.
        let budgets = &mut self.sources[place];
        let calm = self.device.used(time) <= DEVICE.burst / 2;
        if calm && budgets.stranger.allows(time, STRANGER) {
            budgets.stranger.take(time, STRANGER);
            self.device.take(time, DEVICE);
            return Admission::Pass;
        }
        let cookie = self.secret.cookie(now, source);
        if !proves(message, &cookie) {
            let mut nonce = [0; 24];
            self.nonces.fill_bytes(&mut nonce);
            let reply = macs.reply(message, sender, &cookie, nonce);
            return reply.map_or(Admission::Drop, Admission::Cookie);
        }
        if budgets.proven.allows(time, PROVEN) && self.device.allows(time, DEVICE) {
            budgets.proven.take(time, PROVEN);
            self.device.take(time, DEVICE);
            return Admission::Pass;
        }
        Admission::Drop
    }

    fn place(&self, source: IpAddr) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1);
        match source.to_canonical() {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()[..8]),
        }
        // The remainder is below SOURCES, so nothing is lost.
        (hasher.finish() % SOURCES as u64) as usize
    }
}

#[cfg(test)]
mod tests;
