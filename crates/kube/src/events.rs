//! Problems of Nodes and Peers as Events on them, where `kubectl describe` shows them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use wireloom_model::{NodeName, Problem, Subject};

use crate::MANAGER;
use crate::write;

/// How many Events there may be at once.
const BURST: u32 = 10;
/// How long it takes until there may be one more.
const REFILL: Duration = Duration::from_secs(60);

/// Tells of each problem once.
pub(crate) struct Events {
    recorder: Recorder,
    told: BTreeSet<Problem>,
    quota: Quota,
}

impl Events {
    pub(crate) fn new(client: &Client, node: &NodeName, now: Instant) -> Self {
        let reporter =
            Reporter { controller: MANAGER.to_owned(), instance: Some(node.to_string()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
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
                note: Some(problem.message.clone()),
                action: "Skip".to_owned(),
                secondary: None,
            };
            let published = self.recorder.publish(&event, about);
            match tokio::time::timeout(Duration::from_secs(5), published).await {
                Ok(Ok(())) => {
                    self.told.insert((*problem).clone());
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = write::text(&error), "an Event is not written");
                    return;
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
