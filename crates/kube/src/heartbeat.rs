//! Who is alive, told by signs that change.
//!
//! Pure: time is the reader's own and comes as an argument. What a sign says is never looked at, only whether it is
//! another one than before, so no two machines' clocks are ever compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wireloom_model::NodeName;

/// The last signs of life of nodes.
#[derive(Debug, Clone)]
pub struct Heartbeats {
    span: Duration,
    beats: BTreeMap<NodeName, Beat>,
}

#[derive(Debug, Clone)]
struct Beat {
    sign: String,
    /// When it was first heard. `None` if it is known to be too old by then.
    at: Option<Instant>,
}

impl Heartbeats {
    /// None yet. A node is alive while its sign has changed within this span.
    pub const fn new(span: Duration) -> Self {
        Self { span, beats: BTreeMap::new() }
    }

    /// A node's sign is this now. The first one counts as a change, for nobody knows how long it has been there.
    pub fn heard(&mut self, node: &NodeName, sign: &str, now: Instant) {
        match self.beats.get_mut(node) {
            Some(beat) if beat.sign == sign => {}
            Some(beat) => *beat = Beat { sign: sign.to_owned(), at: Some(now) },
            None => {
                self.beats.insert(node.clone(), Beat { sign: sign.to_owned(), at: Some(now) });
            }
        }
    }

    /// A node's sign is too old to be one of life, as somebody else knows.
    pub fn miss(&mut self, node: &NodeName) {
        if let Some(beat) = self.beats.get_mut(node) {
            beat.at = None;
        }
    }

    /// A node has no sign any longer.
    pub fn forget(&mut self, node: &NodeName) {
        self.beats.remove(node);
    }

    /// Keeps the signs of these nodes alone.
    pub fn retain(&mut self, is_kept: impl Fn(&NodeName) -> bool) {
        self.beats.retain(|node, _| is_kept(node));
    }

    /// Whether a node is alive. `None` for one without a sign.
    pub fn is_alive(&self, node: &NodeName, now: Instant) -> Option<bool> {
        Some(self.beats.get(node)?.is_alive(now, self.span))
    }

    /// When a node's sign changed last. `None` if that was before anybody listened.
    pub fn last(&self, node: &NodeName) -> Option<Instant> {
        self.beats.get(node)?.at
    }

    /// When any sign changed last.
    pub fn latest(&self) -> Option<Instant> {
        self.beats.values().filter_map(|beat| beat.at).max()
    }

    /// When the first node after `since` is no longer alive, unless it is heard until then. It may be past by now.
    pub fn next_loss(&self, since: Option<Instant>) -> Option<Instant> {
        let losses = self.beats.values().filter_map(|beat| Some(beat.at? + self.span));
        losses.filter(|at| since.is_none_or(|since| *at > since)).min()
    }

    /// Gives every such node that was alive then the whole span anew, since it could not be heard between then and now.
    pub fn pardon(&mut self, then: Instant, now: Instant, is_such: impl Fn(&NodeName) -> bool) {
        for (node, beat) in &mut self.beats {
            if beat.is_alive(then, self.span) && is_such(node) {
                beat.at = Some(now);
            }
        }
    }
}

impl Beat {
    fn is_alive(&self, now: Instant, span: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) < span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn a_sign_that_changes_is_a_life() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (a, b) = (node("a"), node("b"));
        let mut beats = Heartbeats::new(SPAN);
        assert_eq!(beats.is_alive(&a, start), None);
        beats.heard(&a, "1", start);
        beats.heard(&b, "yesterday, by its own clock", start);
        for second in (0..600).step_by(20) {
            beats.heard(&a, &second.to_string(), at(second));
            beats.heard(&b, "yesterday, by its own clock", at(second));
        }
        assert_eq!(beats.is_alive(&a, at(600)), Some(true));
        assert_eq!(beats.is_alive(&b, at(59)), Some(true));
        assert_eq!(beats.is_alive(&b, at(60)), Some(false));
        beats.heard(&b, "the day before, by its own clock", at(600));
        assert_eq!(beats.is_alive(&b, at(600)), Some(true));
    }

    #[test]
    fn an_outage_is_nobodys_fault() {
        let start = Instant::now();
        let mut beats = Heartbeats::new(SPAN);
        beats.heard(&node("a"), "1", start);
        assert_eq!(beats.next_loss(Some(start)), Some(start + SPAN));
        beats.heard(&node("dead"), "1", start);
        beats.heard(&node("a"), "2", start + SPAN);
        let later = start + Duration::from_secs(86_400);
        assert_eq!(beats.next_loss(Some(later)), None);
        beats.pardon(start + SPAN, later, |_| true);
        assert_eq!(beats.is_alive(&node("a"), later), Some(true));
        assert_eq!(beats.is_alive(&node("dead"), later), Some(false), "it was before");
        assert_eq!(beats.next_loss(Some(later)), Some(later + SPAN));
    }

    #[test]
    fn who_is_missed_lives_again_by_its_next_sign() {
        let start = Instant::now();
        let mut beats = Heartbeats::new(SPAN);
        beats.miss(&node("a"));
        assert_eq!(beats.is_alive(&node("a"), start), None);
        beats.heard(&node("a"), "1", start);
        beats.miss(&node("a"));
        beats.heard(&node("a"), "1", start);
        assert_eq!((beats.is_alive(&node("a"), start), beats.next_loss(None)), (Some(false), None));
        beats.heard(&node("a"), "2", start);
        assert_eq!(beats.is_alive(&node("a"), start), Some(true));
    }

    #[test]
    fn who_is_gone_has_no_sign() {
        let start = Instant::now();
        let mut beats = Heartbeats::new(SPAN);
        beats.heard(&node("a"), "1", start);
        beats.heard(&node("b"), "1", start);
        beats.forget(&node("a"));
        beats.retain(|name| name.as_str() != "b");
        assert_eq!(beats.is_alive(&node("a"), start), None);
        assert_eq!(beats.is_alive(&node("b"), start), None);
    }
}
