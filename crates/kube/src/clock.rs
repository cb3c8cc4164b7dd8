//! How far two clocks are apart, for people to know: nothing is decided by it. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use kube::api::ObjectMeta;

use crate::MANAGER;

/// From how many seconds on it is said, and in what words.
const STEPS: [(f64, &str); 4] =
    [(86_400.0, "a day"), (3_600.0, "an hour"), (60.0, "a minute"), (10.0, "10 s")];

/// A moment by this machine's clock, in Unix seconds.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The seconds by which a clock is ahead of another one at least; negative where it is behind, 0 where both may agree. The
/// one said `before` and `after`, in Unix seconds, and meanwhile the other one wrote down the whole second `stamp`.
pub fn ahead(before: f64, after: f64, stamp: i64) -> f64 {
    let stamp = stamp as f64;
    let (least, most) = (before - (stamp + 1.0), after - stamp);
    if least > 0.0 { least } else { most.min(0.0) }
}

/// When the API server took our last change of an object, by its own clock in Unix seconds.
pub(crate) fn taken(metadata: &ObjectMeta) -> Option<i64> {
    let fields = metadata.managed_fields.iter().flatten();
    let ours = fields.filter(|fields| fields.manager.as_deref() == Some(MANAGER));
    ours.filter_map(|fields| fields.time.as_ref()).map(|time| time.0.as_second()).max()
}

/// When the API server last took a change of this annotation and what was written with it, by its own clock in Unix seconds.
pub(crate) fn annotated(metadata: &ObjectMeta, key: &str) -> Option<i64> {
    let field = format!("f:{key}");
    let fields = metadata.managed_fields.iter().flatten();
    let writers = fields.filter(|fields| {
        let all = fields.fields_v1.as_ref().map(|fields| &fields.0);
        all.and_then(|all| all.get("f:metadata")?.get("f:annotations")?.get(&field)).is_some()
    });
    writers.filter_map(|fields| fields.time.as_ref()).map(|time| time.0.as_second()).max()
}

/// By how much a clock is wrong, in few words that seldom change; nothing if it is little.
pub fn apart(ahead: f64) -> Option<String> {
    let (_, step) = STEPS.iter().find(|(least, _)| ahead.abs() >= *least)?;
    let which = if ahead > 0.0 { "ahead of" } else { "behind" };
    Some(format!("more than {step} {which}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_clocks_may_agree_on_is_no_difference() {
        assert_eq!(ahead(100.2, 100.4, 100), 0.0);
        // Cut off to a second, and a request that took long.
        assert_eq!(ahead(100.9, 109.0, 104), 0.0);
        assert_eq!(ahead(101.0, 101.5, 100), 0.0);
        assert_eq!(ahead(160.0, 161.0, 100), 59.0);
        assert_eq!(ahead(90.0, 91.0, 100), -9.0);
    }

    #[test]
    fn little_is_not_said_and_much_in_words_that_stay() {
        assert_eq!((apart(0.0), apart(9.9), apart(-9.9)), (None, None, None));
        assert_eq!(apart(10.0).as_deref(), Some("more than 10 s ahead of"));
        assert_eq!(apart(59.0), apart(11.0));
        assert_eq!(apart(-4_000.0).as_deref(), Some("more than an hour behind"));
        assert_eq!(apart(1e9).as_deref(), Some("more than a day ahead of"));
    }
}
