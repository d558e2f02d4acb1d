//! Which campaigns an explanation shows in full.

use super::ExplainedCampaign;

/// The most bytes of JSON that the campaigns of one explanation take together; the first is shown
/// whatever it takes. Of one campaign some megabytes can be shown, so their number alone bounds little.
pub(super) const SHOWN_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The campaigns that are shown: those that came first, and none after one for which there was no room.
pub(super) struct Showing {
    shown: Vec<ExplainedCampaign>,
    places_left: usize,
    bytes_left: u64,
}

impl Showing {
    /// None yet, and so many at most.
    pub(super) fn of(shown_max: usize) -> Self {
        Self {
            shown: Vec::new(),
            places_left: shown_max,
            bytes_left: SHOWN_BYTES_MAX,
        }
    }

    pub(super) fn has_place(&self) -> bool {
        self.places_left > 0
    }

    pub(super) fn add(&mut self, explained: ExplainedCampaign) {
        if !self.has_place() {
            return;
        }
        match self.bytes_left.checked_sub(explained.bytes()) {
            Some(rest) => self.bytes_left = rest,
            None if self.shown.is_empty() => self.bytes_left = 0,
            None => {
                self.places_left = 0;
                return;
            }
        }
        self.places_left -= 1;
        self.shown.push(explained);
    }

    pub(super) fn into_shown(self) -> Vec<ExplainedCampaign> {
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::matcher::explain::tests::{campaign, explained};
    use crate::rules::FactsArena;
    use crate::segments::Segments;

    /// A campaign that matches is paid for before those that do not, whatever these take.
    #[test]
    fn what_matches_is_shown_before_what_is_near() {
        let pattern = |pattern: &str| json!({"matches": [{"var": "user.traits.a"}, pattern]});
        let near = (1..=10).map(|seq| campaign(seq, pattern("^[a-z]{2000}$")));
        let matching = campaign(0, pattern("^[a-z]{0,2000}$"));
        let campaigns: Vec<_> = near.chain([matching]).collect();
        let arena = FactsArena::new();
        let explanation = explained(&campaigns, &Segments::default(), &json!({"a": "x"}), &arena);
        assert_eq!(explanation.matched, ["c0"]);
        let shown = explanation.campaigns.iter();
        let shown: Vec<_> = shown.map(|it| it.campaign_id.as_str()).collect();
        assert_eq!(shown.first(), Some(&"c0"), "{shown:?}");
        // What is left is for the nearest, and what was found out of them is shown.
        let nearest = explanation.nearest_misses.iter();
        let nearest: Vec<_> = nearest.map(|it| it.campaign_id.as_str()).collect();
        assert!(!nearest.is_empty());
        assert_eq!(shown.get(1..), Some(&*nearest));
    }
}
