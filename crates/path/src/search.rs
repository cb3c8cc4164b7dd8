//! The search for the largest packet that a path carries (RFC 8899, with echoes in the place of acknowledgements).
//!
//! A round sends echoes of several sizes at once, so that it takes one round trip and not one for each size, and sends
//! each that is not answered a second time: losing one packet is usual. The smallest size is always among them. If it is
//! not answered either, nobody answers echoes there, and nothing is learnt.

use std::time::Duration;

/// How long a round waits for answers.
const ROUND: Duration = Duration::from_secs(1);

/// When echoes without an answer are sent again.
const RESEND: Duration = Duration::from_millis(400);

/// How soon after a round the next one may begin to look whether the path is still as it was.
const EVERY: Duration = Duration::from_secs(3);

/// How long after a look at whether more fits the next such look is due (RFC 8899, section 5.1.1, PMTU_RAISE_TIMER).
const RAISE: Duration = Duration::from_secs(600);

/// Packets in a tunnel are padded to whole blocks of 16 bytes (WireGuard paper, section 5.4.6), so that sizes between
/// tell nothing.
const BLOCK: u16 = 16;

/// Sizes that a round tries between the largest that arrives and the smallest that does not.
const SPREAD: u16 = 16;

/// The sizes of packets that a search is between, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// One that every path carries. A whole number of 16 bytes.
    pub least: u16,
    /// The largest that is ever sent.
    pub most: u16,
}

/// An echo to send, as large as the packets that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Tells it apart from others of late.
    pub number: u16,
    /// The packet's size in bytes.
    pub size: u16,
}

/// The search on one path.
#[derive(Debug)]
pub struct Search {
    range: Range,
    /// The largest size that arrived, where a larger one did not.
    narrowed: Option<u16>,
    round: Option<Round>,
    next_number: u16,
    /// When the last round ended.
    looked: Option<Duration>,
    /// When the largest size of all was last asked for.
    reached: Option<Duration>,
}

#[derive(Debug)]
struct Round {
    began: Duration,
    sent: Sent,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Never,
    Once,
    Twice,
}

#[derive(Debug)]
struct Asked {
    echo: Echo,
    is_answered: bool,
}

impl Search {
    /// A search that has not begun. Until something else is found, everything up to the largest size is taken to fit.
    pub const fn new(range: Range) -> Self {
        Self { range, narrowed: None, round: None, next_number: 0, looked: None, reached: None }
    }

    /// The largest packet that fits, if it is smaller than the largest that is sent.
    pub const fn narrowed(&self) -> Option<u16> {
        self.narrowed
    }

    /// The sizes that the search is between.
    pub const fn range(&self) -> Range {
        self.range
    }

    /// Looks at the path unless that was done lately: to be called while packets flow.
    pub fn look(&mut self, now: Duration) {
        let is_due = self.looked.is_none_or(|looked| now >= looked + EVERY);
        if self.round.is_some() || !is_due {
            return;
        }
        let may_raise = self.reached.is_none_or(|reached| now >= reached + RAISE);
        let raised = may_raise.then_some(self.range.most);
        let current = self.narrowed.unwrap_or(self.range.most);
        self.begin(now, [self.range.least, current].into_iter().chain(raised).collect());
    }

    /// Begins anew: the path may be another one now. What was found stands until something else is.
    pub fn restart(&mut self, now: Duration) {
        (self.round, self.looked, self.reached) = (None, None, None);
        self.look(now);
    }

    /// Whether an echo had to be sent again, so that something may have swallowed it.
    pub fn is_doubtful(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.sent == Sent::Twice)
    }

    /// The echoes to send now. Ends the round if it is over.
    pub fn poll(&mut self, now: Duration) -> Vec<Echo> {
        let is_over = self.round.as_ref().is_some_and(|round| now >= round.began + ROUND);
        if is_over && let Some(round) = self.round.take() {
            self.conclude(now, &round);
        }
        let Some(round) = &mut self.round else { return Vec::new() };
        match round.sent {
            Sent::Never => round.sent = Sent::Once,
            Sent::Once if now >= round.began + RESEND => round.sent = Sent::Twice,
            _ => return Vec::new(),
        }
        let open = round.asked.iter().filter(|asked| !asked.is_answered);
        open.map(|asked| asked.echo).collect()
    }

    /// When to [poll](Self::poll) next. `None` while nothing is looked for.
    pub fn due(&self) -> Option<Duration> {
        let round = self.round.as_ref()?;
        Some(match round.sent {
            Sent::Never => round.began,
            Sent::Once => round.began + RESEND,
            Sent::Twice => round.began + ROUND,
        })
    }

    /// Takes an answer. Those to echoes of earlier rounds count for nothing.
    pub fn answer(&mut self, now: Duration, number: u16) {
        let Some(round) = &mut self.round else { return };
        for asked in &mut round.asked {
            asked.is_answered |= asked.echo.number == number;
        }
        if round.asked.iter().all(|asked| asked.is_answered)
            && let Some(round) = self.round.take()
        {
            self.conclude(now, &round);
        }
    }

    fn begin(&mut self, now: Duration, mut sizes: Vec<u16>) {
        sizes.sort_unstable();
        sizes.dedup();
        let asked = sizes.into_iter().map(|size| {
            self.next_number = self.next_number.wrapping_add(1);
            Asked { echo: Echo { number: self.next_number, size }, is_answered: false }
        });
        self.round = Some(Round { began: now, sent: Sent::Never, asked: asked.collect() });
    }

    fn conclude(&mut self, now: Duration, round: &Round) {
        self.looked = Some(now);
        let sizes = |answered| {
            let such = move |asked: &&Asked| asked.is_answered == answered;
            round.asked.iter().filter(such).map(|asked| asked.echo.size)
        };
        if round.asked.iter().any(|asked| asked.echo.size == self.range.most) {
            self.reached = Some(now);
        }
        let Some(arrives) = sizes(true).max() else { return };
        match sizes(false).filter(|size| *size > arrives).min() {
            None if arrives >= self.range.most => self.narrowed = None,
            None => self.narrowed = Some(arrives),
            Some(lost) if lost - arrives <= BLOCK => self.narrowed = Some(arrives),
            // The lost one is asked for once more, in case it was by chance.
            Some(lost) => {
                let step = (lost - arrives).div_ceil(SPREAD).next_multiple_of(BLOCK);
                let between = (arrives + step..lost).step_by(step.into());
                self.begin(
                    now,
                    [self.range.least, arrives, lost].into_iter().chain(between).collect(),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
