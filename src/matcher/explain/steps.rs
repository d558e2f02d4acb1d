//! What an explanation may take.

use std::cell::Cell;

/// Steps that are left. Whoever asks first is given what there is, even if that is too little: else a
/// campaign that takes more could never be explained, not even alone.
pub(super) struct Steps {
    left: Cell<u64>,
    is_untouched: Cell<bool>,
}

impl Steps {
    pub(super) fn of(most: u64) -> Self {
        Self {
            left: Cell::new(most),
            is_untouched: Cell::new(true),
        }
    }

    /// Takes so many steps, or none if there are fewer left.
    pub(super) fn afford(&self, wanted: u64) -> bool {
        let is_first = self.is_untouched.replace(false);
        match self.left.get().checked_sub(wanted) {
            Some(left) => self.left.set(left),
            None if is_first => self.left.set(0),
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::matcher::explain::tests::{campaign, explained};
    use crate::matcher::explain::{STEPS_MAX, TIMES_TO_EXPLAIN, steps};
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
}
