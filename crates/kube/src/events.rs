//! Problems of Nodes and Peers as Events on them, where `kubectl describe` shows them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use wireloom_model::{NodeName, Problem, Subject};

use crate::MANAGER;
use crate::write;

/// How many Events there may be at once.
const BURST: u32 = 10;
/// How long it takes until there may be one more.
const REFILL: Duration = Duration::from_secs(60);

/// How long a note may be, in bytes (`NoteLengthLimit`, pkg/apis/core/validation/events.go).
const NOTE: usize = 1024;

/// Tells of each problem once.
pub(crate) struct Events {
    client: Client,
    reporter: Reporter,
    told: BTreeSet<Problem>,
    quota: Quota,
}

impl Events {
    pub(crate) fn new(client: &Client, node: &NodeName, now: Instant) -> Self {
        let reporter =
            Reporter { controller: MANAGER.to_owned(), instance: Some(node.to_string()) };
        Self {
            client: client.clone(),
            reporter,
            told: BTreeSet::new(),
            quota: Quota { left: BURST, at: now },
        }
    }

    /// Tells of those of all these problems that are new. One that goes and comes again is new.
    pub(crate) async fn tell(&mut self, all: &[(ObjectReference, &Problem)], now: Instant) {
        self.told.retain(|told| all.iter().any(|(_, problem)| *problem == told));
        for (about, problem) in all {
            if self.told.contains(*problem) || !self.quota.take(now) {
                continue;
            }
            let event = Event {
                type_: EventType::Warning,
                reason: reason(problem).to_owned(),
                note: Some(note(&problem.message)),
                action: "Skip".to_owned(),
                secondary: None,
            };
            // One that published before would take another problem of the same object for this one once more.
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            let published = recorder.publish(&event, about);
            match tokio::time::timeout(Duration::from_secs(5), published).await {
                Ok(Ok(())) => {
                    self.told.insert((*problem).clone());
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = write::text(&error), "an Event is not written");
                    // Another one may fare better, unless we may write none.
                    if write::refusal(&error).is_none() || is_forbidden(&error) {
                        return;
                    }
                    self.told.insert((*problem).clone());
                }
                Err(_) => return,
            }
        }
    }
}

const fn reason(problem: &Problem) -> &'static str {
    match problem.subject {
        Subject::Node(_) => "InvalidAnnotation",
        _ => "InvalidPeer",
    }
}

fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.is_forbidden())
}

/// A message, or as much of it as a note holds.
fn note(message: &str) -> String {
    const MORE: &str = " ...";
    if message.len() <= NOTE {
        return message.to_owned();
    }
    format!("{}{MORE}", &message[..message.floor_char_boundary(NOTE - MORE.len())])
}

/// How many more there may be.
struct Quota {
    left: u32,
    at: Instant,
}

impl Quota {
    fn take(&mut self, now: Instant) -> bool {
        let periods = now.saturating_duration_since(self.at).as_secs() / REFILL.as_secs();
        if periods > 0 {
            let more = u32::try_from(periods).unwrap_or(BURST);
            self.left = self.left.saturating_add(more).min(BURST);
            self.at = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_no_longer_than_it_may_be_and_whole_characters() {
        assert_eq!(note("short"), "short");
        let long = note(&"\u{e9}".repeat(NOTE));
        assert!((NOTE - 1..=NOTE).contains(&long.len()) && long.ends_with("\u{e9} ..."), "{long}");
    }

    #[test]
    fn a_burst_and_then_one_a_minute() {
        let start = Instant::now();
        let mut quota = Quota { left: BURST, at: start };
        let granted = |quota: &mut Quota, now| (0..1000).filter(|_| quota.take(now)).count();
        assert_eq!(granted(&mut quota, start), 10);
        assert_eq!(granted(&mut quota, start + Duration::from_secs(59)), 0);
        assert_eq!(granted(&mut quota, start + Duration::from_secs(60)), 1);
        assert_eq!(granted(&mut quota, start + Duration::from_secs(86_400)), 10);
    }
}
