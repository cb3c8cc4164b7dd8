//! Problems of Nodes and Peers as Events on them, where `kubectl describe` shows them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use wireloom_model::{NodeName, Problem, ProblemKind, Severity, Subject};

use crate::MANAGER;
use crate::write;

/// How many Events there may be at once.
const BURST: u32 = 10;
/// How long it takes until there may be one more.
const REFILL: Duration = Duration::from_secs(60);
/// How long a problem stands before it is told of: what settles by itself is none.
const STANDS: Duration = Duration::from_secs(5);
/// After how long one that still stands is told of again: the API forgets an Event after an hour (`--event-ttl` of
/// kube-apiserver).
const AGAIN: Duration = Duration::from_secs(50 * 60);
/// How long to wait after an Event that could not be written.
const RETRY: Duration = Duration::from_secs(10);

/// How long a note may be, in bytes (`NoteLengthLimit`, pkg/apis/core/validation/events.go).
const NOTE: usize = 1024;

/// Tells of each problem, and again for as long as it stands.
pub(crate) struct Events {
    client: Client,
    reporter: Reporter,
    agenda: Agenda,
}

impl Events {
    pub(crate) fn new(client: &Client, node: &NodeName, now: Instant) -> Self {
        let reporter =
            Reporter { controller: MANAGER.to_owned(), instance: Some(node.to_string()) };
        Self { client: client.clone(), reporter, agenda: Agenda::new(now) }
    }

    /// Tells of those of all these problems that are due. Returns when to come again though nothing changes.
    pub(crate) async fn tell(
        &mut self,
        all: &[(ObjectReference, &Problem)],
        now: Instant,
    ) -> Option<Instant> {
        self.agenda.notice(all, now);
        while let Some((about, problem)) = self.agenda.take(now) {
            let event = Event {
                type_: EventType::Warning,
                reason: reason(&problem),
                note: Some(note(&problem.message)),
                action: action(&problem).to_owned(),
                secondary: None,
            };
            // One that published before would take another problem of the same object for this one once more.
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            let published = recorder.publish(&event, &about);
            match tokio::time::timeout(Duration::from_secs(5), published).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(error = write::text(&error), "an Event is not written");
                    // Another one may fare better, unless we may write none.
                    if write::refusal(&error).is_none() || is_forbidden(&error) {
                        break;
                    }
                }
                Err(_) => break,
            }
            self.agenda.told(&about, &problem, now);
        }
        self.agenda.next(now)
    }
}

/// Why there is an Event, in a word for programs.
fn reason(problem: &Problem) -> String {
    match (problem.kind, &problem.subject) {
        (ProblemKind::Invalid, Subject::Node(_)) => "InvalidAnnotation".to_owned(),
        (ProblemKind::Invalid, _) => "InvalidPeer".to_owned(),
        // Their names are as those of reasons.
        (kind, _) => format!("{kind:?}"),
    }
}

const fn action(problem: &Problem) -> &'static str {
    match problem.severity {
        Severity::Error => "Skip",
        Severity::Warning => "Warn",
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

/// Which problems are to be told of, and when. Pure.
struct Agenda {
    /// By what they are about and what they are. An object that is made anew has its own.
    items: BTreeMap<(Option<String>, Problem), Item>,
    quota: Quota,
}

/// A problem that is there.
struct Item {
    about: ObjectReference,
    since: Instant,
    told: Option<Instant>,
}

impl Item {
    fn due(&self) -> Instant {
        self.told.map_or(self.since + STANDS, |told| told + AGAIN)
    }
}

impl Agenda {
    const fn new(now: Instant) -> Self {
        Self { items: BTreeMap::new(), quota: Quota { left: BURST, at: now } }
    }

    /// These are all problems. One that goes and comes again is new.
    fn notice(&mut self, all: &[(ObjectReference, &Problem)], now: Instant) {
        let mut before = std::mem::take(&mut self.items);
        for (about, problem) in all {
            let name = (about.uid.clone(), (*problem).clone());
            let new = || Item { about: about.clone(), since: now, told: None };
            let item = before.remove(&name).unwrap_or_else(new);
            self.items.insert(name, item);
        }
    }

    /// One that is due, if there may be an Event more: one that was never told of, else the one whose Event is oldest.
    fn take(&mut self, now: Instant) -> Option<(ObjectReference, Problem)> {
        let due = self.items.iter().filter(|(_, item)| item.due() <= now);
        let ((_, problem), item) = due.min_by_key(|(_, item)| (item.told, item.since))?;
        self.quota.take(now).then(|| (item.about.clone(), problem.clone()))
    }

    /// There is an Event of it.
    fn told(&mut self, about: &ObjectReference, problem: &Problem, now: Instant) {
        if let Some(item) = self.items.get_mut(&(about.uid.clone(), problem.clone())) {
            item.told = Some(now);
        }
    }

    /// When the next one is due. One that is left now waits for the quota, or failed.
    fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.items.values().map(Item::due).min()?;
        Some(if due > now { due } else { self.quota.next().max(now + RETRY) })
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

    /// When there may be one more.
    fn next(&self) -> Instant {
        if self.left > 0 { self.at } else { self.at + REFILL }
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

    fn problems(count: usize) -> Vec<Problem> {
        let subject = Subject::Peer("laptop".parse().unwrap());
        let message = |number| format!("mistake {number}");
        let problem = |n| Problem::error(subject.clone(), ProblemKind::Invalid, message(n));
        (0..count).map(problem).collect()
    }

    fn of<'a>(uid: &str, problems: &'a [Problem]) -> Vec<(ObjectReference, &'a Problem)> {
        let about = ObjectReference { uid: Some(uid.to_owned()), ..ObjectReference::default() };
        problems.iter().map(|problem| (about.clone(), problem)).collect()
    }

    /// What is told at this moment of all there is, and when to come again.
    fn told(
        agenda: &mut Agenda,
        all: &[(ObjectReference, &Problem)],
        now: Instant,
    ) -> (Vec<String>, Option<Instant>) {
        agenda.notice(all, now);
        let mut said = Vec::new();
        while let Some((about, problem)) = agenda.take(now) {
            agenda.told(&about, &problem, now);
            said.push(problem.message);
        }
        (said, agenda.next(now))
    }

    #[test]
    fn what_stands_is_told_and_again_before_the_api_forgets_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut agenda, problems) = (Agenda::new(start), problems(2));
        let all = of("1", &problems);
        let nothing = Vec::<String>::new;
        assert_eq!(told(&mut agenda, &[], start), (nothing(), None));
        assert_eq!(told(&mut agenda, &all[..1], start), (nothing(), Some(at(5))));
        let first = vec!["mistake 0".to_owned()];
        assert_eq!(told(&mut agenda, &all[..1], at(5)), (first.clone(), Some(at(3005))));
        assert_eq!(told(&mut agenda, &all[..1], at(3004)), (nothing(), Some(at(3005))));
        assert_eq!(told(&mut agenda, &all[..1], at(3005)), (first.clone(), Some(at(6005))));

        // One that goes within a moment is none; one of an object that was made anew is new.
        assert_eq!(told(&mut agenda, &all, at(3010)), (nothing(), Some(at(3015))));
        assert_eq!(told(&mut agenda, &all[..1], at(3014)), (nothing(), Some(at(6005))));
        let anew = of("2", &problems[..1]);
        assert_eq!(told(&mut agenda, &anew, at(3100)), (nothing(), Some(at(3105))));
        assert_eq!(told(&mut agenda, &anew, at(3105)).0, first);
    }

    #[test]
    fn what_the_quota_keeps_back_comes_by_itself_and_news_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut agenda, problems) = (Agenda::new(start), problems(13));
        let all = of("1", &problems);
        told(&mut agenda, &all[..12], start);
        let (said, next) = told(&mut agenda, &all[..12], at(5));
        assert_eq!((said.len(), next), (10, Some(at(60))));
        assert_eq!(
            told(&mut agenda, &all[..12], at(60)),
            (vec!["mistake 8".to_owned()], Some(at(120)))
        );
        assert_eq!(told(&mut agenda, &all[..12], at(120)).1, Some(at(3005)), "all are told");

        // A new one is told before old ones are again.
        told(&mut agenda, &all, at(3000));
        let (said, _) = told(&mut agenda, &all, at(3005));
        assert_eq!((said[0].as_str(), said.len()), ("mistake 12", 10));
    }

    #[test]
    fn what_failed_is_tried_again_soon() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut agenda, problems) = (Agenda::new(start), problems(1));
        agenda.notice(&of("1", &problems), start);
        for second in [5, 15, 25] {
            assert!(agenda.take(at(second)).is_some());
            assert_eq!(agenda.next(at(second)), Some(at(second + 10)));
        }
        // An outage is no storm.
        (0..100).for_each(|_| drop(agenda.take(at(35))));
        assert_eq!(agenda.next(at(35)), Some(at(60)));
    }
}
