//! How the agent itself is doing: what readiness and metrics are told by.

use std::time::{Duration, Instant};

use wireloom_model::{Problem, ProblemKind, Severity};
use wireloom_registry::Contact;

/// What the loop notes of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vitals {
    /// When the loop last did something. It has something to do every few seconds.
    beat: Option<Instant>,
    /// Whether a mesh is known.
    is_known: bool,
    /// How it stands with the registry.
    contact: Contact,
    /// Whether the last pass left the device and the kernel as the plan asks.
    is_applied: bool,
    was_gateway: Option<bool>,
    pub(crate) gateway_changes: u64,
    /// Passes that the device or the kernel refused something of.
    pub(crate) apply_errors: u64,
    /// Attempts to publish that failed, those of the registry included that it makes by itself.
    pub(crate) publish_errors: u64,
}

/// How long the loop may do nothing before it counts as stuck. A pass may wait for names and for the kernel.
const STUCK: Duration = Duration::from_secs(60);

/// Whether the agent works, and whether its node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// Whether the loop goes round.
    pub(crate) is_alive: bool,
    /// Each condition of readiness, and what it lacks.
    pub(crate) conditions: [(&'static str, Result<String, String>); 3],
}

impl Vitals {
    /// The loop goes round, and stands like this with the registry.
    pub(crate) fn beat(&mut self, now: Instant, contact: Contact) {
        self.beat = Some(now);
        self.publish_errors += contact.publish_errors.saturating_sub(self.contact.publish_errors);
        self.contact = contact;
    }

    /// There is a mesh.
    pub(crate) const fn learn(&mut self) {
        self.is_known = true;
    }

    /// Notes the outcome of a pass.
    pub(crate) fn pass(&mut self, gateway: Option<bool>, problems: &[Problem]) {
        let refused = |problem: &&Problem| {
            problem.severity == Severity::Error
                && matches!(problem.kind, ProblemKind::Device | ProblemKind::Kernel)
        };
        let is_refused = problems.iter().any(|problem| refused(&problem));
        self.apply_errors += u64::from(is_refused);
        self.is_applied = gateway.is_some() && !is_refused;
        let Some(gateway) = gateway else { return };
        if self.was_gateway.replace(gateway).is_some_and(|before| before != gateway) {
            self.gateway_changes += 1;
        }
    }

    /// Whether the last pass left everything as the plan asks.
    pub(crate) const fn is_applied(&self) -> bool {
        self.is_applied
    }

    /// How long ago the registry was last heard, and so how old the mesh may be that is known.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.contact.last.map(|heard| now.saturating_duration_since(heard))
    }

    /// The seconds by which this machine's clock is ahead of the registry's.
    pub(crate) const fn clock_ahead(&self) -> Option<f64> {
        self.contact.clock_ahead
    }

    /// The health at this moment: with this answer of the device, and this word of the registry if it can't be read.
    pub(crate) fn health(
        &self,
        now: Instant,
        device: Result<(), String>,
        stale: Option<&str>,
    ) -> Health {
        let plan = if self.is_applied {
            Ok("in force".to_owned())
        } else {
            Err("not in force: see the problems in `wireloom status`".to_owned())
        };
        let snapshot = match (self.is_known, stale) {
            (false, None) => Err("the registry has not answered yet".to_owned()),
            (false, Some(reason)) => Err(format!("there is none: {reason}")),
            (true, None) => Ok("current".to_owned()),
            // An outage of the registry takes nothing away, so it makes nobody unready.
            (true, Some(reason)) => Ok(match self.age(now) {
                Some(age) => format!("{} s old: {reason}", age.as_secs()),
                None => format!("of an earlier start: {reason}"),
            }),
        };
        let since = |beat| now.saturating_duration_since(beat);
        Health {
            is_alive: self.beat.is_some_and(|beat| since(beat) < STUCK),
            conditions: [
                ("device", device.map(|()| "up".to_owned())),
                ("plan", plan),
                ("snapshot", snapshot),
            ],
        }
    }
}

impl Health {
    pub(crate) fn is_ready(&self) -> bool {
        self.conditions.iter().all(|(_, condition)| condition.is_ok())
    }

    /// A line for each condition.
    pub(crate) fn text(&self) -> String {
        let line = |(name, condition): &(&str, Result<String, String>)| match condition {
            Ok(text) => format!("ok   {name}: {text}\n"),
            Err(text) => format!("fail {name}: {text}\n"),
        };
        self.conditions.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wireloom_model::Subject;

    fn ready(vitals: &Vitals, stale: Option<&str>) -> Vec<&'static str> {
        let health = vitals.health(Instant::now(), Ok(()), stale);
        let failed = health.conditions.iter().filter(|(_, condition)| condition.is_err());
        failed.map(|(name, _)| *name).collect()
    }

    #[test]
    fn a_node_is_ready_with_device_plan_and_a_mesh_that_may_be_knowingly_old() {
        let mut vitals = Vitals::default();
        assert_eq!(ready(&vitals, None), ["plan", "snapshot"]);
        vitals.learn();
        vitals.pass(Some(false), &[]);
        assert!(ready(&vitals, None).is_empty());
        assert!(ready(&vitals, Some("the API is away")).is_empty());
        let gone = vitals.health(Instant::now(), Err("it is gone".to_owned()), None);
        assert!(!gone.is_ready());
        assert!(gone.text().starts_with("fail device: it is gone\nok   plan"), "{}", gone.text());
    }

    #[test]
    fn the_mesh_of_a_quiet_registry_is_as_old_as_the_last_contact() {
        let (start, mut vitals) = (Instant::now(), Vitals::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        vitals.learn();
        let snapshot = |vitals: &Vitals, now| {
            vitals.health(now, Ok(()), Some("refused")).conditions[2].1.clone().unwrap()
        };
        assert_eq!(snapshot(&vitals, start), "of an earlier start: refused");
        // Nothing changes for days, and the registry is there.
        let contact =
            Contact { last: Some(at(300_000)), clock_ahead: Some(1.5), ..Contact::default() };
        vitals.beat(at(300_000), contact);
        vitals.beat(at(300_005), contact);
        assert_eq!(snapshot(&vitals, at(300_005)), "5 s old: refused");
        assert_eq!(vitals.age(at(300_005)), Some(Duration::from_secs(5)));
        assert_eq!(vitals.clock_ahead(), Some(1.5));
    }

    #[test]
    fn what_a_registry_fails_to_write_is_counted_once() {
        let (now, mut vitals) = (Instant::now(), Vitals::default());
        for publish_errors in [0, 2, 2, 3] {
            vitals.beat(now, Contact { publish_errors, ..Contact::default() });
        }
        assert_eq!(vitals.publish_errors, 3);
    }

    #[test]
    fn a_refusal_makes_unready_until_a_pass_without_one() {
        let mut vitals = Vitals::default();
        vitals.learn();
        let problem = |kind| Problem::error(Subject::Mesh, kind, String::new());
        vitals.pass(Some(true), &[problem(ProblemKind::Kernel)]);
        assert_eq!((ready(&vitals, None), vitals.apply_errors), (vec!["plan"], 1));
        vitals.pass(Some(true), &[problem(ProblemKind::DuplicatePrefix)]);
        assert_eq!((ready(&vitals, None), vitals.apply_errors), (vec![], 1));
        vitals.pass(None, &[]);
        assert_eq!(ready(&vitals, None), ["plan"]);
    }

    #[test]
    fn gateway_changes_are_counted_from_the_second_plan_on() {
        let mut vitals = Vitals::default();
        for gateway in [Some(true), Some(true), None, Some(false), Some(true)] {
            vitals.pass(gateway, &[]);
        }
        assert_eq!(vitals.gateway_changes, 2);
    }

    #[test]
    fn a_loop_that_stands_still_is_not_alive() {
        let mut vitals = Vitals::default();
        let now = Instant::now();
        let alive = |vitals: &Vitals, at| vitals.health(at, Ok(()), None).is_alive;
        assert!(!alive(&vitals, now));
        vitals.beat(now, Contact::default());
        assert!(alive(&vitals, now + STUCK / 2));
        assert!(!alive(&vitals, now + STUCK));
    }
}
