//! A peer's timers: when to shake hands, keep alive, give up and forget (WireGuard paper, section 6; Linux,
//! `drivers/net/wireguard/timers.c`).
//!
//! Only what has happened and the time go in, only what is due comes out. Every span is measured on the device's own
//! clock, so a suspended host wakes up to timers that are due.

use std::time::Duration;

use crate::moment::Moment;

/// A session's keys are renewed by the initiator after this.
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session's keys are not used any more after this.
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// A handshake without an answer is given up after this.
pub(crate) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// An initiation without an answer is repeated after this, and none follows another sooner.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Data that came in is answered by something within this.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest random addition to a repeated handshake.
pub(crate) const REKEY_JITTER: Duration = Duration::from_millis(333);
/// The initiator renews keys on receiving data once the session has only this left.
pub(crate) const REKEY_ON_RECEIVE: Duration =
    REJECT_AFTER_TIME.saturating_sub(KEEPALIVE_TIMEOUT).saturating_sub(REKEY_TIMEOUT);
/// All key material is forgotten this long after the last session began.
const FORGET_TIME: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());

/// What a peer has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Forget all keys.
    Forget,
    /// Give up the handshake, and what waits for it.
    GiveUp,
    /// Begin a handshake.
    Handshake,
    /// Send an empty packet, because data came in and nothing went out.
    Keepalive,
    /// Send an empty packet, because the interval is over.
    PersistentKeepalive,
    /// Repeat the initiation.
    Retry,
}

/// A handshake that we have begun and that is not complete.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    give_up: Moment,
    retry: Moment,
}

/// A peer's timers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// The span between two persistent keepalives; zero is off.
    interval: Duration,
    attempt: Option<Attempt>,
    last_initiation: Option<Moment>,
    /// When silence after data of ours has lasted too long.
    handshake: Option<Moment>,
    /// When data that came in must be answered.
    keepalive: Option<Moment>,
    persistent: Option<Moment>,
    forget: Option<Moment>,
    /// When the newest session began.
    session: Option<Moment>,
}

impl Timers {
    /// Changes the interval of persistent keepalives. Switched on, the first is due now.
    pub(crate) fn set_interval(&mut self, now: Moment, seconds: u16) {
        let interval = Duration::from_secs(seconds.into());
        if interval == self.interval {
            return;
        }
        let switched_on = self.interval.is_zero();
        self.interval = interval;
        self.persistent = match (interval.is_zero(), switched_on) {
            (true, _) => None,
            (false, true) => Some(now),
            (false, false) => Some(now + interval),
        };
    }

    /// Whether persistent keepalives are on.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.interval.is_zero()
    }

    /// Whether a handshake of ours is under way.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether an initiation may be sent: none was within the last five seconds.
    pub(crate) fn may_initiate(&self, now: Moment) -> bool {
        self.last_initiation.is_none_or(|last| now.since(last) >= REKEY_TIMEOUT)
    }

    /// The first moment from now on at which an initiation may be sent.
    pub(crate) fn next_initiation(&self, now: Moment) -> Moment {
        self.last_initiation.map_or(now, |last| now.max(last + REKEY_TIMEOUT))
    }

    /// A packet waits for a session: the handshake is not given up for another 90 s.
    pub(crate) fn packet_waits(&mut self, now: Moment) {
        if let Some(attempt) = &mut self.attempt {
            attempt.give_up = now + REKEY_ATTEMPT_TIME;
        }
    }

    /// An initiation was sent.
    pub(crate) fn initiated(&mut self, now: Moment, jitter: Duration) {
        let give_up = self.attempt.map_or(now + REKEY_ATTEMPT_TIME, |attempt| attempt.give_up);
        self.attempt = Some(Attempt { give_up, retry: now + REKEY_TIMEOUT + jitter });
        self.last_initiation = Some(now);
        self.handshake = None;
        self.sent(now);
    }

    /// A handshake is wanted at this time unless the peer is heard from before.
    pub(crate) fn handshake_at(&mut self, at: Moment) {
        self.handshake = Some(self.handshake.map_or(at, |planned| planned.min(at)));
    }

    /// A session has begun, though it may not be confirmed yet.
    pub(crate) fn session_began(&mut self, now: Moment) {
        self.forget = Some(now + FORGET_TIME);
        self.session = Some(now);
    }

    /// Whether a session began, confirmed or not, less than `span` ago.
    pub(crate) fn has_session_younger_than(&self, now: Moment, span: Duration) -> bool {
        self.session.is_some_and(|began| now.since(began) < span)
    }

    /// The handshake is complete: both ends have proven that they hold the new keys.
    pub(crate) fn handshake_complete(&mut self) {
        self.attempt = None;
        self.handshake = None;
    }

    /// The endpoint or the keys have changed: the next initiation need not wait.
    pub(crate) fn start_afresh(&mut self) {
        self.attempt = None;
        self.last_initiation = None;
        self.handshake = None;
        self.keepalive = None;
    }

    /// Something authenticated was sent.
    pub(crate) fn sent(&mut self, now: Moment) {
        self.keepalive = None;
        self.traversed(now);
    }

    /// Data was sent: silence is now a reason for a handshake.
    pub(crate) fn data_sent(&mut self, now: Moment, jitter: Duration) {
        self.handshake.get_or_insert(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter);
    }

    /// Something authenticated was received.
    pub(crate) fn received(&mut self, now: Moment) {
        self.handshake = None;
        self.traversed(now);
    }

    /// Data was received: it must be answered.
    pub(crate) fn data_received(&mut self, now: Moment) {
        self.keepalive.get_or_insert(now + KEEPALIVE_TIMEOUT);
    }

    fn traversed(&mut self, now: Moment) {
        if self.keeps_alive() {
            self.persistent = Some(now + self.interval);
        }
    }

    /// When the next thing is due.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.all().map(|(at, _)| at).min()
    }

    /// Takes one thing that is due, the earliest first.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<Due> {
        let (_, due) = self.all().filter(|(at, _)| *at <= now).min_by_key(|(at, _)| *at)?;
        match due {
            Due::Forget => self.forget = None,
            Due::GiveUp => {
                self.attempt = None;
                self.keepalive = None;
                self.forget.get_or_insert(now + FORGET_TIME);
            }
            Due::Handshake => self.handshake = None,
            Due::Keepalive => self.keepalive = None,
            Due::PersistentKeepalive => self.persistent = Some(now + self.interval),
            // The initiation that follows sets the next one; if there is none, this does.
            Due::Retry => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.retry = now + REKEY_TIMEOUT;
                }
            }
        }
        Some(due)
    }

    fn all(&self) -> impl Iterator<Item = (Moment, Due)> {
        [
            (self.forget, Due::Forget),
            (self.attempt.map(|attempt| attempt.give_up), Due::GiveUp),
            (self.attempt.map(|attempt| attempt.retry), Due::Retry),
            (self.handshake, Due::Handshake),
            (self.keepalive, Due::Keepalive),
            (self.persistent, Due::PersistentKeepalive),
        ]
        .into_iter()
        .filter_map(|(at, due)| Some((at?, due)))
    }
}

#[cfg(test)]
mod tests;
