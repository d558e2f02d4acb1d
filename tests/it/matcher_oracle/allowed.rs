//! What is decided with little work is what would be decided with any.

use std::sync::atomic::Ordering;

use beckon::matcher::{Allowance, Decision, Snapshot};
use beckon::rules::FactsArena;
use proptest::prelude::*;

use super::{Met, Slow, now};

/// Whether so much work is enough is not known, but what is shown then is.
pub(super) fn compare(
    snapshot: &Snapshot,
    then: &Slow<'_>,
    arena: &FactsArena,
    expected: &[String],
    met: &Met,
) -> Result<(), TestCaseError> {
    let decide = |mut allowance: Allowance<'_>| -> Option<Decision> {
        match then.event {
            Some(event) => snapshot.on_event_within(&mut allowance, then.user, event, now(), arena),
            None => snapshot.on_fetch_within(&mut allowance, then.user, now(), arena),
        }
    };
    let errors = decide(Allowance::boundless(None)).map(|all| all.errors);
    for work in (0..20).map(|power| 1 << power) {
        let Some(decision) = decide(Allowance::of(work, 0)) else {
            met.given_up.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let ids = decision.matched.iter().map(|it| &it.id);
        prop_assert!(ids.eq(expected), "with {work} steps");
        prop_assert_eq!(Some(decision.errors), errors, "with {} steps", work);
        met.allowed.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
