//! What an explanation may take.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rules::looked_at;

/// Steps that are left. What evaluations look at is taken from them once it was looked at, a step for
/// each value: how much it will be, a rule does not say.
///
/// Whoever asks first is given what there is, even if that is too little: else a campaign that takes
/// more could never be explained, not even alone.
pub(super) struct Steps<'f> {
    left: Cell<u64>,
    is_untouched: Cell<bool>,
    /// What this thread had looked at when it was last taken.
    looked_at: Cell<u64>,
    abandoned: Option<&'f AtomicBool>,
}

impl<'f> Steps<'f> {
    /// So many, and none once the work is abandoned.
    pub(super) fn of(most: u64, abandoned: Option<&'f AtomicBool>) -> Self {
        Self {
            left: Cell::new(most),
            is_untouched: Cell::new(true),
            looked_at: Cell::new(looked_at()),
            abandoned,
        }
    }

    /// Takes so many steps, or none if there are fewer left.
    pub(super) fn afford(&self, wanted: u64) -> bool {
        let is_first = self.is_untouched.replace(false);
        let goes_on = self.settle();
        match self.left.get().checked_sub(wanted) {
            _ if !goes_on => return false,
            Some(left) => self.left.set(left),
            None if is_first => self.left.set(0),
            None => return false,
        }
        true
    }

    /// Takes what was looked at since it was last asked; whether there is enough to go on.
    pub(super) fn settle(&self) -> bool {
        let now = looked_at();
        let looks = now.saturating_sub(self.looked_at.replace(now));
        let left = self.left.get().checked_sub(looks);
        self.left.set(left.unwrap_or(0));
        left.is_some() && !is_set(self.abandoned)
    }
}

/// Whether nobody waits any more.
pub(super) fn is_set(abandoned: Option<&AtomicBool>) -> bool {
    abandoned.is_some_and(|it| it.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::matcher::explain::tests::{campaign, explained, explained_until, times, windows};
    use crate::matcher::explain::{EXAMINING_STEPS_MAX, STEPS_MAX, TIMES_TO_EXPLAIN, steps};
    use crate::rules::FactsArena;
    use crate::segments::Segments;

    /// Its patterns take more than all steps that there are.
    #[test]
    fn the_first_campaign_is_explained_whatever_it_takes() {
        let pattern = json!({"matches": [{"var": "user.traits.a"}, "^[a-z]{5000}$"]});
        let dear = |seq, patterns| campaign(seq, json!({ "or": vec![&pattern; patterns] }));
        let (dearest, next) = (dear(2, 11), dear(1, 5));
        assert!(steps(&next) * TIMES_TO_EXPLAIN > STEPS_MAX);
        let arena = FactsArena::new();
        let campaigns = [dearest, next];
        let traits = json!({"a": "x"});
        let explanation = explained(&campaigns, &Segments::default(), &traits, &arena);
        let shown = explanation.campaigns.iter();
        let shown: Vec<_> = shown.map(|it| it.campaign_id.as_str()).collect();
        assert_eq!(shown, ["c2"]);
        let summary = explanation.summary;
        assert_eq!((summary.examined, summary.shown), (1, 1));
        assert_eq!(explanation.nearest_misses.len(), 1);
    }

    /// Conditions that look at four million values together.
    fn four_million() -> (Vec<Value>, Value) {
        let list = json!({"var": "user.traits.list"});
        (
            vec![json!({"===": [list, list]}); 16],
            json!(vec![1; 125_000]),
        )
    }

    #[test]
    fn what_evaluations_look_at_is_paid_for() {
        let (same, list) = four_million();
        let mut parts = vec![json!(false)];
        parts.extend(same);
        let campaigns: Vec<_> = (0..60)
            .map(|seq| campaign(seq, json!({ "and": parts })))
            .collect();
        let arena = FactsArena::new();
        let traits = json!({ "list": list });
        let before = looked_at();
        let explanation = explained(&campaigns, &Segments::default(), &traits, &arena);
        let looked_at = looked_at() - before;
        let most = EXAMINING_STEPS_MAX + STEPS_MAX;
        assert!(
            (most / 2..most + 10_000_000).contains(&looked_at),
            "{looked_at}"
        );
        let summary = explanation.summary;
        assert!((10..=25).contains(&summary.examined), "{summary:?}");
        assert!((10..=25).contains(&summary.shown), "{summary:?}");
    }

    #[test]
    fn what_is_looked_at_from_moment_to_moment_is_paid_for() {
        let (mut parts, list) = four_million();
        let mut traits = times();
        parts.insert(0, json!({ "or": windows(15) }));
        parts.push(json!(false));
        traits["list"] = list;
        let arena = FactsArena::new();
        let campaigns = [campaign(1, json!({ "and": parts }))];
        let before = looked_at();
        let explanation = explained(&campaigns, &Segments::default(), &traits, &arena);
        let looked_at = looked_at() - before;
        assert!(looked_at < STEPS_MAX * 3 / 2, "{looked_at}");
        assert_eq!(explanation.summary.shown, 1);
    }

    #[test]
    fn what_is_abandoned_looks_at_nothing_more() {
        let (same, list) = four_million();
        let campaigns = [1, 2].map(|seq| campaign(seq, json!({ "and": same })));
        let traits = json!({ "list": list });
        let arena = FactsArena::new();
        for is_abandoned in [false, true] {
            let before = looked_at();
            let abandoned = AtomicBool::new(is_abandoned);
            let explanation = explained_until(&abandoned, &campaigns, &traits, &arena);
            let summary = explanation.summary;
            let shown = if is_abandoned { 0 } else { 2 };
            assert_eq!((summary.matched, summary.shown), (shown, shown));
            assert_eq!(looked_at() == before, is_abandoned);
        }
    }
}
